"""The comparison stage: its figures against its own answers, the oracle against enumeration, and how it is begun again."""

import json
import math
import shutil

import numpy as np
import pytest

from dpojax.cli.train import main
from dpojax.config.keys import replace_values
from dpojax.config.load import load_experiment
from dpojax.config.schema import RunConfig
from dpojax.data.examples import TokenDataset, TokenExample
from dpojax.environments import get_environment
from dpojax.errors import ConfigError
from dpojax.recipes import Inputs, answers
from dpojax.scoring import score_answers
from dpojax.sweeps.stages import run
from dpojax.training.model_files import load_language_model
from dpojax.training.stage_record import read_record
from tests.training.runs import write_tiny_model

CONFIG = """from dpojax.config import stages


def get_config():
  config = stages(sft="sft", near="policy_gradient", far="policy_gradient", best="best_of_n", comparison="comparison")
  config.data.source = "world"
  config.data.name = "complaint_desk_gaps"
  config.model.hidden = 16
  config.model.ffn = 32
  config.model.layers = 1
  config.logging.plots = False
  config.batch.size = 4
  config.batch.rows = 2
  config.batch.row_length = 128
  config.sft.batch.size = 32
  config.sft.batch.row_length = 256
  config.sft.data.texts = 600
  config.sft.train.steps = 60
  config.sft.optimizer.learning_rate = 1e-2
  config.sft.monitor.prompts = 0
  for name, rate in (("near", 1e-3), ("far", 1e-2)):
    stage = config[name]
    stage.model.path = "stage:sft"
    stage.policy_gradient.method = "rloo"
    stage.rollout.max_tokens = 16
    stage.optimizer.learning_rate = rate
    stage.train.steps = 16
    stage.monitor.prompts = 0
  config.best.model.path = "stage:sft"
  config.best.rollout.prompts = 4
  config.best.rollout.samples = 8
  config.best.rollout.max_tokens = 16
  config.best.best_of_n.counts = "1,2"
  stage = config.comparison
  stage.model.path = "stage:sft"
  stage.comparison.policies = "stage:near, stage:far"
  stage.comparison.oracle = "far"
  stage.comparison.best_of_n = "stage:best"
  stage.comparison.splits = "held_out,unseen_pair"
  stage.rollout.prompts = 12
  stage.rollout.samples = 8
  stage.rollout.max_tokens = 16
  stage.monitor.rewards = "true,length"
  return config
"""


def experiment(folder, **values):
  (folder / "config.py").write_text(CONFIG)
  changed = {key.replace("__", "."): value for key, value in values.items()}
  return load_experiment(str(folder / "config.py"), values=changed)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  made = tmp_path_factory.mktemp("comparison")
  run(experiment(made), made / "run")
  return made


def lines(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


def stated(folder):
  return json.loads((folder / "run/comparison/comparison.json").read_text())


pytestmark = pytest.mark.slow


def test_the_figures_are_those_of_its_answers(folder):
  made, environment = folder / "run/comparison", get_environment("complaint_desk_gaps")
  found, scores = stated(folder), np.load(made / "scores.npz")
  assert found["splits"] == ["held_out", "unseen_pair"] and found["rewards"] == ["true", "length"]
  assert [policy["name"] for policy in found["policies"]] == ["sft", "near", "far"]
  for policy in found["policies"]:
    for split, own in policy["splits"].items():
      rows = lines(made / "answers" / f"{policy['name']}.{split}.jsonl")
      assert {row["prompt"] for row in rows} <= set(environment.prompts(20_000, 0, split)) and len(rows) == 12
      rewards = np.asarray([[environment.reward(row["prompt"], s["text"]) for s in row["samples"]] for row in rows])
      tokens = np.asarray([[len(s["tokens"]) for s in row["samples"]] for row in rows])
      by_prompt = rewards.mean(axis=1)
      assert own["reward/true"] == pytest.approx(by_prompt.mean())
      assert own["reward/true_error"] == pytest.approx(by_prompt.std(ddof=1) / math.sqrt(12))
      assert own["length"] == pytest.approx(tokens.mean())
      assert own["finished"] == np.mean([[s["ended"] != "length" for s in row["samples"]] for row in rows])
      np.testing.assert_allclose(scores[f"{policy['name']}/{split}/reward/true"], by_prompt)
      assert own["kl"] == pytest.approx(scores[f"{policy['name']}/{split}/kl"].mean())
  kls = [policy["splits"]["held_out"]["kl"] for policy in found["policies"]]
  assert kls[0] == pytest.approx(0, abs=1e-6) and 0 < kls[1] < kls[2]
  first = lines(made / "answers.jsonl")
  assert [row["split"] for row in first] == ["held_out"] * 12 + ["unseen_pair"] * 12
  sft = lines(made / "answers/sft.held_out.jsonl")
  assert [row["answers"]["sft"]["text"] for row in first[:12]] == [row["samples"][0]["text"] for row in sft]
  assert found["best_of_n"][1]["n"] == 2 and found["best_of_n"][1]["kl"] > 0
  assert set(read_record(made).ended.files) == {"comparison.json", "answers.jsonl", "scores.npz", "report.md"}
  assert "| far |" in (made / "report.md").read_text()


def test_policies_are_told_apart_by_what_made_them(folder):
  sft, near, _ = stated(folder)["policies"]
  assert near["folder"] == "../near" and near["method"] == "rloo" and near["step"] == 16 and near["seed"] == 0
  assert near["label"] == "rloo, KL weight 0.05, reward true" and sft["label"] == "SFT"


@pytest.mark.long
def test_kl_is_that_of_log_probs(folder):
  """Its mean over answers is close to that of k1, of which it is the conditional expectation."""
  rows = lines(folder / "run/comparison/answers/far.held_out.jsonl")
  logps = []
  for name in ("far", "sft"):
    model, params, tokenizer = load_language_model(folder / "run" / name)
    examples = [
      TokenExample(np.asarray(tokenizer.encode(row["prompt"]), np.int32), (np.asarray(s["tokens"], np.int32),))
      for row in rows
      for s in row["samples"]
    ]
    logps.append(np.asarray([score.logps[0] for score in score_answers(model, params, TokenDataset(examples))]))
  k1 = logps[0] - logps[1]
  kl = stated(folder)["policies"][2]["splits"]["held_out"]["kl"]
  assert kl == pytest.approx(k1.mean(), abs=4 * k1.std() / math.sqrt(len(k1)))


@pytest.mark.long
def test_the_oracle_is_that_of_these_answers(folder):
  found = stated(folder)
  assert found["oracle"]["policies"] == ["sft", "far"]
  for point in found["oracle"]["points"]:
    assert point["kl"] >= 0 and point["reward"] >= found["policies"][0]["splits"]["held_out"]["reward/true"] - 0.2
  assert found["policies"][0]["share"] is None


def test_its_tournament_is_of_the_first_answers(folder):
  found = stated(folder)
  first = [row for row in lines(folder / "run/comparison/answers.jsonl") if row["split"] == "held_out"]
  for item in found["tournament"]["items"]:
    assert item["reward"] == pytest.approx(np.mean([row["answers"][item["name"]]["rewards"]["true"] for row in first]))
  assert found["tournament"]["games"] == 12 * 3 * 2


def test_a_stage_that_was_killed_goes_on_with_its_answers(folder, tmp_path, monkeypatch):
  shutil.copytree(folder / "run", tmp_path / "run")
  made = tmp_path / "run/comparison"
  shutil.rmtree(made)
  calls = []

  def failing(*given, **options):
    calls.append(given)
    if len(calls) == 4:
      raise KeyboardInterrupt
    return written(*given, **options)

  written = answers.write_answers
  monkeypatch.setattr(answers, "write_answers", failing)
  with pytest.raises(KeyboardInterrupt):
    run(experiment(tmp_path), tmp_path / "run")
  assert not (made / "comparison.json").exists()
  kept = {path.name: path.stat().st_mtime_ns for path in (made / "answers").glob("*.jsonl")}
  assert len(kept) == 3
  monkeypatch.setattr(answers, "write_answers", written)
  run(experiment(tmp_path), tmp_path / "run")
  assert {name: (made / "answers" / name).stat().st_mtime_ns for name in kept} == kept
  for name in ("comparison.json", "answers.jsonl", "report.md"):
    assert (made / name).read_bytes() == (folder / "run/comparison" / name).read_bytes()


def test_the_command_ends_with_the_table_and_a_second_one_has_nothing_to_do(folder, capsys):
  words = ["train", f"--config={folder}/config.py", f"--workdir={folder}/run"]
  assert main(words[1:]) == 0
  captured = capsys.readouterr()
  assert "stage comparison: ended before, skipped" in captured.err
  assert "share of" in captured.out and "ranks left" in captured.out and "best of 2" in captured.out


@pytest.mark.sampled(11)
@pytest.mark.parametrize(
  ("values", "message"),
  [
    ({"comparison__policies": ""}, "comparison.policies is empty"),
    (
      {"comparison__policies": "stage:none", "comparison__oracle": ""},
      "comparison.policies=stage:none: no such stage before this one",
    ),
    (
      {"comparison__policies": "stage:best", "comparison__oracle": ""},
      "that is a stage of recipe=best_of_n; this setting needs one of",
    ),
    ({"comparison__policies": "stage:near,runs/near"}, "two are called near"),
    (
      {"comparison__oracle": "nobody"},
      "comparison.oracle=nobody: nobody is none of comparison.policies; there is near, far",
    ),
    ({"comparison__best_of_n": "runs/best"}, "wants one stage of recipe=best_of_n"),
    (
      {"comparison__splits": "held_out,elsewhere"},
      "wants different ones of train, held_out, unseen_order, unseen_pair",
    ),
    ({"comparison__splits": " , "}, "comparison.splits is empty; complaint_desk_gaps has train, held_out"),
    ({"monitor__every": 5}, "monitor.every is set, but recipe=comparison trains no policy"),
    ({"model__path": ""}, "model.path is empty"),
    ({"loss__beta": 0.1}, "loss.beta is set, but recipe=comparison does not read it"),
  ],
)
def test_what_is_refused(tmp_path, values, message):
  with pytest.raises(ConfigError, match=message):
    experiment(tmp_path, **{f"comparison__{key}": value for key, value in values.items()})


def test_a_policy_of_another_shape_is_refused(folder, tmp_path):
  for name in ("sft", "near", "far", "best"):
    shutil.copytree(folder / "run" / name, tmp_path / "run" / name)
  other = tmp_path / "run/other"
  shutil.copytree(folder / "run/sft", other)
  described = json.loads((other / "model.json").read_text())
  (other / "model.json").write_text(json.dumps(described | {"norm_epsilon": 1e-4}))
  (other / "digests.json").unlink()
  config = experiment(
    tmp_path, comparison__comparison__policies=f"stage:near,{other}", comparison__comparison__oracle=""
  )
  with pytest.raises(ConfigError, match=r"other has another shape or tokenizer than model\.path=stage:sft"):
    run(config, tmp_path / "run")


@pytest.mark.long
def test_prompts_of_a_file_are_those_held_out_or_all(tmp_path):
  write_tiny_model(tmp_path / "sft")
  shutil.copytree(tmp_path / "sft", tmp_path / "other")
  rows = [{"text": f"word{i % 29} word{i // 29} word3 word{(i * 7) % 30} word5"} for i in range(100)]
  (tmp_path / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
  values = {
    "recipe": "comparison",
    "model.path": str(tmp_path / "sft"),
    "data.source": "file",
    "data.path": str(tmp_path / "texts.jsonl"),
    "data.format": "beginning",
    "comparison.policies": str(tmp_path / "other"),
    "comparison.splits": "held_out,all",
    "rollout.prompts": 8,
    "rollout.samples": 2,
    "rollout.max_tokens": 4,
    "rollout.reward": "length",
  }
  config = replace_values(RunConfig(), values)
  run(config, tmp_path / "run")
  answered = lines(tmp_path / "run/answers.jsonl")
  by_split = {split: [row["prompt"] for row in answered if row["split"] == split] for split in ("held_out", "all")}
  assert len(by_split["held_out"]) == len(by_split["all"]) == 8
  beginnings = [row["text"] for row in rows]
  assert all(any(text.startswith(prompt) for text in beginnings) for prompts in by_split.values() for prompt in prompts)
  splits = Inputs(replace_values(config, {"recipe": "sft", "model.path": str(tmp_path / "sft")})).splits(
    Inputs(config).policy()
  )
  trained = {tuple(splits.train[i].prompt.tolist()) for i in range(len(splits.train))}
  tokenizer = load_language_model(tmp_path / "sft")[2]
  assert not trained & {tuple(tokenizer.encode(prompt)) for prompt in by_split["held_out"]}
  with pytest.raises(ConfigError, match=r"data.eval_fraction=0 holds no prompt out; set comparison.splits=all"):
    run(replace_values(config, {"data.eval_fraction": 0.0}), tmp_path / "none")


@pytest.mark.long
def test_other_prompts_are_another_stage(tmp_path):
  write_tiny_model(tmp_path / "sft")
  shutil.copytree(tmp_path / "sft", tmp_path / "other")
  file = tmp_path / "prompts.jsonl"
  file.write_text("".join(json.dumps({"prompt": f"word{i}"}) + "\n" for i in range(4)))
  values = {
    "recipe": "comparison",
    "model.path": str(tmp_path / "sft"),
    "data.source": "file",
    "data.path": str(file),
    "comparison.policies": str(tmp_path / "other"),
    "comparison.splits": "all",
    "rollout.samples": 1,
    "rollout.max_tokens": 2,
    "rollout.reward": "length",
  }
  config = replace_values(RunConfig(), values)
  run(config, tmp_path / "run")
  made = tmp_path / "run"
  assert json.loads((made / "data.all.json").read_text())["answered"] == 4
  assert "data, all: " in (made / "log.txt").read_text()
  file.write_text(file.read_text().replace("word3", "word9"))
  with pytest.raises(ConfigError, match="prompts all: changed"):
    run(config, tmp_path / "run")
