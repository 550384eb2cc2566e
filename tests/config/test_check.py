"""Ranges and contradictions: each refused with the dotted key and what would be right."""

import pytest

from dpojax.config.check import check
from dpojax.config.keys import replace_values
from dpojax.config.schema import RunConfig
from dpojax.errors import ConfigError

WORLD = {"data.source": "world", "data.name": "complaint_desk", "data.path": "stage:pairs", "model.path": "stage:sft"}
SFT = {"recipe": "sft", "data.source": "world", "data.name": "complaint_desk"}
PAIRS = {"recipe": "pairs", "data.source": "world", "data.name": "complaint_desk", "model.path": "stage:sft"}
FILE = {"data.source": "file", "data.path": "rows.jsonl", "model.path": "model"}
PROMPTS = FILE | {"recipe": "pairs", "pairs.reward": "length"}


def refused(start, values):
  with pytest.raises(ConfigError) as caught:
    check(replace_values(RunConfig(), {**start, **values}))
  return str(caught.value)


@pytest.mark.parametrize(
  "start",
  [
    WORLD,
    SFT,
    PAIRS,
    FILE,
    PROMPTS,
    PROMPTS | {"pairs.prompts": 0},
    PROMPTS | {"data.format": "prompt", "data.columns": "prompt=ask,-notes"},
    {"data.name": "owner/set", "model.path": "model"},
    {"data.path": "stage:pairs", "model.path": "model"},
  ],
)
def test_sound_settings_pass(start):
  check(replace_values(RunConfig(), start))


@pytest.mark.parametrize(
  "values, message",
  [
    ({"loss.beta": 0.0}, "loss.beta must be more than 0, got 0"),
    ({"loss.label_smoothing": 0.6}, "loss.label_smoothing must be at most 0.5, got 0.6"),
    ({"monitor.top_p": 1.5}, "monitor.top_p must be at most 1, got 1.5"),
    ({"batch.size": 0}, "batch.size must be at least 1, got 0"),
    ({"parallel.data": 0}, "parallel.data must be -1 (all devices that remain) or at least 1, got 0"),
    (
      {"data.source": "worl"},
      "data.source wants one of hub, file, world, got 'worl'; did you mean 'world'?",
    ),
    ({"data.columns": "promt=ask"}, "data.columns: no standard column 'promt'; did you mean 'prompt'?"),
    (
      {"model.precision": "fp16"},
      "model.precision wants one of float32, bfloat16, got 'fp16'; here it is bfloat16; float16 needs its losses scaled and "
      "is not offered",
    ),
  ],
)
def test_out_of_range(values, message):
  assert refused(WORLD, values) == message


def test_formats_and_slots_are_known_before_data_are_read():
  assert refused(FILE, {"data.format": "hhh"}).startswith(
    "data.format cannot be 'hhh'; did you mean 'hh'? It wants one of auto, "
  )
  assert refused(FILE, {"batch.scored": 2000}) == (
    "batch.scored is 2000, more than the tokens of a row (batch.row_length=1024); lower it, or leave it at 0"
  )


@pytest.mark.parametrize(
  "start, values, message",
  [
    (
      WORLD,
      {"loss.name": "ipo", "loss.label_smoothing": 0.1},
      "loss.label_smoothing is 0.1, but loss.name=ipo ignores it; leave it out or use one of aot, aot_unpaired, bradley_terry, "
      "cdpo, cpo, exo_pair, robust_dpo, tpo, tpo_l",
    ),
    (
      SFT,
      {"reference.kind": "cache"},
      "reference.kind is set, but recipe=sft does not read it; it belongs to recipe=preference, "
      "recipe=policy_gradient, recipe=online",
    ),
    (
      SFT,
      {"reference.path": "model"},
      "reference.path is set, but recipe=sft does not read it; it belongs to recipe=preference, "
      "recipe=policy_gradient, recipe=online",
    ),
    (
      WORLD,
      {"reference.cache_dir": "cache"},
      "reference.cache_dir is set, but reference.kind=live does not read it; it belongs to reference.kind=cache",
    ),
    (
      WORLD,
      {"reference.precision": "bfloat16"},
      "reference.precision is set, but reference.kind=live does not read it; it belongs to reference.kind=cache",
    ),
    (
      {},
      {},
      "data.name is empty: name a data set of the hub, give a file as data.path, or set data.source=world",
    ),
    (WORLD, {"data.name": ""}, "data.name is empty: name a built-in environment (complaint_desk)"),
    (FILE, {"data.path": ""}, "data.path is empty, but data.source=file needs a file to read"),
    (FILE, {"data.eval_split": "test"}, "data.eval_split is set, but only data.source=hub has splits"),
    (
      WORLD,
      {"data.eval_path": "rows.jsonl"},
      "data.eval_path is set, but data.source=world writes its own held-out prompts",
    ),
    (
      FILE,
      {"data.max_prompt": 2048},
      "data.max_prompt is 2048, longer than a row (batch.row_length=1024); raise the row length",
    ),
    (
      FILE,
      {"model.path": ""},
      "model.path is empty: a model from scratch knows only the words of a built-in environment; "
      "give model.path, or set data.source=world",
    ),
    (SFT, {"model.hidden": 12}, "model.hidden must be a multiple of 2 * model.heads = 8, got 12"),
    (SFT, {"model.kv_heads": 3}, "model.heads must be a multiple of model.kv_heads = 3, got 4"),
    (
      FILE,
      {"pairs.prompts": 100},
      "pairs.prompts is set, but recipe=preference does not read it; it belongs to recipe=pairs",
    ),
    (
      PAIRS,
      {"loss.beta": 0.2},
      "loss.beta is set, but recipe=pairs does not read it; it belongs to recipe=reward_model, recipe=preference, "
      "recipe=online",
    ),
    (
      WORLD,
      {"data.path": ""},
      "data.path is empty: recipe=preference on data.source=world learns from pairs that a stage of recipe=pairs "
      "wrote; name it, such as stage:pairs",
    ),
    (
      WORLD,
      {"data.path": "rows.jsonl"},
      "data.path=rows.jsonl is a file; data.source=world reads the pairs of a stage",
    ),
    (PAIRS, {"model.path": ""}, "model.path is empty: name the model that writes the answers of recipe=pairs"),
    (
      PAIRS,
      {"data.source": "hub", "data.name": "owner/set"},
      "pairs.reward=auto is the true reward, which only data.source=world has; name what orders the answers, such as "
      "pairs.reward=model:runs/reward or pairs.reward=python:FILE:FUNCTION, see docs/rewards.md",
    ),
    (
      PROMPTS,
      {"pairs.reward": "length + true"},
      "pairs.reward=length + true: true is an environment's own reward, which only data.source=world has; name another, "
      "such as model:PATH or python:FILE:FUNCTION",
    ),
    (
      FILE,
      {"monitor.rewards": "true"},
      "monitor.rewards=true: true is an environment's own reward, which only data.source=world has; name another, such "
      "as model:PATH or python:FILE:FUNCTION",
    ),
    (
      PROMPTS,
      {"data.path": "stage:pairs"},
      "data.path=stage:pairs: recipe=pairs reads prompts, from a file, the hub or a built-in environment, and no stage makes any",
    ),
    (PAIRS, {"pairs.prompts": 0}, "pairs.prompts is 0, but a built-in environment has no end of prompts; say how many"),
    (
      {"data.path": "stage:pairs", "model.path": "model"},
      {"data.eval_path": "held_out.jsonl"},
      "data.eval_path is set, but the pairs of a stage are held out by data.eval_fraction; leave it empty",
    ),
    (
      WORLD,
      {"train.steps": 10, "optimizer.warmup_steps": 11},
      "optimizer.warmup_steps is 11, more than train.steps = 10",
    ),
    (
      WORLD,
      {"optimizer.schedule": "constant", "optimizer.final_fraction": 0.1},
      "optimizer.final_fraction is set, but optimizer.schedule=constant never falls; set it to 0",
    ),
    (
      FILE,
      {"data.eval_fraction": 0.0, "evaluation.every": 10},
      "evaluation.every is set, but nothing is held out; set data.eval_path, data.eval_split or data.eval_fraction",
    ),
    (
      WORLD,
      {"checkpoint.best_metric": "reward"},
      "checkpoint.best_metric is 'reward', but nothing is evaluated on the way; set evaluation.every or monitor.every",
    ),
    (
      FILE,
      {"monitor.normalise": True},
      "monitor.normalise is set, but there is no reward; name one, such as monitor.rewards=model:runs/reward",
    ),
    (
      WORLD,
      {"monitor.judge": "length", "monitor.prompts": 0},
      "monitor.judge is set, but monitor.prompts=0 looks at no answers",
    ),
    (
      WORLD,
      {"stop.patience": 3},
      "stop.patience is set, but the policy is not sampled on the way; set monitor.every and monitor.prompts",
    ),
    (
      FILE,
      {"stop.patience": 3, "monitor.every": 10},
      "stop.patience is set, but it watches the reward of what the policy writes, and none is known: name one, such as "
      "monitor.rewards=model:runs/reward",
    ),
  ],
)
def test_contradictions(start, values, message):
  assert refused(start, values) == message


def test_an_unknown_loss_is_never_replaced_by_another():
  assert refused(WORLD, {"loss.name": "dpos"}).startswith(
    "loss.name cannot be 'dpos'; did you mean 'dpo'? It wants one of all_pairs, alphapo, "
  )
  assert refused(WORLD, {"loss.name": "quux"}).startswith("loss.name wants one of all_pairs, alphapo, ")
  assert refused(WORLD, {"loss.name": "quux"}).endswith(", got 'quux'")


@pytest.mark.parametrize("reward", ["lenght", "length, regex:a", "regex:(", "model"])
def test_rewards_are_read_before_anything_runs(reward):
  assert refused(PROMPTS, {"pairs.reward": reward}).startswith("pairs.reward")
  if "," not in reward:
    assert refused(FILE, {"monitor.rewards": reward}).startswith("monitor.rewards")
