"""The exact KL between two policies along text that the first one wrote."""

from collections.abc import Sequence
from typing import Protocol

import jax
import numpy as np
from jax.sharding import Mesh

from dpojax.data.examples import TokenExample
from dpojax.data.packing import PackShape
from dpojax.data.shapes import bucket
from dpojax.models.language_model import LanguageModel
from dpojax.scoring.packed import Scorer, score_steps
from dpojax.types import PackedBatch, Params


class Written(Protocol):
  """What a policy wrote after a prompt: `dpojax.rollout.sampler.Sample`, or anything with its i32[T] `tokens`."""

  @property
  def tokens(self) -> np.ndarray: ...


def sample_kl(
  model: LanguageModel,
  params: Params,
  reference_params: Params,
  prompts: Sequence[np.ndarray],
  samples: Sequence[Written],
  *,
  rows: int = 8,
  row_length: int = 256,
  mesh: Mesh | None = None,
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
    mesh: the devices that share parameters and rows; None: where the parameters are, or the default device.

  Returns:
    (nats f64[N] a sample, tokens i64[N] a sample).

  Raises:
    DataError: a prompt or a sample has no tokens.
    ConfigError: `rows` or the parameters do not divide by the mesh.
  """
  tokens = np.asarray([len(sample.tokens) for sample in samples], np.int64)
  if not samples:
    return np.zeros(0, np.float64), tokens
  examples = [
    TokenExample(np.asarray(prompt, np.int32), (sample.tokens,))
    for prompt, sample in zip(prompts, samples, strict=True)
  ]
  scorer = Scorer(kl_of_rows, model, (params, reference_params), mesh)
  steps = score_steps(scorer, examples, _shape(examples, rows, row_length), size=len(examples))
  return np.concatenate([sums for step in steps for sums in step.sums()]), tokens


def _shape(examples: Sequence[TokenExample], rows: int, row_length: int) -> PackShape:
  """A shape from the same coarse ladder as generation's, so that later samples rarely compile again."""
  length = bucket(max(row_length, *(example.longest for example in examples)))
  total = sum(example.row_tokens() for example in examples)
  scored = sum(example.scored for example in examples)
  slots = max(bucket(-(-length * scored // total)), *(example.scored for example in examples))
  slots = min(bucket(slots), length)
  # As many example slots as scored ones never bind; more groups than rows could need never do either.
  return PackShape(-(-len(examples) // rows), rows, length, slots, examples=slots, answers=1)


def kl_of_rows(model: LanguageModel, params: tuple[Params, Params], rows: PackedBatch) -> jax.Array:
  """f32[R, S] exact KL(policy || reference) at the scored slots of a row group, of (policy's, reference's) parameters."""
  policy, reference = params
  return model.token_kl(policy, reference, rows)
