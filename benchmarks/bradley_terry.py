"""Bradley-Terry fits beside evalica, FastChat's method, arena-rank and choix: exactness, time and memory on equal data.

python benchmarks/bradley_terry.py --peers-python VENV/bin/python [--out results.json] [--cases ABDC] [--repeat 7]

VENV holds the peers (pip install evalica arena-rank choix scipy pandas). Cases: A 100 items, 10^5 games; B 1,000 and
10^6, both of uniform pairs and N(0, 1) strengths; D a ladder of 500 items and 2 10^5 games against the five next, sd 2;
C 20,000 items and 4 10^5 games, sd 0.5, of its largest component. Every fit starts from integer arrays of winners and
losers. Repetitions of the sides alternate; each is a process of its own, times are medians of its warm calls, "cold"
is the first call of a process after its imports. Errors are against Newton's method written below.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
CASES = {"A": (100, 100_000, 1.0), "B": (1_000, 1_000_000, 1.0), "D": (500, 200_000, 2.0), "C": (20_000, 400_000, 0.5)}
WARM_CALLS = {"A": 20, "B": 5, "D": 5, "C": 5}
# What each side is asked to do: evalica's matrix of case C takes 3.2 GB, and others need minutes there.
ASKED = {"choix": "AD", "arena-rank": "AD", "evalica": "ABD", "evalica, solver alone": "ABD", "fastchat": "ABDC"}
BOOTSTRAPS = {"dpojax": "AB", "evalica": "AB", "evalica, solver alone": "AB", "fastchat": "A"}


def make_case(name: str, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
  """Winners and losers."""
  from scipy.sparse import csgraph, csr_array

  items, games, sd = CASES[name]
  rng = np.random.default_rng(seed)
  strength = rng.normal(size=items) * sd
  a = rng.integers(0, items, games)
  if name == "D":
    strength = np.sort(strength)[::-1]
    b = a + rng.integers(1, 6, games) * rng.choice([-1, 1], games)
    there = (b >= 0) & (b < items)
    a, b = a[there], b[there]
  else:
    b = (a + rng.integers(1, items, games)) % items
  first = rng.random(len(a)) < 1 / (1 + np.exp(strength[b] - strength[a]))
  winner, loser = np.where(first, a, b), np.where(first, b, a)
  graph = csr_array((np.ones(len(a)), (winner, loser)), shape=(items, items))
  _, label = csgraph.connected_components(graph, connection="strong")
  kept = np.flatnonzero(label == np.bincount(label).argmax())
  place = np.full(items, -1)
  place[kept] = np.arange(len(kept))
  there = (place[winner] >= 0) & (place[loser] >= 0)
  return place[winner[there]], place[loser[there]]


def oracle(winner, loser) -> np.ndarray:
  """Newton's method in float64 on every single game, its systems solved by conjugate gradients to 1e-11."""
  from scipy.sparse import coo_array, diags_array
  from scipy.sparse.linalg import cg

  n = max(winner.max(), loser.max()) + 1
  theta = np.zeros(n)
  for _ in range(40):
    lost = 1 / (1 + np.exp(theta[winner] - theta[loser]))
    gradient = np.bincount(winner, lost, n) - np.bincount(loser, lost, n)
    weight = lost * (1 - lost)
    pairs = coo_array((weight, (winner, loser)), shape=(n, n)).tocsr()
    pairs = pairs + pairs.T
    laplacian = (diags_array(pairs.sum(axis=1)) - pairs).tocsr()
    step, _ = cg(laplacian, gradient, rtol=1e-11, M=diags_array(1 / laplacian.diagonal()), maxiter=2_000)
    step -= step.mean()
    largest = np.abs(step).max()
    theta += step / max(1, largest)
    if largest < 1e-11:
      break
  return theta - theta.mean()


# --- the sides: each gives a function of no arguments that returns strengths, and one for a bootstrap of 100


def side_dpojax(winner, loser):
  from dpojax import bradley_terry
  from dpojax.bradley_terry import Comparisons, fit

  items = range(int(max(winner.max(), loser.max())) + 1)

  def once():
    return fit(Comparisons.from_pairs(winner, loser, items=items)).log_strength

  def bootstrap():
    bradley_terry.bootstrap(fit(Comparisons.from_pairs(winner, loser, items=items)), 100)

  return once, bootstrap, 1


def side_evalica(winner, loser):
  """Its public function on lists of items, with the index given."""
  import evalica
  import pandas

  xs, ys, won = winner.tolist(), loser.tolist(), [evalica.Winner.X] * len(winner)
  index = pandas.Index(range(int(max(winner.max(), loser.max())) + 1))

  def once():
    return fit(xs, ys)

  def fit(xs, ys):
    found = evalica.bradley_terry(xs, ys, won, index=index, tolerance=1e-10, limit=10**6)
    return np.log(found.scores.sort_index().to_numpy())

  def bootstrap():  # ten, for a tenth of the time
    rng = np.random.default_rng(0)
    for _ in range(10):
      drawn = rng.integers(0, len(winner), len(winner))
      fit(winner[drawn].tolist(), loser[drawn].tolist())

  return once, bootstrap, 10


def side_evalica_solver(winner, loser):
  """Its compiled solver on lists of places, without the function around it."""
  import evalica
  from evalica import _brzo

  xs, ys, won = winner.tolist(), loser.tolist(), [evalica.Winner.X] * len(winner)
  n = int(max(winner.max(), loser.max())) + 1
  ones = [1.0] * len(xs)

  def fit(xs, ys):
    scores, _ = _brzo.bradley_terry(
      xs=xs, ys=ys, winners=won, weights=ones, total=n, win_weight=1.0, tie_weight=0.5, tolerance=1e-10, limit=10**6
    )
    return np.log(scores)

  def bootstrap():  # ten, for a tenth of the time
    rng = np.random.default_rng(0)
    for _ in range(10):
      drawn = rng.integers(0, len(winner), len(winner))
      fit(winner[drawn].tolist(), loser[drawn].tolist())

  return lambda: fit(xs, ys), bootstrap, 10


def side_fastchat(winner, loser):
  """Distinct rows of (first, second, outcome), counted, and L-BFGS on them, as FastChat's rating_systems.py does."""
  from scipy.optimize import minimize
  from scipy.special import expit

  n = int(max(winner.max(), loser.max())) + 1
  outcomes = np.ones(len(winner), np.int32)

  def count():
    rows = np.stack([winner.astype(np.int32), loser.astype(np.int32), 2 * outcomes], axis=1)
    rows, counts = np.unique(rows, return_counts=True, axis=0)
    return rows[:, :2], counts.astype(float)

  def solve(pairs, counts):
    def loss(ratings):
      both = ratings[pairs]
      p = expit(both[:, 0] - both[:, 1])
      gradient = np.zeros(n)
      np.add.at(gradient, pairs, ((p - 1) * counts)[:, None] * np.array([1.0, -1.0]))
      return -(np.log(p) * counts).sum(), gradient

    return minimize(loss, np.zeros(n), jac=True, method="L-BFGS-B", options=dict(maxiter=100, gtol=1e-6)).x

  def bootstrap():
    pairs, counts = count()
    draws = np.random.default_rng(0).multinomial(len(winner), counts / counts.sum(), size=100)
    for drawn in draws:
      solve(pairs, drawn / len(winner))

  return lambda: solve(*count()), bootstrap, 1


def side_arena_rank(winner, loser):
  """Its fit on a data set made beforehand."""
  import pandas
  from arena_rank.models.bradley_terry import BradleyTerry
  from arena_rank.utils.data_utils import PairDataset

  frame = pandas.DataFrame(dict(model_a=winner, model_b=loser, winner="model_a"))
  data = PairDataset.from_pandas(frame)

  def once():
    model = BradleyTerry(len(data.competitors))
    model.fit(data)
    return np.asarray(model.params["ratings"])

  return once, None, 1


def side_choix(winner, loser):
  import choix

  games = list(zip(winner.tolist(), loser.tolist(), strict=True))
  n = int(max(winner.max(), loser.max())) + 1
  return lambda: choix.ilsr_pairwise(n, games), None, 1


SIDES = {
  "dpojax": side_dpojax,
  "evalica": side_evalica,
  "evalica, solver alone": side_evalica_solver,
  "fastchat": side_fastchat,
  "arena-rank": side_arena_rank,
  "choix": side_choix,
}


def work(arguments) -> None:
  """One process of one side: cold and warm times, memory above imports, strengths."""
  case = np.load(arguments.case)
  winner, loser = case["winner"], case["loser"]
  once, bootstrap, times = SIDES[arguments.side](winner, loser)
  _peak_reset()
  before = _memory()
  began = time.perf_counter()
  found = once()
  cold = time.perf_counter() - began
  above = (_peak() - before) / 1e6
  warm = []
  for _ in range(arguments.calls):
    began = time.perf_counter()
    found = once()
    warm.append(time.perf_counter() - began)
    if sum(warm) > 20:
      break
  seconds = None
  if arguments.bootstrap and bootstrap is not None:
    took = []
    while len(took) < 6 and sum(took) < 20 * times:
      began = time.perf_counter()
      bootstrap()
      took.append((time.perf_counter() - began) * times)
    seconds = statistics.median(took[1:] or took)  # the first one compiles
  np.save(arguments.out, found)
  print(json.dumps(dict(cold=cold, warm=statistics.median(warm), megabytes=above, bootstrap=seconds)))


def _memory() -> float:
  return float(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _peak_reset() -> None:
  Path("/proc/self/clear_refs").write_text("5")


def _peak() -> float:
  line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM"))
  return float(line.split()[1]) * 1024


# --- the comparison


def compare(arguments) -> None:
  results: dict = {}
  with tempfile.TemporaryDirectory() as scratch:
    for name in arguments.cases:
      winner, loser = make_case(name)
      np.savez(f"{scratch}/{name}.npz", winner=winner, loser=loser)
      exact = oracle(winner, loser)
      sides = [side for side in SIDES if side == "dpojax" or name in ASKED[side]]
      found: dict = {side: [] for side in sides}
      for repetition in range(arguments.repeat):
        for side in sides if repetition % 2 == 0 else sides[::-1]:
          if repetition and found[side] and found[side][0]["warm"] > 5:
            continue  # the slow ones once
          found[side].append(_process(arguments, scratch, name, side, exact, bootstrap=repetition == 0))
      results[name] = dict(items=int(winner.max()) + 1, games=len(winner), sides=found)
      print(table(name, results[name]), flush=True)
  if arguments.out:
    Path(arguments.out).write_text(json.dumps(results, indent=1))


def _process(arguments, scratch, name, side, exact, *, bootstrap: bool) -> dict:
  python = sys.executable if side == "dpojax" else arguments.peers_python
  command = [python, "-P", __file__, "--side", side, "--case", f"{scratch}/{name}.npz", "--out", f"{scratch}/x.npy"]
  command += ["--calls", str(WARM_CALLS[name])] + (
    ["--bootstrap"] if bootstrap and name in BOOTSTRAPS.get(side, "") else []
  )
  environment = os.environ | {"PYTHONPATH": str(ROOT) if side == "dpojax" else "", "JAX_PLATFORMS": "cpu"}
  run = subprocess.run(command, capture_output=True, text=True, env=environment)
  if run.returncode:
    raise RuntimeError(f"{side} on {name}: {run.stderr[-2000:]}")
  theta = np.load(f"{scratch}/x.npy")
  error = float(np.abs(theta - theta.mean() - exact).max())
  return json.loads(run.stdout.splitlines()[-1]) | dict(error=error)


def table(name: str, result: dict) -> str:
  """A case's figures: medians over processes, and the range of the warm times."""
  lines = [f"\n### {name}: {result['items']:,} items, {result['games']:,} games", ""]
  lines += ["| side | warm, s | range | cold, s | largest error, nats | MB above imports | bootstrap of 100, s |"]
  lines += ["|:--|--:|--:|--:|--:|--:|--:|"]
  for side, runs in result["sides"].items():
    of = lambda key, runs=runs: [run[key] for run in runs if run[key] is not None]  # noqa: E731
    middle = lambda key, of=of: statistics.median(of(key)) if of(key) else float("nan")  # noqa: E731
    spread = f"{min(of('warm')):.4g} to {max(of('warm')):.4g}"
    cells = [side, f"{middle('warm'):.4g}", spread, f"{middle('cold'):.3g}", f"{max(of('error')):.1e}"]
    cells += [f"{middle('megabytes'):.0f}", f"{middle('bootstrap'):.3g}"]
    lines.append("| " + " | ".join(cells) + " |")
  return "\n".join(lines)


def summary(results: dict) -> str:
  return "\n".join(table(name, result) for name, result in results.items()).strip()


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--peers-python", default=sys.executable)
  parser.add_argument("--cases", default="ABDC")
  parser.add_argument("--repeat", type=int, default=5)
  parser.add_argument("--out", default="")
  parser.add_argument("--side", choices=[*SIDES], help=argparse.SUPPRESS)
  parser.add_argument("--case", help=argparse.SUPPRESS)
  parser.add_argument("--calls", type=int, default=5, help=argparse.SUPPRESS)
  parser.add_argument("--bootstrap", action="store_true", help=argparse.SUPPRESS)
  arguments = parser.parse_args()
  if arguments.side:
    work(arguments)
  else:
    compare(arguments)


if __name__ == "__main__":
  main()
