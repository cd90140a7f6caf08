"""What the core knows of nets whose outputs say themselves what they are to be."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from estimator.metrics import MetricSet
from estimator.processor import BatchProcessor


class SelfDescribing(ABC):
    """One of a net's outputs that brings along how it is judged; nets return a dict of them.

    Attributes:
        value: What the net computed: a tensor, or a nested structure of them.
    """

    value: Any

    @classmethod
    @abstractmethod
    def judge(
        cls, outputs: Mapping[str, Any], processor: BatchProcessor
    ) -> tuple[BatchProcessor, MetricSet]:
        """What trains and measures a net from here on.

        Args:
            outputs: What the net returned for a batch.
            processor: Of the Estimator, without a loss.
        """


def describing(outputs: Any) -> type[SelfDescribing] | None:
    """The kind of the outputs in a dict that describe themselves; None where none does."""
    values = outputs.values() if isinstance(outputs, Mapping) else ()
    return next((type(value) for value in values if isinstance(value, SelfDescribing)), None)


def plain(outputs: Any) -> Any:
    """A net's outputs, with the values of those that describe themselves."""
    if describing(outputs) is None:
        return outputs
    return {k: v.value if isinstance(v, SelfDescribing) else v for k, v in outputs.items()}
