"""What decides the prompts of roll-outs, and what a stage of roll-outs is made from."""

import pytest

from dpojax.config.keys import replace_values
from dpojax.config.load import load_experiment
from dpojax.config.schema import RunConfig
from dpojax.errors import ConfigError
from dpojax.recipes import online, policy_gradient
from dpojax.recipes.inputs import Inputs
from dpojax.sweeps.stages import run

pytestmark = pytest.mark.slow

RECIPES = {"policy_gradient": policy_gradient, "online": online}


class Begun(Exception):
  """What a stage is made from is known; nothing after it is of interest."""


class Folder:
  def begin(self, fingerprints, files=(), **options):
    del files, options
    raise Begun(fingerprints)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
  """A run of the world's words."""
  workdir = tmp_path_factory.mktemp("sft")
  values = {"model.hidden": 16, "model.ffn": 32, "model.layers": 1, "batch.size": 4, "batch.rows": 2}
  values |= {"batch.row_length": 128, "logging.plots": False, "sft.data.texts": 40, "sft.train.steps": 1}
  values |= {"sft.optimizer.warmup_steps": 0, "sft.monitor.prompts": 0}
  experiment = load_experiment("experiments/online_dpo_world.py", values=values)
  run(type(experiment)({"sft": experiment.stages["sft"]}), workdir)
  return workdir / "sft"


def made_from(model, recipe, **values):
  settings = {
    "recipe": recipe,
    "model.path": str(model),
    "data.source": "world",
    "data.name": "complaint_desk",
    "batch.size": 4,
    "batch.rows": 2,
    "batch.row_length": 128,
    "rollout.max_tokens": 12,
    "rollout.prompts": 10,
    "monitor.prompts": 0,
    "train.steps": 4,
  }
  config = replace_values(RunConfig(), settings | {key.replace("__", "."): value for key, value in values.items()})
  with pytest.raises(Begun) as caught:
    RECIPES[recipe].run(config, Inputs(config), Folder())
  return caught.value.args[0]


def test_the_seed_of_a_stage_is_added_to_that_of_roll_outs_once(model):
  found = {
    (recipe, seed, own): made_from(model, recipe, seed=seed, rollout__seed=own)["prompts"].digest
    for recipe in RECIPES
    for seed, own in ((0, 0), (1, 0), (0, 1), (1, 1), (0, 2))
  }
  digests = [{found[recipe, seed, own] for recipe in RECIPES for seed, own in found_at} for found_at in SUMS]
  assert [len(same) for same in digests] == [1, 1, 1] and len(set.union(*digests)) == 3


SUMS = [[(0, 0)], [(1, 0), (0, 1)], [(1, 1), (0, 2)]]  # (seed, rollout.seed) of the same prompts


@pytest.mark.parametrize(
  "steps, refresh, more, served",
  [(4, 100, 10, (4, 10)), (6, 8, 20, (6, 8)), (8, 8, 20, (8, 8)), (20, 8, 30, (8, 8))],
)
def test_how_many_steps_a_roll_out_serves_is_part_of_what_a_stage_is_made_from(model, steps, refresh, more, served):
  before, after = (
    made_from(model, "online", train__steps=length, online__refresh=refresh)["roll-out"] for length in (steps, more)
  )
  assert [before.about, after.about] == [f"pairs for {number} steps" for number in served]
  assert (before.digest == after.digest) == (served[0] == served[1])


def test_a_roll_out_that_no_memory_holds_is_refused_before_it_is_made(model):
  with pytest.raises(ConfigError, match=r"10,000,020 answers, more than 10,000,000; lower online.refresh, batch.size"):
    made_from(model, "online", train__steps=10**9, online__refresh=2_500_005, rollout__samples=2, online__epochs=2.0)
