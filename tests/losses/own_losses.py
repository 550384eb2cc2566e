"""Losses that a test registers are there for this test alone: `from tests.losses.own_losses import registered  # noqa: F401`."""

import pytest

from dpojax import losses


@pytest.fixture(autouse=True)
def registered():
  before = dict(losses.LOSSES)
  yield
  losses.LOSSES.clear()
  losses.LOSSES.update(before)
