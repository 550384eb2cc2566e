"""Any optax transformation trains any pytree as a plain optax loop does, resumes bit for bit, and gives what it says."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dpojax.config.schema import CheckpointSettings, OptimizerSettings
from dpojax.errors import ConfigError
from dpojax.objectives import Objective
from dpojax.objectives.sft import Sft
from dpojax.training.checkpoint import Checkpointer
from dpojax.training.optimizer import make_optimizer
from dpojax.training.trainer import Trainer, fetch
from tests.training.tiny import MODEL, tiny_batches, tiny_params, train


@dataclasses.dataclass(frozen=True)
class Line(Objective):
  """Least squares of tokens by their positions, sum |w0 x + w1 - y|^2 / rows: a tuple of two arrays, and no model."""

  def normalizers(self, batch):
    return {"rows": jnp.sum(jnp.any(jnp.asarray(batch.segment) >= 0, axis=-1)).astype(float)}

  def forward(self, params, reference_params, rows):
    position, token = (jnp.asarray(x).astype(float) / 8 for x in (rows.position, rows.tokens))
    error = params[0] * position[..., None] + params[1] - token[..., None]
    return jnp.where((jnp.asarray(rows.segment) >= 0)[..., None], error, 0.0)

  def loss(self, outputs, rows, normalizers, hyper):
    loss = hyper.get("scale", 1.0) * jnp.sum(jnp.square(outputs)) / normalizers["rows"]
    return loss, {"loss": (loss, jnp.ones((), loss.dtype))}


def line_params():
  return jnp.linspace(-1.0, 1.0, 3)[None, None], jnp.full((1, 1, 3), 0.5)


TRANSFORMATIONS = {
  "momentum": lambda: optax.sgd(0.01, momentum=0.9),
  "adamw": lambda: optax.adamw(0.01, weight_decay=0.1),
  "lion": lambda: optax.lion(0.003),
  "adafactor": lambda: optax.adafactor(0.01, min_dim_size_to_factor=8),
  "chain": lambda: optax.chain(optax.clip_by_global_norm(0.3), optax.adam(0.01)),
  "several": lambda: optax.MultiSteps(optax.adam(0.01), every_k_schedule=2),
  "schedule": lambda: optax.adam(optax.cosine_decay_schedule(0.02, 6)),
  "injected": lambda: optax.inject_hyperparams(optax.adam)(learning_rate=optax.linear_schedule(0.02, 0.0, 6)),
  "schedule_free": lambda: optax.contrib.schedule_free_sgd(0.01),
  "plateau": lambda: optax.chain(optax.sgd(0.02), optax.contrib.reduce_on_plateau(patience=1, cooldown=0)),
  "ours in a chain": lambda: optax.chain(
    make_optimizer(OptimizerSettings(learning_rate=0.01, weight_decay=0.1), 6, MODEL.parameters), optax.scale(0.5)
  ),
}


def by_hand(objective, optimizer, params, batches, steps):
  """Parameters after `steps` steps of a plain optax loop on the gradient of the whole batch, which has one group."""

  @jax.jit
  def whole(params, rows):
    loss = lambda p: objective.loss(objective.forward(p, {}, rows), rows, objective.normalizers(rows), {})[0]  # noqa: E731
    return jax.value_and_grad(loss)(params)

  with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
    state = optimizer.init(params)
    for step in range(steps):
      value, gradient = whole(params, batches(step).flat())
      more = {"value": value} if isinstance(optimizer, optax.GradientTransformationExtraArgs) else {}
      updates, state = optimizer.update(gradient, state, params, **more)
      params = optax.apply_updates(params, updates)
  return params


def assert_trees_close(found, expected, **tolerance):
  assert jax.tree.structure(found) == jax.tree.structure(expected)
  for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
    np.testing.assert_allclose(a, b, **tolerance)


@pytest.mark.sampled(5)
@pytest.mark.slow
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", sorted(set(TRANSFORMATIONS) - {"ours in a chain"}))
def test_a_tuple_of_arrays_goes_where_a_plain_loop_takes_it(name):
  batches, optimizer = tiny_batches(), TRANSFORMATIONS[name]()
  assert int(batches(0).num_groups) > 1
  one = Trainer(Line(), optimizer, line_params())
  train(one, batches, 5)
  assert_trees_close(one.params, by_hand(Line(), TRANSFORMATIONS[name](), line_params(), batches, 5), rtol=1e-11)
  assert one._step._cache_size() == 1


# Ours beside another, and those whose state has not the shape of the parameters; the others are above.
@pytest.mark.sampled(1)
@pytest.mark.slow
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", ["ours in a chain", "adafactor", "several"])
def test_a_model_goes_where_a_plain_loop_takes_it(name):
  batches = tiny_batches()
  start = jax.tree.map(lambda x: x.astype(float), tiny_params())
  one = Trainer(Sft(MODEL), TRANSFORMATIONS[name](), start)
  with jax.numpy_dtype_promotion("standard"):  # the objective weighs tokens in float32
    train(one, batches, 4)
  # Adam divides by the root of tiny second moments, which turns the last bits of a gradient into 1e-10 of an update.
  assert_trees_close(one.params, by_hand(Sft(MODEL), TRANSFORMATIONS[name](), start, batches, 4), rtol=1e-8, atol=1e-10)


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
def test_our_optimizer_is_an_optax_transformation():
  """Its `update`, in a plain loop, and its update in place give the same."""
  settings = OptimizerSettings(learning_rate=0.01, weight_decay=0.1, decay_rule="all", warmup_steps=2, clip_norm=0.5)
  optimizer = make_optimizer(settings, 6)
  one = Trainer(Line(), optimizer, line_params())
  train(one, tiny_batches(), 5)
  # The learning rate is float32 in the step.
  assert_trees_close(one.params, by_hand(Line(), optimizer, line_params(), tiny_batches(), 5), rtol=1e-7)
  assert make_optimizer(settings, 6) == optimizer != make_optimizer(settings, 7)


def test_what_decays_must_be_declared():
  with pytest.raises(ConfigError, match="give make_optimizer the objective's `parameters`"):
    make_optimizer(OptimizerSettings(weight_decay=0.1), 6)


@pytest.mark.sampled(2)
@pytest.mark.slow
@pytest.mark.parametrize("name", ["adafactor", "several", "injected", "schedule_free"])
def test_a_checkpoint_of_any_optimizer_goes_on_bit_for_bit(name, tmp_path):
  batches = tiny_batches()
  straight = Trainer(Line(), TRANSFORMATIONS[name](), line_params())
  again = Trainer(Line(), TRANSFORMATIONS[name](), line_params())
  train(straight, batches, 3)
  with Checkpointer(tmp_path, CheckpointSettings()) as checkpointer:
    checkpointer.save(3, straight.state)
    checkpointer.wait()
    step, again.state = checkpointer.restore(again.abstract_state)
  assert step == 3
  for one in (straight, again):
    train(one, batches, 3)
  for a, b in zip(*map(jax.tree.leaves, (straight.state, again.state)), strict=True):
    np.testing.assert_array_equal(a, b)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["adamw", "several", "injected"])
def test_a_step_that_is_not_finite_changes_nothing(name):
  one = Trainer(Line(), TRANSFORMATIONS[name](), line_params(), hyper={"scale": 1.0})
  train(one, tiny_batches(), 1)
  before = jax.device_get((one.params, one.state.opt_state))
  one.hyper["scale"] = float("nan")
  ((_, metrics),) = train(one, tiny_batches(), 1)
  assert metrics["skipped"] == metrics["skipped_in_row"] == 1
  jax.tree.map(np.testing.assert_array_equal, before, jax.device_get((one.params, one.state.opt_state)))
  one.hyper["scale"] = 1.0
  ((_, metrics),) = train(one, tiny_batches(), 1)
  assert metrics["skipped_in_row"] == 0
  assert any((a != b).any() for a, b in zip(*map(jax.tree.leaves, (before[0], one.params)), strict=True))


@pytest.mark.slow
def test_a_learning_rate_inside_an_optax_object_stays():
  one = Trainer(Line(), optax.adam(1e-3), line_params())
  with pytest.raises(ConfigError, match=r"part of the optax optimizer.*inject_hyperparams.*or build another"):
    one.hyper["learning_rate"] = 0.1
  with pytest.raises(ConfigError, match="part of the optax optimizer"):
    Trainer(Line(), optax.adam(1e-3), line_params(), hyper={"learning_rate": 0.1})
  scheduled = Trainer(Line(), TRANSFORMATIONS["injected"](), line_params())
  with pytest.raises(ConfigError, match="no schedule"):
    scheduled.hyper["learning_rate"] = 0.1
  ((_, first), (_, second)) = train(scheduled, tiny_batches(), 2)
  np.testing.assert_allclose([first["learning_rate"], second["learning_rate"]], [0.02, 0.02 * 5 / 6], rtol=1e-6)
  ((_, metrics),) = train(one, tiny_batches(), 1)
  assert "learning_rate" not in metrics


@pytest.mark.slow
def test_an_injected_learning_rate_may_be_changed_between_steps():
  def moved(rate):
    one = Trainer(Line(), optax.inject_hyperparams(optax.sgd)(learning_rate=0.01), line_params())
    one.hyper["learning_rate"] = rate
    ((_, metrics),) = train(one, tiny_batches(), 1)
    np.testing.assert_allclose(metrics["learning_rate"], rate, rtol=1e-6)
    return np.asarray(one.params[1] - line_params()[1])

  np.testing.assert_allclose(moved(0.02), 2 * moved(0.01), rtol=1e-5)
  assert np.abs(moved(0.01)).max() > 1e-3


def test_a_number_of_no_such_name_is_refused():
  one = Trainer(Line(), make_optimizer(OptimizerSettings(), 6), line_params(), hyper={"beta": 0.1})
  for change in (lambda: one.hyper.__setitem__("betaa", 0.5), lambda: one.hyper.update(betaa=0.5)):
    with pytest.raises(ConfigError, match='no such number; did you mean "beta"'):
      change()
  assert dict(one.hyper) == {"learning_rate": 1e-6, "beta": 0.1}


def test_settings_are_no_optimizer():
  with pytest.raises(ConfigError, match=r"optimizer is of OptimizerSettings.*make_optimizer\(settings"):
    Trainer(Line(), OptimizerSettings(), line_params())  # pyright: ignore[reportArgumentType]


def test_each_yielded_step_finds_its_own_state_and_leaving_early_stays_there():
  batches, expected = tiny_batches(), []
  alone = Trainer(Line(), optax.adam(0.01), line_params())
  for step in range(4):
    metrics = alone.take_step(alone.place(batches(step)))
    expected.append((fetch(metrics)["loss"], jax.device_get(alone.params)))
  one = Trainer(Line(), optax.adam(0.01), line_params())
  for step, metrics in one.steps(batches, until=4):
    assert isinstance(metrics["loss"][0], jax.Array)
    assert int(one.state.step) == step
    assert fetch(metrics)["loss"] == expected[step - 1][0]
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(one.params), expected[step - 1][1])
    if step == 3:
      break
  assert int(one.state.step) == 3
  jax.tree.map(np.testing.assert_array_equal, jax.device_get(one.params), expected[2][1])
  assert [step for step, _ in one.steps(batches, until=9, stop=lambda step: step == 5)] == [4, 5]
  assert int(one.state.step) == 5
