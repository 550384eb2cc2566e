"""Controllers of the KL coefficient against values worked out by hand."""

import math

import pytest

from dpojax.objectives.kl_control import CONTROLLERS, adaptive, exponential, fixed

# coef, KL, target, episodes, horizon -> what follows. lm-human-preferences (`train_policy.AdaptiveKLController`):
# error = clip(KL / target - 1, -0.2, 0.2), then coef *= 1 + error * episodes / horizon.
ADAPTIVE = [
  ((0.1, 6.0, 6.0, 512, 10_000), 0.1),
  ((0.1, 6.6, 6.0, 512, 10_000), 0.1 * (1 + 0.1 * 0.0512)),  # a tenth beyond
  ((0.1, 5.4, 6.0, 512, 10_000), 0.1 * (1 - 0.1 * 0.0512)),
  ((0.1, 60.0, 6.0, 512, 10_000), 0.1 * 1.01024),  # 0.2 * 512 / 10,000 = 0.01024 at most
  ((0.1, 0.0, 6.0, 512, 10_000), 0.1 * 0.98976),
  ((0.1, -3.0, 6.0, 512, 10_000), 0.1 * 0.98976),  # an estimate of the KL may be negative
  ((0.4, 60.0, 6.0, 10_000, 10_000), 0.4 * 1.2),  # a horizon of answers: by a fifth
  ((0.1, 2.2, 2.0, 100, 1_000), 0.1 * 1.01),
]
EXPONENTIAL = [
  ((0.1, 6.0, 6.0, 512, 10_000), 0.1),
  ((0.1, 9.0, 6.0, 512, 10_000), 0.1 * math.exp(0.075)),
  ((0.1, 3.0, 6.0, 512, 10_000), 0.1 * math.exp(-0.075)),
  ((0.1, 60.0, 6.0, 512, 10_000), 0.1 * math.exp(0.15)),
  ((0.1, 0.0, 6.0, 512, 10_000), 0.1 * math.exp(-0.15)),
  ((0.1, -9.0, 6.0, 512, 10_000), 0.1 * math.exp(-0.15)),
]


@pytest.mark.parametrize(("given", "expected"), ADAPTIVE)
def test_adaptive(given, expected):
  assert adaptive(*given) == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize(("given", "expected"), EXPONENTIAL)
def test_exponential(given, expected):
  assert exponential(*given) == pytest.approx(expected, rel=1e-14)


def test_fixed_stays_whatever_the_kl():
  assert [fixed(0.1, kl, 6.0, 512, 10_000) for kl in (0.0, 6.0, 1e9)] == [0.1] * 3


def test_names():
  assert {"fixed": fixed, "adaptive": adaptive, "exponential": exponential} == CONTROLLERS


@pytest.mark.parametrize("name", ["adaptive", "exponential"])
def test_a_loop_settles_where_the_kl_is_the_target(name):
  """KL = 1 / coef, as it is near the reference: the coefficient goes to 1 / target from either side."""
  for coef in (0.02, 5.0):
    for _ in range(400):
      coef = CONTROLLERS[name](coef, 1 / coef, 4.0, 512, 2_000)
    assert coef == pytest.approx(0.25, rel=1e-6)


def test_ten_steps_of_the_exponential_change_it_by_a_factor_of_4():
  coef = 1.0
  for _ in range(10):
    coef = exponential(coef, 100.0, 1.0, 1, 1.0)
  assert 4 < coef < 4.6
