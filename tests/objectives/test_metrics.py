"""Metrics of compared answers against loops in Python: the same whether a policy or a reward model is learned."""

import itertools
import math
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpojax.losses.logps import PairLogps, RankedLogps
from dpojax.objectives.metrics import preference_metrics, reward_metrics
from tests.objectives.test_reward_objective import batch_of, by_example, dataset, some_rewards

SHARED = ("rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies", "length/chosen")
SHARED = (*SHARED, "length/rejected")


def expected(data, scores):
  """The metrics as the docstring has them; of the examples in `scores`, {index: [K] numbers}."""
  means = {name: [] for name in (*SHARED, "accuracy/length_matched")}
  for i, score in scores.items():
    example = data[i]
    if example.weight == 0:
      continue
    lengths = [len(answer) for answer in example.answers]
    means["rewards/chosen"].append(score[0])
    means["rewards/rejected"].append(sum(score[1:]) / len(score[1:]))
    means["rewards/margins"].append(score[0] - sum(score[1:]) / len(score[1:]))
    means["length/chosen"].append(lengths[0])
    means["length/rejected"].append(sum(lengths[1:]) / len(lengths[1:]))
    right, alike = [], []
    for j, k in itertools.combinations(range(len(score)), 2):
      if example.label == 0.5:
        continue
      right.append(score[j] > score[k] if example.label == 1 else score[j] < score[k])
      if abs(lengths[j] - lengths[k]) <= 0.1 * max(lengths[j], lengths[k]):
        alike.append(right[-1])
    for name, found in (("rewards/accuracies", right), ("accuracy/length_matched", alike)):
      if found:
        means[name].append(sum(found) / len(found))
  return {name: sum(each) / len(each) if each else math.nan for name, each in means.items()}


def of_policy(batch, table, beta=1.0):
  """Metrics of a policy whose implicit rewards, over beta, are the table [B, K], a reference's log-probs 0.5 each."""
  slots = jnp.arange(batch.num_answers)[None, None]
  lengths = jnp.sum(jnp.asarray(batch.answer_of)[..., None] == slots, axis=1, dtype=jnp.int32).reshape(table.shape)
  weight, half = jnp.asarray(batch.example_weight).reshape(-1), jnp.full(table.shape, 0.5)
  if table.shape[1] == 2:
    policy, reference = (
      PairLogps(x[:, 0], x[:, 1], lengths[:, 0], lengths[:, 1], weight=weight) for x in (table + 0.5, half)
    )
  else:
    policy, reference = (RankedLogps(x, lengths, weight) for x in (table + 0.5, half))
  zeros = jnp.zeros(batch.target.shape)
  observed = types.SimpleNamespace(entropy=zeros, correct=zeros, mean_logit=zeros)
  return preference_metrics(policy, reference, observed, batch, jnp.float32(beta))


def divided(metrics):
  return {name: float(value) / float(count) if count else math.nan for name, (value, count) in metrics.items()}


@pytest.mark.slow
@pytest.mark.parametrize(
  ("answers", "varied"), [((2,), False), ((2,), True), ((2, 4, 3), True)], ids=["pairs", "ties", "rankings"]
)
def test_a_policy_and_a_reward_model_report_what_the_loops_do(answers, varied):
  data = dataset(answers, size=12, varied=varied)
  batch = batch_of(data, row_length=64).flat()
  # Halves, so that the reference's share is taken off without rounding; equal scores are among them.
  observed = jnp.round(some_rewards(batch, 1) * 2) / 2
  want = expected(data, {i: r[:, 0].tolist() for i, r in by_example(observed, batch).items()})
  table = observed.reshape(-1, batch.answers_per_example)
  present = (jnp.asarray(batch.answer_end) > 0).reshape(table.shape)
  learned = divided(jax.jit(reward_metrics)(observed.reshape(*table.shape, 1), present, batch))
  policy = divided(jax.jit(of_policy)(batch, table))
  for name in SHARED:
    np.testing.assert_allclose(learned[name], want[name], rtol=1e-6, err_msg=name)
  for name, value in want.items():
    np.testing.assert_allclose(policy[name], value, rtol=1e-6, err_msg=name)
  assert 0 < want["rewards/accuracies"] < 1
  scaled = divided(of_policy(batch, table, beta=0.25))
  for name in ("rewards/chosen", "rewards/rejected", "rewards/margins"):
    np.testing.assert_allclose(scaled[name], 0.25 * want[name], rtol=1e-6)
  assert scaled["rewards/accuracies"] == policy["rewards/accuracies"]


@pytest.mark.slow
def test_ties_alone_have_no_accuracy():
  data = dataset(varied=True, size=8)
  ties = data.subset([i for i in range(len(data)) if data[i].label == 0.5])
  assert len(ties) == 2
  batch = batch_of(ties).flat()
  table = some_rewards(batch, 1).reshape(-1, 2)
  for metrics in (of_policy(batch, table), reward_metrics(table[..., None], jnp.ones(table.shape, bool), batch)):
    assert float(metrics["rewards/accuracies"][1]) == 0 and float(metrics["rewards/margins"][1]) == 2
