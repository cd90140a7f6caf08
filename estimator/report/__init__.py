"""The page of a run, one file that opens offline, and all reports for it."""

from estimator.report.full import full
from estimator.report.handler import ReportPageHandler
from estimator.report.page import build

__all__ = ["ReportPageHandler", "build", "full"]
