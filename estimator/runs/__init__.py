"""Many runs: read them, compare them, find the best."""

from estimator.report._run import Run
from estimator.runs._load import best, load
from estimator.runs.comparison import Comparison, compare

__all__ = ["Comparison", "Run", "best", "compare", "load"]
