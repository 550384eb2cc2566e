"""Tables, curves and pages made from what a run left in its folder; nothing flows back."""

from dpojax.report.best_of_n import best_of_n_report
from dpojax.report.comparison import comparison_report
from dpojax.report.paired import compare
from dpojax.report.run_report import read_result, terminal_report, write_report
from dpojax.report.runs import load_frontier, load_points, load_runs

__all__ = [
  "best_of_n_report",
  "compare",
  "comparison_report",
  "load_frontier",
  "load_points",
  "load_runs",
  "read_result",
  "terminal_report",
  "write_report",
]
