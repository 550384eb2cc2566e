"""What `dpojax bt` prints and writes of a leaderboard."""

import csv
import dataclasses
import math
import pathlib
from typing import TYPE_CHECKING, Any

from dpojax.errors import DataError
from dpojax.files import finite, replacing

if TYPE_CHECKING:
  from dpojax.bradley_terry import BradleyTerryFit
  from dpojax.bradley_terry.leaderboard import Leaderboard


def everything(
  options: Any,
  fit: "BradleyTerryFit",
  board: "Leaderboard",
  parameters: list[dict[str, Any]],
  failed: int,
  read: dict[str, int],
) -> tuple[dict[str, Any], int]:
  """(everything, as it is written to JSON; how many figures of what was fitted are not finite).

  None stands in the place of those, and of figures that items without an estimate do not have.
  """
  from dpojax import __version__

  connected = fit.data.connectivity()
  unit = options.scale / math.log(options.base)
  items = []
  for row in board.rows:
    place = fit.place(row["item"])
    entry = dict(rank=row["rank"], item=row["item"], log_strength=float(fit.log_strength[place]))
    entry |= dict(log_strength_error=row["standard_error"] / unit, rating_error=row["standard_error"])
    entry |= {name: row[name] for name in ("rating", "low", "high", "interval", "rank_low", "rank_high")}
    entry |= {name: _whole(row[name]) for name in ("games", "wins", "losses", "ties")}
    items.append(entry | dict(component=int(fit.component[place])))
  result = {
    "dpojax": __version__,
    "options": vars(options),
    "rows": read,
    "comparisons": len(fit.data),
    "items": items,
    "parameters": parameters,
    "prior": None if fit.prior is None else {type(fit.prior).__name__.lower(): fit.prior[0]},
    "uncertainty": {"kind": options.covariance or "hessian"}
    if options.bootstrap is None
    else {"kind": "bootstrap", "resamples": options.bootstrap, "seed": options.seed or 0, "without_estimate": failed},
    "log_likelihood": fit.log_likelihood,
    "converged": fit.converged,
    "gradient_norm": fit.gradient_norm,
    "iterations": fit.iterations,
    "solver": fit.solver,
    "connectivity": {
      "connected": connected.connected,
      "components": len(connected.components),
      "islands": len(connected.islands),
      "undefeated": list(connected.undefeated),
      "winless": list(connected.winless),
      "explanation": "" if connected.connected else connected.explanation(),
    },
    "goodness_of_fit": _goodness(fit),
    "notes": list(board.notes),
  }
  shown = [item for item in board.rows if item["rank"] is not None]
  figures = [[item[name] for name in ("rating", "standard_error")] for item in shown]
  figures += [[row[name] for name in ("value", "standard_error")] for row in parameters] + [fit.log_likelihood]
  return finite(result)[0], finite(figures)[1]


def _goodness(fit) -> dict[str, Any] | None:
  try:
    return dataclasses.asdict(fit.goodness_of_fit())
  except DataError:  # ties counted as halves have none
    return None


def _whole(value: float) -> float | int:
  return int(value) if float(value).is_integer() else value


def summary(options: Any, fit: "BradleyTerryFit", result: dict[str, Any]) -> list[str]:
  """What is printed below the table."""
  lines = [""]
  unit = options.scale / math.log(options.base)
  for row in result["parameters"]:
    line = f"{row['name']}: {row['value']:.4f} ± {row['standard_error']:.4f}"
    if row["name"] == "home advantage":
      win, _, loss = _equals(fit, row["value"])
      line += f", {unit * row['value']:+.0f} points; of equals the one at home wins {win}, loses {loss}"
    if row["name"] in ("log nu", "tau"):
      line += f" ({options.ties}); equals tie {_equals(fit, 0.0)[1]} on neutral ground"
    lines.append(line)
  read = result["rows"]
  dropped = f", {read['dropped']:,} of them dropped" if read["dropped"] else ""
  lines.append(f"{read['read']:,} rows read{dropped}: {len(fit.data):,} comparisons of {len(fit.items):,} items")
  connected = result["connectivity"]
  if not connected["connected"]:
    lines.append(f"not connected: {connected['explanation']}")
  if fit.prior is not None:
    (name, value), *_ = result["prior"].items()
    lines.append(f"prior: {name}:{value:g}")
  steps = f"converged in {fit.iterations} steps" if fit.converged else "NOT CONVERGED"
  lines.append(
    f"log-likelihood {fit.log_likelihood:,.3f}, {steps}, largest gradient a comparison {fit.gradient_norm:.1e}"
  )
  return lines


def _equals(fit: "BradleyTerryFit", advantage: float) -> list[str]:
  """How often, in percent, one of two equals with that advantage wins, ties and loses."""
  from dpojax.bradley_terry import likelihood

  found = likelihood.probabilities(fit.spec.model, advantage, float(fit.vector[-1]) if fit.spec.has_tie else None)
  return [f"{100 * float(share):.1f} %" for share in found]


def write_csv(path: pathlib.Path, result: dict[str, Any]) -> None:
  with replacing(path) as file:
    writer = csv.DictWriter(file, list(result["items"][0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(result["items"])
