"""How far it is from `dpojax train` to the loss: functions and files of ours on the stack when the loss is traced.

    python benchmarks/frames.py [--loss=dpo] [--all]

Runs the quickstart's stages, made tiny, in this process and looks at the stack when the loss function is first called.
Counted from `dpojax.cli.train.main`, the first function that knows it trains, to the loss function itself; --all shows
the frames of libraries between them too.
"""

import argparse
import inspect
import pathlib
import sys
import tempfile
from types import FrameType

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "dpojax"
TINY = {
  "model.hidden": 16,
  "model.ffn": 32,
  "model.layers": 1,
  "batch.size": 8,
  "batch.rows": 2,
  "sft.train.steps": 1,
  "sft.data.texts": 40,
  "sft.optimizer.warmup_steps": 1,
  "sft.batch.size": 8,
  "pairs.pairs.prompts": 8,
  "dpo.train.steps": 1,
  "dpo.optimizer.warmup_steps": 1,
  "dpo.monitor.prompts": 0,
  "logging.plots": False,
}


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--loss", default="dpo", help="a loss on pairs (dpo)")
  parser.add_argument("--all", action="store_true", help="frames of libraries too")
  options = parser.parse_args()
  stack = stack_at(options.loss)
  ours = [place for place in stack if place[0].is_relative_to(PACKAGE)]
  for file, function, line in stack if options.all else ours:
    shown = file.relative_to(ROOT) if file.is_relative_to(ROOT) else file
    print(f"{shown}:{line}  {function}")
  print(f"\n{len(ours)} frames in {len({file for file, _, _ in ours})} files")


def stack_at(loss: str) -> list[tuple[pathlib.Path, str, int]]:
  """(file, function, line) from the command to the loss, outermost first, when the loss is traced for training."""
  from dpojax import losses
  from dpojax.cli.main import main as command

  wanted = inspect.unwrap(losses.get_loss(loss).function).__code__
  found: list[tuple[pathlib.Path, str, int]] = []

  def look(frame: FrameType, event: str, _: object) -> None:
    if event != "call" or frame.f_code is not wanted or found:
      return
    at: FrameType | None = frame
    places = []
    while at is not None:
      places.append((pathlib.Path(at.f_code.co_filename), at.f_code.co_qualname, at.f_lineno))
      at = at.f_back
    if any(function.endswith("train_step") for _, function, _ in places):  # not when it is evaluated
      first = next(i for i, (file, function, _) in enumerate(places) if file.name == "train.py" and function == "main")
      found.extend(reversed(places[: first + 1]))

  with tempfile.TemporaryDirectory() as folder:
    words = [f"--config.{key}={value}" for key, value in (TINY | {"dpo.loss.name": loss}).items()]
    sys.setprofile(look)
    try:
      code = command(["train", f"--config={ROOT / 'experiments' / 'quickstart.py'}", f"--workdir={folder}", *words])
    finally:
      sys.setprofile(None)
  if code or not found:
    raise SystemExit(f"the run ended with code {code}, {len(found)} frames seen")
  return found


if __name__ == "__main__":
  main()
