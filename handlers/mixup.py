"""`MixUpHandler`: trains on weighted means of two samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from estimator.handlers._mixing import Classes, MixingHandler
from estimator.handlers.base import Band

if TYPE_CHECKING:
    from estimator.stats import TrainStats


class MixUpHandler(MixingHandler):
    """Trains on share * a + (1 - share) * b of each sample a and another b of its batch.

    Inputs and targets are mixed alike, with one share a batch, drawn from Beta(alpha, alpha)
    (Zhang, Cisse, Dauphin and Lopez-Paz, 2018, "mixup: Beyond Empirical Risk Minimization",
    arXiv:1710.09412). Targets that are class indices become probabilities (N, C, ...), which the
    loss has to take, as `torch.nn.CrossEntropyLoss` and
    `estimator.losses.SmoothedCrossEntropyLoss` do. Validation sees samples as they are.

    Training metrics compare what the net says of a mixture with the unmixed target of the sample
    that has the greater part in it, so an accuracy stays one; it is lower than on plain samples.
    `train_loss` is that of the mixed targets.

    Args:
        classes: How many classes the indices count; a dict by name for several targets; None
            where all targets are of a floating type, which are mixed as they are.
        alpha: Above 0: the greater, the more even are the parts.
        keys: Of the inputs that are mixed, where they are a dict; None mixes all that are
            floating tensors with a row a sample.
        band: When it runs within an event; PREPARE by default.

    Raises:
        ArgumentError: `alpha` is not above 0, or `classes` are no numbers from 2 up.

    Example:
        >>> from estimator import Estimator
        >>> data = torch.randn(16, 2), torch.arange(16) % 3
        >>> est = Estimator(torch.nn.Linear(2, 3), torch.nn.CrossEntropyLoss(), ["accuracy"])
        >>> stats = est.fit(
        ...     data, epochs=1, device="cpu", handlers=[MixUpHandler(3)], progress=False
        ... )
        >>> 0 <= stats.train["accuracy"] <= 1
        True
    """

    def __init__(
        self, classes: Classes = None, alpha: float = 0.2, *, keys: Sequence[str] | None = None,
        band: Band | None = None,
    ) -> None:  # fmt: skip
        super().__init__(classes, alpha, keys=keys, band=band)

    def mixture(
        self, stats: TrainStats, samples: int, partner: torch.Tensor, share: torch.Tensor
    ) -> tuple[Any, torch.Tensor]:
        """Weighted means of whole inputs."""

        def mix(value: torch.Tensor) -> torch.Tensor:
            return torch.lerp(value[partner], value, share.to(value.dtype))

        return self._inputs(stats.inputs, mix, samples), share
