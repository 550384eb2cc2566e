"""Where the rule that ends a run would have ended runs that went on, and what going on gave.

    python benchmarks/replay_stop.py RUN [RUN ...] [--patience 1 2 3] [--every 2]

RUN is the folder of a stage that looked at its policy with stop.patience=0 (its `metrics.jsonl` and `samples/`). A row
a patience: the step after which the rule stops, reward and KL there, the same after the last step, and the highest mean
reward of any look, which chance makes somewhat too high.
"""

import argparse
import pathlib
import sys

sys.path.append(sys.path.pop(0))  # this folder last: some of its names are those of libraries
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from dpojax.config.schema import StopSettings
from dpojax.report.records import read_run
from dpojax.report.tables import markdown
from dpojax.training.numbers import rewards_of
from dpojax.training.policy_samples import read_policy_sample
from dpojax.training.stopping import PolicySample, budget, should_stop

HEADER = ["run", "patience", "stops after step", "reward there", "KL a token there", "reward at the end", "highest"]


def samples_of(folder: pathlib.Path, every: int) -> list[PolicySample]:
  """Every `every`-th look of a run, by its first reward."""
  records = read_run(folder).splits["policy"]
  reward = next(iter(rewards_of(records[0]))).removeprefix("reward/")
  return [read_policy_sample(folder, record["step"], reward) for record in records[::every]]


def replay(samples: list[PolicySample], settings: StopSettings) -> PolicySample | None:
  """The look after which the rule stops the run; None: it never does."""
  for count in range(1, len(samples)):
    if should_stop(samples[:count], settings).stop:
      return samples[count - 1]
  return None


def row(name: str, samples: list[PolicySample], settings: StopSettings) -> list[str]:
  """Cells of `HEADER`."""
  stopped, last = replay(samples, settings), samples[-1]
  best = max(samples, key=lambda sample: sample.reward)
  there = [f"{stopped.step}", said(stopped), f"{stopped.kl_token:.3f}"] if stopped else ["never", "", ""]
  return [name, str(settings.patience), *there, f"{said(last)} ({last.step})", f"{best.reward:.3f} ({best.step})"]


def said(sample: PolicySample) -> str:
  error = sample.rewards.std(ddof=1) / len(sample.rewards) ** 0.5
  return f"{sample.reward:.3f} ± {error:.3f}"


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("runs", nargs="+", type=pathlib.Path)
  parser.add_argument("--patience", nargs="+", type=int, default=[1, 2, 3])
  parser.add_argument("--every", type=int, default=1, help="of the run's looks, take every N-th (1)")
  given = parser.parse_args()
  rows = []
  for folder in given.runs:
    samples = samples_of(folder, given.every)
    for patience in given.patience:
      rows.append(row(folder.name, samples, StopSettings(patience=patience)))
    within = [sample for sample in samples[1:] if not budget(sample, StopSettings()).over]
    best = max(within, key=lambda sample: sample.reward, default=None)
    text = f"step {best.step}: {said(best)} at {best.kl_token:.3f}" if best else "none"
    print(f"{folder.name}: best look within {StopSettings().kl_budget:g} nats a token: {text}")
  print(markdown(HEADER, rows))


if __name__ == "__main__":
  main()
