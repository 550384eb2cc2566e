"""Ranges of the settings of stages whose policy writes: what float32, 32-bit seeds and memory do not hold is refused."""

import jax
import numpy as np
import pytest

from dpojax.config.check import check
from dpojax.config.keys import fields_by_key, replace_values
from dpojax.config.schema import RunConfig
from dpojax.errors import ConfigError
from dpojax.objectives.kl_control import adaptive
from tests.config.test_on_policy import PG, WORLD, refused

ONLINE = WORLD | {"recipe": "online"}
PAIRS = {"recipe": "pairs", "data.source": "world", "data.name": "complaint_desk", "model.path": "stage:sft"}


@pytest.mark.parametrize(
  "start, values, message",
  [
    (WORLD, {"rollout.temperature": 1e-50}, "rollout.temperature must be at least 0.001, got 1e-50"),
    (WORLD, {"rollout.temperature": 0.0}, "rollout.temperature must be at least 0.001, got 0"),
    (PAIRS, {"pairs.temperature": 1e-40}, "pairs.temperature must be at least 0.001, got 1e-40"),
    (
      WORLD,
      {"monitor.temperature": 1e-50},
      "monitor.temperature must be 0, which is greedy, or at least 0.001, got 1e-50",
    ),
    (WORLD, {"rollout.seed": 2**32}, "rollout.seed must be at most 1073741823, got 4294967296"),
    (ONLINE, {"online.epochs": 1e-300}, "online.epochs must be at least 0.01, got 1e-300"),
    *[
      (WORLD, {f"{PG}{name}": 1e300}, f"policy_gradient.{name} must be at most 1e+06, got 1e+300")
      for name in ("value_coef", "kl_coef", "entropy_coef")
    ],
    (WORLD, {"rollout.eos_penalty": 1e300}, "rollout.eos_penalty must be at most 1e+06, got 1e+300"),
    (WORLD, {"rollout.samples": 10**8}, "rollout.samples must be at most 100000, got 100000000"),
    (WORLD, {"rollout.prompts": 10**11}, "rollout.prompts must be at most 1000000, got 100000000000"),
    (WORLD, {f"{PG}minibatches": 10**11}, "policy_gradient.minibatches must be at most 100000, got 100000000000"),
    (
      WORLD,
      {f"{PG}minibatches": 10**4, "batch.size": 10**4},
      "a roll-out would have 400,000,000 answers, more than 10,000,000; lower policy_gradient.minibatches, batch.size or "
      "rollout.samples",
    ),
    (
      WORLD,
      {f"{PG}kl_controller": "adaptive", f"{PG}kl_horizon": 102.4},
      "policy_gradient.kl_horizon=102.4 is too short for roll-outs of 512 answers (minibatches * batch.size * "
      "rollout.samples): where KL is low, one of them would take the weight of KL to 0 or below; set it above 102.4",
    ),
    *[
      (
        WORLD,
        {f"batch.{name}": value},
        f"batch.{name} is set, but recipe=policy_gradient does not read it: rows are made of roll-outs, whose order is "
        "rollout.seed's; leave it out, and where other stages need it set it in those",
      )
      for name, value in (("seed", 5), ("share_prompt", False), ("scored", 32), ("examples", 1))
    ],
  ],
)
def test_what_is_beyond_all_sense_is_refused(start, values, message):
  assert refused(start, values) == message


@pytest.mark.parametrize(
  "start, values",
  [
    (WORLD, {"rollout.temperature": 1e-3, "monitor.temperature": 1e-3}),
    (WORLD, {"monitor.temperature": 0.0}),
    (PAIRS, {"pairs.temperature": 1e-3}),
    (ONLINE, {"batch.seed": 5, "batch.share_prompt": False, "batch.scored": 200, "batch.examples": 1}),
    (ONLINE, {"online.epochs": 0.01}),
    (WORLD, {f"{PG}kl_horizon": 10_000.0, "batch.size": 3000}),
  ],
)
def test_what_is_just_within_passes(start, values):
  check(replace_values(RunConfig(), {**start, **values}))


def test_no_horizon_that_passes_takes_the_weight_of_kl_away():
  for samples in (1, 7, 4096):
    for horizon in np.geomspace(0.1, 1e6, 60).tolist():
      values = {f"{PG}kl_controller": "adaptive", f"{PG}kl_horizon": horizon, "rollout.samples": samples}
      lowest = adaptive(1.0, -1e9, 6.0, 4 * 32 * samples, horizon)
      try:
        check(replace_values(RunConfig(), WORLD | values))
      except ConfigError:
        assert lowest <= 1e-12
      else:
        assert lowest > 0


def test_the_sum_of_any_two_seeds_is_one():
  seeds = [key for key in fields_by_key() if key.rpartition(".")[2] == "seed"]
  assert len(seeds) == 8
  largest = sorted(fields_by_key()[key].metadata["maximum"] for key in seeds)
  total = largest[-1] + largest[-2]
  assert total < 2**31 and np.asarray(total, np.uint32) == total
  assert not np.array_equal(*(jax.random.key_data(jax.random.key(seed)) for seed in (total, total - 1)))
