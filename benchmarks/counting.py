"""How many operations and bytes a computation needs at the least, by counting; no clock here.

Only what is necessary counts: tokens that are there, each once however many answers share it, scores that the
mask leaves visible, scored slots that hold a target. A backward pass is twice its forward pass, and nothing is
computed twice. A multiplication and its addition are two operations.
"""

import numpy as np

from dpojax.models.config import ModelConfig
from dpojax.types import PackedBatch

FLOAT = 4  # bytes


def layer_weights(config: ModelConfig) -> int:
  """Entries of the matrices of one block."""
  attention, keys = config.heads * config.head_dim, config.kv_heads * config.head_dim
  return 2 * config.hidden * attention + 2 * config.hidden * keys + 3 * config.hidden * config.ffn


def visible_scores(segment: np.ndarray, answer: np.ndarray) -> int:
  """Pairs (i, j) of i32[R, L] rows in which token i sees token j, as `dpojax.types.PackedBatch` says."""
  total = 0
  for seg, ans in zip(np.asarray(segment), np.asarray(answer), strict=True):
    mask = (seg[:, None] == seg[None]) & (seg >= 0)[:, None] & np.tri(len(seg), dtype=bool)
    total += int((mask & ((ans < 0)[None] | (ans[:, None] == ans[None]))).sum())
  return total


def forward_operations(config: ModelConfig, *, tokens: int, visible: int, scored: int) -> dict[str, float]:
  """Operations of one forward pass: "products" of the blocks, "attention", and "head"."""
  return {
    "products": 2.0 * tokens * config.layers * layer_weights(config),
    "attention": 4.0 * visible * config.layers * config.heads * config.head_dim,
    "head": 2.0 * scored * config.hidden * config.vocab_size,
  }


def batch_counts(batch: PackedBatch) -> dict[str, int]:
  """Tokens, visible scores and filled scored slots of a packed step [G, R, ...]; and the places it has for them."""
  rows = [np.asarray(x).reshape(-1, np.shape(x)[-1]) for x in (batch.segment, batch.answer)]
  return {
    "tokens": int((rows[0] >= 0).sum()),
    "visible": visible_scores(*rows),
    "scored": int(np.asarray(batch.filled).sum()),
  }


def step_operations(config: ModelConfig, batch: PackedBatch, *, live_reference: bool) -> float:
  """Operations that a step cannot do without: the policy's forward and backward, and a live reference's forward."""
  forward = sum(forward_operations(config, **batch_counts(batch)).values())
  return (4 if live_reference else 3) * forward


def attention_floor(visible: int, heads: int, width: int) -> dict[str, dict[str, float]]:
  """Operations and exponentials of one layer's attention.

  Its gradient keeps no scores, so it needs q k' twice, p v, and in the backward pass four products more.
  """
  pair = 2.0 * width * heads * visible
  exps = float(heads * visible)
  return {
    "forward": dict(operations=2 * pair, exps=exps),
    "gradient": dict(operations=7 * pair, exps=2 * exps),
  }


def update_bytes(parameters: int, *, clipped: bool = True, moments: int = 2) -> int:
  """Bytes of an optimizer's update in place: parameters and moments read and written, the gradient read.

  Clipping by the global norm reads the gradient once more, since its norm is known only at its end.
  """
  return FLOAT * parameters * (2 + 2 * moments + 1 + clipped)
