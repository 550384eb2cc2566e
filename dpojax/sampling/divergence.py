"""The exact KL between two policies along text that the first one wrote."""

import functools
from collections.abc import Sequence

import jax
import numpy as np

from dpojax.data.examples import TokenExample
from dpojax.data.packing import PackShape, pack
from dpojax.models.language_model import LanguageModel
from dpojax.sampling.generate import Sample, bucket
from dpojax.types import PackedBatch, Params


def sample_kl(
  model: LanguageModel,
  params: Params,
  reference_params: Params,
  prompts: Sequence[np.ndarray],
  samples: Sequence[Sample],
  *,
  rows: int = 8,
  row_length: int = 256,
) -> tuple[np.ndarray, np.ndarray]:
  """Exact per-step KL(policy || reference), summed along each sample.

  At every step of a sample the whole next-token distributions are compared: sum_v p(v) log(p(v) / q(v)).
  By the chain rule of KL the mean of these sums over samples of the policy (temperature 1, no nucleus)
  estimates KL of the answer distributions without bias, and with far less spread than log-ratios do.

  Args:
    model: of both policies.
    params, reference_params: the policy's and the reference's parameters.
    prompts: i32[P_i] each.
    samples: what the policy wrote after each prompt.
    rows, row_length: rows of a packed group and least tokens of a row; longer texts make longer rows.

  Returns:
    (nats f64[N] a sample, tokens i64[N] a sample).
  """
  tokens = np.asarray([len(sample.tokens) for sample in samples], np.int64)
  kl = np.zeros(len(samples), np.float64)
  if not samples:
    return kl, tokens
  examples = [
    TokenExample(np.asarray(prompt, np.int32), (sample.tokens,), index=i)
    for i, (prompt, sample) in enumerate(zip(prompts, samples, strict=True))
  ]
  params, reference_params = jax.device_put((params, reference_params))
  batch = pack(examples, _shape(examples, rows, row_length))
  used = int(batch.num_groups)
  values = np.stack([_token_kl(model, params, reference_params, batch.group(g)) for g in range(used)])
  filled = batch.filled[:used]
  group, row, _ = np.nonzero(filled)
  sample = batch.example_index[group, row, batch.answer_of[:used][filled]]
  np.add.at(kl, sample, values[filled].astype(np.float64))
  return kl, tokens


def _shape(examples: Sequence[TokenExample], rows: int, row_length: int) -> PackShape:
  """A shape from the same coarse ladder as generation's, so that later looks rarely compile again."""
  length = bucket(max(row_length, *(example.longest for example in examples)))
  total = sum(example.row_tokens() for example in examples)
  scored = sum(example.scored for example in examples)
  slots = max(bucket(-(-length * scored // total)), *(example.scored for example in examples))
  slots = min(bucket(slots), length)
  # As many example slots as scored ones never bind; more groups than rows could need never do either.
  return PackShape(-(-len(examples) // rows), rows, length, slots, examples=slots, answers=1)


@functools.partial(jax.jit, static_argnames="model")
def _token_kl(model: LanguageModel, params: Params, reference_params: Params, rows: PackedBatch) -> jax.Array:
  return model.token_kl(params, reference_params, rows)
