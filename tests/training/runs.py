"""Small real runs in processes of their own, for tests that kill them."""

import gzip
import hashlib
import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np

from dpojax.interop.files import write_model_folder
from dpojax.interop.tokenizer import Tokenizer
from dpojax.models.config import ModelConfig
from dpojax.models.language_model import LanguageModel
from dpojax.models.weights import tensors_from_params
from dpojax.training.runlog import read_metrics

ROOT = pathlib.Path(__file__).parents[2]
TIME_FIELDS = ("time/", "tokens_per_second", "flops_utilisation")


def write_tiny_model(folder: pathlib.Path, *, hidden: int = 16) -> pathlib.Path:
  """A transformers folder with a random decoder of a few thousand parameters and a tokenizer of words."""
  tokenizer = Tokenizer.from_words([f"word{i}" for i in range(30)], eos="<eos>", unknown="<unk>")
  config = ModelConfig(
    vocab_size=tokenizer.vocab_size,
    hidden=hidden,
    layers=2,
    heads=4,
    kv_heads=2,
    ffn=2 * hidden,
    max_positions=64,
    eos_ids=tokenizer.eos_ids,
  )
  params = jax.device_get(LanguageModel(config).init(jax.random.key(0)))
  tensors = tensors_from_params(config, params)
  write_model_folder(folder, config.to_transformers(), tensors, tokenizer, {}, max_shard_bytes=10**9)
  return folder


def write_pairs(file: pathlib.Path, rows: int = 40) -> pathlib.Path:
  draws = np.random.default_rng(0)
  ids = lambda low, high: draws.integers(2, 32, draws.integers(low, high)).tolist()  # noqa: E731
  with gzip.open(file, "wt") as out:
    for _ in range(rows):
      out.write(json.dumps({"prompt_ids": ids(3, 9), "chosen_ids": ids(2, 8), "rejected_ids": ids(2, 8)}) + "\n")
  return file


def write_config(folder: pathlib.Path, **changes) -> pathlib.Path:
  """A config file for the tiny model and pairs, with dotted-key changes."""
  model = write_tiny_model(folder / "model")
  data = write_pairs(folder / "pairs.jsonl.gz")
  settings = {
    "model.path": str(model),
    "data.path": str(data),
    "batch.size": 8,
    "batch.rows": 8,
    "batch.row_length": 48,
    "optimizer.learning_rate": 1e-3,
    "optimizer.weight_decay": 0.01,
    "train.steps": 200,
    "checkpoint.every": 6,
    "evaluation.every": 30,
    "monitor.every": 60,
    "monitor.prompts": 4,
    "monitor.max_tokens": 8,
    "logging.plots": False,
  } | changes
  if settings.get("recipe") == "reward_model":  # which writes nothing that could be looked at
    settings = {key: value for key, value in settings.items() if not key.startswith("monitor.")}
  lines = ["from dpojax.config import base", "", "def get_config():", "  config = base()"]
  lines += [f"  config.{key} = {value!r}" for key, value in settings.items()]
  file = folder / "config.py"
  file.write_text("\n".join([*lines, "  return config", ""]))
  return file


def programs_of_the_killed() -> dict[str, str]:
  """Settings of a compilation cache for processes that may be killed: they start quickly, whatever half entries are left.

  Beside that of the session (`tests/conftest.py`), which has no half entries.
  """
  folder = pathlib.Path(os.environ["JAX_COMPILATION_CACHE_DIR"]).with_name("programs_of_the_killed")
  return {"JAX_COMPILATION_CACHE_DIR": str(folder), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}


def start(config: pathlib.Path, workdir: pathlib.Path, *options: str, **environment: str) -> subprocess.Popen:
  """`dpojax train` in a process of its own."""
  command = [sys.executable, "-m", "dpojax", "train", f"--config={config}", f"--workdir={workdir}", *options]
  variables = os.environ | programs_of_the_killed() | {"JAX_PLATFORMS": "cpu"} | environment
  return subprocess.Popen(command, cwd=ROOT, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def train(config: pathlib.Path, workdir: pathlib.Path, *options: str, **environment: str) -> str:
  """Runs to the end; returns what was printed."""
  process = start(config, workdir, *options, **environment)
  output = process.communicate(timeout=900)[0]
  assert process.returncode == 0, output
  return output


def state_digest(workdir: pathlib.Path, step: int) -> dict[str, str]:
  """SHA-256 of every array of the checkpoint of `step`, by name."""
  from dpojax.training.checkpoint import dtype_named, read_leaves
  from dpojax.training.manifest import read_manifest, verify

  path = workdir / "checkpoints" / str(step)
  verify(path)
  wanted = {
    n: jax.ShapeDtypeStruct(shape, dtype_named(dtype)) for n, (dtype, shape) in read_manifest(path).leaves.items()
  }
  arrays = read_leaves(path, wanted)
  return {name: hashlib.sha256(np.asarray(array).tobytes()).hexdigest() for name, array in arrays.items()}


def timeless_metrics(workdir: pathlib.Path) -> list[dict]:
  """Every record without the fields that measure time; NaN as "nan", because no NaN equals itself."""
  rows = read_metrics(workdir / "metrics.jsonl")
  return [{k: "nan" if v != v else v for k, v in row.items() if not k.startswith(TIME_FIELDS)} for row in rows]
