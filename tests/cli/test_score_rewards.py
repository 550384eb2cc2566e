"""`dpojax score` of reward models and of any rewards: pairs, rankings, single answers, ensembles, rows left out."""

import json

import jax
import numpy as np
import pytest
from tiny_model import TinyModel

from dpojax.cli.main import main
from dpojax.config.keys import replace_values
from dpojax.config.record import write_config
from dpojax.config.schema import CheckpointSettings, RunConfig
from dpojax.data.examples import TokenDataset
from dpojax.models.reward_model import RewardModel
from dpojax.scoring import reward_scores
from dpojax.training.checkpoint import Checkpointer
from dpojax.training.model_files import LoadedModel, save_description

PAIR = {"prompt": "my parcel is calm", "chosen": "sorry we will refund the parcel", "rejected": "yes"}
LEFT_OUT = {"prompt": "my parcel", "chosen": "calm", "rejected": ""}
RANKING = {"prompt": "my parcel", "answers": ["we will refund", "yes", "be calm"]}
SINGLE = {"prompt": "my parcel", "completion": "we will refund the parcel"}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
  return TinyModel(tmp_path_factory.mktemp("tiny"))


def make_run(folder, model, params, tokenizer, **settings):
  write_config(replace_values(RunConfig(), settings), folder)
  save_description(folder, LoadedModel(model, params, tokenizer))
  with Checkpointer(folder / "checkpoints", CheckpointSettings()) as checkpointer:
    checkpointer.save(1, {"params": params})
  return folder


@pytest.fixture(scope="module")
def models(tiny, tmp_path_factory):
  """{heads: (run of a reward model with so many, its model and parameters)}"""
  found = {}
  for heads in (1, 3):
    model = RewardModel(tiny.model, heads)
    params = jax.device_get(model.init(jax.random.key(heads)))
    params["score"] = params["score"] * 30
    folder = make_run(tmp_path_factory.mktemp("reward"), model, params, tiny.tokenizer, recipe="reward_model")
    found[heads] = (str(folder), model, params)
  return found


def score(tmp_path, rows, *options, code=0):
  out, data = tmp_path / "scores.jsonl", tmp_path / "rows.jsonl"
  data.write_text("".join(json.dumps(row) + "\n" for row in rows))
  assert main(["score", f"--data={data}", f"--out={out}", *options]) == code
  return None if code else [json.loads(line) for line in out.read_text().splitlines()]


def expected(tiny, made, row):
  """f64[H, K] of the row's answers, from ids written here."""
  _, model, params = made
  answers = row.get("answers") or [row[name] for name in ("chosen", "rejected", "completion") if name in row]
  encode = tiny.tokenizer.encode
  ids = [encode(f"{answer} <end>") for answer in answers]
  dataset = TokenDataset.from_examples([(encode(f"<user> {row['prompt']} <bot>"), ids)])
  return reward_scores(model, params, dataset)[0]


@pytest.mark.sampled(2)
@pytest.mark.slow
@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("by", ["--model", "--rewards"])
def test_a_reward_model_writes_rewards(tiny, models, tmp_path, heads, by):
  path = models[heads][0]
  option = f"--model={path}" if by == "--model" else f"--rewards=model:{path}"
  pair, ranking, single = (
    score(tmp_path, rows, option) for rows in ([PAIR, LEFT_OUT, PAIR], [RANKING], [SINGLE, SINGLE])
  )
  each = expected(tiny, models[heads], PAIR)
  close = lambda values: pytest.approx(values, rel=1e-6, abs=1e-5)  # noqa: E731  # float32, of rewards near 40
  assert [line["row"] for line in pair] == [0, 1, 2]
  assert [pair[0]["chosen_reward"], pair[0]["rejected_reward"]] == close(each.mean(axis=0).tolist())
  if by == "--model":
    assert set(pair[1]) == {"row", "error"} and "empty answer" in pair[1]["error"]
    assert ("heads" in pair[0]) == (heads > 1)
  if "heads" in pair[0]:
    np.testing.assert_allclose(pair[0]["heads"], each, rtol=1e-6, atol=1e-5)
  assert ranking[0]["rewards"] == close(expected(tiny, models[heads], RANKING).mean(axis=0).tolist())
  assert [line["reward"] for line in single] == close([expected(tiny, models[heads], SINGLE).mean()] * 2)


def test_single_answers_have_one_log_prob(tiny, tmp_path):
  (line,) = score(tmp_path, [SINGLE], f"--model={tiny.path}")
  prompt, answer = (tiny.tokenizer.encode(text) for text in ("<user> my parcel <bot>", f"{SINGLE['completion']} <end>"))
  assert line == {"row": 0, "logp": pytest.approx(tiny.logp(prompt, answer), abs=1e-4), "tokens": 6}


def test_rules_need_no_model(tmp_path, capsys):
  rows = [PAIR, {"prompt": "x"}, PAIR]
  found = score(tmp_path, rows, "--rewards=regex:refund + 0.5*regex:we, w=regex:'e'?count=true")
  values = [{"refund+we": 1.5, "w": 4.0}, {"refund+we": 0.0, "w": 1.0}]
  assert found[0] == found[2] | {"row": 0} == {"row": 0, "chosen_reward": values[0], "rejected_reward": values[1]}
  assert "rows.jsonl:2: column 'chosen' holds nothing" in found[1]["error"]
  assert "rows scored: 2, not scored: 1" in capsys.readouterr().err


@pytest.mark.slow
def test_length_counts_tokens_of_the_model_named(tiny, models, tmp_path):
  assert score(tmp_path, [SINGLE], f"--model={tiny.path}", "--rewards=length") == [{"row": 0, "reward": 6.0}]
  found = score(tmp_path, [SINGLE], f"--rewards=r=model:{models[1][0]}, length")
  assert found[0]["reward"]["length"] == 6


@pytest.mark.slow
def test_ids_are_scored_as_they_are(models, tmp_path, capsys):
  """Not decoded and tokenised again, which would end them with EOS."""
  row = {"prompt_ids": [1, 2, 3], "completion_ids": [4, 5]}
  (by_model,) = score(tmp_path, [row], f"--model={models[1][0]}")
  (by_spec,) = score(tmp_path, [row], f"--rewards=model:{models[1][0]}")
  assert by_spec["reward"] == pytest.approx(by_model["reward"], abs=1e-6)
  score(tmp_path, [row], "--rewards=regex:a", code=2)
  assert "it holds token ids; give the model" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("by", ["--model", "--rewards"])
def test_sampled_answers_are_scored_and_cut_ones_without_eos(tiny, models, tmp_path, by):
  texts = ["we will refund", "we will", "refund"]
  samples = [{"text": text, "ended": ended} for text, ended in zip(texts, ("eos", "length", "stop"), strict=True)]
  rows = [{"row": 0, "error": "p.jsonl:1: empty"}, {"row": 1, "prompt": "my parcel", "samples": samples}]
  path, model, params = models[1]
  failed, found = score(tmp_path, rows, f"--model={path}" if by == "--model" else f"--rewards=model:{path}")
  assert failed == {"row": 0, "error": f"{tmp_path}/rows.jsonl:1: it has no answers: p.jsonl:1: empty"}
  encode = tiny.tokenizer.encode
  ids = [encode(text) for text in ("we will refund <end>", "we will", "refund <end>")]
  dataset = TokenDataset.from_examples([(encode("<user> my parcel <bot>"), ids)])
  assert found == {"row": 1, "rewards": pytest.approx(reward_scores(model, params, dataset)[0][0].tolist(), abs=1e-5)}


@pytest.mark.slow
def test_the_template_is_the_one_given(tiny, models, tmp_path):
  row = {"prompt": "<user> my parcel <bot>", "completion": "we will refund"}
  for template in ("none", "auto"):
    options = [f"--template={template}"]
    (by_model,) = score(tmp_path, [row], f"--model={models[1][0]}", *options)
    (by_spec,) = score(tmp_path, [row], f"--rewards=model:{models[1][0]}", *options)
    assert by_spec["reward"] == pytest.approx(by_model["reward"], abs=1e-6)
  alone = expected(tiny, models[1], {"prompt": "my parcel", "completion": "we will refund"})
  (without,) = score(tmp_path, [row], f"--rewards=model:{models[1][0]}", "--template=none")
  assert without["reward"] == pytest.approx(alone[0, 0], abs=1e-5)


@pytest.mark.slow
def test_implicit_rewards_of_a_run(tiny, tmp_path, capsys):
  """The reference and beta that its folder says, or those given."""
  other = TinyModel(tmp_path / "other", seed=4)
  folder = tmp_path / "run"
  folder.mkdir()
  settings = {"recipe": "preference", "loss.name": "dpo", "loss.beta": 0.5, "model.path": other.path}
  make_run(folder, tiny.model, tiny.params, tiny.tokenizer, **settings)
  prompt, answer = (tiny.tokenizer.encode(text) for text in ("<user> my parcel <bot>", f"{SINGLE['completion']} <end>"))
  ratio = tiny.logp(prompt, answer) - other.logp(prompt, answer)
  (found,) = score(
    tmp_path, [SINGLE], f"--rewards=implicit:{folder}, twice=implicit:{folder}?beta=1&reference={tiny.path}"
  )
  assert found["reward"] == {"run": pytest.approx(0.5 * ratio, abs=1e-4), "twice": pytest.approx(0, abs=1e-5)}
  score(tmp_path, [SINGLE], f"--rewards=implicit:{other.path}?reference={tiny.path}", code=2)
  assert f"implicit:{other.path} needs ?beta=B" in capsys.readouterr().err
  score(tmp_path, [SINGLE], f"--rewards=implicit:{other.path}", code=2)
  assert "name the model it was trained from with ?reference=PATH" in capsys.readouterr().err


@pytest.mark.parametrize(
  "options, message",
  [
    ([], "there is nothing to score with; give --model=PATH, or --rewards=SPEC"),
    (["--rewards=auto"], "--rewards=auto names none"),
    (["--rewards=modle:x"], "--rewards=modle:x: no kind of reward 'modle'"),
    (["--rewards=model:stage:reward"], "stage:reward names a stage of an experiment's config; give the path"),
    (["--rewards=true"], "--rewards: true is an environment's own reward"),
    (["--rewards=length"], "length counts tokens, but the answer has none and no tokenizer is known"),
    (["--rewards=model:nowhere"], "nowhere"),
    (["--rewards=regex:a", "--max-prompt=3"], "--max-prompt has no meaning with --rewards, which scores whole rows"),
  ],
)
def test_what_cannot_score_is_named(tmp_path, monkeypatch, capsys, options, message):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "rows.jsonl").write_text(json.dumps(SINGLE) + "\n")
  assert main(["score", "--data=rows.jsonl", "--out=out.jsonl", *options]) == 2
  error = capsys.readouterr().err
  assert message in error and error.count("\n") == 1
  assert not (tmp_path / "out.jsonl").exists()
