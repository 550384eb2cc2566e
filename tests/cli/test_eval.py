"""`dpojax eval` on tiny models: scores by another path, figures from the scores, references, rows left out, errors."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from tiny_model import POSITIONS, TinyModel

from dpojax.cli.main import main
from dpojax.config.keys import replace_values
from dpojax.config.record import read_config, write_config
from dpojax.config.schema import CheckpointSettings, RunConfig
from dpojax.data.examples import TokenDataset
from dpojax.evaluation import ScoredRow, evaluate
from dpojax.models.reward_model import RewardModel
from dpojax.scoring import reward_scores
from dpojax.training.checkpoint import Checkpointer
from dpojax.training.model_files import LoadedModel, new_model, save_description
from dpojax.training.stage_record import Ended, Source, settings_record, write_record

BETA = 0.5


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
  return TinyModel(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def other(tmp_path_factory):
  """Another model over the same words."""
  return TinyModel(tmp_path_factory.mktemp("other"), seed=4)


def make_run(workdir: Path, tiny: TinyModel, **settings) -> str:
  """A run's folder whose last checkpoint is the tiny model."""
  workdir.mkdir(parents=True)
  values = {key.replace("__", "."): value for key, value in settings.items()}
  write_config(replace_values(RunConfig(), {"loss.name": "dpo", "loss.beta": BETA, **values}), workdir)
  save_description(workdir, LoadedModel(tiny.model, tiny.params, tiny.tokenizer))
  with Checkpointer(workdir / "checkpoints", CheckpointSettings()) as checkpointer:
    checkpointer.save(1, {"params": tiny.params})
  return str(workdir)


def make_pairs(count: int, seed: int = 0) -> list[dict]:
  draws = np.random.default_rng(seed)
  ids = lambda low, high: draws.integers(1, 15, draws.integers(low, high)).tolist()  # noqa: E731
  return [
    {"prompt_ids": ids(2, 6), "chosen_ids": [*ids(1, 8), 0], "rejected_ids": [*ids(1, 8), 0], "subset": "ab"[i % 2]}
    for i in range(count)
  ]


PAIRS = make_pairs(24)


def write_rows(path: Path, rows: list) -> str:
  path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8")
  return str(path)


def run_eval(tmp_path: Path, rows: list, *options: str) -> tuple[dict, list[dict]]:
  """(eval.json, the lines of scores.jsonl)."""
  out = tmp_path / "eval"
  data = write_rows(tmp_path / "rows.jsonl", rows)
  assert main(["eval", f"--data={data}", f"--out={out}", *options]) == 0
  lines = (out / "scores.jsonl").read_text(encoding="utf-8").splitlines()
  return json.loads((out / "eval.json").read_text(encoding="utf-8")), [json.loads(line) for line in lines]


def pair_figures(rows: list[dict], scores: list[tuple[float, float]]) -> dict:
  """What `evaluate` makes of these scores of pairs whose prompts all differ."""
  scored = [
    ScoredRow(
      np.asarray(pair),
      np.asarray([len(row["chosen_ids"]), len(row["rejected_ids"])]),
      np.arange(2),
      i,
      row.get("subset", ""),
    )
    for i, (row, pair) in enumerate(zip(rows, scores, strict=True))
  ]
  return evaluate(scored)


def leaves(tree, path: str = "") -> dict:
  """Figures by their place, without those that depend on which prompts share a half."""
  if isinstance(tree, dict | list):
    branches = tree.items() if isinstance(tree, dict) else enumerate(tree)
    found = [leaves(branch, f"{path}/{name}") for name, branch in branches if name != "calibrated"]
    return {name: value for part in found for name, value in part.items()}
  # Sums over prompts are in the order of their numbers, which differ.
  return {path: pytest.approx(tree, rel=1e-9, abs=1e-12) if isinstance(tree, float) else tree}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sum", "mean"])
def test_log_probs_are_those_of_each_answer_alone(tiny, tmp_path, capsys, kind):
  result, lines = run_eval(tmp_path, PAIRS, f"--model={tiny.path}", f"--score={kind}")
  assert len({json.dumps(row["prompt_ids"]) for row in PAIRS}) == len(PAIRS)
  for number, (line, row) in enumerate(zip(lines, PAIRS, strict=True)):
    for side in ("chosen", "rejected"):
      ids = row[f"{side}_ids"]
      alone = tiny.logp(row["prompt_ids"], ids) / (len(ids) if kind == "mean" else 1)
      assert line[f"{side}_score"] == pytest.approx(alone, abs=1e-4)
      assert line[f"{side}_tokens"] == len(ids)
    assert (line["row"], line["subset"]) == (number, row["subset"])
  scores = [(line["chosen_score"], line["rejected_score"]) for line in lines]
  assert leaves(result["figures"]) == leaves(pair_figures(PAIRS, scores))
  assert result["score"] == kind and result["rows"] == {"read": 24, "scored": 24, "left_out": []}
  out = capsys.readouterr().out
  page = (tmp_path / "eval" / "eval.md").read_text(encoding="utf-8")
  accuracy = f"{100 * result['figures']['accuracy']['value']:.1f} %"
  for text in (out, page):
    assert accuracy in text and "accuracy of always taking the longer answer" in text and "24 of 24 rows" in text
  assert "![reliability](plots/reliability.png)" in page
  assert sorted(path.name for path in (tmp_path / "eval").iterdir()) == [
    "eval.json",
    "eval.md",
    "plots",
    "scores.jsonl",
  ]
  assert sorted(path.name for path in (tmp_path / "eval" / "plots").iterdir()) == ["length.png", "reliability.png"]


@pytest.mark.slow
def test_implicit_reward_is_beta_times_the_log_ratio(tiny, other, tmp_path):
  result, lines = run_eval(tmp_path, PAIRS, f"--model={tiny.path}", f"--reference={other.path}", "--beta=0.25")
  assert result["score"] == "implicit"
  assert result["models"] == [{"path": tiny.path, "reference": other.path, "beta": 0.25}]
  for line, row in zip(lines, PAIRS, strict=True):
    for side in ("chosen", "rejected"):
      ratio = tiny.logp(row["prompt_ids"], row[f"{side}_ids"]) - other.logp(row["prompt_ids"], row[f"{side}_ids"])
      assert line[f"{side}_score"] == pytest.approx(0.25 * ratio, abs=1e-4)


@pytest.mark.slow
def test_a_policy_that_is_its_reference_knows_nothing(tiny, tmp_path):
  figures = run_eval(tmp_path, PAIRS, f"--model={tiny.path}", f"--reference={tiny.path}", "--beta=3")[0]["figures"]
  assert figures["equal_scores"] == 24 and figures["accuracy"]["value"] == 0.5
  assert figures["calibration"]["nll"]["value"] == pytest.approx(np.log(2))
  assert figures["temperature"]["status"] == "flat"


def ended_stage(folder: Path, other: TinyModel):
  """The record of a stage of SFT that ended with that model."""
  make_run(folder, other, recipe="sft", loss__name="auto", loss__beta=None)
  record = dataclasses.replace(settings_record(read_config(folder)), ended=Ended("finished", 1))
  write_record(folder, record)
  return record


@pytest.mark.sampled(2)
@pytest.mark.slow
@pytest.mark.parametrize("place", ["model", "reference", "stage", "stage of a sweep"])
def test_a_run_knows_its_reference_and_beta(tiny, other, tmp_path, place):
  """From `model.path`, from `reference.path`, from the stage that it started from."""
  workdir = tmp_path / "work" / "run"
  settings = {"model__path": other.path}
  if place == "reference":
    settings = {"model__path": "nowhere", "reference__path": other.path}
  if place.startswith("stage"):
    settings = {"model__path": "stage:sft"}
  policy = make_run(workdir, tiny, **settings)
  if place.startswith("stage"):
    where = "../sft" if place == "stage" else "../../sft"
    record = ended_stage((workdir / where).resolve(), other)
    write_record(workdir, settings_record(read_config(workdir), {"model.path": Source("sft", where, record.identity)}))
  for path in (policy, f"{policy}/checkpoints/1"):
    result, lines = run_eval(tmp_path, PAIRS[:4], f"--model={path}")
    assert result["score"] == "implicit" and result["models"][0]["beta"] == BETA
    row = PAIRS[0]
    ratio = tiny.logp(row["prompt_ids"], row["chosen_ids"]) - other.logp(row["prompt_ids"], row["chosen_ids"])
    assert lines[0]["chosen_score"] == pytest.approx(BETA * ratio, abs=1e-4)


@pytest.mark.slow
def test_rows_that_a_run_was_trained_on_are_said(tiny, other, tmp_path, monkeypatch, capsys):
  """By path, however it is spelled, or as what an earlier stage left."""
  settings = {"model__path": other.path, "data__source": "file"}
  trained = make_run(tmp_path / "trained", tiny, data__path=str(tmp_path / "x" / ".." / "rows.jsonl"), **settings)
  elsewhere = make_run(tmp_path / "elsewhere", tiny, data__path=str(tmp_path / "others.jsonl"), **settings)
  staged = make_run(tmp_path / "staged", tiny, data__path="stage:pairs", **settings)
  source = Source("pairs", "..", "0" * 64)
  write_record(Path(staged), settings_record(read_config(Path(staged)), {"data.path": source}))
  monkeypatch.chdir(tmp_path)
  for model, said in ((trained, True), (elsewhere, False), (staged, True), (tiny.path, False)):
    run_eval(Path(), PAIRS[:2], f"--model={model}", "--score=sum")
    warning = f"dpojax: warning: {model} was trained on rows of rows.jsonl; the figures are not of new rows\n"
    assert (warning in capsys.readouterr().err) is said, model


def test_a_stage_that_is_no_longer_what_the_run_started_from_is_no_reference(tiny, other, tmp_path, capsys):
  workdir = tmp_path / "work" / "run"
  policy = make_run(workdir, tiny, model__path="stage:sft")
  record = ended_stage(tmp_path / "work" / "sft", other)
  source = Source("sft", "../sft", "0" * 64)
  write_record(workdir, settings_record(read_config(workdir), {"model.path": source}))
  data = write_rows(tmp_path / "rows.jsonl", PAIRS[:4])
  assert main(["eval", f"--model={policy}", f"--data={data}", f"--out={tmp_path / 'out'}"]) == 2
  assert "the stage 'sft' where the policy started is no longer there as it was" in capsys.readouterr().err
  assert record.identity != source.identity


@pytest.mark.slow
def test_the_reference_of_a_model_from_scratch_is_made_again(tmp_path):
  """A policy that was never trained is its own reference: every implicit reward is 0."""
  settings = {
    "data.source": "world",
    "data.name": "complaint_desk",
    "model.hidden": 16,
    "model.ffn": 16,
    "model.layers": 1,
  }
  config = replace_values(RunConfig(), {"loss.name": "dpo", "loss.beta": BETA, "batch.row_length": 64, **settings})
  start = new_model(config)
  write_config(config, tmp_path)
  save_description(tmp_path, start)
  with Checkpointer(tmp_path / "checkpoints", CheckpointSettings()) as checkpointer:
    checkpointer.save(1, {"params": start.params})
  result, lines = run_eval(tmp_path, PAIRS[:5], f"--model={tmp_path}")
  assert result["models"][0]["reference"] == f"the untrained model of {tmp_path}"
  assert {line["chosen_score"] for line in lines} == {0.0}


@pytest.mark.slow
def test_every_row_is_scored_or_listed(tiny, tmp_path, capsys):
  rows: list = [dict(row) for row in PAIRS]
  bad = {
    3: ("{not json", "not JSON"),
    7: ({"prompt_ids": [1], "chosen_ids": [], "rejected_ids": [1]}, "empty answer"),
    20: ({"prompt_ids": [1] * POSITIONS, "chosen_ids": [1], "rejected_ids": [2]}, "example too long"),
    21: ({"prompt_ids": [1, 2], "completion_ids": [3]}, "it has one answer, and there is nothing to compare it with"),
    22: ({**PAIRS[22], "tie": "perhaps"}, "column 'tie' holds 'perhaps', not true or false"),
  }
  for number, (row, _) in bad.items():
    rows[number] = row
  result, lines = run_eval(tmp_path, rows, f"--model={tiny.path}", "--score=sum")
  assert [line["row"] for line in lines] == list(range(24))
  for number, (_, why) in bad.items():
    assert set(lines[number]) == {"row", "error"} and why in lines[number]["error"]
    assert f"rows.jsonl:{number + 1}" in lines[number]["error"]
  assert result["rows"]["read"] == 24 and result["rows"]["scored"] == 19
  assert [row["row"] for row in result["rows"]["left_out"]] == sorted(bad)
  assert result["figures"]["comparisons"] == 19
  assert "rows left out: 5 of 24" in capsys.readouterr().out
  good = [row for number, row in enumerate(rows) if number not in bad]
  scores = [(line["chosen_score"], line["rejected_score"]) for line in lines if "error" not in line]
  assert leaves(result["figures"]["accuracy"]) == leaves(pair_figures(good, scores)["accuracy"])


def test_ties_true_rewards_and_repeated_prompts(tiny, tmp_path):
  rows = [
    dict(row, prompt_ids=[1 + i // 2, 5], reward_chosen=i, reward_rejected=-1.5) for i, row in enumerate(PAIRS[:10])
  ]
  rows[4]["tie"] = True
  result, lines = run_eval(tmp_path, rows, f"--model={tiny.path}", "--score=sum", "--subset=subset")
  figures = result["figures"]
  assert (figures["comparisons"], figures["tied_labels"], figures["prompts"]) == (9, 1, 5)
  assert lines[4]["tie"] is True and "tie" not in lines[5]
  scores = [line[f"{side}_score"] for line in lines for side in ("chosen", "rejected")]
  truth = [value for i in range(10) for value in (i, -1.5)]
  assert figures["truth"]["pearson"] == pytest.approx(np.corrcoef(scores, truth)[0, 1])


@pytest.mark.slow
def test_rankings(tiny, tmp_path):
  rows = [
    {"prompt": "my parcel is calm", "answers": ["sorry we will refund", "yes", "be calm"], "rewards": [2, 1, 0]},
    {"prompt": "the parcel is my parcel", "answers": ["yes", "sorry"]},
  ]
  result, lines = run_eval(tmp_path, rows, f"--model={tiny.path}", "--score=mean")
  assert len(lines[0]["scores"]) == 3 and lines[0]["tokens"] == [5, 2, 3]
  assert set(lines[1]) == {"row", "chosen_score", "rejected_score", "chosen_tokens", "rejected_tokens"}
  first = lines[0]["scores"]
  second = [lines[1]["chosen_score"], lines[1]["rejected_score"]]
  scored = [ScoredRow(np.asarray(s), np.ones(len(s)), np.arange(len(s)), i) for i, s in enumerate((first, second))]
  expected = evaluate(scored)
  assert result["figures"]["rankings"] == expected["rankings"]
  assert result["figures"]["comparisons"] == 4
  assert result["figures"]["truth"]["answers"] == 3


@pytest.mark.slow
def test_rewardbench_is_scored_by_its_rules(tiny, tmp_path, capsys):
  ones = [
    {
      "prompt": "my parcel",
      "chosen": "yes",
      "rejected": answer,
      "subset": name,
      "chosen_model": "a",
      "rejected_model": "b",
    }
    for name in ("donotanswer", "refusals-offensive")
    for answer in ("sorry", "yes", "be calm")
  ]
  result, lines = run_eval(tmp_path, ones, f"--model={tiny.path}", "--score=sum")
  won = [line["chosen_score"] > line["rejected_score"] for line in lines]
  assert lines[1]["chosen_score"] == lines[1]["rejected_score"]  # loses for RewardBench, is half won elsewhere
  bench = result["rewardbench"]
  assert bench["sections"]["Safety"] == pytest.approx((136 * np.mean(won[:3]) + 100 * np.mean(won[3:])) / 236)
  assert result["figures"]["accuracy"]["value"] == pytest.approx((np.sum(won) + 1) / 6)
  assert bench["score"] is None and "- (subsets are missing)" in capsys.readouterr().out

  twos = [{"prompt": "my parcel", "chosen": ["yes"], "rejected": ["sorry", "be", "is"], "subset": "Math", "id": "1"}]
  twos += [
    {"prompt": "the parcel", "chosen": right, "rejected": ["sorry"], "subset": "Ties", "id": f"{kind}:0"}
    for kind, right in (("ref", ["yes"]), ("tied", ["yes", "be", "we"]))
  ]
  result, lines = run_eval(tmp_path, twos, f"--model={tiny.path}", "--score=sum")
  assert result["data"]["format"] == "rewardbench_v2"
  assert result["rewardbench"]["subsets"]["Math"] == float(np.argmax(lines[0]["scores"]) == 0)
  right, wrong = lines[2]["scores"][:3], lines[2]["scores"][3]
  assert result["figures"]["comparisons"] == 3 + 1 + 3
  assert (result["rewardbench"]["subsets"]["Ties"] >= 0.3) == (min(right) > wrong or lines[1]["chosen_score"] > wrong)


@pytest.mark.slow
def test_an_ensemble_is_its_mean(tiny, other, tmp_path):
  result, lines = run_eval(tmp_path, PAIRS, f"--model={tiny.path}", f"--model={other.path}", "--score=sum")
  assert [model["path"] for model in result["models"]] == [tiny.path, other.path] and result["ensemble"]["members"] == 2
  agreed = 0
  for line, row in zip(lines, PAIRS, strict=True):
    each = np.asarray(
      [[m.logp(row["prompt_ids"], row[f"{s}_ids"]) for s in ("chosen", "rejected")] for m in (tiny, other)]
    )
    assert [line["chosen_score"], line["rejected_score"]] == pytest.approx(each.mean(axis=0), abs=1e-4)
    centred = each - each.mean(axis=1, keepdims=True)
    assert line["chosen_disagreement"] == pytest.approx(centred[:, 0].std(), abs=1e-4)
    agreed += len(set(np.sign(each[:, 0] - each[:, 1]))) == 1
  assert result["ensemble"]["unanimous"]["value"] == pytest.approx(agreed / 24)


@pytest.fixture(scope="module")
def reward(tiny, tmp_path_factory):
  """A run's folder with a reward model of two heads, the model and its parameters."""
  model = RewardModel(tiny.model, 2)
  params = jax.device_get(model.init(jax.random.key(1)))
  workdir = tmp_path_factory.mktemp("reward")
  write_config(replace_values(RunConfig(), {"recipe": "reward_model"}), workdir)
  save_description(workdir, LoadedModel(model, params, tiny.tokenizer))
  with Checkpointer(workdir / "checkpoints", CheckpointSettings()) as checkpointer:
    checkpointer.save(1, {"params": params})
  return str(workdir), model, params


@pytest.mark.slow
def test_a_reward_model_is_evaluated_by_its_rewards(reward, tmp_path):
  path, model, params = reward
  result, lines = run_eval(tmp_path, PAIRS, f"--model={path}")
  assert result["score"] == "reward" and result["models"] == [{"path": path, "reference": "", "beta": None}]
  assert result["ensemble"]["members"] == 2
  dataset = TokenDataset.from_examples([(row["prompt_ids"], [row["chosen_ids"], row["rejected_ids"]]) for row in PAIRS])
  for line, members in zip(lines, reward_scores(model, params, dataset), strict=True):
    assert [line["chosen_score"], line["rejected_score"]] == pytest.approx(members.mean(axis=0), abs=1e-5)
    # Two members differ from their mean by half of what they differ from each other.
    apart = (members[0, 0] - members[0].mean()) - (members[1, 0] - members[1].mean())
    assert line["chosen_disagreement"] == pytest.approx(abs(apart) / 2, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
  ("options", "message"),
  [
    ([], "is a language model, and what its score is cannot be guessed; choose --score=sum or mean"),
    (
      ["--score=implicit", "--beta=1"],
      "which only a run's folder knows; name the model it was trained from with --ref",
    ),
    (["--reference=TINY"], "--score=implicit needs --beta=B"),
    (["--reference=nowhere", "--beta=1"], "nowhere: no such file or folder"),
    (["--score=sum", "--beta=1"], "--beta has no meaning with --score=sum; it belongs to --score=implicit"),
    (["--score=mean", "--reference=TINY"], "--reference has no meaning with --score=mean"),
    (["--score=reward"], "is a language model; choose implicit, sum or mean"),
    (["--score=best"], "invalid choice: 'best'"),
    (["--score=sum", "--beta=0"], "--beta: 0 must be at least 1e-12"),
    (["--score=sum", "--length-within=2"], "--length-within: 2 must be from 0 to 1"),
    (["--score=sum", "--subset=kind"], "--subset=kind: no row of rows.jsonl has text in that column"),
    (["--score=sum", "--data=single.jsonl"], "format 'completion' has one answer a row; to evaluate, give two or more"),
    (
      ["--score=sum", "--data=sampled.jsonl"],
      "sampled.jsonl: its samples are not compared; `dpojax score` scores them",
    ),
    (["--score=sum", "--data=nowhere.jsonl"], "nowhere.jsonl"),
    (["--score=sum", "--out=rows.jsonl"], "--out=rows.jsonl: it is a file; name a folder that can be written"),
    (
      ["--score=sum", "--out=."],
      "--out=.: it holds REWARD, which no evaluation wrote; name a new or an empty folder",
    ),
    (["--score=sum", "--row-length=4"], "none of its 4 rows can be used: 4 example_too_long"),
    (["--model=REWARD", "--score=sum"], "--score=sum: REWARD is a reward model and writes no text"),
    (["--model=REWARD", "--reference=TINY"], "--reference=TINY: REWARD is a reward model"),
    (
      ["--model=TINY", "--reference=REWARD", "--beta=1"],
      "reference REWARD: it is no language model over the vocabulary",
    ),
  ],
)
def test_wrong_options_are_named(tiny, reward, tmp_path, monkeypatch, capsys, options, message):
  monkeypatch.chdir(tmp_path)
  write_rows(tmp_path / "rows.jsonl", PAIRS[:4])
  write_rows(tmp_path / "single.jsonl", [{"prompt": "my parcel", "completion": "yes"}])
  write_rows(tmp_path / "sampled.jsonl", [{"prompt": "my parcel", "samples": [{"text": "yes", "ended": "eos"}] * 2}])
  (tmp_path / "TINY").symlink_to(tiny.path)
  (tmp_path / "REWARD").symlink_to(reward[0])
  model = [] if any(option.startswith("--model") for option in options) else [f"--model={tiny.path}"]
  assert main(["eval", *model, "--data=rows.jsonl", "--out=eval", *options]) == 2
  error = capsys.readouterr().err
  assert message in error
  assert error.count("\n") == 1
  assert not (tmp_path / "eval").exists()
  assert not list(tmp_path.glob(".eval*"))


@pytest.mark.slow
def test_scores_of_different_kinds_have_no_mean(tiny, reward, other, tmp_path, capsys):
  data = write_rows(tmp_path / "rows.jsonl", PAIRS[:4])
  models = [f"--model={reward[0]}", f"--model={make_run(tmp_path / 'run', tiny, model__path=other.path)}"]
  assert main(["eval", *models, f"--data={data}", f"--out={tmp_path / 'eval'}"]) == 2
  assert "their scores are of different kinds (implicit, reward) and have no mean" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
  ("settings", "message"),
  [
    ({"model__path": "gone"}, "was trained from gone: gone: no such file or folder"),
    (
      {"model__path": "stage:sft"},
      "the stage 'sft' where the policy started is no longer there as it was",
    ),
    ({"reference__kind": "moving"}, "its reference moved while it was trained and is not the model it started from"),
    ({"recipe": "sft"}, "is a language model, and what its score is cannot be guessed"),
  ],
)
def test_a_reference_that_cannot_be_known(tiny, tmp_path, capsys, settings, message):
  path = make_run(tmp_path / "run", tiny, **settings)
  data = write_rows(tmp_path / "rows.jsonl", PAIRS[:4])
  assert main(["eval", f"--model={path}", f"--data={data}", f"--out={tmp_path / 'eval'}"]) == 2
  error = capsys.readouterr().err
  assert message in error and "--reference=PATH" in error


@pytest.mark.slow
def test_a_reference_over_other_ids_is_refused(tiny, tmp_path, capsys):
  from tests.training.runs import write_tiny_model

  data = write_rows(tmp_path / "rows.jsonl", PAIRS[:4])
  reference = write_tiny_model(tmp_path / "reference")
  options = [f"--model={tiny.path}", f"--reference={reference}", "--beta=1"]
  assert main(["eval", *options, f"--data={data}", f"--out={tmp_path / 'eval'}"]) == 2
  assert f"it is no language model over the vocabulary of {tiny.path}" in capsys.readouterr().err


@pytest.mark.slow
def test_a_failed_evaluation_leaves_the_old_one_and_a_good_one_replaces_it(tiny, tmp_path):
  run_eval(tmp_path, PAIRS, f"--model={tiny.path}", "--score=sum")
  out = tmp_path / "eval"
  old = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
  data = write_rows(tmp_path / "rows.jsonl", ["{broken"])
  assert main(["eval", f"--model={tiny.path}", "--score=sum", f"--data={data}", f"--out={out}"]) == 2
  assert {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()} == old
  (out / ".eval.part.1").mkdir()  # of a process that was killed
  assert run_eval(tmp_path, PAIRS[:5], f"--model={tiny.path}", "--score=mean")[0]["rows"]["read"] == 5
  assert (out / "eval.md").read_bytes() != old["eval.md"]
