"""A folder as a run leaves it, made without a run."""

import json
import math

import numpy as np
import pytest

from dpojax.config.keys import replace_values
from dpojax.config.record import write_config
from dpojax.config.schema import RunConfig
from dpojax.report import write_report


@pytest.fixture(scope="session")
def make_run():
  def make(folder, values=None, *, steps=200, reward=True):
    """Writes config, metrics and samples whose values are simple functions of the step, and the report."""
    folder.mkdir(parents=True, exist_ok=True)
    config = replace_values(RunConfig(), {"data.source": "world", "data.name": "complaint_desk", **(values or {})})
    write_config(config, folder)
    noise = np.random.default_rng(0)
    lines = []
    for step in range(0, steps + 1):
      progress = 1 - math.exp(-4 * step / steps)
      pairs = {
        "loss": math.log(2) - 0.25 * progress,
        "rewards/accuracies": 0.5 + 0.22 * progress,
        "rewards/margins": 1.4 * progress,
        "rewards/chosen": -0.3 * progress,
        "rewards/rejected": -1.7 * progress,
      }
      if step:
        cost = {"time/step": 0.5, "time/data": 0.01, "tokens_per_second": 4000.0, "skipped": 0.0}
        lines.append({"step": step, "split": "train"} | {k: v + noise.normal(0, 0.08) for k, v in pairs.items()} | cost)
      if step % (steps // 8) == 0:
        lines.append({"step": step, "split": "eval"} | pairs)
        policy = {"kl/sequence": 4.7 * progress, "kl/sequence_error": 0.2 * progress, "kl/token": 0.2 * progress}
        policy |= {"length/policy": 23.0, "finished": 0.97}
        if reward:
          policy |= {"reward/true": 0.5 + 2.0 * progress, "reward/true_error": 0.1}
        lines.append({"step": step, "split": "policy"} | policy)
        samples = [
          {
            "prompt": f"prompt {i}",
            "answer": f"answer {i} of step {step}",
            "tokens": 5,
            "finished": step > 0,
            "kl": 0.1,
          }
          | ({"rewards": {"true": 1.5, "length": 5.0}} if reward else {})
          for i in range(6)
        ]
        (folder / "samples").mkdir(exist_ok=True)
        text = "".join(json.dumps(s) + "\n" for s in samples)
        (folder / "samples" / f"step_{step:08d}.jsonl").write_text(text)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_report(folder)
    return folder

  return make


@pytest.fixture(scope="session")
def finished_run(make_run, tmp_path_factory):
  """One such folder, to be read only."""
  return make_run(tmp_path_factory.mktemp("report") / "run")
