"""Whether `suggest` narrows the widest interval faster than pairs drawn at random.

python benchmarks/bradley_terry_suggestions.py [--items 40] [--games 1600] [--rounds 10] [--batch 80] [--seeds 20]

Items of N(0, 0.7) strengths have met in pairs drawn unevenly: an item's chance of a game is in proportion to its number,
1 to `items`. Then, round by round, `batch` pairs are compared: those that `suggest` gives for the fit so far, or pairs drawn
uniformly. Both sides of a seed start from the same games. Printed is the mean over seeds of the widest 95 % interval of
a rating (400 points are odds of ten to one) and of the mean interval, after every round, and how many comparisons
random pairs need for what suggested ones reach.
"""

import argparse

import numpy as np

from dpojax.bradley_terry import Comparisons, fit, standard_errors, suggest

WIDTH = 2 * 1.959964 * 400 / np.log(10)  # points of a 95 % interval for each nat of standard error


def simulate(seed: int, way: str, items: int, games: int, rounds: int, batch: int) -> np.ndarray:
  """f64[rounds + 1, 2]: the widest and the mean interval before any round and after each, in points."""
  rng = np.random.default_rng(seed)
  theta = rng.normal(size=items) * 0.7
  chance = np.arange(1, items + 1) / (items * (items + 1) / 2)
  first = rng.choice(items, games, p=chance)
  second = (first + rng.integers(1, items, games)) % items
  winners, losers, found = [], [], []
  for step in range(rounds + 1):
    won = rng.random(len(first)) < 1 / (1 + np.exp(theta[second] - theta[first]))
    winners.append(np.where(won, first, second))
    losers.append(np.where(won, second, first))
    data = Comparisons.from_pairs(np.concatenate(winners), np.concatenate(losers), items=range(items))
    now = fit(data, on_disconnected="prior")
    errors = standard_errors(now)
    found.append((WIDTH * errors.max(), WIDTH * errors.mean()))
    if step == rounds:
      break
    if way == "random":
      first = rng.integers(0, items, batch)
      second = (first + rng.integers(1, items, batch)) % items
    else:
      first, second = np.array([(one.first, one.second) for one in suggest(now, batch)]).T
  return np.array(found)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  for name, value in dict(items=40, games=1600, rounds=10, batch=80, seeds=20).items():
    parser.add_argument(f"--{name}", type=int, default=value)
  options = parser.parse_args()
  shape = (options.items, options.games, options.rounds, options.batch)
  runs = {
    way: np.array([simulate(seed, way, *shape) for seed in range(options.seeds)]) for way in ("suggested", "random")
  }
  suggested, drawn = (runs[way].mean(axis=0) for way in ("suggested", "random"))
  print("comparisons  widest: suggested  random  mean: suggested  random")
  for step in range(options.rounds + 1):
    number = options.games + step * options.batch
    print(
      f"{number:11,}  {suggested[step, 0]:17.1f}  {drawn[step, 0]:6.1f}  {suggested[step, 1]:15.1f}  {drawn[step, 1]:6.1f}"
    )
  better = (runs["suggested"][:, -1, 0] < runs["random"][:, -1, 0]).sum()
  print(f"narrower at the end in {better} of {options.seeds} seeds")
  early = int(np.argmax(suggested[:, 0] <= drawn[-1, 0]))
  if suggested[early, 0] <= drawn[-1, 0]:
    print(
      f"random pairs' widest interval after {options.rounds * options.batch:,} comparisons is reached by suggested ones "
      f"after {early * options.batch:,}"
    )


if __name__ == "__main__":
  main()
