"""What a prediction does with batches: targets may be missing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch.nn.utils.rnn import PackedSequence

from estimator.described import plain
from estimator.processor import BatchProcessor, positional_parameters


class Predicting(BatchProcessor):
    """A processor for batches that may come without targets.

    Args:
        inner: The processor of the Estimator.
    """

    def __init__(self, inner: BatchProcessor) -> None:
        self.inner = inner
        self.net, self.criterion, self.target_keys = inner.net, inner.criterion, inner.target_keys
        own = {"split", "evaluate_split"}
        self.custom = any(getattr(type(inner), n) is not getattr(BatchProcessor, n) for n in own)
        self.positional = positional_parameters(inner.net)

    def evaluate_split(self, batch: Any) -> tuple[Any, Any]:
        """Inputs, and targets where there are any."""
        if self.custom:
            return self.inner.evaluate_split(batch)
        if isinstance(batch, Mapping):
            keys = self.inner.target_names(batch)
            if all(key in batch for key in keys) and keys:
                return self.inner.split(batch)
            return self.inner.inputs_of(self._wanted(batch, keys), keys), None
        if not isinstance(batch, (tuple, list)) or isinstance(batch, PackedSequence):
            return batch, None
        if len(batch) == 1:
            return (tuple(batch[0]) if isinstance(batch[0], list) else batch[0]), None
        # Several inputs in the first place have their target in the second.
        nested = any(isinstance(item, (tuple, list, Mapping)) for item in batch[:1])
        if len(batch) == self.positional and not nested:
            return tuple(batch), None
        return self.inner.split(batch)

    def _wanted(self, batch: Mapping[str, Any], keys: list[str]) -> Mapping[str, Any]:
        """What a net takes of a batch whose targets nobody has named: its parameters, by name."""
        keywords = self.inner.keywords
        known = keywords is not None and not self.inner.whole_batch and not keys
        named = {k: v for k, v in batch.items() if known and keywords and k in keywords}
        return named or batch

    def size(self, inputs: Any, targets: Any) -> int:
        """What the user's processor counts."""
        return self.inner.size(inputs, targets)

    def forward(self, inputs: Any) -> Any:
        """What the user's processor runs in training."""
        return self.inner.forward(inputs)

    def evaluate_forward(self, inputs: Any) -> Any:
        """What the user's processor runs."""
        return plain(self.inner.evaluate_forward(inputs))
