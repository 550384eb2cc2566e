"""Runs `dpojax` as the command line does and notes when its parts began and ended.

python benchmarks/trace_startup.py MARKS.jsonl train --config=... --workdir=...

A line of MARKS is {"name", "start", "end", "compiling"}: seconds of the machine's monotonic clock, which all
processes share, and how many of them went into tracing, lowering and compiling. Nothing of dpojax is changed
but that some of its functions are timed from outside. --until=NAME ends the process at once behind that mark.
"""

import functools
import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

STARTED = time.monotonic()
sys.path.append(sys.path.pop(0))  # this folder last: some of its names are those of libraries
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

# mark: where the function is looked up when it is called
TIMED = {
  "model": ("dpojax.recipes.inputs", "Inputs.policy"),
  "data": ("dpojax.recipes.inputs", "Inputs.splits"),
  "batches": ("dpojax.recipes.preference", "make_batches"),
  "trainer": ("dpojax.recipes.preference", "Trainer"),
  "fill": ("dpojax.references.reference_cache", "ReferenceCache.fill"),
  "step": ("dpojax.training.step_log", "fetch"),
}
COMPILING = {
  "/jax/core/compile/jaxpr_trace_duration": "trace",
  "/jax/core/compile/jaxpr_to_mlir_module_duration": "lower",
  "/jax/core/compile/backend_compile_duration": "compile",  # or reading it from the cache of compilations
}


def read_marks(path: Path) -> list[dict]:
  return [json.loads(line) for line in path.read_text().splitlines()]


class Marks:
  """Writes marks, and counts the seconds of compilation meanwhile."""

  def __init__(self, path: Path, until: str | None):
    self.file = path.open("a")
    self.until = until
    self.compiling = dict.fromkeys(COMPILING.values(), 0.0)

  def listen(self, event: str, duration_secs: float, **kwargs: str | int) -> None:
    if event in COMPILING:
      self.compiling[COMPILING[event]] += duration_secs

  def write(self, name: str, start: float, end: float, **more) -> None:
    self.file.write(json.dumps(dict(name=name, start=start, end=end, **more)) + "\n")
    self.file.flush()
    if name == self.until:
      os._exit(0)

  def timed(self, name: str, function: Callable) -> Callable:
    @functools.wraps(function)
    def call(*arguments, **options):
      start, before = time.monotonic(), sum(self.compiling.values())
      result = function(*arguments, **options)
      more = dict(so_far=dict(self.compiling)) if name == "step" else {}
      self.write(name, start, time.monotonic(), compiling=sum(self.compiling.values()) - before, **more)
      return result

    return call

  def install(self) -> None:
    from jax import monitoring

    monitoring.register_event_duration_secs_listener(self.listen)
    for name, (module, path) in TIMED.items():
      *owners, last = path.split(".")
      owner = functools.reduce(getattr, owners, importlib.import_module(module))
      setattr(owner, last, self.timed(name, getattr(owner, last)))


def main() -> int:
  path, *words = sys.argv[1:]
  until = next((word.split("=")[1] for word in words if word.startswith("--until=")), None)
  marks = Marks(Path(path), until)
  marks.install()
  marks.write("imports", STARTED, time.monotonic(), compiling=0.0)

  from dpojax.cli.main import main as dpojax

  return dpojax([word for word in words if not word.startswith("--until=")])


if __name__ == "__main__":
  sys.exit(main())
