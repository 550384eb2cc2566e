"""The training step: grouping does not matter, bad steps change nothing, hyper-parameters do not recompile."""

import dataclasses

import jax
import numpy as np
import pytest

from dpojax.config.schema import OptimizerSettings, ParallelSettings
from dpojax.losses.spec import loss_spec
from dpojax.objectives.preference import Preference
from dpojax.objectives.sft import Sft
from dpojax.parallel import make_mesh
from dpojax.training.optimizer import decay_mask, make_optimizer, make_schedule
from dpojax.training.step import accumulate, make_train_step, place_hyper
from dpojax.training.trainer import Trainer
from tests.tolerances import assert_gradients_close
from tests.training.tiny import MODEL, tiny_batches, tiny_dataset, tiny_params, train

pytestmark = pytest.mark.slow

HYPER = {"beta": 0.1}
OPTIMIZER = OptimizerSettings(learning_rate=1e-3)


def trainer():
  params = tiny_params()
  return Trainer(Preference(MODEL), make_optimizer(OPTIMIZER, 20), params, reference_params=params, hyper=HYPER)


def moved(params, scale=0.3):
  """Other parameters than the reference's, so that losses and gradients are not those of the start."""
  keys = iter(jax.random.split(jax.random.key(9), 100))
  return jax.tree.map(lambda x: x + scale * jax.random.normal(next(keys), x.shape) * np.float32(0.1), params)


def gradient_of(objective, batches):
  params = tiny_params()
  hyper = place_hyper(HYPER, make_mesh(ParallelSettings()))
  frozen = params if isinstance(objective, Preference) else {}
  return jax.jit(lambda p, b: accumulate(objective, p, frozen, b, hyper)[:3])(moved(params), batches(0))


@pytest.mark.parametrize("objective", [Preference(MODEL), Preference(MODEL, loss_spec("ipo")), Sft(MODEL)])
def test_loss_and_gradient_do_not_depend_on_grouping_or_packing(objective):
  dataset = tiny_dataset()
  loss, gradient, metrics = gradient_of(objective, tiny_batches(dataset, rows=8, row_length=64))
  for changes in (dict(rows=1), dict(rows=3, row_length=64, share_prompt=False)):
    other_loss, other_gradient, other_metrics = gradient_of(objective, tiny_batches(dataset, **changes))
    np.testing.assert_allclose(loss, other_loss, rtol=1e-5)
    assert_gradients_close(gradient, other_gradient)
    for name, (value, count) in metrics.items():
      np.testing.assert_allclose(other_metrics[name][0], value, rtol=2e-4, atol=1e-4, err_msg=name)
      np.testing.assert_allclose(other_metrics[name][1], count, rtol=1e-6, err_msg=name)


def test_sft_gradient_is_that_of_the_mean_over_all_tokens():
  batches = tiny_batches(size=3, rows=1, row_length=32)

  def mean_nll(params):
    batch = batches(0)
    groups = [MODEL.score(params, batch.group(g)).logp for g in range(int(batch.num_groups))]
    return -sum(g.sum() for g in groups) / int(np.sum(batch.filled))

  params = moved(tiny_params())
  loss, gradient, *_ = accumulate(Sft(MODEL), params, {}, batches(0), {})
  expected_loss, expected = jax.value_and_grad(mean_nll)(params)
  np.testing.assert_allclose(loss, expected_loss, rtol=1e-6)
  assert_gradients_close(gradient, expected)


def test_first_loss_with_a_live_reference_is_log_two():
  ((_, metrics),) = train(trainer(), tiny_batches(), 1)
  assert abs(metrics["loss"] - np.log(2)) <= 1e-6
  assert metrics["rewards/margins"] == 0 and metrics["rewards/accuracies"] == 0


def test_training_lowers_the_loss_on_pairs_it_saw():
  losses = [m["loss"] for _, m in train(trainer(), tiny_batches(tiny_dataset(8)), 20)]
  assert losses[-1] < 0.9 * losses[0]


def test_the_step_is_compiled_once_and_said_to_be_before_it_runs():
  # An optimizer of its own, so that no other test has compiled this step.
  one = trainer()
  own = make_optimizer(OptimizerSettings(learning_rate=1.0, b1=0.86), 20)
  one._step = make_train_step(Preference(MODEL), own.in_place(), one.mesh)
  seen, compiled = [], []
  jax.monitoring.register_event_duration_secs_listener(
    lambda name, _seconds, **about: compiled.append(about) if name.endswith("backend_compile_duration") else None
  )
  try:
    one.when_compiled = lambda: seen.append((int(one.state.step), len(compiled)))
    batch = one.place(tiny_batches()(0))
    jax.block_until_ready(one.take_step(batch))
    after_first = len(compiled)
    jax.block_until_ready(one.take_step(batch))
  finally:
    jax.monitoring.clear_event_listeners()
  assert len(seen) == 1 and seen[0][0] == 0
  assert seen[0][1] >= 1 and after_first == seen[0][1], "the step was compiled a second time when it was called"
  assert len(compiled) == after_first


@pytest.mark.parametrize(("losses", "passes"), [("dpo", 1), ("aot", 2)])
def test_the_objective_is_traced_once_for_every_pass_over_the_groups(losses, passes, monkeypatch):
  forward, traced = Preference.forward, []
  monkeypatch.setattr(Preference, "forward", lambda *given: traced.append(given) or forward(*given))
  gradient_of(Preference(MODEL, loss_spec(losses)), tiny_batches())
  assert len(traced) == passes


def test_hyper_parameters_are_traced_so_a_sweep_compiles_once():
  batches = tiny_batches()
  # An optimizer of its own, so that no other test has compiled this step.
  optimizer = dataclasses.replace(OPTIMIZER, b1=0.87)
  step = make_train_step(Preference(MODEL), make_optimizer(optimizer, 20).in_place(), make_mesh(ParallelSettings()))
  results = []
  for beta, rate, smoothing in ((0.05, 1e-3, 0.0), (0.1, 1e-3, 0.0), (0.5, 2e-3, 0.1), (1.0, 1e-4, 0.2)):
    one = Trainer(
      Preference(MODEL, loss_spec("dpo", beta=beta)),
      make_optimizer(dataclasses.replace(optimizer, learning_rate=rate), 20),
      tiny_params(),
      reference_params=tiny_params(),
      hyper={"beta": beta, "label_smoothing": smoothing},
    )
    results.append(train(one, batches, 3)[-1][1]["loss"])
  assert step._cache_size() == 1
  assert len(set(results)) == 4


def test_a_step_that_is_not_finite_changes_nothing_and_is_counted():
  one = trainer()
  before = jax.device_get(one.state)
  one.hyper["beta"] = float("nan")
  metrics = [m for _, m in train(one, tiny_batches(), 2)]
  after = jax.device_get(one.state)
  for x, y in zip(
    jax.tree.leaves((before.params, before.opt_state)), jax.tree.leaves((after.params, after.opt_state)), strict=True
  ):
    np.testing.assert_array_equal(x, y)
  assert int(after.step) == 2 and int(after.skipped) == 2
  assert [m["skipped_in_row"] for m in metrics] == [1, 2]
  one.hyper["beta"] = 0.1
  ((_, good),) = train(one, tiny_batches(), 1)
  assert good["skipped_in_row"] == 0 and good["skipped"] == 2
  assert any(
    np.any(x != y) for x, y in zip(*map(jax.tree.leaves, (before.params, jax.device_get(one.params))), strict=True)
  )


def test_weight_zero_removes_a_pair_exactly():
  dataset = tiny_dataset(8)
  examples = [dataset[i] for i in range(8)]
  light = [dataclasses.replace(e, weight=0.0 if i == 3 else 1.0) for i, e in enumerate(examples)]
  without = [e for i, e in enumerate(examples) if i != 3]
  from dpojax.data.examples import TokenDataset

  loss, gradient, _ = gradient_of(Preference(MODEL), tiny_batches(TokenDataset(light)))
  other_loss, other_gradient, _ = gradient_of(Preference(MODEL), tiny_batches(TokenDataset(without), size=7))
  np.testing.assert_allclose(loss, other_loss, rtol=1e-6)
  assert_gradients_close(gradient, other_gradient)


def test_decay_goes_by_declaration_and_spares_norms_and_embeddings():
  mask = decay_mask("matrices", MODEL.parameters)
  assert mask["layers"]["query"] and mask["layers"]["down"]
  assert not mask["layers"]["attention_norm"] and not mask["final_norm"] and not mask["embed"]
  assert decay_mask("with_embeddings", MODEL.parameters)["embed"]
  assert all(jax.tree.leaves(decay_mask("all", MODEL.parameters)))


@pytest.mark.parametrize(
  ("schedule", "expected"),
  [
    ("constant", [0.5, 1, 1, 1, 1, 1]),
    ("linear", [0.5, 1, 1, 0.75, 0.5, 0.25]),
    ("cosine", [0.5, 1, 1, 0.853553, 0.5, 0.146447]),
  ],
)
def test_schedules_warm_up_and_then_fall(schedule, expected):
  share = make_schedule(OptimizerSettings(schedule=schedule, warmup_steps=2), steps=6)
  np.testing.assert_allclose([float(share(np.int32(s))) for s in range(6)], expected, rtol=1e-5)


def test_adamw_follows_its_equations_in_float64():
  """Three steps against Loshchilov & Hutter (arXiv:1711.05101, Alg. 2) with global clipping."""
  optimizer = OptimizerSettings(
    learning_rate=0.01, weight_decay=0.1, clip_norm=0.5, b1=0.8, b2=0.9, schedule="constant"
  )
  batches = tiny_batches()
  one = Trainer(Sft(MODEL), make_optimizer(optimizer, 3, MODEL.parameters), tiny_params())
  params = jax.tree.map(lambda x: np.float64(x), tiny_params())
  first = jax.tree.map(np.zeros_like, params)
  second = jax.tree.map(np.zeros_like, params)
  mask = decay_mask("matrices", MODEL.parameters)
  for t in range(1, 4):
    _, gradient, *_ = accumulate(Sft(MODEL), jax.tree.map(np.float32, params), {}, batches(t - 1), {})
    gradient = jax.tree.map(np.float64, gradient)
    norm = np.sqrt(sum(np.sum(g**2) for g in jax.tree.leaves(gradient)))
    gradient = jax.tree.map(lambda g, n=norm: g * min(1.0, 0.5 / n), gradient)
    first = jax.tree.map(lambda m, g: 0.8 * m + 0.2 * g, first, gradient)
    second = jax.tree.map(lambda v, g: 0.9 * v + 0.1 * g * g, second, gradient)
    params = jax.tree.map(
      lambda p, m, v, d, t=t: p - 0.01 * (m / (1 - 0.8**t) / (np.sqrt(v / (1 - 0.9**t)) + 1e-8) + 0.1 * d * p),
      params,
      first,
      second,
      mask,
    )
  train(one, batches, 3)
  for got, want in zip(jax.tree.leaves(one.params), jax.tree.leaves(params), strict=True):
    np.testing.assert_allclose(got, want, rtol=2e-3, atol=2e-5)
