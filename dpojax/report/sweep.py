"""One table and one plot of a sweep."""

import pathlib
from collections.abc import Sequence

from dpojax.files import write_atomically
from dpojax.report.labels import shown
from dpojax.report.sweep_rows import SweepRow, measured_columns
from dpojax.report.tables import aligned, markdown


def write_sweep_report(rows: Sequence[SweepRow], workdir: pathlib.Path, *, width: int = 0) -> str:
  """Writes sweep.md and sweep.png into `workdir`; returns the table for a terminal of `width` characters, 0: any."""
  header, cells = table(rows)
  measured = any(row.result for row in rows)
  plot = "\n![sweep](sweep.png)\n" if measured else ""
  write_atomically(workdir / "sweep.md", f"# {workdir.resolve().name}\n\n{markdown(header, cells)}\n{plot}")
  text = aligned(header, cells, width=width) + f"\n\nreport: {workdir / 'sweep.md'}"
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
