"""The best_of_n stage: its figures against its own answers, what it keeps, and how it is begun again."""

import itertools
import json
import math

import numpy as np
import pytest

from dpojax.cli.train import main
from dpojax.config.keys import replace_values
from dpojax.config.load import load_experiment
from dpojax.config.schema import RunConfig
from dpojax.environments import get_environment
from dpojax.errors import ConfigError
from dpojax.evaluation.best_of_n import kl_bound
from dpojax.recipes import answers
from dpojax.recipes.prompts import best_of_prompts
from dpojax.sweeps.stages import run
from dpojax.training.model_files import new_model
from dpojax.training.stage_record import read_record
from tests.training.runs import write_tiny_model

REWARD = """
def likes(prompts, answers, details):
  return [float(sum(word in row["liked"].split() for word in answer.split())) for answer, row in zip(answers, details)]
"""
CONFIG = """from dpojax.config import stages

def get_config():
  config = stages(best="best_of_n")
  config.model.path = "FOLDER/model"
  config.data.path = "FOLDER/prompts.jsonl"
  config.best.rollout.samples = 8
  config.best.rollout.max_tokens = 8
  config.best.rollout.reward = "python:FOLDER/reward.py:likes"
  config.best.monitor.rewards = "length,python:FOLDER/reward.py:likes"
  config.best.best_of_n.counts = "2,1"
  return config
"""
PROMPTS = 12


def liked_words(first):
  return " ".join(f"word{j}" for j in range(first, 30, 3))


@pytest.fixture
def folder(tmp_path):
  write_tiny_model(tmp_path / "model")
  rows = [{"prompt": f"word{i} word{i + 3}", "liked": liked_words(i % 3)} for i in range(PROMPTS)]
  rows.insert(2, {"prompt": 4})  # no text
  (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
  (tmp_path / "reward.py").write_text(REWARD)
  (tmp_path / "config.py").write_text(CONFIG.replace("FOLDER", str(tmp_path)))
  return tmp_path


def load(folder, **values):
  return load_experiment(str(folder / "config.py"), values={k.replace("__", "."): v for k, v in values.items()})


def lines(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


def liked(row, sample):
  return float(sum(word in row["liked"].split() for word in sample["text"].split()))


@pytest.mark.slow
def test_the_figures_are_those_of_its_answers(folder):
  run(load(folder), folder / "run")
  made = folder / "run" / "best"
  rows, answered = lines(folder / "prompts.jsonl"), lines(made / "answers.jsonl")
  assert "error" in answered.pop(2)
  rows.pop(2)
  assert len(answered) == PROMPTS and all(len(line["samples"]) == 8 for line in answered)

  reward, length = [], []  # the higher of every two answers, a tie shared
  for row, line in zip(rows, answered, strict=True):
    chosen = []
    for two in itertools.combinations(line["samples"], 2):
      top = max(liked(row, sample) for sample in two)
      best = [sample for sample in two if liked(row, sample) == top]
      chosen.append((top, np.mean([len(sample["tokens"]) for sample in best])))
    reward.append(np.mean([r for r, _ in chosen]))
    length.append(np.mean([t for _, t in chosen]))
  found = json.loads((made / "best_of_n.json").read_text())
  one, two = found["points"]
  assert (one["n"], two["n"]) == (1, 2) and found["chooses"] == "likes"
  assert two["reward/likes"] == pytest.approx(np.mean(reward))
  assert two["reward/likes_error"] == pytest.approx(np.std(reward, ddof=1) / math.sqrt(PROMPTS))
  assert two["reward/length"] == pytest.approx(np.mean(length)) == two["length/policy"]
  everything = [liked(row, s) for row, line in zip(rows, answered, strict=True) for s in line["samples"]]
  assert one["reward/likes"] == pytest.approx(np.mean(everything)) and one["kl/sequence"] == pytest.approx(0, abs=1e-12)
  assert 0 < two["kl/sequence"] < kl_bound(2) == two["kl/bound"]
  assert two["reward/likes"] > one["reward/likes"]

  best = lines(made / "best.jsonl")
  for row, line, kept in zip(rows, answered, best, strict=True):
    first = line["samples"][:2]
    assert kept["completion"] == first[kept["sample"]]["text"] and kept["prompt"] == row["prompt"]
    assert kept["rewards"]["likes"] == max(liked(row, sample) for sample in first) and kept["n"] == 2
    assert kept["rewards"]["length"] == len(first[kept["sample"]]["tokens"])
  records = lines(made / "metrics.jsonl")
  assert [(r["step"], r["split"]) for r in records] == [(1, "best_of_n"), (2, "best_of_n")]
  assert records[1]["reward/likes"] == two["reward/likes"]
  assert set(read_record(made).ended.files) == {"best_of_n.json", "best.jsonl", "answers.jsonl", "report.md"}


@pytest.mark.slow
def test_the_best_answers_are_data_to_learn_from(folder):
  run(load(folder), folder / "run")
  kept = [row for row in lines(folder / "run" / "best" / "best.jsonl") if row["completion"]]
  config = f"""from dpojax.config import base

def get_config():
  config = base()
  config.recipe = "sft"
  config.model.path = "{folder}/model"
  config.data.path = "{folder}/run/best/best.jsonl"
  config.data.eval_fraction = 0.0
  config.batch.size = 4
  config.batch.rows = 4
  config.batch.row_length = 64
  config.train.steps = 1
  config.monitor.prompts = 0
  config.logging.plots = False
  return config
"""
  (folder / "sft.py").write_text(config)
  run(load_experiment(str(folder / "sft.py")), folder / "sft")
  data = json.loads((folder / "sft" / "data.json").read_text())
  assert f"{len(kept)}" in json.dumps(data) and len(kept) > PROMPTS // 2


@pytest.mark.slow
def test_the_command_shows_the_table_and_does_nothing_twice(folder, capsys):
  words = [f"--config={folder}/config.py", f"--workdir={folder}/run"]
  assert main([*words, "--dry-run"]) == 0 and "recipe best_of_n" in capsys.readouterr().out
  assert main(words) == 0
  first = capsys.readouterr()
  points = json.loads((folder / "run" / "best" / "best_of_n.json").read_text())["points"]
  row = next(line for line in first.out.splitlines() if line.startswith("best of 2"))
  assert f"{points[1]['reward/likes']:.3f} ± {points[1]['reward/likes_error']:.3f}" in row
  assert f"{points[1]['kl/sequence']:.3f} ± " in row and "0.193" in row
  assert "likes chooses; from 8 answers to each of 12 prompts" in first.out
  assert "| best of 2 |" in (folder / "run" / "best" / "report.md").read_text()
  assert main(words) == 0
  again = capsys.readouterr()
  assert again.out == first.out and "ended before, skipped" in again.err


@pytest.mark.long
def test_a_stage_that_was_killed_goes_on(folder, monkeypatch):
  monkeypatch.setattr(answers, "AT_ONCE", 32)  # chunks of 4 rows
  run(load(folder), folder / "whole")
  write = answers.write_answers

  class Killed(BaseException):
    pass

  def killed(*args, progress, **more):
    def until_half(done, tokens):
      if done > 6:
        raise Killed

    return write(*args, progress=until_half, **more)

  with monkeypatch.context() as patch:
    patch.setattr(answers, "write_answers", killed)
    with pytest.raises(Killed):
      run(load(folder), folder / "run")
  made = folder / "run" / "best"
  assert len(lines(made / "answers.jsonl.part")) == 1 + 4 and not (made / "best.jsonl").exists()
  chunks = []
  monkeypatch.setattr(
    answers,
    "write_answers",
    lambda *args, progress, **more: write(*args, progress=lambda done, tokens: chunks.append(done), **more),
  )
  run(load(folder), folder / "run")
  assert min(chunks) == 3  # prompts of the first chunk, where a row gives none
  for name in ("answers.jsonl", "best.jsonl", "best_of_n.json"):
    assert (made / name).read_bytes() == (folder / "whole" / "best" / name).read_bytes()


@pytest.mark.slow
def test_another_reward_is_another_stage(folder):
  run(load(folder), folder / "run")
  (folder / "reward.py").write_text(REWARD.replace("float(", "2 * float("))
  with pytest.raises(ConfigError, match="reward likes: changed"):
    run(load(folder), folder / "run")


@pytest.mark.slow
def test_prompts_of_a_world_are_held_out():
  values = {
    "recipe": "best_of_n",
    "model.path": "x",
    "data.source": "world",
    "data.name": "complaint_desk",
    "rollout.prompts": 40,
    "rollout.samples": 64,
    "rollout.seed": 3,
    "seed": 2,
  }
  config = replace_values(RunConfig(), values)
  policy = new_model(config)
  texts = [row.given for row in best_of_prompts(config, policy)]
  environment = get_environment("complaint_desk")
  assert texts == environment.prompts(40, 5, split="held_out")
  trained = best_of_prompts(replace_values(config, {"best_of_n.split": "train"}), policy)
  assert [row.given for row in trained] == environment.prompts(40, 5)
  assert len(best_of_prompts(replace_values(config, {"rollout.prompts": 0}), policy)) == 256


def test_the_rewards_of_a_prompt_come_from_one_call():
  calls = []

  def reward(answers):
    calls.append([answer.prompt for answer in answers])
    return np.arange(len(answers), dtype=float)

  class Row:
    ids, details = np.asarray([1]), {}

    def __init__(self, given):
      self.given = given

  class Answer:
    text, tokens, finished = "a", np.asarray([1]), True

  counts = [3, 300, 211, 0, 512, 600]
  rows = [Row(f"p{i}") for i in range(len(counts))]
  found = answers.score(reward, rows, [[Answer()] * n for n in counts], lambda text: None)
  assert [len(each) for each in found] == counts
  assert sum(map(len, calls)) == sum(counts)
  assert all(sum(f"p{i}" in call for call in calls) == (counts[i] > 0) for i in range(len(counts)))
  assert answers.score(reward, [], [], lambda text: None) == []


@pytest.mark.parametrize(
  "values, message",
  [
    ({"rollout.samples": 7}, r"best_of_n.counts has 2, but rollout.samples is 7: .* set rollout.samples=8"),
    ({"rollout.normalise": True}, "rollout.normalise is set, but recipe=best_of_n reads the reward as it is"),
    ({"rollout.missing_eos": "replace"}, "rollout.missing_eos is set"),
    ({"monitor.every": 5}, "monitor.every is set, but recipe=best_of_n trains no policy to look at"),
    ({"best_of_n.split": "train"}, "best_of_n.split=train is for the prompts of a built-in environment"),
    ({"rollout.reward": "auto"}, "rollout.reward=auto is the true reward"),
    ({"model.path": ""}, "model.path is empty"),
    ({"loss.beta": 0.1}, "loss.beta is set, but recipe=best_of_n does not read it"),
  ],
)
def test_what_is_refused(folder, values, message):
  with pytest.raises(ConfigError, match=message):
    load(folder, **{f"best.{key}": value for key, value in values.items()})
