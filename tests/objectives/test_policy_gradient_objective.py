"""The policy-gradient objective against loops over answers in float64, however rows are packed and grouped."""

import dataclasses
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpojax.data.packing import BatchShape
from dpojax.models.config import ModelConfig
from dpojax.models.language_model import LanguageModel
from dpojax.models.reward_model import RewardModel
from dpojax.objectives.policy_gradient import PolicyGradient, PolicyOutput
from dpojax.rollout.packed_rows import PackedRows
from dpojax.training.step import accumulate

CONFIG = ModelConfig(vocab_size=16, hidden=8, layers=1, heads=2, kv_heads=1, ffn=16, max_positions=64)
MODEL = LanguageModel(CONFIG, chunk=32, remat="none")

pytestmark = pytest.mark.usefixtures("float64")

LENGTHS = [[5, 1, 3], [2, 7, 4], [1, 1, 6], [3, 2, 2]]
A, T = 12, 7
HYPER = dict(  # none that a loss has by default
  clip=0.3, dual_clip=2.5, value_clip=0.35, value_coef=0.3, entropy_coef=0.4, update_kl_limit=0.02, kl_coef=0.15
)
# groups, rows, row length, answers an example: an example alone or with others, its answers together or apart.
SHAPES = {
  "one row a group": BatchShape(groups=8, rows=1, length=24, scored=24, examples=3, answers=3),
  "all in one group": BatchShape(groups=1, rows=6, length=40, scored=40, examples=4, answers=3),
  "answers apart": BatchShape(groups=12, rows=2, length=16, scored=16, examples=6, answers=1),
}
REDUCTIONS = ("token", "answer", "sequence", "constant")


def sizes():
  return np.concatenate(LENGTHS)


def mask():
  return np.arange(T)[None] < sizes()[:, None]


def rows_of(shape):
  random = np.random.default_rng(0)
  ids = lambda length: random.integers(1, CONFIG.vocab_size, length).astype(np.int32)  # noqa: E731
  prompts = [ids(n) for n in (3, 5, 2, 4)]
  return PackedRows(prompts, [[ids(n) for n in several] for several in LENGTHS], SHAPES[shape])


def drawn():
  """Arrays [A, T] of a roll-out and of what policy and critic say now, 0 behind an answer's end."""
  random = np.random.default_rng(1)
  names = ("behaviour_logp", "advantage", "old_value", "value_target", "reference_logp")
  batch = {name: random.normal(size=(A, T)) for name in names}
  now = {
    "logp": batch["behaviour_logp"] + random.normal(0, 0.4, (A, T)),
    "entropy": random.uniform(0.5, 2, (A, T)),
    "value": batch["old_value"] + random.normal(0, 0.3, (A, T)),
  }
  return [{name: np.where(mask(), x, 0.0) for name, x in part.items()} for part in (batch, now)]


def step_of(objective, shape, *, chosen=None, junk=0.0):
  """(loss, metrics as sums and counts) of a whole step, its groups' parts added; `junk` in outputs of empty slots."""
  rows, (batch, now) = rows_of(shape), drawn()
  chosen = np.arange(rows.count) if chosen is None else chosen
  packed = rows.batch(chosen, {name: rows.by_slot(x) for name, x in batch.items()})
  outputs = rows.batch(chosen, {"advantage": rows.by_slot(now["logp"]), "old_value": rows.by_slot(now["value"])})
  entropy = rows.batch(chosen, {"advantage": rows.by_slot(now["entropy"])}).advantage
  arrays = [np.where(packed.filled, x, junk) for x in (outputs.advantage, entropy, outputs.old_value)]
  normalizers, total, metrics = objective.normalizers(packed), 0.0, {}
  for g in range(int(packed.num_groups)):
    logp, entropy, value = (jnp.asarray(x[g]) for x in arrays)
    said = PolicyOutput(logp, entropy, value if objective.critic else None, None)
    loss, part = objective.loss(said, packed.group(g), normalizers, {k: jnp.float64(v) for k, v in HYPER.items()})
    total += float(loss)
    for name, (top, bottom) in part.items():
      before = metrics.get(name, (0.0, 0.0))
      metrics[name] = before[0] + float(top), before[1] + float(bottom)
  return total, metrics


def weight(reduction, a, longest):
  """What a token of answer `a` is multiplied with, from the definition of the mean."""
  return {
    "token": 1 / sizes().sum(),
    "answer": 1 / sizes()[a] / A,
    "sequence": 1 / A,
    "constant": 1 / (A * longest),
  }[reduction]


def by_hand(reduction, *, critic, kl_loss, entropy_bonus, longest):
  """(loss, its policy part) token by token, in Python's own floats."""
  batch, now = drawn()
  policy = other = 0.0
  for a, t in itertools.product(range(A), range(T)):
    if t >= sizes()[a]:
      continue
    w, advantage = weight(reduction, a, longest), batch["advantage"][a, t]
    ratio = math.exp(now["logp"][a, t] - batch["behaviour_logp"][a, t])
    held = min(max(ratio, 1 - HYPER["clip"]), 1 + HYPER["clip"])
    loss = max(-advantage * ratio, -advantage * held)
    if advantage < 0:
      loss = min(loss, -advantage * HYPER["dual_clip"])
    policy += w * loss
    if kl_loss:
      apart = batch["reference_logp"][a, t] - now["logp"][a, t]
      other += w * HYPER["kl_coef"] * (math.exp(apart) - 1 - apart)
    if entropy_bonus:
      other -= w * HYPER["entropy_coef"] * now["entropy"][a, t]
    if critic:
      value, old, target = now["value"][a, t], batch["old_value"][a, t], batch["value_target"][a, t]
      near = old + min(max(value - old, -HYPER["value_clip"]), HYPER["value_clip"])
      error = max((value - target) ** 2, (near - target) ** 2) / 2
      other += HYPER["value_coef"] * error / sizes().sum()  # always a mean over tokens
  return policy + other, policy


PARTS = {
  "policy": {},
  "critic": dict(critic=RewardModel(MODEL)),
  "k3": dict(kl_loss=True),
  "entropy": dict(entropy_bonus=True),
  "all": dict(critic=RewardModel(MODEL), kl_loss=True, entropy_bonus=True),
}


@pytest.mark.sampled(4)
@pytest.mark.slow
@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_the_loss_is_a_plain_loop_s_however_rows_are_grouped(reduction, parts):
  objective = PolicyGradient(MODEL, reduction=reduction, longest=9, **PARTS[parts])
  said = dict(dict(critic=None, kl_loss=False, entropy_bonus=False), **PARTS[parts])
  expected, policy = by_hand(reduction, longest=9, **said)
  for shape in SHAPES:
    loss, metrics = step_of(objective, shape, junk=7.0)
    np.testing.assert_allclose(loss, expected, rtol=1e-12, err_msg=shape)
    np.testing.assert_allclose(metrics["loss"], (expected, 1.0), rtol=1e-12, err_msg=shape)
    np.testing.assert_allclose(metrics["policy/loss"], (policy, 1.0), rtol=1e-12, err_msg=shape)


@pytest.mark.slow
def test_answers_of_one_token_at_most_make_the_constant_the_number_of_answers():
  loss, of_sequence = (
    step_of(PolicyGradient(MODEL, reduction=r), "one row a group")[0] for r in ("constant", "sequence")
  )
  np.testing.assert_allclose(loss, of_sequence, rtol=1e-14)


@pytest.mark.slow
def test_metrics_are_means_over_tokens():
  objective = PolicyGradient(MODEL, reduction="sequence", **PARTS["all"])
  batch, now = drawn()
  at = mask()
  moved, ratio = (now["logp"] - batch["behaviour_logp"])[at], np.exp(now["logp"] - batch["behaviour_logp"])[at]
  apart = (batch["reference_logp"] - now["logp"])[at]
  value, old, target = (x[at] for x in (now["value"], batch["old_value"], batch["value_target"]))
  near = old + np.clip(value - old, -HYPER["value_clip"], HYPER["value_clip"])
  expected = {
    "policy/approx_kl": np.mean(moved**2) / 2,
    "policy/clip_fraction": np.mean((ratio > 1 + HYPER["clip"]) | (ratio < 1 - HYPER["clip"])),
    "policy/ratio": np.mean(ratio),
    "policy/ratio_square": np.mean(ratio**2),
    "policy/ratio_variance": np.mean((ratio - 1) ** 2),
    "policy/entropy": np.mean(now["entropy"][at]),
    "policy/kl_loss": np.mean(np.exp(apart) - 1 - apart),
    "value/loss": np.mean(np.maximum((value - target) ** 2, (near - target) ** 2)) / 2,
    "value/clip_fraction": np.mean(np.abs(value - old) > HYPER["value_clip"]),
  }
  weights = np.exp(np.sum(np.where(at, now["logp"] - batch["behaviour_logp"], 0.0), axis=1))  # of whole answers
  expected |= {"policy/answer_ratio": np.mean(weights), "policy/answer_ratio_square": np.mean(weights**2)}
  for shape in SHAPES:
    _, metrics = step_of(objective, shape, junk=7.0)
    assert set(metrics) == {*expected, "loss", "policy/loss"}
    for name, want in expected.items():
      assert metrics[name][1] == (A if "answer" in name else sizes().sum()), name
      np.testing.assert_allclose(metrics[name][0] / metrics[name][1], want, rtol=1e-12, err_msg=name)
  assert set(step_of(PolicyGradient(MODEL), "all in one group")[1]) == {
    *(name for name in expected if name not in ("policy/kl_loss", "value/loss", "value/clip_fraction")),
    *("loss", "policy/loss"),
  }


@pytest.mark.slow
def test_metrics_carry_no_gradient():
  rows, (batch, now) = rows_of("all in one group"), drawn()
  packed = rows.batch(np.arange(rows.count), {name: rows.by_slot(x) for name, x in batch.items()})
  logp = rows.batch(np.arange(rows.count), {"advantage": rows.by_slot(now["logp"])}).advantage[0]
  objective = PolicyGradient(MODEL)

  def metric(logp):
    said = PolicyOutput(logp, jnp.zeros_like(logp), None, None)
    _, metrics = objective.loss(said, packed.group(0), objective.normalizers(packed), HYPER)
    return sum(top for top, _ in metrics.values())

  np.testing.assert_array_equal(jax.grad(metric)(jnp.asarray(logp)), 0.0)


def test_normalizers_count_the_step_s_tokens_and_answers_and_are_never_0():
  for shape in SHAPES:
    rows, objective = rows_of(shape), PolicyGradient(MODEL)
    found = objective.normalizers(rows.batch(np.arange(rows.count)))
    assert (float(found["tokens"]), float(found["answers"])) == (sizes().sum(), A)
    none = objective.normalizers(rows.batch(np.arange(0)))
    assert (float(none["tokens"]), float(none["answers"])) == (1.0, 1.0)


@pytest.mark.slow
def test_an_answer_of_one_token_to_a_prompt_of_one_counts():
  one = np.ones(1, np.int32)
  rows = PackedRows([one, one], [[one], [one]], BatchShape(groups=2, rows=1, length=2, scored=2, examples=1, answers=1))
  objective, none = PolicyGradient(MODEL), np.zeros((2, 2))
  batch = rows.batch(np.arange(2), {"behaviour_logp": none, "advantage": none})
  found, zeros = objective.normalizers(batch), jnp.zeros((1, 2))
  assert (float(found["tokens"]), float(found["answers"])) == (2.0, 2.0)
  _, metrics = objective.loss(PolicyOutput(zeros, zeros, None, None), batch.group(0), found, HYPER)
  assert [float(x) for x in metrics["policy/answer_ratio"]] == [1.0, 1.0]


# Through the model.


def parameters(objective, seed=3, size=0.1):
  """Random parameters in float64 of everything that is trained."""
  random = np.random.default_rng(seed)
  declared = jax.tree.leaves_with_path(objective.parameters)
  arrays = [random.normal(0, size, p.shape) + (p.init == "ones") for _, p in declared]
  return jax.tree.unflatten(jax.tree.structure(objective.parameters), map(jnp.asarray, arrays))


def log_softmax(logits):
  return logits - np.log(np.sum(np.exp(logits), axis=-1, keepdims=True))


CRITICS = {
  "none": {},
  "its own": dict(critic=RewardModel(MODEL)),
  "shared": dict(critic=RewardModel(MODEL), shared=True),
}


@pytest.mark.sampled(1)
@pytest.mark.slow
@pytest.mark.parametrize("critic", CRITICS)
def test_forward_is_the_softmax_at_the_temperature(critic):
  objective = PolicyGradient(MODEL, temperature=0.7, **CRITICS[critic])
  params, rows = parameters(objective), rows_of("one row a group")
  group = rows.batch(np.arange(rows.count)).group(0)
  reference = parameters(PolicyGradient(MODEL), seed=8)["policy"]
  found = jax.jit(objective.forward)(params, reference, group)
  for weights, logp in ((params["policy"], found.logp), (reference, found.reference_logp)):
    hidden = np.asarray(MODEL.scored_hidden(weights, group))
    logs = log_softmax(np.asarray(MODEL.logits(weights, jnp.asarray(hidden))) / 0.7)
    drawn_logs = np.take_along_axis(logs, np.asarray(group.target)[..., None], -1)[..., 0]
    np.testing.assert_allclose(logp, np.where(group.filled, drawn_logs, 0.0), atol=1e-12)
  hidden = np.asarray(MODEL.scored_hidden(params["policy"], group))
  logs = log_softmax(np.asarray(MODEL.logits(params["policy"], jnp.asarray(hidden))) / 0.7)
  entropy = np.where(group.filled, -np.sum(np.exp(logs) * logs, axis=-1), 0.0)
  np.testing.assert_allclose(found.entropy, entropy, atol=1e-12)
  bonus = dataclasses.replace(objective, entropy_bonus=True)
  bonus = jax.jit(bonus.forward)(params, {}, group)
  np.testing.assert_allclose(bonus.entropy, entropy, atol=1e-12)
  assert bonus.reference_logp is None
  if critic == "none":
    assert found.value is None and "critic" not in objective.parameters
    return
  head = params["critic"]["score"]
  assert head.shape == (1, CONFIG.hidden)
  if critic == "its own":
    hidden = np.asarray(RewardModel(MODEL).scored_hidden(params["critic"], group))
    assert set(params["critic"]) == {*RewardModel(MODEL).parameters}
  else:
    assert set(params["critic"]) == {"score"}
  # Never divided by the temperature.
  np.testing.assert_allclose(found.value, np.where(group.filled, hidden @ np.asarray(head[0]), 0.0), atol=1e-12)


def batch_of(objective, params, shape="answers apart", seed=5):
  """A step whose ratios are about 1, most of them within the clip."""
  rows, random = rows_of(shape), np.random.default_rng(seed)
  every = np.arange(rows.count)
  per_slot = {name: np.zeros((rows.count, SHAPES[shape].scored)) for name in drawn()[0]}
  empty = rows.batch(every, per_slot)
  forward = jax.jit(objective.forward)
  said = [forward(params, {}, empty.group(g)) for g in range(int(empty.num_groups))]
  # Of chosen tokens and not of places in a shape, so that every packing has the same.
  noise = lambda scale: rows.by_slot(np.where(mask(), random.normal(0, scale, (A, T)), 0.0))  # noqa: E731
  logp = np.concatenate([x.logp for x in said])[: rows.count]
  value = np.concatenate([x.logp * 0 if x.value is None else x.value for x in said])[: rows.count]
  per_slot = dict(
    behaviour_logp=logp + noise(0.1),
    advantage=noise(1.0),
    old_value=value + noise(0.1),
    value_target=value + noise(1.0),
    reference_logp=logp + noise(0.5),
  )
  return rows.batch(every, per_slot)


@pytest.mark.sampled(1)
@pytest.mark.slow
@pytest.mark.parametrize(
  ("name", "options", "hyper"),
  [
    # Every term, weighed alike: one whose gradient were another's derivative would move the sum.
    ("its own critic", dict(entropy_bonus=True, temperature=0.7, **CRITICS["its own"]), dict(entropy_coef=3.0)),
    ("all", dict(kl_loss=True, entropy_bonus=True, temperature=1.5, reduction="answer", **CRITICS["shared"]), {}),
  ],
)
def test_gradients_are_finite_differences(name, options, hyper):
  objective = PolicyGradient(MODEL, **options)
  params = parameters(objective)
  batch = batch_of(objective, params)
  given = {key: jnp.float64(value) for key, value in (HYPER | hyper).items()}
  whole = jax.jit(lambda p, b: accumulate(objective, p, {}, b, given)[:2])
  _, gradient = whole(params, batch)
  for part in params:  # along a direction of the policy's parameters, and along one of the critic's
    direction = jax.tree.map(jnp.zeros_like, params) | {part: parameters(objective, seed=11, size=1.0)[part]}
    step = 1e-6
    moved = lambda by: jax.tree.map(lambda p, d: p + by * d, params, direction)  # noqa: E731, B023
    ahead, behind = (whole(moved(by), batch)[0] for by in (step, -step))
    along = sum(jnp.sum(g * d) for g, d in zip(*map(jax.tree.leaves, (gradient, direction)), strict=True))
    # Truncation is step^2 times a third derivative of some 100, rounding 1e-16 / step.
    np.testing.assert_allclose((ahead - behind) / (2 * step), along, rtol=1e-6, atol=1e-8)
    assert abs(float(along)) > 1e-3


@pytest.mark.slow
def test_entropy_moves_nothing_unless_it_is_asked_for():
  plain, bonus = PolicyGradient(MODEL), PolicyGradient(MODEL, entropy_bonus=True)
  params, group = parameters(plain), rows_of("all in one group").batch(np.arange(2)).group(0)
  entropy = lambda objective: lambda p: jnp.sum(objective.forward(p, {}, group).entropy)  # noqa: E731
  assert all(np.all(np.asarray(x) == 0) for x in jax.tree.leaves(jax.jit(jax.grad(entropy(plain)))(params)))
  assert any(np.any(np.asarray(x) != 0) for x in jax.tree.leaves(jax.jit(jax.grad(entropy(bonus)))(params)))


@pytest.mark.slow
def test_the_reference_moves_nothing():
  objective = PolicyGradient(MODEL)
  params, group = parameters(objective), rows_of("all in one group").batch(np.arange(2)).group(0)
  same = lambda p: jnp.sum(objective.forward(p, p["policy"], group).reference_logp)  # noqa: E731
  assert all(np.all(np.asarray(x) == 0) for x in jax.tree.leaves(jax.jit(jax.grad(same))(params)))


def test_what_is_declared_and_where_the_policy_is():
  own, shared = (PolicyGradient(MODEL, **CRITICS[name]) for name in ("its own", "shared"))
  assert own.parameters == {"policy": MODEL.parameters, "critic": RewardModel(MODEL).parameters}
  assert shared.parameters["critic"] == {"score": RewardModel(MODEL).parameters["score"]}
  assert PolicyGradient(MODEL).policy({"policy": 1, "critic": 2}) == 1
  assert own.running == {"kl_coef": 0.0, "next_kl_coef": 0.0, "begun_kl_coef": 0.0, "stopped": 0.0}


# Whether a step is taken.


@pytest.mark.parametrize(
  ("approx_kl", "limit", "stopped", "taken"),
  [
    (0.019, 0.02, 0.0, True),
    (0.02, 0.02, 0.0, True),
    (0.021, 0.02, 0.0, False),
    (0.021, 0.0, 0.0, True),  # 0: never
    (5.0, 0.0, 0.0, True),
    (0.0, 0.02, 1.0, False),  # once stopped, until the next roll-out
    (0.0, 0.0, 1.0, False),
  ],
)
def test_a_step_is_taken_until_the_policy_has_moved_too_far(approx_kl, limit, stopped, taken):
  metrics = {"policy/approx_kl": (jnp.float64(approx_kl * 64), jnp.float64(64))}
  found, running = PolicyGradient(MODEL).settle(
    metrics, {"stopped": jnp.float64(stopped)}, {"update_kl_limit": jnp.float64(limit)}
  )
  assert bool(found) == taken
  assert {name: float(x) for name, x in running.items()} == {"stopped": 0.0 if taken else 1.0}


def test_a_step_without_tokens_changes_nothing_of_that():
  metrics = {"policy/approx_kl": (jnp.zeros(()), jnp.zeros(()))}
  hyper = {"update_kl_limit": jnp.float64(0.02)}
  for stopped in (0.0, 1.0):
    taken, running = PolicyGradient(MODEL).settle(metrics, {"stopped": jnp.float64(stopped)}, hyper)
    assert bool(taken) == (stopped == 0) and float(running["stopped"]) == stopped


@pytest.mark.slow
@pytest.mark.parametrize("missing", ["behaviour_logp", "advantage", "reference_logp", "old_value", "value_target"])
def test_a_batch_that_is_of_no_rollout_is_an_error(missing):
  objective = PolicyGradient(MODEL, **PARTS["all"])
  rows, (batch, _) = rows_of("all in one group"), drawn()
  packed = rows.batch(np.arange(rows.count), {n: rows.by_slot(x) for n, x in batch.items() if n != missing})
  zeros = jnp.zeros(packed.target.shape[1:])
  with pytest.raises(ValueError, match="not of a roll-out"):
    objective.loss(PolicyOutput(zeros, zeros, zeros, None), packed.group(0), objective.normalizers(packed), HYPER)
