"""When reward has settled and KL is stable."""

import pytest

from dpojax.config.schema import StopSettings
from dpojax.training.stopping import should_stop

PATIENT = StopSettings(patience=2, min_gain=0.1, kl_tolerance=0.2)


@pytest.mark.parametrize(
  ("looks", "stops"),
  [
    ([(0.5, 0.0), (1.0, 0.1), (1.05, 0.105), (1.08, 0.11)], True),  # gains below 0.1, KL moved by a tenth
    ([(0.5, 0.0), (1.0, 0.1), (1.05, 0.105), (1.2, 0.11)], False),  # reward rises
    ([(0.5, 0.0), (1.0, 0.1), (1.05, 0.12), (1.0, 0.15)], False),  # KL moves by half
    ([(0.5, 0.0), (1.0, 0.1), (1.0, 0.1)], False),  # the rise from 0.5 lies within the patience
    ([(0.5, 0.0), (1.0, 0.1)], False),
    ([], False),
  ],
)
def test_stops_only_when_reward_and_kl_both_stand_still(looks, stops):
  assert should_stop(looks, PATIENT) is stops


def test_never_without_patience():
  assert not should_stop([(1.0, 0.1)] * 50, StopSettings(patience=0))
