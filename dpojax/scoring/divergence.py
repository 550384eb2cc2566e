"""How far what a policy wrote is from a reference: the exact KL along its text, and the usual estimates of it."""

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from dpojax.data.batch_shape import bucket
from dpojax.data.examples import TokenExample
from dpojax.data.packing import BatchShape
from dpojax.models.language_model import LanguageModel
from dpojax.scoring.packed import Scorer, score_steps
from dpojax.types import PackedBatch, Params


class Written(Protocol):
  """What a policy wrote after a prompt: `dpojax.rollout.sampler.Sample`, or anything with its i32[T] `tokens`."""

  @property
  def tokens(self) -> np.ndarray: ...


@dataclasses.dataclass(frozen=True)
class Divergence:
  """Of N samples of a policy: f64[N] nats, each summed over the sample's tokens.

  With p the policy's and q the reference's next-token distribution at the sampling temperature, and x the token that
  was written: of samples of p the means of `kl` and `k1` both estimate KL of the answer distributions without bias, by
  the chain rule; `kl` has far less spread. The mean of `k3` is never negative, and is the KL along the samples only for
  single steps (Schulman 2020, "Approximating KL divergence").

  Attributes:
    kl: sum over steps of the exact sum_v p(v) log(p(v) / q(v)).
    k1: sum of log p(x) - log q(x).
    k3: sum of q(x) / p(x) - 1 + log p(x) - log q(x).
    entropy: sum of -sum_v p(v) log p(v).
    tokens: i64[N] tokens of the sample, EOS included.
  """

  kl: np.ndarray
  k1: np.ndarray
  k3: np.ndarray
  entropy: np.ndarray
  tokens: np.ndarray


def measure_divergence(
  model: LanguageModel,
  params: Params,
  reference_params: Params,
  prompts: Sequence[np.ndarray],
  samples: Sequence[Written],
  *,
  temperature: float = 1.0,
  rows: int = 8,
  row_length: int = 256,
  mesh: Mesh | None = None,
) -> Divergence:
  """Compares a policy with a reference along what the policy wrote, in one pass of packed rows.

  Args:
    model: of both policies.
    params, reference_params: the policy's and the reference's parameters.
    prompts: i32[P_i] each.
    samples: what the policy wrote after each prompt.
    temperature: above 0, that of sampling: logits of both are divided by it; traced.
    rows, row_length: rows of a packed group and least tokens of a row; longer texts make longer rows.
    mesh: the devices that share parameters and rows; None: where the parameters are, or the default device.

  Raises:
    DataError: a prompt or a sample has no tokens.
    ConfigError: `rows` or the parameters do not divide by the mesh.
  """
  tokens = np.asarray([len(sample.tokens) for sample in samples], np.int64)
  if not samples:
    none = np.zeros(0)
    return Divergence(none, none, none, none, tokens)
  examples = [
    TokenExample(np.asarray(prompt, np.int32), (sample.tokens,))
    for prompt, sample in zip(prompts, samples, strict=True)
  ]
  scorer = Scorer(compared_rows, model, (params, reference_params, np.float32(temperature)), mesh)
  steps = score_steps(scorer, examples, _shape(examples, rows, row_length), size=len(examples))
  found = [answer.astype(np.float64) for step in steps for (answer,) in step.by_token()]
  logp, reference_logp, kl, entropy = (np.concatenate([x[:, i] for x in found]) for i in range(4))
  owner = np.repeat(np.arange(len(samples)), tokens)

  def summed(values: np.ndarray) -> np.ndarray:
    return np.bincount(owner, values, minlength=len(samples))

  k1 = logp - reference_logp
  return Divergence(summed(kl), summed(k1), summed(np.expm1(-k1) + k1), summed(entropy), tokens)


def _shape(examples: Sequence[TokenExample], rows: int, row_length: int) -> BatchShape:
  """A shape from the same coarse ladder as generation's, so that later samples rarely compile again."""
  length = bucket(max(row_length, *(example.longest for example in examples)))
  total = sum(example.row_tokens() for example in examples)
  scored = sum(example.scored for example in examples)
  slots = max(bucket(-(-length * scored // total)), *(example.scored for example in examples))
  slots = min(bucket(slots), length)
  # As many example slots as scored ones never bind; more groups than rows could need never do either.
  return BatchShape(-(-len(examples) // rows), rows, length, slots, examples=slots, answers=1)


def compared_rows(model: LanguageModel, params: tuple[Params, Params, jax.Array], rows: PackedBatch) -> jax.Array:
  """f32[R, S, 4] of `models.language_model.Compared` at the scored slots, of (policy, reference, temperature)."""
  compared = model.compare(*params[:2], rows, params[2])
  return jnp.stack([compared.logp, compared.other_logp, compared.kl, compared.entropy], axis=-1)
