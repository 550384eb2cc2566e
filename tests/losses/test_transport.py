"""AOT: optimal transport against brute force, and what becomes of weights."""

import dataclasses
import itertools

import numpy as np
import pytest
from loss_draws import draw, gradients_of, loss_of, pairs

pytestmark = pytest.mark.usefixtures("float64")


@pytest.mark.parametrize("name", ["aot", "aot_unpaired"])
def test_aot_is_the_cheapest_of_all_couplings(name):
  policy, reference = (dataclasses.replace(x, weight=None) for x in draw(name, size=5))
  if name == "aot":
    above, below = policy.chosen - policy.rejected, reference.chosen - reference.rejected
  else:
    above, below = policy.chosen - reference.chosen, policy.rejected - reference.rejected
  costs = [np.logaddexp(0, -0.3 * (above - below[list(order)])).mean() for order in itertools.permutations(range(5))]
  np.testing.assert_allclose(loss_of(name, (policy, reference), beta=0.3).mean(), min(costs), rtol=1e-12)
  assert max(costs) > 1.01 * min(costs)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["aot", "aot_unpaired"])
def test_aot_of_one_pair_is_dpo(name):
  policy, reference = (dataclasses.replace(x, margin=None) for x in draw(name, size=1))
  want = loss_of("cdpo", (policy, reference), beta=0.3, label_smoothing=0.2)
  got = loss_of(name, (policy, reference), beta=0.3, label_smoothing=0.2)
  np.testing.assert_allclose(got, want, rtol=1e-12)


@pytest.mark.slow
def test_aot_values_stand_where_their_margins_do():
  policy = pairs([3.0, 1.0, 2.0], [0.0, 0.0, 0.0])
  reference = pairs([-1.0, 7.0, 0.0], [0.0, 0.0, 0.0])
  # Smallest meets smallest: 1 with -1, 2 with 0, 3 with 7.
  want = np.log1p(np.exp(-np.array([3.0 - 7.0, 1.0 + 1.0, 2.0 - 0.0])))
  np.testing.assert_allclose(loss_of("aot", (policy, reference), beta=1.0), want, rtol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["aot", "aot_unpaired"])
def test_what_an_example_of_weight_0_holds_does_not_reach_aot(name):
  policy, reference = draw(name, size=4)
  weight = np.array([1.0, 0.0, 1.0, 2.0])
  broken = np.where(weight > 0, policy.chosen, np.nan)
  args = [dataclasses.replace(x, weight=weight) for x in (policy, reference)]
  spoiled = (dataclasses.replace(args[0], chosen=broken), args[1])
  np.testing.assert_array_equal(loss_of(name, spoiled), loss_of(name, args))
  slope = gradients_of(name, spoiled)["chosen"]
  np.testing.assert_array_equal(slope, gradients_of(name, args)["chosen"])
