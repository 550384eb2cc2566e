"""A reward model learns the reward that its pairs were drawn from: what it says, and how surely."""

import json

import numpy as np
import pytest

from dpojax.cli.main import main
from dpojax.config.load import load_config
from dpojax.sweeps.stages import run
from tests.training.runs import write_config, write_tiny_model

pytestmark = pytest.mark.slow

WORDS = 12


def reward(value, answer):
  """Every word has a value."""
  return sum(value[w] for w in answer)


def write_drawn_pairs(file, rows, seed):
  """Pairs whose winner is drawn with probability sigmoid(r_i - r_j)."""
  draws = np.random.default_rng(seed)
  value = np.random.default_rng(99).normal(size=WORDS) * 0.55
  text = lambda words: " ".join(f"word{w}" for w in words)  # noqa: E731
  with file.open("w") as out:
    for _ in range(rows):
      prompt = draws.integers(0, WORDS, 1).tolist()
      answers = [draws.integers(0, WORDS, 6).tolist() for _ in range(2)]
      rewards = [reward(value, answer) for answer in answers]
      won = int(draws.random() > 1 / (1 + np.exp(rewards[1] - rewards[0])))
      row = {"prompt": text(prompt) + " ", "chosen": text(answers[won]), "rejected": text(answers[1 - won])}
      row |= {"reward_chosen": rewards[won], "reward_rejected": rewards[1 - won]}
      out.write(json.dumps(row) + "\n")
  return file


@pytest.mark.long
def test_scores_are_the_known_reward_and_need_no_temperature(tmp_path):
  model = write_tiny_model(tmp_path / "learner", hidden=32)
  config_file = write_config(
    tmp_path,
    **{
      "recipe": "reward_model",
      "model.path": str(model),
      "data.path": str(write_drawn_pairs(tmp_path / "train.jsonl", 16_000, seed=0)),
      "data.eval_fraction": 0.02,
      "batch.size": 64,
      "batch.rows": 7,
      "batch.row_length": 256,
      "train.steps": 250,
      "optimizer.learning_rate": 1e-2,
      "optimizer.weight_decay": 0.0,
      "optimizer.warmup_steps": 20,
      "checkpoint.every": 0,
      "evaluation.every": 0,
    },
  )
  run(load_config(str(config_file)), tmp_path / "run")
  held_out = write_drawn_pairs(tmp_path / "held_out.jsonl", 4000, seed=1)
  out = tmp_path / "eval"
  assert main(["eval", f"--model={tmp_path / 'run'}", f"--data={held_out}", f"--out={out}"]) == 0
  figures = json.loads((out / "eval.json").read_text())["figures"]
  # Comparisons leave a constant of each prompt open, so answers to one prompt are what can agree.
  assert figures["truth"]["pearson_within"] >= 0.95
  assert figures["temperature"]["value"] == pytest.approx(1, abs=0.1)
