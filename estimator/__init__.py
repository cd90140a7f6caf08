"""Train a PyTorch net with `Estimator(net, loss, metrics).fit(train, val, epochs)`."""

try:
    import estimator.handlers as _handlers  # noqa: F401  # proves that the package is installed
except ModuleNotFoundError as error:
    if error.name != "estimator.handlers":
        raise
    raise ImportError(
        "estimator is not installed: its handlers lie in a folder of their own, which only an "
        "installation maps to estimator.handlers. In the checkout, run: pip install -e ."
    ) from error

from estimator.engine.options import Engine, EngineError
from estimator.estimator import Estimator
from estimator.exporting import ExportError, ExportResult
from estimator.handle import Handle
from estimator.handlers.base import (
    ArgumentError,
    ArgumentTypeError,
    DataError,
    EstimatorError,
    FolderError,
    HandlerError,
    MissingExtraError,
    MonitorError,
)
from estimator.history import History
from estimator.loss import Criterion
from estimator.lr_finder import LRFinderResult
from estimator.metrics import Metric
from estimator.processor import BatchProcessor
from estimator.run_folder import RunFolder
from estimator.runtime import Runtime
from estimator.stats import Best, TrainStats
from estimator.trainer import BoundTrainer, Trainer
from estimator.uids import with_uids

__all__ = [
    "ArgumentError",
    "ArgumentTypeError",
    "BatchProcessor",
    "Best",
    "BoundTrainer",
    "Criterion",
    "DataError",
    "Engine",
    "EngineError",
    "Estimator",
    "EstimatorError",
    "ExportError",
    "ExportResult",
    "FolderError",
    "Handle",
    "HandlerError",
    "History",
    "LRFinderResult",
    "Metric",
    "MissingExtraError",
    "MonitorError",
    "RunFolder",
    "Runtime",
    "TrainStats",
    "Trainer",
    "with_uids",
]
