"""Likelihoods of comparisons written as in the papers, and two other ways to maximise them.

Strengths are pi = exp(theta); the vector is theta, home advantage, coefficients, and Davidson's log nu or Rao and
Kupper's log theta. Nothing here is shared with the package.
"""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np

FIRST, TIE, SECOND = 2, 1, 0


def probabilities(model, eta, tie=0.0):
  """(second wins, tie, first wins) in plain floats: pi_1 / (pi_1 + pi_2) and its forms with ties."""
  one, two = math.exp(eta / 2), math.exp(-eta / 2)  # their product is 1: only the ratio of strengths matters
  if model == "davidson":
    nu = math.exp(tie)
    total = one + two + nu * math.sqrt(one * two)
    return two / total, nu * math.sqrt(one * two) / total, one / total
  if model == "rao_kupper":
    threshold = math.exp(tie)
    first, second = one / (one + threshold * two), two / (two + threshold * one)
    tied = (threshold**2 - 1) * one * two / ((one + threshold * two) * (two + threshold * one))
    return second, tied, first
  return two / (one + two), None, one / (one + two)


def log_likelihood_of_each(games, theta, *, model="none", home=0.0, coefficients=(), tie=0.0):
  """The log-likelihood, one comparison after another; a tie without a model is half a win and half a loss."""
  total = 0.0
  for g in range(len(games["a"])):
    eta = theta[games["a"][g]] - theta[games["b"][g]] + home * games["home"][g]
    eta += sum(c * x for c, x in zip(coefficients, games["x"][g], strict=True))
    lost, tied, won = probabilities(model, eta, tie)
    outcome = games["outcome"][g]
    if outcome == TIE and tied is None:
      log_p = (math.log(won) + math.log(lost)) / 2
    else:
      log_p = math.log((lost, tied, won)[outcome])
    total += games["weight"][g] * log_p
  return total


def cost(vector, games, items, model, home, prior):
  """The negative log-likelihood and log prior, in JAX, so that its derivatives come from elsewhere."""
  theta = vector[:items]
  rest = list(vector[items:])
  eta = theta[games["a"]] - theta[games["b"]]
  if home:
    eta = eta + rest.pop(0) * games["home"]
  for k in range(games["x"].shape[1]):
    eta = eta + rest.pop(0) * games["x"][:, k]
  won, lost, tied = (jnp.where(games["outcome"] == o, games["weight"], 0.0) for o in (FIRST, SECOND, TIE))
  ratio = jnp.exp(eta)
  if model == "davidson":
    nu = jnp.exp(rest.pop(0))
    log_total = jnp.log(ratio + 1 + nu * jnp.sqrt(ratio))
    found = won * eta + tied * (jnp.log(nu) + eta / 2) - (won + lost + tied) * log_total
  elif model == "rao_kupper":
    threshold = jnp.exp(rest.pop(0))
    found = (won + tied) * (eta - jnp.log(ratio + threshold)) - (lost + tied) * jnp.log(1 + threshold * ratio)
    found = found + tied * jnp.log(threshold**2 - 1)
  else:
    found = (won + tied / 2) * eta - (won + lost + tied) * jnp.log(1 + ratio)
  kind, size = prior
  extra = jnp.sum(theta**2) / (2 * size**2) if kind == "normal" else 0.0
  if kind == "pseudo":
    extra = jnp.sum(size * jnp.log(1 + jnp.exp(theta)) - size / 2 * theta)
  return extra - jnp.sum(found)


@functools.cache
def _compiled(items, model, home, prior):
  with_vector = functools.partial(cost, items=items, model=model, home=home, prior=prior)

  def slope(x, games):
    value, gradient = jax.value_and_grad(with_vector)(x, games)
    return gradient, (value, gradient)

  return jax.jit(jax.jacfwd(slope, has_aux=True))


def derivatives(vector, games, items, *, model="none", home=False, prior=("none", 0.0)):
  """(cost, gradient, Hessian) as float64 NumPy arrays."""
  with jax.enable_x64(True):
    arrays = {
      name: jnp.asarray(column, int if name in ("a", "b", "outcome") else float) for name, column in games.items()
    }
    hessian, (value, gradient) = _compiled(items, model, home, prior)(jnp.asarray(vector), arrays)
    return np.asarray(value), np.asarray(gradient), np.asarray(hessian)


def newton(games, items, *, model="none", home=False, prior=("none", 0.0)):
  """The minimum of `cost` by the textbook: full Hessian, least squares, steps halved until the cost falls."""
  count = items + home + games["x"].shape[1] + (model in ("davidson", "rao_kupper"))
  x = np.zeros(count)
  if model == "rao_kupper":
    x[-1] = 0.5
  options = dict(model=model, home=home, prior=prior)
  value, gradient, hessian = derivatives(x, games, items, **options)
  for _ in range(200):
    step = np.linalg.lstsq(hessian, gradient, rcond=1e-13)[0]
    length = 1.0
    while True:
      new = derivatives(x - length * step, games, items, **options)
      if np.isfinite(new[0]) and new[0] <= value + 1e-12 * abs(value):
        break
      length /= 2
      assert length > 1e-12, "the oracle found no way down"
    x = x - length * step
    value, gradient, hessian = new
    if np.abs(length * step).max() < 1e-11:
      break
  assert np.abs(gradient).max() < 1e-9 * games["weight"].sum(), "the oracle did not converge"
  if prior[0] == "none":
    x[:items] -= x[:items].mean()
  return x


def minorise_maximise(wins, rounds=100_000):
  """Log-strengths of mean 0 from wins[i, j] by the iteration of Newman 2023 (JMLR 24, arXiv:2207.00076), Eq. 10:

  pi_i <- sum_j w_ij pi_j / (pi_i + pi_j)  /  sum_j w_ji / (pi_i + pi_j)
  """
  n = len(wins)
  strength = np.ones(n)
  for _ in range(rounds):
    before = strength.copy()
    for i in range(n):
      met = strength[i] + strength
      strength[i] = (wins[i] * strength / met).sum() / (wins[:, i] / met).sum()
    strength /= np.exp(np.log(strength).mean())
    if np.abs(np.log(strength / before)).max() < 1e-14:
      return np.log(strength)
  raise AssertionError("minorise-maximise did not converge")


def rankings_log_likelihood(theta, rankings, weights=None):
  """Plackett and Luce, choice by choice."""
  total = 0.0
  for r, ranking in enumerate(rankings):
    for s in range(len(ranking) - 1):
      left = [math.exp(theta[i]) for i in ranking[s:]]
      total += (1.0 if weights is None else weights[r]) * math.log(left[0] / sum(left))
  return total


def rankings_hunter(rankings, items, rounds=100_000):
  """Log-strengths of mean 0 by the minorise-maximise iteration of Hunter 2004, Eq. 30, choice by choice."""
  strength = np.ones(items)
  chosen = np.zeros(items)
  for ranking in rankings:
    chosen[list(ranking[:-1])] += 1
  for _ in range(rounds):
    share = np.zeros(items)
    for ranking in rankings:
      for s in range(len(ranking) - 1):
        share[list(ranking[s:])] += 1 / strength[list(ranking[s:])].sum()
    new = chosen / share
    new /= np.exp(np.log(new).mean())
    moved = np.abs(np.log(new / strength)).max()
    strength = new
    if moved < 1e-12:
      return np.log(strength)
  raise AssertionError("minorise-maximise did not converge")


def all_orders(items):
  return list(itertools.permutations(items))
