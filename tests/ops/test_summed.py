"""Gradients added in place are those that JAX adds by itself."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpojax.models.config import ModelConfig
from dpojax.models.language_model import LanguageModel
from dpojax.ops.summed import Summed, add_rows, plain, scan_layers, take
from dpojax.training.step import add_gradient
from dpojax.types import Parameter
from tests.training.tiny import tiny_batches

LAYERS, WORDS, WIDTH = 4, 7, 5


def draw(seed, scale=0.5):
  random = np.random.default_rng(seed)
  shapes = {"embed": (WORDS, WIDTH), "layers": {"a": (LAYERS, WIDTH, WIDTH), "b": (LAYERS, WIDTH)}, "norm": (WIDTH,)}
  return jax.tree.map(lambda s: jnp.asarray(scale * random.normal(size=s)), shapes, is_leaf=lambda s: type(s) is tuple)


def declared(params):
  """Layers and embedding may be added in place, whatever their axes are."""
  of = lambda x: Parameter(x.shape, (None,) * x.ndim, in_place=True)  # noqa: E731
  return jax.tree.map(of, {name: params[name] for name in ("embed", "layers")})


TOKENS = jnp.asarray([[1, 1, 6], [0, 1, 3]])  # a word several times: its rows add up


def plainly(params):
  """A tied network in JAX alone, with a Python loop over its layers."""
  x = params["embed"][TOKENS]
  for layer in range(LAYERS):
    x = x + jnp.tanh(x @ params["layers"]["a"][layer] + params["layers"]["b"][layer][None, None])
  return jnp.sum(jnp.sin((x * params["norm"][None, None]) @ params["embed"].T)), x


def summed(params):
  def body(x, layer):
    return x + jnp.tanh(x @ layer["a"] + layer["b"][None, None]), None

  x = scan_layers(body, take(params["embed"], TOKENS), params["layers"])
  return jnp.sum(jnp.sin((x * params["norm"][None, None]) @ plain(params["embed"]).T)), x


def reading(function):
  """What `add_gradient` differentiates, of a function of parameters."""
  return lambda params, read: function(read(params))


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("remat", [False, True])
def test_the_gradient_is_added_to_the_total(remat):
  params, total = draw(0), draw(1)
  (loss, rest), gradient = jax.value_and_grad(plainly, has_aux=True)(params)
  function = jax.checkpoint(summed) if remat else summed
  value, added, other = jax.jit(functools.partial(add_gradient, reading(function), declared=declared(params)))(
    params, total
  )
  np.testing.assert_allclose(value, loss, rtol=1e-14)
  np.testing.assert_allclose(other, rest, rtol=1e-14)
  for a, t, g in zip(*map(jax.tree.leaves, (added, total, gradient)), strict=True):
    np.testing.assert_allclose(a, t + g, atol=1e-13)


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
def test_arrays_that_are_not_summed_are_read_as_ever():
  (loss, _), gradient = jax.value_and_grad(plainly, has_aux=True)(draw(0))
  (found, _), found_gradient = jax.value_and_grad(summed, has_aux=True)(draw(0))
  np.testing.assert_allclose(found, loss, rtol=1e-14)
  for a, b in zip(*map(jax.tree.leaves, (found_gradient, gradient)), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-13)


@pytest.mark.slow
def test_layers_and_embedding_have_no_second_gradient_in_memory():
  """Of a model whose parameters dwarf its activations."""
  config = ModelConfig(
    vocab_size=512, hidden=128, layers=24, heads=4, kv_heads=2, ffn=512, rope_theta=1e4, max_positions=64
  )
  model = LanguageModel(config, remat="layer", chunk=16)
  params = model.init(jax.random.key(0))
  rows = tiny_batches(rows=1, row_length=64)(0).group(0)

  def loss(params):
    return jnp.sum(model.score(params, rows).logp), None

  def in_place(params, total):
    return add_gradient(reading(loss), params, total, model.parameters)[1]

  def beside(params, total):
    return jax.tree.map(jnp.add, total, jax.grad(lambda p: loss(p)[0])(params))

  total = jax.tree.map(jnp.zeros_like, params)
  size = sum(x.nbytes for x in jax.tree.leaves(params["layers"]))
  used = [
    jax.jit(f, donate_argnums=1).lower(params, total).compile().memory_analysis().temp_size_in_bytes
    for f in (in_place, beside)
  ]
  assert used[0] < 0.5 * size
  assert used[1] > 0.9 * size


def test_a_carrier_is_not_read():
  params, total = draw(0), draw(1)
  spoilt = jax.tree.map(lambda x: x * jnp.nan, params)
  layers = jax.tree.map(Summed, params["layers"], spoilt["layers"], total["layers"])
  x = jnp.ones((2, 3, WIDTH))
  out = scan_layers(lambda x, layer: (x + jnp.tanh(x @ layer["a"]), None), x, layers)
  assert bool(jnp.all(jnp.isfinite(out)))


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("number", [0, 1, 2, 7, 64, 100])
def test_rows_are_added_in_an_order_of_their_own_on_a_gpu(monkeypatch, number):
  """The form for GPUs, and the other, against a loop."""
  draws = np.random.default_rng(number)
  total, rows = draws.normal(size=(9, 4)), draws.normal(size=(number, 4))
  index = draws.integers(0, 9, number).astype(np.int32) % 8  # the last is of nobody
  index[: number // 2] = 3
  expected = total.copy()
  for i, row in zip(index, rows, strict=True):
    expected[i] += row
  default = jax.jit(add_rows)(total, index, rows)
  monkeypatch.setattr(jax.lax, "platform_dependent", lambda *x, cuda, default: cuda(*x))
  in_order = lambda *x: add_rows(*x)  # noqa: E731  # anew: jit would find the program that it has
  found = jax.jit(in_order)(total, index, rows)
  np.testing.assert_allclose(default, expected, atol=1e-13)
  np.testing.assert_allclose(found, expected, atol=1e-13)
  # What a GPU may write in any order, because no two threads write to the same row.
  if number == 0:
    return  # nothing to write
  scatters = re.findall(
    r'"stablehlo.scatter".*?unique_indices = (\w+)', jax.jit(in_order).lower(total, index, rows).as_text()
  )
  assert scatters == ["true"]
