"""One table and one plot of a sweep."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from dpojax.report.labels import HELD_OUT, POLICY, Label, shown
from dpojax.report.tables import aligned, markdown

# (split, metric, label) of the columns and panels, where measured.
COLUMNS: list[tuple[str, str, Label]] = [
  ("eval", "rewards/accuracies", HELD_OUT["rewards/accuracies"]),
  ("eval", "rewards/margins", HELD_OUT["rewards/margins"]),
  ("policy", "kl/sequence", POLICY["kl/sequence"]),
  ("policy", "reward/true", POLICY["reward/true"]),
]


@dataclasses.dataclass(frozen=True)
class SweepRow:
  """A point as reported: the settings it changed, its result.json (None: it has none), and how it ended."""

  values: Mapping[str, Any]
  result: Mapping[str, Any] | None
  status: str

  def after(self, split: str) -> Mapping[str, Any]:
    """The metrics at the end of the run."""
    return (self.result or {}).get("after", {}).get(split, {})

  def last(self, split: str, metric: str) -> float | None:
    """The metric at the end of the run, or None where it was not measured."""
    value = self.after(split).get(metric)
    return None if value is None else float(value)


def write_sweep_report(rows: Sequence[SweepRow], workdir: pathlib.Path) -> str:
  """Writes sweep.md and sweep.png into `workdir`; returns the table for a terminal."""
  header, cells = table(rows)
  measured = any(row.result for row in rows)
  (workdir / "sweep.md").write_text(
    f"# {workdir.resolve().name}\n\n{markdown(header, cells)}\n" + ("\n![sweep](sweep.png)\n" if measured else ""),
    encoding="utf-8",
  )
  text = aligned(header, cells) + f"\n\nreport: {workdir / 'sweep.md'}"
  if measured:
    from dpojax.report.sweep_plot import draw_sweep  # matplotlib takes long to import

    draw_sweep(rows).savefig(workdir / "sweep.png", dpi=130)
    text += f"\nplot: {workdir / 'sweep.png'}"
  return text


def table(rows: Sequence[SweepRow]) -> tuple[list[str], list[list[str]]]:
  """(header, cells): the settings of each point, what it reached, how it ended."""
  columns = measured_columns(rows)
  header = [*rows[0].values, *(label.name if label.share else label.axis() for _, _, label in columns), "status"]
  cells = []
  for row in rows:
    reached = [shown(label, row.after(split), m) for split, m, label in columns]
    cells.append([*map(str, row.values.values()), *reached, row.status])
  return header, cells


def measured_columns(rows: Sequence[SweepRow]) -> list[tuple[str, str, Label]]:
  """Those of `COLUMNS` that at least one point has."""
  return [column for column in COLUMNS if any(row.last(column[0], column[1]) is not None for row in rows)]
