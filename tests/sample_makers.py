"""How handlers that show single samples are made for the contract that all handlers keep."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from estimator import handlers
from estimator.handlers import EventHandler, every

_EACH = every(epochs=1)

OF_SAMPLES: dict[str, list[Callable[[Path], EventHandler]]] = {
    "AugmentationsHandler": [
        lambda folder: handlers.AugmentationsHandler(folder, samples=3, draws=2),
    ],
    "EmbeddingHandler": [
        lambda folder: handlers.EmbeddingHandler(folder),
        lambda folder: handlers.EmbeddingHandler(folder, layer="0", every=_EACH),
    ],
    "ErrorsHandler": [
        lambda folder: handlers.ErrorsHandler(folder, most=2),
        lambda folder: handlers.ErrorsHandler(folder, every=_EACH, classes=["a", "b", "$c$"]),
    ],
    "RandomSamplesHandler": [
        lambda folder: handlers.RandomSamplesHandler(folder, samples=3),
        lambda folder: handlers.RandomSamplesHandler(folder, samples=2, every=_EACH),
    ],
    "WorstSamplesHandler": [lambda folder: handlers.WorstSamplesHandler(folder, worst=2)],
}
