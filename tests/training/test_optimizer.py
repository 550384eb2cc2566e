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


@pytest.mark.parametrize("name", ["adamw", "rmsprop"])
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


@pytest.mark.parametrize("name", ["adamw", "rmsprop"])
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
