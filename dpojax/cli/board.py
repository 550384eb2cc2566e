"""What `dpojax bt` prints and writes of a leaderboard."""

import csv
import dataclasses
import math
import pathlib
from typing import TYPE_CHECKING, Any

from dpojax import terminal
from dpojax.errors import DataError
from dpojax.files import finite, replacing

if TYPE_CHECKING:
  from dpojax.bradley_terry import BradleyTerryFit, Leaderboard, Suggestion


@dataclasses.dataclass(frozen=True)
class Read:
  """What came of a file: rows read, dropped, and with both items bad; what covariates were divided by; names that look
  alike."""

  read: int
  dropped: int
  both_bad: int
  scales: dict[str, float]
  similar: tuple[tuple[str, ...], ...]


def everything(
  options: Any,
  fit: "BradleyTerryFit",
  board: "Leaderboard",
  parameters: list[dict[str, Any]],
  suggestions: "list[Suggestion]",
  failed: int,
  read: Read,
) -> tuple[dict[str, Any], int]:
  """(everything, as it is written to JSON; how many figures of what was fitted are not finite).

  None stands in the place of those, and of figures that items without an estimate do not have.
  """
  from dpojax import __version__
  from dpojax.bradley_terry import connectivity

  connected = connectivity(fit.data)
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
    "rows": {"read": read.read, "dropped": read.dropped},
    "both_bad": {"rows": read.both_bad, "counted_as": options.both_bad},
    "similar_names": [list(group) for group in read.similar],
    "comparisons": len(fit.data),
    "items": items,
    "parameters": [_parameter(row, read.scales.get(row["name"])) for row in parameters],
    "prior": None if fit.prior is None else {type(fit.prior).__name__.lower(): fit.prior[0]},
    "uncertainty": _uncertainty(options, fit, failed),
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
    "suggestions": [_suggestion(one, unit) for one in suggestions],
    "notes": list(board.notes),
  }
  shown = [item for item in board.rows if item["rank"] is not None]
  figures = [[item[name] for name in ("rating", "standard_error")] for item in shown]
  figures += [[row[name] for name in ("value", "standard_error")] for row in parameters] + [fit.log_likelihood]
  return finite(result)[0], finite(figures)[1]


def _parameter(row: dict[str, Any], scale: float | None) -> dict[str, Any]:
  """With what its covariate was divided by, and the coefficient of a unit of what the file holds."""
  return row if scale is None else row | dict(scale=scale, value_per_unit=row["value"] / scale)


def _uncertainty(options: Any, fit: "BradleyTerryFit", failed: int) -> dict[str, Any]:
  found: dict[str, Any] = {"kind": kind_of(options)}
  if options.bootstrap is not None:
    found = {"kind": "bootstrap", "resamples": options.bootstrap, "seed": options.seed or 0, "without_estimate": failed}
  return found if options.cluster is None else found | {"cluster": options.cluster, "clusters": clusters(fit)}


def kind_of(options: Any) -> Any:
  """The covariance that options ask for."""
  return options.covariance or ("hessian" if options.cluster is None else "cluster")


def clusters(fit: "BradleyTerryFit") -> int:
  """How many clusters the comparisons that were fitted come from."""
  assert fit.part.cluster is not None
  return len(set(fit.part.cluster.tolist()))


def _suggestion(one: "Suggestion", unit: float) -> dict[str, Any]:
  found = dict(a=one.first, b=one.second, probability=one.probability, games=_whole(one.games))
  return found | dict(difference_error=one.standard_error * unit, gain=one.gain)


def _goodness(fit) -> dict[str, Any] | None:
  from dpojax.bradley_terry import goodness_of_fit

  try:
    return dataclasses.asdict(goodness_of_fit(fit))
  except DataError:  # ties counted as halves have none
    return None


def _whole(value: float) -> float | int:
  return int(value) if float(value).is_integer() else value


def summary(options: Any, fit: "BradleyTerryFit", result: dict[str, Any], width: int = 0) -> list[str]:
  """What is printed below the leaderboard, tables in lines of at most `width` columns (0: any is right)."""
  lines = ["", *_coefficients(options, result, width)]
  unit = options.scale / math.log(options.base)
  for row in result["parameters"]:
    if "scale" in row:
      continue
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
  bad = result["both_bad"]
  if bad["rows"]:
    what = "counted as ties; --both-bad=drop leaves them out" if bad["counted_as"] == "tie" else "dropped"
    lines.append(f"in {bad['rows']:,} of them both were bad: {what}")
  if options.cluster is not None:
    lines.append(f"errors count {result['uncertainty']['clusters']:,} clusters of {options.cluster!r} as independent")
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
  return lines + _suggestions(result, width)


def _coefficients(options: Any, result: dict[str, Any], width: int) -> list[str]:
  """The table of covariates' coefficients, and what they are of."""
  from dpojax.bradley_terry.ratings import aligned

  rows = [row for row in result["parameters"] if "scale" in row]
  if not rows:
    return []
  unit = options.scale / math.log(options.base)
  cells = [["covariate", "coefficient", "error", f"{100 * options.level:g} % interval", "points", "one sd is"]]
  for row in rows:
    value, error, low, high = (_text(row[name]) for name in ("value", "standard_error", "low", "high"))
    points = "-" if row["value"] is None else f"{unit * row['value']:+.0f}"
    cells.append([row["name"], value, error, f"{low} to {high}", points, f"{row['scale']:.4g}"])
  note = "coefficients are of one standard deviation in favour of the item, points what it adds to the rating"
  return [*aligned(cells, {0}, width), *terminal.wrapped(note, width or 120), ""]


def _text(value: float | None) -> str:
  return "-" if value is None else f"{value:.4f}"


def _suggestions(result: dict[str, Any], width: int) -> list[str]:
  """The table of pairs to compare next."""
  from dpojax.bradley_terry.ratings import aligned

  if not result["suggestions"]:
    return []
  cells = [["compare next", "with", "wins", "met", "± points", "gain"]]
  for row in result["suggestions"]:
    error, gain = row["difference_error"], row["gain"]
    wins = f"{100 * row['probability']:.0f} %"
    cells.append([str(row["a"]), str(row["b"]), wins, f"{row['games']:,}", f"{error:.0f}", f"{gain:.4f}"])
  note = (
    "wins: how often the first beats the second; points: standard error of their difference; gain: nats of information "
    "that one comparison adds, after those above it"
  )
  return ["", *aligned(cells, {0, 1}, width), *terminal.wrapped(note, width or 120)]


def _equals(fit: "BradleyTerryFit", advantage: float) -> list[str]:
  """How often, in percent, one of two equals with that advantage wins, ties and loses."""
  from dpojax.bradley_terry import likelihood

  found = likelihood.probabilities(fit.spec.model, advantage, float(fit.vector[-1]) if fit.spec.has_tie else None)
  return [f"{100 * float(fraction):.1f} %" for fraction in found]


def write_csv(path: pathlib.Path, rows: list[dict[str, Any]]) -> None:
  """Mappings as the lines of a table; a row may lack what others have."""
  with replacing(path) as file:
    writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
