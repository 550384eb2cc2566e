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
from dpojax.training.looks import read_look
from dpojax.training.numbers import rewards_of
from dpojax.training.stopping import Look, budget, should_stop

HEADER = ["run", "patience", "stops after step", "reward there", "KL a token there", "reward at the end", "highest"]


def looks_of(folder: pathlib.Path, every: int) -> list[Look]:
  """Every `every`-th look of a run, by its first reward."""
  records = read_run(folder).splits["policy"]
  reward = next(iter(rewards_of(records[0]))).removeprefix("reward/")
  return [read_look(folder, record["step"], reward) for record in records[::every]]


def replay(looks: list[Look], settings: StopSettings) -> Look | None:
  """The look after which the rule stops the run; None: it never does."""
  for count in range(1, len(looks)):
    if should_stop(looks[:count], settings).stop:
      return looks[count - 1]
  return None


def row(name: str, looks: list[Look], settings: StopSettings) -> list[str]:
  """Cells of `HEADER`."""
  stopped, last = replay(looks, settings), looks[-1]
  best = max(looks, key=lambda look: look.reward)
  there = [f"{stopped.step}", said(stopped), f"{stopped.kl_token:.3f}"] if stopped else ["never", "", ""]
  return [name, str(settings.patience), *there, f"{said(last)} ({last.step})", f"{best.reward:.3f} ({best.step})"]


def said(look: Look) -> str:
  error = look.rewards.std(ddof=1) / len(look.rewards) ** 0.5
  return f"{look.reward:.3f} ± {error:.3f}"


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("runs", nargs="+", type=pathlib.Path)
  parser.add_argument("--patience", nargs="+", type=int, default=[1, 2, 3])
  parser.add_argument("--every", type=int, default=1, help="of the run's looks, take every N-th (1)")
  given = parser.parse_args()
  rows = []
  for folder in given.runs:
    looks = looks_of(folder, given.every)
    for patience in given.patience:
      rows.append(row(folder.name, looks, StopSettings(patience=patience)))
    within = [look for look in looks[1:] if not budget(look, StopSettings()).over]
    best = max(within, key=lambda look: look.reward, default=None)
    text = f"step {best.step}: {said(best)} at {best.kl_token:.3f}" if best else "none"
    print(f"{folder.name}: best look within {StopSettings().kl_budget:g} nats a token: {text}")
  print(markdown(HEADER, rows))


if __name__ == "__main__":
  main()
