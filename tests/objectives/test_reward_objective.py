"""The reward-model objective against loops in float64: every loss, option, label and weight, however it is packed."""

import dataclasses
import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpojax.config.schema import BatchSettings
from dpojax.data.batches import Batches
from dpojax.data.examples import TokenDataset, TokenExample
from dpojax.losses.spec import loss_spec
from dpojax.models.reward_model import RewardModel
from dpojax.objectives.reward_model import RewardObjective
from dpojax.training.step import accumulate
from tests.tolerances import assert_gradients_close, assert_sums_close
from tests.training.tiny import CONFIG, MODEL

VARIED = dict(label_smoothing=0.1, centring=0.05, margin_scale=0.5)
HEADS = 3
ALONE = RewardModel(MODEL, 1)
ENSEMBLE = RewardModel(MODEL, HEADS)


def dataset(answers=(2,), size=8, seed=0, varied=True):
  """Examples of two and more answers; `varied`: with labels, margins and weights, one of them 0."""
  rng = np.random.default_rng(seed)
  ids = lambda most: rng.integers(1, CONFIG.vocab_size, rng.integers(1, most)).astype(np.int32)  # noqa: E731
  examples = []
  for i in range(size):
    given = TokenExample(ids(8), tuple(ids(6) for _ in range(answers[i % len(answers)])))
    if varied:
      label = (1.0, 0.5, 1.0, 0.0)[i % 4] if answers == (2,) else 1.0
      given = dataclasses.replace(given, label=label, margin=0.3 * i, weight=(1.0, 0.5, 2.0, 1.0, 0.0)[i % 5])
    examples.append(given)
  return TokenDataset(examples)


def batch_of(data, **changes):
  return Batches(data, BatchSettings(**(dict(size=len(data), rows=2, row_length=48) | changes)))(0)


def params_of(model, seed=0):
  params = model.init(jax.random.key(seed))
  return params | {"score": params["score"] * 3}  # rewards that differ by more than a little


def numbers(options):
  return {name: jnp.float32(value) for name, value in options.items()}


@functools.partial(jax.jit, static_argnums=0)
def accumulated(objective, params, batch, hyper):
  return accumulate(objective, params, {}, batch, hyper)[:3]


def step_of(objective, params, batch, options=()):
  """(loss, gradient, metrics) of a whole step."""
  return accumulated(objective, params, batch, numbers(dict(options)))


@functools.partial(jax.jit, static_argnums=0)
def rewards_of(model, params, rows):
  return model.rewards(params, rows)


@functools.partial(jax.jit, static_argnums=0)
def pulled_back(model, params, rows, cotangent):
  """The gradient by the parameters, given that by every reward."""
  return jax.vjp(lambda p: model.rewards(p, rows), params)[1](cotangent)[0]


def some_rewards(batch, heads, seed=0):
  """f32[R, E * K, H] as a model might give them: 0 in empty slots."""
  draws = np.random.default_rng(seed).normal(size=(*batch.answer_end.shape, heads)) * 2
  return jnp.where(batch.answer_end[..., None] > 0, draws.astype(np.float32), 0)


def at_rewards(objective, batch, observed, options=()):
  """(loss, its gradient by every reward, metrics as numbers) of a step whose rewards are given."""

  def share(observed, batch, hyper):
    return objective.loss(observed, batch, objective.normalizers(batch), hyper)

  differentiate = jax.jit(jax.value_and_grad(share, has_aux=True))
  (loss, metrics), gradient = differentiate(observed, batch, numbers(dict(options)))
  return loss, gradient, {name: float(value) / float(count) for name, (value, count) in metrics.items()}


def by_example(observed, batch):
  """{example: [K, H] float64 rewards}, or what else lies in the slots of its answers."""
  found = {}
  for r, e in zip(*np.nonzero(np.asarray(batch.example_index) >= 0), strict=True):
    first = e * batch.answers_per_example
    slots = [s for s in range(first, first + batch.answers_per_example) if batch.answer_end[r, s]]
    found[int(batch.example_index[r, e])] = np.asarray(observed, np.float64)[r, slots]
  return found


# ---- the oracle: one example and one head at a time, Python floats


def softplus(x):
  return max(x, 0) + math.log1p(math.exp(-abs(x)))


def oracle_value(name, r, example, label_smoothing=0.0, centring=0.0, margin_scale=0.0, tie_strength=1.0):
  if name == "plackett_luce":
    return sum(math.log(sum(math.exp(x) for x in r[k:])) - r[k] for k in range(len(r)))
  if name == "all_pairs":
    pairs = [softplus(worse - better) for better, worse in itertools.combinations(r, 2)]
    return sum(pairs) / len(pairs)
  won = {1.0: 1, 0.5: 0, 0.0: -1}[example.label]
  lead = r[0] - r[1] - won * margin_scale * example.margin
  if name == "bradley_terry":
    sure = 0.5 + won / 2
    right = (1 - label_smoothing) * sure + label_smoothing * (1 - sure)
    value = right * softplus(-lead) + (1 - right) * softplus(lead)
  elif name == "rao_kupper":
    win, lose = 1 / (1 + math.exp(tie_strength - lead)), 1 / (1 + math.exp(tie_strength + lead))
    value = -math.log({1: win, 0: 1 - win - lose, -1: lose}[won])
  else:
    weights = {1: math.exp(lead / 2), 0: tie_strength, -1: math.exp(-lead / 2)}
    value = -math.log(weights[won] / sum(weights.values()))
  return value + centring * (r[0] + r[1]) ** 2


def oracle_loss(name, rewards, data, options, boot=None):
  """Mean over heads of the weighted mean over examples; `boot[i, h]` multiplies the weight of example i for head h."""
  heads = next(iter(rewards.values())).shape[1]
  per_head = []
  for h in range(heads):
    weight = {i: data[i].weight * (1 if boot is None else boot[i, h]) for i in rewards}
    values = {i: oracle_value(name, r[:, h].tolist(), data[i], **options) for i, r in rewards.items()}
    per_head.append(sum(weight[i] * values[i] for i in rewards) / sum(weight.values()))
  return sum(per_head) / heads


def oracle_gradient(name, rewards, data, options):
  """{example: [K, H]} by central differences."""
  found, step = {i: np.zeros_like(r) for i, r in rewards.items()}, 1e-6
  for i, r in rewards.items():
    for place in np.ndindex(r.shape):
      ends = []
      for sign in (1, -1):
        moved = dict(rewards, **{}) | {i: r.copy()}
        moved[i][place] += sign * step
        ends.append(oracle_loss(name, moved, data, options))
      found[i][place] = (ends[0] - ends[1]) / (2 * step)
  return found


CASES = [
  ("bradley_terry", (2,), {}),
  ("bradley_terry", (2,), VARIED),
  ("rao_kupper", (2,), dict(tie_strength=0.7, centring=0.05, margin_scale=0.5)),
  ("davidson", (2,), dict(tie_strength=0.7, centring=0.05, margin_scale=0.5)),
  ("plackett_luce", (2, 4, 3), {}),
  ("all_pairs", (2, 4, 3), {}),
]


def spec_of(name, options):
  return loss_spec(name, margin_scale=options.get("margin_scale", 0.0))


@pytest.mark.slow
@pytest.mark.parametrize("heads", [1, HEADS])
@pytest.mark.parametrize(("name", "answers", "options"), CASES)
def test_loss_and_gradient_are_those_of_the_formula(name, answers, options, heads):
  data = dataset(answers)
  batch = batch_of(data).flat()
  objective = RewardObjective(RewardModel(MODEL, heads), spec_of(name, options))
  observed = some_rewards(batch, heads)
  loss, gradient, metrics = at_rewards(objective, batch, observed, options)
  rewards = by_example(observed, batch)
  expected = oracle_loss(name, rewards, data, options)
  np.testing.assert_allclose(loss, expected, rtol=2e-6)
  np.testing.assert_allclose(metrics["loss"], expected, rtol=2e-6)
  gradients, derivatives = by_example(gradient, batch), oracle_gradient(name, rewards, data, options)
  for i in rewards:
    np.testing.assert_allclose(gradients[i], derivatives[i], rtol=1e-4, atol=1e-7)
  assert (np.asarray(gradient)[np.asarray(batch.answer_end) == 0] == 0).all()


def zip_leaves(one, other):
  return zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)


@pytest.mark.slow
def test_through_a_model_it_is_binary_cross_entropy_with_the_difference_as_logit():
  data = dataset(varied=False)
  batch, params = batch_of(data), params_of(ALONE)
  loss, gradient, _ = step_of(RewardObjective(ALONE), params, batch)
  flat = batch.flat()
  rewards = by_example(rewards_of(ALONE, params, flat), flat)
  logits = np.array([r[0, 0] - r[1, 0] for r in rewards.values()])
  probability = 1 / (1 + np.exp(-logits))
  expected = -np.mean(1 * np.log(probability) + (1 - 1) * np.log1p(-probability))
  # A pair's loss moves at most as far as its two rewards.
  assert_sums_close(loss, expected, expected + sum(np.abs(r).sum() for r in rewards.values()) / len(data))
  cotangent = np.zeros((*flat.answer_end.shape, 1), np.float32)
  for r, e in zip(*np.nonzero(np.asarray(flat.example_index) >= 0), strict=True):
    chosen, rejected = rewards[int(flat.example_index[r, e])][:, 0]
    share = (1 / (1 + np.exp(rejected - chosen)) - 1) / len(data)  # BCE's derivative: probability - label
    cotangent[r, 2 * e : 2 * e + 2, 0] = share, -share
  assert_gradients_close(gradient, pulled_back(ALONE, params, flat, cotangent))


@pytest.mark.sampled(1)
@pytest.mark.slow
@pytest.mark.parametrize(("name", "answers", "options"), [CASES[1], CASES[4]])
def test_one_and_four_row_groups_agree(name, answers, options):
  data, params = dataset(answers, size=12), params_of(ENSEMBLE)
  objective = RewardObjective(ENSEMBLE, spec_of(name, options), bootstrap=True)
  together, apart = (batch_of(data, rows=rows, row_length=32) for rows in (12, 1))
  assert int(together.num_groups) == 1 and int(apart.num_groups) >= 4
  loss, gradient, metrics = step_of(objective, params, together, options)
  other_loss, other_gradient, other_metrics = step_of(objective, params, apart, options)
  # Margins cancel, and each is as exact as the two rewards of the ensemble's mean that it compares.
  size = np.sum(np.abs(rewards_of(ENSEMBLE, params, together.flat()))) / HEADS
  assert_sums_close(loss, other_loss, loss + size / len(data))
  assert_gradients_close(gradient, other_gradient)
  for metric, (value, count) in metrics.items():
    assert_sums_close(other_metrics[metric][0], value, abs(value) + size, err_msg=metric)
    np.testing.assert_array_equal(other_metrics[metric][1], count, err_msg=metric)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "answers", "options"), [CASES[1], CASES[2], CASES[4]])
def test_an_example_of_weight_0_is_not_there(name, answers, options):
  """Other tokens in it change neither loss nor any bit of the gradient."""
  data, params = dataset(answers), params_of(ALONE)
  objective = RewardObjective(ALONE, spec_of(name, options))
  assert data[4].weight == 0
  first = data[4].answers[0]
  other = dataclasses.replace(data[4], answers=((first % 7 + 1).astype(np.int32), *data[4].answers[1:]))
  changed = TokenDataset([other if i == 4 else data[i] for i in range(len(data))])
  batches = Batches(data, BatchSettings(size=len(data), rows=2, row_length=48))
  one = step_of(objective, params, batches(0), options)
  # The same order of examples for both: it depends on the data set's fingerprint.
  same_places = Batches(changed, BatchSettings(size=len(data), rows=2, row_length=48))
  same_places.indices = batches.indices
  for a, b in zip_leaves(one, step_of(objective, params, same_places(0), options)):
    np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_trap_1_rewards_of_one_head_do_not_spread_over_the_batch():
  """[B, 1] - [B] would compare every answer with every other one: then one pair's reward would move another's loss."""
  batch = batch_of(dataset(varied=False, size=4)).group(0)
  objective = RewardObjective(ALONE)
  observed = some_rewards(batch, 1)

  def share(observed):
    return objective.loss(observed, batch, objective.normalizers(batch), {})[0]

  hessian = np.asarray(jax.jit(jax.hessian(share))(observed)).reshape(observed.size, observed.size)
  pair = np.arange(observed.size) // 2
  assert (hessian[pair[:, None] != pair[None, :]] == 0).all()
  assert hessian[np.asarray(batch.answer_end).ravel() > 0].any(axis=1).all()


@pytest.mark.slow
def test_bootstrap_gives_every_head_weights_of_its_own_that_stay_the_same():
  data = dataset()
  batch = batch_of(data).flat()
  objective = RewardObjective(ENSEMBLE, bootstrap=True, seed=3)
  index = jnp.arange(len(data))
  weights = np.asarray(objective._weight(index, jnp.ones(len(data))), np.float64)
  assert len(np.unique(weights)) == weights.size
  np.testing.assert_array_equal(objective._weight(index[::-1], jnp.ones(len(data))), weights[::-1])
  assert (RewardObjective(ENSEMBLE, bootstrap=True, seed=4)._weight(index, jnp.ones(len(data))) != weights).all()

  observed = some_rewards(batch, HEADS)
  loss, _, metrics = at_rewards(objective, batch, observed)
  rewards = by_example(observed, batch)
  np.testing.assert_allclose(loss, oracle_loss("bradley_terry", rewards, data, {}, boot=weights), rtol=2e-6)
  plain = oracle_loss("bradley_terry", rewards, data, {})
  np.testing.assert_allclose(metrics["loss"], plain, rtol=2e-6)
  assert abs(plain - float(loss)) > 1e-3


def test_bootstrap_weights_are_exponential():
  objective = RewardObjective(RewardModel(MODEL, 5), bootstrap=True)
  weights = np.asarray(objective._weight(jnp.arange(4000), jnp.ones(4000)))
  quantiles = np.quantile(weights, [0.1, 0.5, 0.9])
  np.testing.assert_allclose(quantiles, -np.log([0.9, 0.5, 0.1]), rtol=0.05)


@pytest.mark.slow
def test_metrics_of_pairs():
  data = dataset(size=10)
  batch = batch_of(data).flat()
  observed = some_rewards(batch, HEADS)
  found = at_rewards(RewardObjective(ENSEMBLE), batch, observed)[2]
  rewards = by_example(observed, batch)
  used = [i for i in rewards if data[i].weight > 0]
  pairs = np.array([rewards[i] for i in used])  # [n, 2, H]
  mean, label = pairs.mean(axis=2), np.array([data[i].label for i in used])
  margin = mean[:, 0] - mean[:, 1]
  decided = label != 0.5
  assert 0 < decided.sum() < len(used)
  expected = {
    "rewards/chosen": mean[:, 0].mean(),
    "rewards/rejected": mean[:, 1].mean(),
    "rewards/margins": margin.mean(),
    "rewards/accuracies": np.mean(np.where(label == 1, margin > 0, margin < 0)[decided]),
    "rewards/mean": mean.mean(),
    "rewards/square": (mean**2).mean(),
    "rewards/disagreement": (pairs[:, 0] - pairs[:, 1]).std(axis=1).mean(),
    "length/chosen": np.mean([len(data[i].answers[0]) for i in used]),
    "length/rejected": np.mean([len(data[i].answers[1]) for i in used]),
    "loss": oracle_loss("bradley_terry", rewards, data, {}),
  }
  assert sorted(found) == sorted(expected)
  for name, value in expected.items():
    np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.slow
def test_metrics_of_rankings_weigh_every_prompt_alike():
  data = dataset((2, 5, 3), varied=False)
  batch = batch_of(data, row_length=64).flat()
  observed = some_rewards(batch, 1)
  found = at_rewards(RewardObjective(ALONE, loss_spec("plackett_luce")), batch, observed)[2]
  rewards = [r[:, 0] for r in by_example(observed, batch).values()]
  right = [np.mean([a > b for a, b in itertools.combinations(r, 2)]) for r in rewards]
  np.testing.assert_allclose(found["rewards/accuracies"], np.mean(right), rtol=1e-6)
  np.testing.assert_allclose(found["rewards/rejected"], np.mean([r[1:].mean() for r in rewards]), rtol=1e-5)
  np.testing.assert_allclose(found["rewards/margins"], np.mean([r[0] - r[1:].mean() for r in rewards]), rtol=1e-5)
  assert "rewards/disagreement" not in found


@pytest.mark.slow
def test_equal_rewards_are_no_right_order():
  batch = batch_of(dataset(varied=False)).flat()
  loss, _, found = at_rewards(RewardObjective(ALONE), batch, some_rewards(batch, 1) * 0)
  assert found["rewards/accuracies"] == 0
  np.testing.assert_allclose(loss, np.log(2), rtol=1e-6)


def test_rankings_are_refused_by_losses_of_pairs():
  batch = batch_of(dataset((3,))).flat()
  with pytest.raises(ValueError, match="bradley_terry compares two answers, but examples have 3"):
    at_rewards(RewardObjective(ALONE), batch, some_rewards(batch, 1))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bradley_terry", "rao_kupper", "davidson", "plackett_luce", "all_pairs"])
def test_extreme_rewards_have_finite_losses_and_gradients(name):
  batch = batch_of(dataset()).flat()
  for scale in (1e4, -1e4):
    loss, gradient, _ = at_rewards(RewardObjective(ALONE, loss_spec(name)), batch, some_rewards(batch, 1) * scale)
    assert np.isfinite(loss) and np.isfinite(gradient).all() and (np.asarray(gradient) != 0).any()
