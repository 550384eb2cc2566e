import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dpojax.config.schema import OptimizerSettings
from dpojax.training.optimizer import decay_mask, gradient_norm, make_optimizer, make_update
from dpojax.types import Parameter


def draw(seed, scale=1.0):
  random = np.random.default_rng(seed)
  shapes = {"embed": (7, 3), "layers": {"query": (2, 3, 3), "attention_norm": (2, 3)}}
  return jax.tree.map(lambda s: jnp.asarray(scale * random.normal(size=s)), shapes, is_leaf=lambda s: type(s) is tuple)


DECLARED = {
  "embed": Parameter((7, 3), (None, None), decay="embedding"),
  "layers": {
    "query": Parameter((2, 3, 3), (None,) * 3, decay="matrix"),
    "attention_norm": Parameter((2, 3), (None,) * 2),
  },
}


def chained(settings):
  """The same from optax's own parts, clipping and direction included."""
  scale = {
    "adamw": optax.scale_by_adam(settings.b1, settings.b2, settings.eps),
    "rmsprop": optax.scale_by_rms(settings.rms_decay, settings.eps, eps_in_sqrt=False),
  }[settings.name]
  decay = optax.add_decayed_weights(settings.weight_decay, decay_mask(settings.decay_rule, DECLARED))
  return optax.chain(optax.clip_by_global_norm(settings.clip_norm), scale, decay)


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", ["adamw", "rmsprop"])
@pytest.mark.parametrize("size", [0.1, 10.0])  # gradients below and above the norm at which they are clipped
def test_an_update_is_that_of_optax_s_chain(name, size):
  settings = OptimizerSettings(name=name, clip_norm=3.0, weight_decay=0.1)
  optimizer, chain = make_optimizer(settings, 1, DECLARED), chained(settings)
  update = jax.jit(make_update(settings, optimizer.decayed))
  params = expected = draw(0)
  state, expected_state = optimizer.in_place().init(params), chain.init(params)
  for step in range(4):
    gradient = draw(step + 1, size)
    params, state = update(params, state, gradient, optax.global_norm(gradient), True, jnp.float64(0.01))
    with jax.numpy_dtype_promotion("standard"):
      change, expected_state = chain.update(gradient, expected_state, expected)
    expected = jax.tree.map(lambda p, u: p - 0.01 * u, expected, change)
  for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(expected), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-13)


def adam_of_tensorflow(gradients, *, rate, b1, b2, eps):
  """Changes of one array by Kingma and Ba (arXiv:1412.6980), end of section 2: "epsilon hat" beside the plain root."""
  first, second, changes = 0.0, 0.0, []
  for t, gradient in enumerate(gradients, 1):
    first = b1 * first + (1 - b1) * gradient
    second = b2 * second + (1 - b2) * gradient**2
    changes.append(-rate * np.sqrt(1 - b2**t) / (1 - b1**t) * first / (np.sqrt(second) + eps))
  return changes


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("way", ["in place", "as a transformation"])
def test_tensorflow_s_adam_is_its_formula(way):
  rate = 2**-7  # a schedule is float32, in which this one is exact
  settings = OptimizerSettings(name="adamw_tensorflow", learning_rate=rate, schedule="constant", clip_norm=0, eps=1e-2)
  optimizer = make_optimizer(settings, 1)
  # Of the size of eps and beyond, so that eps is seen.
  gradients = [0.03 * np.random.default_rng(step).normal(size=(4, 3)) for step in range(5)]
  expected = np.cumsum(adam_of_tensorflow(gradients, rate=rate, b1=settings.b1, b2=settings.b2, eps=1e-2), axis=0)
  params = {"w": jnp.zeros((4, 3))}
  state = optimizer.in_place().init(params) if way == "in place" else optimizer.init(params)
  update = jax.jit(make_update(settings, optimizer.decayed))
  for gradient, want in zip(gradients, expected, strict=True):
    if way == "in place":
      params, state = update(params, state, {"w": jnp.asarray(gradient)}, jnp.ones(()), True, jnp.float64(rate))
    else:
      changes, state = optimizer.update({"w": jnp.asarray(gradient)}, state, params)
      params = optax.apply_updates(params, changes)
    np.testing.assert_allclose(params["w"], want, rtol=1e-12)


@pytest.mark.usefixtures("float64")
def test_tensorflow_s_first_step_is_that_of_32_times_the_eps():
  gradient = {"w": jnp.asarray([1e-5, 1e-4, 1.0])}
  change = {}
  for name, eps in (("adamw_tensorflow", 1e-5), ("adamw", 1e-5 / np.sqrt(1e-3)), ("adamw plain", 1e-5)):
    settings = OptimizerSettings(name=name.split()[0], learning_rate=1.0, schedule="constant", clip_norm=0, eps=eps)
    optimizer = make_optimizer(settings, 1)
    change[name] = optimizer.update(gradient, optimizer.init(gradient), gradient)[0]["w"]
  assert 1 / np.sqrt(1e-3) == pytest.approx(31.6, abs=0.05)
  np.testing.assert_allclose(change["adamw_tensorflow"], change["adamw"], rtol=1e-12)
  # A gradient as large as eps moves half as far as one that is much larger, and 1/33 as far under TensorFlow's.
  np.testing.assert_allclose(change["adamw plain"][0], -1 / 2, rtol=1e-9)
  np.testing.assert_allclose(change["adamw_tensorflow"][0], -1 / (1 + 1 / np.sqrt(1e-3)), rtol=1e-9)


@pytest.mark.parametrize("name", ["adamw", "adamw_tensorflow", "rmsprop"])
def test_an_unsound_gradient_changes_nothing(name):
  settings = OptimizerSettings(name=name, clip_norm=1.0)
  params = jax.tree.map(lambda x: x.astype(jnp.float32), draw(0))
  optimizer = make_optimizer(settings, 1)
  state = optimizer.in_place().init(params)
  spoilt = jax.tree.map(lambda x: x * jnp.nan, params)
  after = jax.jit(make_update(settings, optimizer.decayed))(
    params, state, spoilt, jnp.float32(jnp.nan), False, jnp.float32(0.1)
  )
  for a, b in zip(jax.tree.leaves(after), jax.tree.leaves((params, state)), strict=True):
    assert np.array_equal(a, b)


@pytest.mark.parametrize("name", ["adamw", "adamw_tensorflow", "rmsprop"])
def test_an_update_of_donated_arrays_copies_none_of_them(name):
  """Its temporaries are smaller than one of the arrays that it changes."""
  settings = OptimizerSettings(name=name, clip_norm=1.0, weight_decay=0.1)
  params = {"layers": {"query": jnp.zeros((30, 64, 64))}}
  optimizer = make_optimizer(settings, 1, {"layers": {"query": Parameter((30, 64, 64), (None,) * 3, decay="matrix")}})
  assert optimizer.decayed
  state, norm = optimizer.in_place().init(params), jnp.float32(1)
  update = jax.jit(make_update(settings, optimizer.decayed), donate_argnums=(0, 1))
  compiled = update.lower(params, state, params, norm, jnp.array(True), norm).compile()
  analysis = compiled.memory_analysis()
  assert analysis is not None and analysis.temp_size_in_bytes < 30 * 64 * 64 * 4


@pytest.mark.usefixtures("float64")
def test_the_norm_is_that_of_all_arrays_together():
  gradient = draw(3)
  squares = sum(float(np.sum(np.square(np.asarray(x)))) for x in jax.tree.leaves(gradient))
  np.testing.assert_allclose(gradient_norm(gradient), np.sqrt(squares), rtol=1e-14)
