"""Metrics of how well scores put samples in order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor

from estimator.handlers.base import DataError
from estimator.metrics.base import Metric, require_keys, shape_of, widest_float


@final
class AUROC(Metric):
    """The area under the receiver operating characteristic, of two classes.

    The probability that a positive sample scores higher than a negative one, where a tie counts
    half (Hanley and McNeil, 1982); equal to `sklearn.metrics.roc_auc_score`. Outputs (N,) or
    (N, 1) are scores, logits or probabilities; outputs (N, 2) are the logits of both classes, and
    what ranks is the softmax probability of class 1 (kept as the difference of the logits, which
    has the same order and does not saturate). Targets (N,) or (N, 1) are 0 or 1.

    The exact value needs all scores: they stay on the device until `reset`, 4 bytes a sample and
    those of the target.

    Args:
        name: See `Metric`.

    Example:
        >>> metric = AUROC()
        >>> metric.update(torch.tensor([0.1, 0.4, 0.35, 0.8]), torch.tensor([0, 0, 1, 1]))
        >>> metric.compute()
        tensor(0.7500, dtype=torch.float64)
    """

    higher_is_better = True

    def __init__(self, *, name: str = "auroc") -> None:
        self.name = name
        self.reset()

    def reset(self) -> None:
        """Forgets all batches."""
        self._scores: list[Tensor] = []
        self._targets: list[Tensor] = []

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Keeps the scores and targets of one batch.

        Args:
            outputs: Shape (N,), (N, 1) or (N, 2).
            targets: Shape (N,) or (N, 1).

        Raises:
            DataError: Other shapes.
        """
        width = outputs.shape[1] if outputs.ndim == 2 else 1
        column = outputs.ndim in (1, 2) and width in (1, 2)
        if not column or targets.shape not in (outputs.shape[:1], (len(outputs), 1)):
            raise DataError(
                f"{self.name}: outputs must have the shape (N,), (N, 1) or (N, 2), targets (N,) "
                f"or (N, 1); received outputs {shape_of(outputs)} and targets "
                f"{shape_of(targets)}. For one class of many, give its column of the outputs."
            )
        # In half precision the difference of two logits would be rounded into ties.
        scores = outputs.detach().to(torch.promote_types(outputs.dtype, torch.float32))
        if width == 2:
            scores = scores[:, 1] - scores[:, 0]
        # Copies: a captured step writes the next batch into the same memory.
        self._scores.append(scores.flatten().clone())
        self._targets.append(targets.detach().flatten().clone())

    def compute(self) -> Tensor:
        """Returns the area, from 0 to 1.

        Returns:
            NaN when only one class is there, when a score is NaN, and before any update.

        Raises:
            DataError: A target is neither 0 nor 1.
        """
        scores, targets = self._joined()
        positive, negative = targets == 1, targets == 0
        # The one read to the host: an area for other labels would be a wrong number.
        if not bool((positive | negative).all()):
            raise DataError(
                f"{self.name}: targets must be 0 or 1, received the labels "
                f"{sorted(set(targets.tolist()))[:10]}. Map them, as in (targets == label).long()."
            )
        wide = widest_float(scores.device)
        ordered = scores.sort().values
        below = torch.searchsorted(ordered, scores)
        upto = torch.searchsorted(ordered, scores, right=True)
        rank = (below + upto + 1).to(wide) / 2
        ups, downs = positive.sum(dtype=wide), negative.sum(dtype=wide)
        wins = rank.where(positive, 0).sum() - ups * (ups + 1) / 2
        return (wins / (ups * downs)).where(~scores.isnan().any(), torch.nan)

    def state_dict(self) -> dict[str, Any]:
        """Returns all scores and targets so far, each as one vector."""
        scores, targets = self._joined()
        return {"scores": scores.clone(), "targets": targets.clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from the scores and targets of another AUROC.

        Args:
            state: What its `state_dict` returned.

        Raises:
            ArgumentError: Its keys are not `scores` and `targets`.
        """
        require_keys("AUROC", state, ("scores", "targets"))
        self.reset()
        if len(state["scores"]):
            self._scores.append(state["scores"].clone())
            self._targets.append(state["targets"].clone())

    def merge(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Takes the scores and targets of several processes as its own.

        Args:
            states: See `Metric`.
        """
        self.reset()
        for state in states:
            if len(state["scores"]):
                self._scores.append(state["scores"].clone())
                self._targets.append(state["targets"].clone())

    def _joined(self) -> tuple[Tensor, Tensor]:
        if not self._scores:
            return torch.zeros(0), torch.zeros(0, dtype=torch.int64)
        # A loaded state may still be on another device than the batches after it.
        device = self._scores[-1].device
        return (
            torch.cat([chunk.to(device) for chunk in self._scores]),
            torch.cat([chunk.to(device) for chunk in self._targets]),
        )
