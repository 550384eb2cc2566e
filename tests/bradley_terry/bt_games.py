"""Simulated games and rankings as plain columns, and as `Comparisons`."""

import math

import numpy as np
from bt_oracles import SECOND, TIE, probabilities

from dpojax.bradley_terry import Comparisons


def league(seed, items, games, *, model="none", nu=0.5, home=0.0, neutral=0.0, coefficients=(), sd=0.6, ties=0.0):
  """(columns of simulated games, theta). `ties` is the share of ties where the model has none of its own."""
  rng = np.random.default_rng(seed)
  theta = rng.normal(size=items) * sd
  a = rng.integers(0, items, games)
  b = (a + rng.integers(1, items, games)) % items
  x = rng.normal(size=(games, len(coefficients)))
  at_home = np.where(rng.random(games) < neutral, 0, 1)
  eta = theta[a] - theta[b] + home * at_home + x @ np.asarray(coefficients, float)
  chances = [probabilities(model, e, math.log(nu) if model == "davidson" else nu) for e in eta]
  chances = np.array([(p * (1 - ties), ties, q * (1 - ties)) if t is None else (p, t, q) for p, t, q in chances])
  outcome = (rng.random(games)[:, None] > np.cumsum(chances, axis=1)[:, :2]).sum(axis=1)
  return dict(a=a, b=b, outcome=outcome, home=at_home, x=x, weight=np.ones(games)), theta


def ranked(seed, items, rankings, longest, *, sd=0.7, shortest=2):
  """Rankings drawn by Gumbel noise: (list of lists, theta)."""
  rng = np.random.default_rng(seed)
  theta = rng.normal(size=items) * sd
  drawn = []
  for _ in range(rankings):
    size = rng.integers(shortest, longest + 1)
    who = rng.choice(items, size, replace=False)
    drawn.append(who[np.argsort(-(theta[who] + rng.gumbel(size=size)))].tolist())
  return drawn, theta


def comparisons_of(games, *, items, home, **more):
  """The same comparisons, winners first."""
  return Comparisons.from_pairs(
    np.where(games["outcome"] == SECOND, games["b"], games["a"]),
    np.where(games["outcome"] == SECOND, games["a"], games["b"]),
    tie=games["outcome"] == TIE,
    weight=games["weight"],
    home=np.where(games["outcome"] == SECOND, -games["home"], games["home"]) if home else None,
    covariates=np.where((games["outcome"] == SECOND)[:, None], -games["x"], games["x"])
    if games["x"].shape[1]
    else None,
    items=range(items),
    **more,
  )
