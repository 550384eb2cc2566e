"""Exact expected gradients, by enumeration of all groups of answers of one token: what unlimited data would give.

::

  every group of K tokens -> one row each -> forward -> advantages -> the objective's loss of each row alone
  expected gradient = gradient of the sum over rows of (probability, a constant) * (loss)

`forward` and `loss` are the objective's own and advantages are made by the function that roll-outs use, so a zero found
here is a fixed point of training. Answers have one token, so this is for bandits (`models.tabular`), and for any model
of a small vocabulary after one prompt. Rows are a step each: the mean over answers is taken within a group.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from dpojax.data.examples import TokenExample
from dpojax.data.packing import BatchShape, pack
from dpojax.environments.bandit import groups
from dpojax.errors import ShapeError
from dpojax.objectives import Objective
from dpojax.objectives.policy_gradient import PolicyGradient
from dpojax.objectives.preference import Preference
from dpojax.types import PackedBatch, Params, floats_as


class Advantages(Protocol):
  """How a roll-out makes advantages, each group by itself: whitening over groups would weigh all of them alike."""

  def __call__(
    self, score: np.ndarray, k1: np.ndarray, value: np.ndarray, length: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray]:
    """(advantages, value targets), both f64[N, 1], of N = G * K answers, those of a group side by side.

    Args:
      score: f64[N].
      k1: f64[N, 1] log-prob of policy less reference.
      value: f64[N, 1] of the critic, or 0.
      length: i64[N], 1 everywhere.
    """
    ...


def expected_gradient(
  objective: PolicyGradient,
  params: Params,
  reference_params: Params,
  scores: np.ndarray,
  advantages: Advantages,
  *,
  samples: int,
  hyper: Mapping[str, float],
  prompt: Sequence[int] = (0,),
) -> Params:
  """The exact expected gradient of a policy gradient's first step on a roll-out of the current policy.

  Args:
    params: {"policy": ..., "critic": ...} as the objective declares them; everything is computed in their dtype.
    reference_params: the reference's, as the policy's.
    scores: f64[V], the reward of each token as an answer.
    advantages: `functools.partial(objectives.methods.advantages_of, settings, samples, coef=...)`, or another.
    samples: K, answers of a group; V ** K rows are made.
    hyper: traced numbers of the objective by name, kl_coef where k3 is in the loss.
    prompt: token ids.

  Returns:
    Like params: the gradient of the loss, which is minimised.

  Raises:
    ShapeError: there is not one score a token.
  """
  vocabulary = objective.model.config.vocab_size
  scores = np.asarray(scores, np.float64)
  if scores.shape != (vocabulary,):
    raise ShapeError(f"scores are one a token, [{vocabulary}], got {list(scores.shape)}")
  members = groups(vocabulary, samples)
  rows = _group_rows(members, prompt, params)
  outputs = _forward(objective, params, reference_params, rows)

  def by_answer(values: Any) -> np.ndarray:
    return np.zeros((members.size, 1)) if values is None else np.asarray(values, np.float64).reshape(-1, 1)

  logp, reference_logp, value = (by_answer(x) for x in (outputs.logp, outputs.reference_logp, outputs.value))
  lengths = np.ones(members.size, np.int64)
  advantage, target = advantages(scores[members].reshape(-1), logp - reference_logp, value, lengths)
  found = {
    "behaviour_logp": logp,
    "reference_logp": reference_logp,
    "advantage": advantage,
    "old_value": value,
    "value_target": target,
  }
  rows = dataclasses.replace(rows, **{name: array.reshape(members.shape) for name, array in found.items()})
  probability = np.exp(np.sum(logp.reshape(members.shape), axis=1))
  return _gradient(objective, params, {}, *_like(params, (rows, probability, dict(hyper))))


def expected_pair_gradient(
  objective: Preference,
  params: Params,
  reference_params: Params,
  comparisons: np.ndarray,
  *,
  hyper: Mapping[str, float],
  prompt: Sequence[int] = (0,),
) -> Params:
  """The exact expected gradient of a loss of pairs.

  Args:
    params: the policy's; everything is computed in their dtype.
    reference_params: the reference's.
    comparisons: f64[V, V], how often token a won and token b lost, adding up to 1: `Bandit.comparisons` of whoever
      writes, the reference (DPO) or the policy as it is (online DPO, whose gradient does not see the sampling either).
    hyper: `LossSpec.hyper` of the objective.
    prompt: token ids.

  Raises:
    ShapeError: there is not one number a pair of tokens.
  """
  vocabulary = objective.model.config.vocab_size
  comparisons = np.asarray(comparisons, np.float64)
  if comparisons.shape != (vocabulary, vocabulary):
    raise ShapeError(f"comparisons are [{vocabulary}, {vocabulary}], got {list(comparisons.shape)}")
  pairs = groups(vocabulary, 2)
  rows = _group_rows(pairs, prompt, params)
  probability = comparisons[tuple(pairs.T)]
  return _gradient(objective, params, reference_params, rows, *_like(params, (probability, dict(hyper))))


def _group_rows(members: np.ndarray, prompt: Sequence[int], params: Params) -> PackedBatch:
  """Groups i64[G, K] of one-token answers as G rows, in their order."""
  count, samples = members.shape
  ids = np.asarray(prompt, np.int32)
  examples = [TokenExample(ids, tuple(group[:, None]), index=i) for i, group in enumerate(members.astype(np.int32))]
  rows = pack(examples, BatchShape(1, count, len(ids) + samples, samples, 1, samples)).group(0)
  assert np.array_equal(rows.target, members), "rows are in the order of groups"
  return _like(params, rows)


def _like(params: Params, tree: Any) -> Any:
  """Floats of the tree in the dtype of the parameters."""
  return floats_as(jax.tree.leaves(params)[0].dtype, tree)


@functools.partial(jax.jit, static_argnums=0)
def _forward(objective: Objective, params: Params, reference_params: Params, rows: PackedBatch) -> Any:
  return objective.forward(params, reference_params, rows)


@functools.partial(jax.jit, static_argnums=0)
def _gradient(
  objective: Objective, params, reference_params, rows: PackedBatch, probability: jax.Array, hyper
) -> Params:
  """Gradient of the sum of probability [G] times the loss of each of the G rows, taken as a step of its own."""

  def of_row(outputs, row):
    outputs, row = jax.tree.map(lambda x: x[None], (outputs, row))
    return objective.loss(outputs, row, objective.normalizers(row), hyper)[0]

  def expected(params):
    outputs = objective.forward(params, reference_params, rows)
    return jnp.sum(probability * jax.vmap(of_row)(outputs, rows))

  return jax.grad(expected)(params)
