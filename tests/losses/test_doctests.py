"""Every loss has an example that runs."""

import doctest

import pytest

from dpojax import losses


@pytest.mark.slow
@pytest.mark.parametrize("name", losses.LOSSES)
def test_example(name):
  found = doctest.DocTestFinder(recurse=False).find(getattr(losses, name), name, globs={"losses": losses})
  assert found and found[0].examples, f"{name} has no example"
  failed, _ = doctest.DocTestRunner().run(found[0])
  assert not failed
