"""When a run stops: figures beside oracles, the two rates on simulated runs, and what cannot be decided."""

import json
import math

import numpy as np
import pytest
import scipy.stats

from benchmarks.stopping import PATIENCE, RISING, Noise, draw_kl, linear
from dpojax.config.schema import StopSettings
from dpojax.errors import InputError
from dpojax.training.stopping import (
  BudgetDecision,
  Decision,
  PolicySample,
  best_under_budget,
  budget,
  kl_change,
  reward_change,
  should_stop,
)

RUNS, PROMPTS = 800, 64


def looks_of(rewards, kl_token=0.1, *, steps=None, tokens=10):
  """Looks with the rewards [L, N] and constant KL a token, every 100 steps."""
  rewards = np.asarray(rewards, np.float64)
  kl_token = np.broadcast_to(kl_token, len(rewards))
  steps = range(0, 100 * len(rewards), 100) if steps is None else steps
  counts = np.full(rewards.shape[1], tokens)
  return [PolicySample(int(s), r, k * counts, counts) for s, r, k in zip(steps, rewards, kl_token, strict=True)]


def waves(curve, prompts=50, size=0.5):
  """Rewards f64[L, prompts] whose mean is exactly the curve, with errors between looks."""
  noise = np.random.default_rng(5).normal(size=(len(curve), prompts)) * size
  return np.asarray(curve)[:, None] + noise - noise.mean(1, keepdims=True)


def first_stops(curve, kl_of_runs, settings, generator):
  """The index of the look after which each simulated run is stopped; None where none is."""
  rewards = Noise().draw(RUNS, len(curve), PROMPTS, generator) + curve[:, None]
  kl, tokens = kl_of_runs(len(curve))
  for run in range(RUNS):
    looks = [PolicySample(k, rewards[run, k], kl[run, k], tokens[run, k]) for k in range(len(curve))]
    stops = (k for k in range(len(curve)) if should_stop(looks[: k + 1], settings).stop)
    yield next(stops, None)


@pytest.mark.slow
def test_no_more_than_one_rising_run_in_twenty_is_stopped():
  """The whole run counts, at a rise of 3.7 standard errors a window; KL as stable as can be, which is the worst case."""
  curve = linear(3.7 * Noise().error(PATIENCE, PROMPTS) / PATIENCE, 0)
  stable = lambda looks: (np.ones((RUNS, looks, PROMPTS)), np.full((RUNS, looks, PROMPTS), 10))  # noqa: E731
  stops = list(first_stops(curve, stable, StopSettings(patience=PATIENCE), np.random.default_rng(1)))
  assert len(stops) == RUNS and sum(stop is not None for stop in stops) <= 0.05 * RUNS


@pytest.mark.slow
def test_a_run_is_stopped_within_three_looks_of_the_end_of_its_rise():
  """KL does not move either, but is as noisy as at the complaint desk. Runs stopped before are others' matter."""
  generator = np.random.default_rng(2)
  curve = linear(3.7 * Noise().error(PATIENCE, PROMPTS) / PATIENCE, 3)
  noisy = lambda looks: draw_kl(np.full(looks, 0.13), RUNS, PROMPTS, generator)  # noqa: E731
  stops = [s for s in first_stops(curve, noisy, StopSettings(patience=PATIENCE), generator) if s is None or s > RISING]
  assert len(stops) > 0.9 * RUNS and sum(stop is not None for stop in stops) >= 0.95 * len(stops)


@pytest.mark.parametrize("steps", [[0, 100], [100, 150, 300], [0, 25, 50, 75, 110]])
def test_the_change_is_that_of_a_line_through_each_prompts_rewards(steps):
  rewards = np.random.default_rng(0).normal(size=(len(steps), 40)) * 3
  rises = np.polyfit(steps, rewards, 1)[0] * (steps[-1] - steps[0])
  change, error = reward_change(rewards, steps)
  np.testing.assert_allclose([change, error], [rises.mean(), scipy.stats.sem(rises)], rtol=1e-10)


def test_of_two_or_three_looks_at_equal_distance_it_is_the_newest_less_the_oldest():
  rewards = np.random.default_rng(1).normal(size=(3, 40))
  for looks, steps in ((rewards, [0, 50, 100]), (rewards[:2], [0, 100])):
    found = scipy.stats.ttest_rel(looks[-1], looks[0])
    change, error = reward_change(looks, steps)
    assert abs(change / error - found.statistic) < 1e-10


def test_the_error_of_kls_change_is_that_of_leaving_prompts_out():
  generator = np.random.default_rng(3)
  kl, tokens = draw_kl(np.asarray([0.1, 0.12]), 1, 300, generator)
  (before, now), (n0, n1) = kl[0], tokens[0]
  ratio = lambda keep: now[keep].sum() / n1[keep].sum() - before[keep].sum() / n0[keep].sum()  # noqa: E731
  without = np.asarray([ratio(np.arange(300) != i) for i in range(300)])
  jackknife = math.sqrt(299 / 300 * np.sum((without - without.mean()) ** 2))
  first, last, error = kl_change(before, n0, now, n1)
  assert abs(last - first - ratio(np.arange(300) >= 0)) < 1e-12
  assert abs(error / jackknife - 1) < 0.01


@pytest.mark.parametrize(
  ("curve", "kl", "stops", "reason"),
  [
    ([0.0, 1.0, 1.0, 1.0], 0.1, True, "reward no longer rises and KL is stable"),
    ([0.0, 1.0, 1.0, 0.5], 0.1, True, "reward no longer rises and KL is stable"),  # a fall is no rise
    ([0.0, 0.0, 0.5, 1.0], 0.1, False, "reward rises"),
    ([0.0, 1.0, 1.0, 1.0], [0.0, 0.1, 0.12, 0.15], False, "KL is not stable"),
    ([0.0, 1.0, 1.0, 1.0], [0.0, 0.15, 0.12, 0.1], False, "KL is not stable"),
    ([0.0, 1.0, 1.0, 1.0], [0.0, 0.1, 0.2, 0.109], True, "reward no longer rises and KL is stable"),
    ([0.0, 0.0, 0.5, 1.0], [0.0, 0.1, 0.2, 0.3], False, "reward rises and KL is not stable"),
  ],
)
def test_it_stops_only_when_reward_and_kl_both_stand_still(curve, kl, stops, reason):
  decision = should_stop(looks_of(waves(curve), kl), StopSettings(patience=2))
  assert (decision.stop, decision.reason) == (stops, reason)


@pytest.mark.parametrize(
  ("kl", "stable"),
  [([0.0, 0.0], True), ([0.0, 1e-3], False), ([1e-4, 2e-4], False), ([0.0, 3e-7], True), ([-1e-8, 2e-8], True)],
)
def test_kl_near_zero_is_stable_only_when_it_does_not_move(kl, stable):
  looks = looks_of(waves([1.0, 1.0]), kl)
  assert should_stop(looks, StopSettings(patience=1)).stop is stable


def test_noise_of_kl_is_no_move():
  """A move of a third, which the tolerance of a tenth alone would call one, at 1.5 standard errors."""
  kl = np.full((2, 50), 1.0)
  kl[1] += np.random.default_rng(0).normal(size=50)
  spread = kl[1] - kl[1].mean()
  kl[1] = 1.0 + 1 / 3 + spread / scipy.stats.sem(spread) * (1 / 3) / 1.5
  tokens = np.full(50, 10)
  looks = [PolicySample(step, r, k, tokens) for step, r, k in zip((0, 100), waves([1.0, 1.0]), kl, strict=True)]
  decision = should_stop(looks, StopSettings(patience=1))
  assert decision.stop and abs(decision.kl_change / decision.kl_error - 1.5) < 1e-9
  looks[1] = PolicySample(100, looks[1].rewards, 1 + (kl[1] - 1) + 0.2, tokens)  # the same noise, 2.4 standard errors
  assert not should_stop(looks, StopSettings(patience=1)).stop


def test_only_the_last_looks_count():
  looks = looks_of(waves([5.0, -3.0, 1.0, 1.0, 1.0]))
  short = should_stop(looks[2:], StopSettings(patience=2))
  assert short.stop and should_stop(looks, StopSettings(patience=2)) == short


@pytest.mark.parametrize("patience", [1, 2, 3, 4])
def test_rewards_that_do_not_change_at_all_stop_it_and_an_equal_rise_of_all_does_not(patience):
  same = np.tile(np.random.default_rng(0).normal(size=30), (patience + 1, 1))
  flat = should_stop(looks_of(same), StopSettings(patience=patience))
  assert (flat.stop, flat.change, flat.error, flat.ratio) == (True, 0.0, 0.0, 0.0)
  rising = should_stop(looks_of(np.arange(patience + 1)[:, None] + np.zeros(30)), StopSettings(patience=patience))
  assert (rising.stop, rising.error, rising.ratio) == (False, 0.0, math.inf)
  assert json.loads(json.dumps(rising.as_json(), allow_nan=False))["ratio"] == "inf"


def test_without_enough_looks_or_prompts_nothing_is_decided():
  looks = looks_of(waves([1.0, 1.0]))
  said = lambda looks, **settings: should_stop(looks, StopSettings(**settings)).said()  # noqa: E731
  assert said([], patience=2) == "stop rule: 3 more looks to come before it applies"
  assert said(looks, patience=2) == "stop rule: 1 more look to come before it applies"
  assert said(looks * 9, patience=0) == "stop rule: stop.patience is 0: never"
  alone = should_stop(looks_of([[1.0], [1.0]]), StopSettings(patience=1))
  assert not alone.stop and alone.reason == "one prompt has no standard error; set monitor.prompts to 2 or more"
  json.dumps(alone.as_json(), allow_nan=False)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["rewards", "kl"])
def test_a_number_that_is_none_is_named(name, value):
  values = {"rewards": np.zeros(4), "kl": np.zeros(4), "tokens": np.full(4, 9)}
  values[name][2] = value
  with pytest.raises(
    InputError, match=rf"step 300: {name} of prompt 2 \(the first is 0\) is {value}; .* stop.patience"
  ):
    PolicySample(300, **values)


def test_looks_that_cannot_be_paired_are_refused():
  ones, settings = np.ones(4), StopSettings(patience=1)
  with pytest.raises(InputError, match=r"a number for each prompt each, not arrays of shape \(4,\), \(3,\), \(4,\)"):
    PolicySample(0, ones, np.ones(3), ones)
  with pytest.raises(InputError, match="shape"):
    PolicySample(0, np.ones((4, 1)), ones, ones)
  with pytest.raises(InputError, match="shape"):
    PolicySample(0, [], [], [])
  with pytest.raises(InputError, match="one at least is not empty"):
    PolicySample(0, ones, ones, np.zeros(4))
  with pytest.raises(InputError, match="steps 0 and 100 are of 4 and 5 prompts: the prompts changed on the way"):
    should_stop([PolicySample(0, ones, ones, ones), PolicySample(100, np.ones(5), np.ones(5), np.ones(5))], settings)
  with pytest.raises(InputError, match="a look at step 100 comes after one at step 100"):
    should_stop([PolicySample(100, ones, ones, ones)] * 2, settings)


def test_the_decision_in_a_line_and_in_numbers():
  looks = looks_of(waves([0.5, 1.0, 1.012], prompts=256), [0.0, 0.131, 0.133], steps=[100, 200, 300])
  decision = should_stop(looks, StopSettings(patience=1))
  assert decision.said() == (
    f"reward +0.012 ± {decision.error:.3f} over steps 200 to 300 (256 prompts, paired), KL 0.131 → 0.133 nats a token: stop"
  )
  assert (
    should_stop(looks[:2], StopSettings(patience=1))
    .said()
    .endswith("KL 0.0000 → 0.131 nats a token: go on, reward rises and KL is not stable")
  )
  json_ = decision.as_json()
  assert json_["stop"] is True and json_["over_budget"] is True and json_["budget"] == 0.05
  assert abs(json_["kl_change"] - 0.002) < 1e-12 and abs(json_["kl_tolerance"] - 0.0131) < 1e-12
  assert (json_["first_step"], json_["step"], json_["prompts"]) == (200, 300, 256)
  assert abs(json_["ratio"] - 0.012 / decision.error) < 1e-9
  assert Decision.from_json(json_) == decision


def test_the_budget():
  kl = np.asarray([1.0, 2.0, 4.0])
  look = PolicySample(300, np.zeros(3), kl, [10, 20, 30])  # 7 nats in 60 tokens
  over = budget(look, StopSettings())
  assert over.over and not over.stop and over.times == pytest.approx(7 / 3)
  assert over.said() == f"KL 0.117 ± {over.error:.3f} nats a token at step 300 is 2.3 times the budget of 0.05"
  assert over.error == pytest.approx(scipy.stats.sem(kl - 7 / 60 * np.asarray([10, 20, 30])) / 20)
  assert budget(look, StopSettings(over_budget="stop")).stop
  within = budget(look, StopSettings(kl_budget=0.117, over_budget="stop"))
  assert not within.over and not within.stop and within.said().endswith("step 300 keeps to the budget of 0.117")
  free = budget(look, StopSettings(kl_budget=0.0, over_budget="stop"))
  assert not free.over and not free.stop and free.times is None and free.said().endswith("; no budget is set")
  alone = budget(PolicySample(300, [0.0], [1.0], [10]), StopSettings())
  assert alone.over and alone.said() == "KL 0.100 nats a token at step 300 is 2.0 times the budget of 0.05"
  read = BudgetDecision.from_json(json.loads(json.dumps(alone.as_json(), allow_nan=False)))
  assert math.isnan(read.error) and read.said() == alone.said() and read.over


@pytest.mark.parametrize(
  ("rewards", "kl", "best"),
  [
    ([9.0, 1.0, 2.0, 3.0], [0.0, 0.02, 0.05, 0.051], 2),  # step 0 is the reference; at the budget is within it
    ([0.0, 2.0, 1.0, 2.0], [0.0, 0.02, 0.03, 0.04], 1),  # of equals the earlier
    ([0.0, 1.0, 1.5, 2.0], [0.0, 0.06, 0.07, 0.08], None),
    ([0.0], [0.0], None),
  ],
)
def test_the_best_look_within_the_budget(rewards, kl, best):
  looks = looks_of(np.asarray(rewards)[:, None] + np.zeros(4), kl)
  assert best_under_budget(looks, StopSettings()) == best


def test_without_a_budget_the_best_look_is_the_best_of_all():
  looks = looks_of([[0.0, 0.0], [1.0, 1.0], [3.0, 3.0]], [0.0, 0.4, 0.9])
  assert best_under_budget(looks, StopSettings(kl_budget=0.0)) == 2
