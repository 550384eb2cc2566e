"""Runs of recipe=policy_gradient in other commands: which of the two models each takes, and what it makes of it."""

import json

import jax
import numpy as np
import pytest
from tiny_model import POSITIONS, TinyModel

from dpojax.cli.main import main
from dpojax.config.keys import replace_values
from dpojax.config.record import write_config
from dpojax.config.schema import CheckpointSettings, DataSettings, RunConfig
from dpojax.data.dataset import dataset_from_rows
from dpojax.models.reward_model import RewardModel
from dpojax.scoring import reward_scores
from dpojax.training.checkpoint import Checkpointer
from dpojax.training.model_files import LoadedModel, load_model, save_description
from dpojax.types import Answers

pytestmark = pytest.mark.slow

KL_COEF = 0.25
ROWS = [
  {"prompt_ids": [4, 9, 6], "chosen_ids": [11, 12, 3], "rejected_ids": [5]},
  {"prompt_ids": [2, 10], "chosen_ids": [13], "rejected_ids": [7, 8, 9, 3]},
]
PAIR = {"prompt": "my parcel is", "chosen": "sorry the refund is yes", "rejected": "be calm"}
SIDES = ("chosen", "rejected")


@pytest.fixture(scope="module", params=["own", "shared"])
def run(request, tmp_path_factory):
  """(workdir, policy at its start, params by step): steps 1 and 2, every array times the step; and the critic's kind."""
  folder = tmp_path_factory.mktemp(request.param)
  tiny, shared = TinyModel(folder / "tiny"), request.param == "shared"
  critic = RewardModel(tiny.model)
  own = critic.init(jax.random.key(8))
  params = {"policy": tiny.params, "critic": {"score": own["score"]} if shared else own}
  settings = {
    "recipe": "policy_gradient",
    "model.path": tiny.path,
    "data.path": "letters.jsonl",
    "data.source": "file",
    "rollout.reward": "length",
    "policy_gradient.kl_coef": KL_COEF,
    "policy_gradient.critic": "shared" if shared else "reward",
  }
  workdir = folder / "run"
  workdir.mkdir()
  write_config(replace_values(RunConfig(), settings), workdir)
  save_description(
    workdir, LoadedModel(tiny.model, tiny.params, tiny.tokenizer), critic=critic, shared=shared, critic_start="nothing"
  )
  by_step = {step: jax.tree.map(lambda x, s=step: np.asarray(x) * np.float32(s), params) for step in (1, 2)}
  with Checkpointer(workdir / "checkpoints", CheckpointSettings()) as checkpointer:
    for step, each in by_step.items():
      checkpointer.save(step, {"params": each})
  return workdir, tiny, by_step, shared


def assert_same(found, expected):
  assert jax.tree.structure(found) == jax.tree.structure(expected)
  for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("options, step", [([], 2), (["--step=1"], 1)])
def test_the_critic_is_exported_as_a_reward_model_bit_for_bit(run, tmp_path, options, step):
  workdir, tiny, by_step, shared = run
  out = tmp_path / "out"
  assert main(["export", f"--workdir={workdir}", f"--out={out}", "--critic", "--pad-token=<user>", *options]) == 0
  model, params, _ = load_model(out)
  assert isinstance(model, RewardModel) and model.heads == 1 and model.normalisation is None
  decoder = by_step[step]["policy" if shared else "critic"]
  trunk = {name: value for name, value in decoder.items() if name not in ("head", "score")}
  assert_same(params, trunk | {"score": by_step[step]["critic"]["score"]})
  config = json.loads((out / "config.json").read_text())
  assert config["num_labels"] == 1 and config["pad_token_id"] == tiny.tokenizer.encode("<user>")[0]


@pytest.mark.sampled(1)
def test_its_score_is_the_value_at_the_last_token(run, tmp_path):
  workdir, tiny, by_step, shared = run
  out = tmp_path / "out"
  assert main(["export", f"--workdir={workdir}", f"--out={out}", "--critic", "--pad-token=<user>"]) == 0
  model, params, tokenizer = load_model(out)
  dataset = dataset_from_rows(ROWS, DataSettings(), tokenizer, answers=Answers.ANY, row_length=40)
  found = np.concatenate([scores[0] for scores in reward_scores(model, params, dataset, row_length=40)])
  # By another path, alone and through the cache: the hidden state at the last token, times the head in NumPy.
  texts = [row["prompt_ids"] + row[side] for row in ROWS for side in ("chosen_ids", "rejected_ids")]
  decoder = by_step[2]["policy" if shared else "critic"]
  expected = []
  for text in texts:
    padded = np.zeros((1, POSITIONS), np.int32)
    padded[0, : len(text)] = text
    hidden, _ = tiny.model.prefill(
      {name: value for name, value in decoder.items() if name != "score"}, padded, np.asarray([len(text)], np.int32)
    )
    last = np.asarray(hidden, np.float64)[0, len(text) - 1]
    expected.append(last @ by_step[2]["critic"]["score"][0].astype(np.float64))
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)  # sums of 16 numbers in float32
  assert len(np.unique(found)) == len(texts)


def test_without_the_option_the_policy_is_exported(run, tmp_path):
  workdir, tiny, by_step, _ = run
  assert main(["export", f"--workdir={workdir}", f"--out={tmp_path / 'out'}"]) == 0
  model, params, _ = load_model(tmp_path / "out")
  assert model.config == tiny.model.config
  assert_same(params, by_step[2]["policy"])


def test_the_card_says_which_of_the_two_it_is(run, tmp_path):
  workdir = run[0]
  for name, options in (("critic", ["--critic", "--pad-token=<user>"]), ("policy", [])):
    assert main(["export", f"--workdir={workdir}", f"--out={tmp_path / name}", *options]) == 0
  critic, policy = ((tmp_path / name / "README.md").read_text() for name in ("critic", "policy"))
  made = "(ppo, KL weight 0.25, reward length) on prompts of the file `letters.jsonl`"
  assert "\n- policy-gradient\n" in critic and "\n- policy-gradient\n" in policy
  assert "pipeline_tag: text-classification" in critic and "pipeline_tag: text-generation" in policy
  assert "The critic of a policy trained with dpojax" in critic and made in critic
  assert "\nTrained with dpojax" in policy and made in policy
  assert "The critic started from nothing." in critic and "The critic started" not in policy
  assert "`policy_gradient.critic_path=PATH`" in critic and "critic_path=PATH" not in policy
  keys = [
    json.loads((tmp_path / name / "config.json").read_text()).get("dpojax_critic") for name in ("critic", "policy")
  ]
  assert keys == [True, None]
  assert "It is no reward model" in critic and "AutoModelForCausalLM" in policy


def test_a_run_without_a_critic_is_named(tmp_path, capsys):
  tiny = TinyModel(tmp_path / "tiny")
  workdir = tmp_path / "run"
  workdir.mkdir()
  write_config(RunConfig(), workdir)
  save_description(workdir, LoadedModel(tiny.model, tiny.params, tiny.tokenizer))
  assert main(["export", f"--workdir={workdir}", f"--out={tmp_path / 'out'}", "--critic"]) == 2
  assert f"{workdir}: there is no critic; a run of recipe=policy_gradient with" in capsys.readouterr().err
  assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def expected(run):
  """(log-probs under the policy, under the reference) of the answers of PAIR, by the cached path, from ids written here."""
  _, tiny, by_step, _ = run
  encode, start = tiny.tokenizer.encode, tiny.params
  prompt, answers = encode(f"<user> {PAIR['prompt']} <bot>"), [encode(f"{PAIR[side]} <end>") for side in SIDES]
  found = []
  for tiny.params in (by_step[2]["policy"], start):
    found.append(np.asarray([tiny.logp(prompt, answer) for answer in answers]))
  tiny.params = start
  return found


def scored(tmp_path, *options):
  data, out = tmp_path / "rows.jsonl", tmp_path / "scores.jsonl"
  data.write_text(json.dumps(PAIR) + "\n")
  assert main(["score", f"--data={data}", f"--out={out}", *options]) == 0
  (line,) = out.read_text().splitlines()
  return json.loads(line)


CLOSE = dict(rtol=1e-5, atol=1e-4)  # log-probs near 100 nats in float32


def test_its_implicit_reward_is_the_weight_of_kl_times_the_log_ratio(run, expected, tmp_path):
  workdir = run[0]
  policy, reference = expected
  row = scored(tmp_path, f"--rewards=it=implicit:{workdir}, twice=implicit:{workdir}?beta=2")
  ratio = policy - reference
  np.testing.assert_allclose([row[f"{side}_reward"]["it"] for side in SIDES], KL_COEF * ratio, **CLOSE)
  np.testing.assert_allclose([row[f"{side}_reward"]["twice"] for side in SIDES], 2 * ratio, **CLOSE)
  assert np.min(np.abs(ratio)) > 1


def test_log_probs_are_those_of_the_policy(run, expected, tmp_path):
  row = scored(tmp_path, f"--model={run[0]}")
  np.testing.assert_allclose([row[f"{side}_logp"] for side in SIDES], expected[0], **CLOSE)


def test_eval_compares_the_policy_with_where_it_started(run, expected, tmp_path):
  data, out = tmp_path / "rows.jsonl", tmp_path / "eval"
  data.write_text(json.dumps(PAIR) + "\n")
  assert main(["eval", f"--model={run[0]}", f"--data={data}", f"--out={out}"]) == 0
  result = json.loads((out / "eval.json").read_text())
  assert result["score"] == "implicit" and result["models"][0]["beta"] == KL_COEF
  (line,) = map(json.loads, (out / "scores.jsonl").read_text().splitlines())
  ratio = expected[0] - expected[1]
  np.testing.assert_allclose([line[f"{side}_score"] for side in SIDES], KL_COEF * ratio, **CLOSE)


@pytest.mark.long
def test_the_policy_writes(run, tmp_path, capsys):
  policy, _ = run[0], tmp_path
  options = ["--temperature=0", "--max-tokens=6"]
  assert main(["sample", f"--model={policy}", "--prompt=my parcel is", *options]) == 0
  by_run = capsys.readouterr().out
  assert main(["export", f"--workdir={policy}", f"--out={tmp_path / 'out'}"]) == 0
  capsys.readouterr()
  assert main(["sample", f"--model={tmp_path / 'out'}", "--prompt=my parcel is", *options]) == 0
  assert capsys.readouterr().out == by_run
