"""Style control and clusters from the shell: how often intervals hold what was simulated.

python benchmarks/bradley_terry_style.py [--seeds 20] [--items 40] [--votes 5000] [--level 0.95]

Every seed is a file as LMArena's: `model_a`, `model_b`, `winner` with ties and "tie (bothbad)", beside lengths and
headers of both answers, which move the votes by known coefficients. Each vote stands in the file one to four times,
under the number of its conversation. `dpojax bt` reads it with `--covariate` twice, and once with and once without
`--cluster=conversation`. Printed is the share of ratings and of coefficients whose interval holds the truth: with clusters
it should be the level, without them less.
"""

import argparse
import contextlib
import io
import json
import math
import pathlib
import tempfile

import numpy as np

LENGTH, HEADERS = 0.002, 0.05  # nats in favour of an answer for each token and each header that it has more
OPTIONS = ["--ties=davidson", "--covariate=tokens_a,tokens_b", "--covariate=headers_a,headers_b"]


def make_votes(seed: int, items: int, votes: int) -> tuple[list[dict], np.ndarray]:
  """(rows of the file, f64[items] log-strengths of mean 0)."""
  rng = np.random.default_rng(seed)
  theta = rng.normal(size=items) * 0.7
  theta -= theta.mean()
  a = rng.integers(0, items, votes)
  b = (a + rng.integers(1, items, votes)) % items
  tokens = rng.gamma(4, 90, (2, votes)).round().astype(int)
  headers = rng.poisson(3, (2, votes))
  eta = theta[a] - theta[b] + LENGTH * (tokens[0] - tokens[1]) + HEADERS * (headers[0] - headers[1])
  weights = np.stack([np.exp(eta / 2), np.full(votes, 0.35), np.full(votes, 0.25), np.exp(-eta / 2)])
  place = (rng.random(votes) > np.cumsum(weights / weights.sum(axis=0), axis=0)[:3]).sum(axis=0)
  labels = ("model_a", "tie", "tie (bothbad)", "model_b")
  rows = []
  for vote, copies in enumerate(rng.integers(1, 5, votes)):
    row = dict(model_a=f"model-{a[vote]:02}", model_b=f"model-{b[vote]:02}", winner=labels[place[vote]])
    row |= {f"tokens_{side}": int(tokens[k, vote]) for k, side in enumerate("ab")}
    row |= {f"headers_{side}": int(headers[k, vote]) for k, side in enumerate("ab")}
    rows += [row | dict(conversation=vote)] * int(copies)
  return rows, theta


def held(board: dict, theta: np.ndarray) -> dict[str, list[bool]]:
  """Whether each interval of a board holds the truth."""
  unit = 400 / math.log(10)
  ratings = [
    item["low"] <= 1000 + unit * theta[int(item["item"].removeprefix("model-"))] <= item["high"]
    for item in board["items"]
  ]
  truth = {"tokens": LENGTH, "headers": HEADERS}
  coefficients = [
    row["low"] <= truth[row["name"]] * row["scale"] <= row["high"]
    for row in board["parameters"]
    if row["name"] in truth
  ]
  return dict(ratings=ratings, coefficients=coefficients)


def run(seed: int, items: int, votes: int, more: list[str], folder: pathlib.Path) -> dict[str, list[bool]]:
  """One file through the command."""
  from dpojax.cli.main import main as command

  rows, theta = make_votes(seed, items, votes)
  (folder / "votes.json").write_text(json.dumps(rows))
  out = folder / "board.json"
  with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as said:
    code = command(["bt", str(folder / "votes.json"), *OPTIONS, f"--out={out}", *more])
  if code:
    raise RuntimeError(said.getvalue())
  return held(json.loads(out.read_text()), theta)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  for name, value in dict(seeds=20, items=40, votes=5000).items():
    parser.add_argument(f"--{name}", type=int, default=value)
  parser.add_argument("--level", type=float, default=0.95)
  options = parser.parse_args()
  for label, more in (("clusters", ["--cluster=conversation"]), ("no clusters", [])):
    with tempfile.TemporaryDirectory() as folder:
      found = [
        run(seed, options.items, options.votes, [*more, f"--level={options.level}"], pathlib.Path(folder))
        for seed in range(options.seeds)
      ]
    for what in ("ratings", "coefficients"):
      inside = [x for one in found for x in one[what]]
      print(
        f"{label}: {np.mean(inside):.3f} of {len(inside)} {what} within their interval of {options.level:g}", flush=True
      )


if __name__ == "__main__":
  main()
