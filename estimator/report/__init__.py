"""The page of a run, one file that opens offline."""

from estimator.report.handler import ReportPageHandler
from estimator.report.page import build

__all__ = ["ReportPageHandler", "build"]
