"""Tables, curves and pages made from what a run left in its folder; nothing flows back."""

from dpojax.report.best_of_n import best_of_n_report
from dpojax.report.comparison import comparison_report
from dpojax.report.run_report import read_result, terminal_report, write_report

__all__ = ["best_of_n_report", "comparison_report", "read_result", "terminal_report", "write_report"]
