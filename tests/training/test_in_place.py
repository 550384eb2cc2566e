"""Gradients of declared parameters are right however they are read; only the declared way adds them in place."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpojax.ops.summed import plain, scan_layers, take
from dpojax.training.step import add_gradient
from dpojax.types import Parameter

TOKENS = jnp.asarray([[1, 1, 6], [0, 1, 3]])


def draw(seed):
  random = np.random.default_rng(seed)
  shapes = {"embed": (7, 5), "layers": {"a": (4, 5, 5), "b": (4, 5)}}
  return jax.tree.map(lambda s: jnp.asarray(random.normal(size=s)), shapes, is_leaf=lambda s: type(s) is tuple)


DECLARED = jax.tree.map(lambda x: Parameter(x.shape, (None,) * x.ndim, in_place=True), draw(0))


def body(x, layer):
  return x + jnp.tanh(x @ layer["a"] + layer["b"][None, None]), None


def forward(params, tokens=TOKENS):
  return jnp.sum(jnp.sin(scan_layers(body, take(params["embed"], tokens), params["layers"])))


def squares(params):
  return sum(jnp.sum(jnp.square(x)) for x in jax.tree.leaves(params))


def on_rows(function, params, over):
  return jnp.sum(over(lambda row: function(params, row[None])))


# How a declared parameter is read -> which of them a warning names.
READ = {
  "as declared": (forward, ""),
  "and plain besides": (lambda p: forward(p) + jnp.sum(jnp.sin(plain(p["embed"]))), ""),
  "as an array": (lambda p: forward(p) + jnp.sum(jnp.cos(p["embed"].T)), "embed, layers/a, layers/b cannot be read"),
  "as leaves": (lambda p: forward(p) + squares(p), "cannot be read"),
  "only plain": (
    lambda p: jnp.sum(jnp.sin(scan_layers(body, plain(p["embed"])[None], p["layers"]))),
    "embed is read 0 times",
  ),
  "twice": (lambda p: forward(p) * forward(p, TOKENS[:1]), "layers/a, layers/b is read 2 times"),
  "one layer's leaf by hand": (
    lambda p: jnp.sum(jnp.sin(body(take(p["embed"], TOKENS), jax.tree.map(lambda x: x[0], p["layers"]))[0])),
    "cannot be read",
  ),
  "in a loop": (
    lambda p: on_rows(forward, p, lambda f: jax.lax.map(f, TOKENS)),
    "embed, layers/a, layers/b is read inside another transformation",
  ),
  "in a vmap": (
    lambda p: on_rows(forward, p, lambda f: jax.vmap(f)(TOKENS)),
    "embed, layers/a, layers/b is read inside another transformation",
  ),
  "in a branch": (lambda p: jax.lax.cond(jnp.asarray(True), forward, lambda p: 0.0, p), "layers/b"),
  "in a branch that closes over them": (
    lambda p: jax.lax.cond(jnp.asarray(True), lambda: forward(p), lambda: jnp.zeros(())),
    "embed, layers/a, layers/b is read inside another transformation",
  ),
  "in a jitted function": (lambda p: jax.jit(forward)(p), "cannot be read"),
  "in a checkpoint that closes over them": (lambda p: jax.checkpoint(lambda: forward(p))(), "is read inside"),
}


@pytest.mark.sampled(6)
@pytest.mark.slow
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("way", sorted(READ))
def test_the_sum_is_right_and_a_misread_parameter_is_named(way):
  function, named = READ[way]
  params, total = draw(0), draw(1)
  value, gradient = jax.value_and_grad(function)(params)
  with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    found = jax.jit(lambda p, t: add_gradient(lambda p, read: (function(read(p)), None), p, t, DECLARED))(params, total)
  np.testing.assert_allclose(found[0], value, rtol=1e-13)
  for a, t, g in zip(*map(jax.tree.leaves, (found[1], total, gradient)), strict=True):
    np.testing.assert_allclose(a, t + g, atol=1e-12)
  assert [named in str(w.message) for w in said] == ([True] if named else [])


def test_an_error_of_the_objective_is_its_own():
  def fails(params, read):
    raise ValueError("no reference")

  with warnings.catch_warnings():
    warnings.simplefilter("error")
    with pytest.raises(ValueError, match="no reference"):
      add_gradient(fails, draw(0), draw(1), DECLARED)


def test_what_is_declared_of_other_shapes_or_places_is_left_alone():
  other = {
    "embed": Parameter((8, 5), (None, None), in_place=True),
    "more": Parameter((7, 5), (None, None), in_place=True),
  }
  _, added, _ = add_gradient(lambda p, read: (jnp.sum(read(p)["embed"]), None), draw(0), draw(1), other)
  np.testing.assert_allclose(added["embed"], draw(1)["embed"] + 1, rtol=1e-6)
