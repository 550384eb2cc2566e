"""Tables, curves and pages made from what a run left in its folder; nothing flows back."""

from dpojax.report.run_report import read_result, terminal_report, write_report

__all__ = ["read_result", "terminal_report", "write_report"]
