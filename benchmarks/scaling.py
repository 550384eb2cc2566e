"""How time and memory of a policy pass grow with the length of a row and with the vocabulary."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.environment import table
from benchmarks.kernels import SMOLLM2, hh_like_rows
from benchmarks.timing import compile_for, least_seconds, planned_bytes
from dpojax.models.config import ModelConfig
from dpojax.models.language_model import LanguageModel
from dpojax.types import PackedBatch

LENGTHS = (256, 512, 1024, 2048, 4096)
WORDS = (32_768, 65_536, 131_072, 262_144)
SLOTS = 512  # scored, of a whole pass


def growth(precision: str, repeats: int, clock: str) -> dict:
  """Gradient of the log-probs' sum: two layers of SmolLM2, 4,096 tokens; then one layer, 1,024 tokens, more words."""
  found = {"length": [], "words": []}
  small = dataclasses.replace(SMOLLM2, layers=2, vocab_size=8192)
  for kind in ("examples of about 190 tokens", "one example a row"):
    for length in LENGTHS:
      row = _measure(small, precision, kind, LENGTHS[-1] // length, length, repeats, clock)
      found["length"].append(dict(kind=kind, length=length, **row))
      print(f"  {kind}, rows of {length}: {row}", flush=True)
  for words in WORDS:
    config = dataclasses.replace(SMOLLM2, layers=1, vocab_size=words)
    row = _measure(config, precision, "examples of about 190 tokens", 1, 1024, repeats, clock)
    found["words"].append(dict(words=words, **row))
    print(f"  {words} words: {row}", flush=True)
  return found


def _measure(config: ModelConfig, precision: str, kind: str, rows: int, length: int, repeats: int, clock: str) -> dict:
  model = LanguageModel(config, precision=precision)
  params = jax.tree.map(lambda x: 0.02 * jnp.ones(x.shape, x.dtype), jax.eval_shape(model.init, jax.random.key(0)))
  batch = filled_rows(rows, length, config.vocab_size, SLOTS // rows, one_example=kind == "one example a row")
  compiled = compile_for(jax.grad(lambda params, batch: jnp.sum(model.score(params, batch).logp)), params, batch)
  seconds = least_seconds({"gradient": lambda: compiled(params, batch)}, repeats, clock)["gradient"]
  memory = compiled.memory_analysis()
  parameters = sum(x.nbytes for x in jax.tree.leaves(params))
  return {
    "seconds": seconds,
    "temporaries_mb": memory.temp_size_in_bytes / 1e6,
    "peak_mb": planned_bytes(memory) / 1e6,
    "parameters_mb": parameters / 1e6,
  }


def filled_rows(rows: int, length: int, words: int, slots: int, *, one_example: bool) -> PackedBatch:
  """Full rows of random tokens, `slots` of each scored: an even choice of its places but the last."""
  random = np.random.default_rng(0)
  places = hh_like_rows(rows, length)
  if one_example:
    places["segment"], places["answer"] = np.zeros((rows, length), np.int32), np.full((rows, length), -1, np.int32)
    places["position"] = np.tile(np.arange(length, dtype=np.int32), (rows, 1))
  scored_at = np.tile(np.linspace(0, length - 2, slots).astype(np.int32), (rows, 1))
  return PackedBatch(
    tokens=random.integers(0, words, (rows, length)).astype(np.int32),
    scored_at=scored_at,
    target=random.integers(0, words, (rows, slots)).astype(np.int32),
    answer_of=np.zeros((rows, slots), np.int32),
    example_index=np.zeros((rows, 1), np.int32),
    example_weight=np.ones((rows, 1), np.float32),
    example_label=np.ones((rows, 1), np.float32),
    example_margin=np.zeros((rows, 1), np.float32),
    answer_end=np.zeros((rows, 2), np.int32),
    segment=places["segment"],
    answer=places["answer"],
    position=places["position"],
  )


def growth_tables(found: dict) -> str:
  """Gradient time and temporaries, each beside the smallest of its kind."""
  lines = ["Gradient of a policy pass of two layers against row length, 4,096 tokens in all, 8,192 words", ""]
  header = ["row length", "ms", "times the shortest", "MB temporaries", "MB peak"]
  for kind in dict.fromkeys(row["kind"] for row in found["length"]):
    rows = [row for row in found["length"] if row["kind"] == kind]
    lines += [kind[0].upper() + kind[1:], "", table(header, [_cells(row["length"], row, rows[0]) for row in rows]), ""]
  lines += ["Gradient of a policy pass of one layer against vocabulary, 1,024 tokens, 512 of them scored", ""]
  rows = found["words"]
  header = ["words", "ms", "times the fewest", "MB temporaries", "MB peak"]
  return "\n".join([*lines, table(header, [_cells(row["words"], row, rows[0]) for row in rows])])


def _cells(what: int, row: dict, first: dict) -> list[str]:
  times = f"{row['seconds'] / first['seconds']:.2f}"
  return [f"{what:,}", f"{row['seconds'] * 1e3:.0f}", times, f"{row['temporaries_mb']:.0f}", f"{row['peak_mb']:.0f}"]
