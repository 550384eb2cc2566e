"""One table and one plot of a sweep."""

import pathlib
from collections.abc import Sequence

from dpojax.files import write_atomically
from dpojax.markdown import escape
from dpojax.report.labels import shown
from dpojax.report.run_report import FEW_PROMPTS, prompts_in_words
from dpojax.report.sweep_rows import SweepRow, measured_columns
from dpojax.report.tables import markdown
from dpojax.screen import PROSE, Page, Table
from dpojax.terminal import filled

MAY_GO = ("prompts looked at",)  # where a terminal is narrow; then what was measured, the last first


def write_sweep_report(rows: Sequence[SweepRow], workdir: pathlib.Path, *, width: int = 0) -> Page:
  """Writes sweep.md and sweep.png into `workdir`; returns the table for a terminal of `width` columns, 0: any."""
  header, cells = table(rows)
  notes = footnotes(rows)
  measured = any(row.result for row in rows)
  plot = "\n![sweep](sweep.png)\n" if measured else ""
  said = "".join(f"\n{note}\n" for note in notes)
  write_atomically(
    workdir / "sweep.md", f"# {escape(workdir.resolve().name)}\n\n{markdown(header, cells)}\n{said}{plot}"
  )
  settings = len(rows[0].values)
  parts: list[str | Table] = [Table(header, cells, may_go=[*MAY_GO, *header[settings:-1][::-1]], cut=True)]
  parts += [filled(note, width or PROSE) for note in notes]
  written = f"report: {workdir / 'sweep.md'}"
  if measured:
    from dpojax.report.figures import save_figure  # matplotlib takes long to import
    from dpojax.report.sweep_plot import draw_sweep

    save_figure(draw_sweep(rows), workdir / "sweep.png")
    written += f"\nplot: {workdir / 'sweep.png'}"
  return Page([*parts, written], width)


def footnotes(rows: Sequence[SweepRow]) -> list[str]:
  """What a reader of the table has to know."""
  notes, looks = [], [row.prompts for row in rows if row.prompts]
  if looks and min(looks) < FEW_PROMPTS:
    notes.append(
      f"What the policies write was measured at {prompts_in_words(min(looks))} only, which tells few points apart: raise "
      f"monitor.prompts to {FEW_PROMPTS} or more."
    )
  if any(row.after("rollout") for row in rows):
    notes.append("Of roll-outs: the mean over the last tenth of them.")
  return notes


def table(rows: Sequence[SweepRow]) -> tuple[list[str], list[list[str]]]:
  """(header, cells): the settings of each point, what it reached, how it ended."""
  columns = measured_columns(rows)
  looked_at = any(row.prompts for row in rows)
  header = [*rows[0].values, *(label.name if label.fraction else label.axis() for _, _, label in columns)]
  header += ["prompts looked at"] * looked_at + ["status"]
  cells = []
  for row in rows:
    reached = [shown(label, row.after(split), m) for split, m, label in columns]
    prompts = ["-" if row.prompts is None else f"{row.prompts:,}"] * looked_at
    cells.append([*map(str, row.values.values()), *reached, *prompts, row.status])
  return header, cells
