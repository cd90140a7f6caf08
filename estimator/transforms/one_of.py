"""`OneOf`: each sample gets one of several transforms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from estimator.handlers._batch_view import check_samples
from estimator.handlers.base import ArgumentError, DataError
from estimator.processor import describe
from estimator.transforms.base import Transform
from estimator.transforms.compose import check_transforms
from estimator.transforms.draws import check_probability
from estimator.transforms.pixels import per_sample


class OneOf(Transform):
    """Lets each sample have one of several transforms, or stay as it is.

    Every transform is computed for the whole batch, and each sample takes its own result, so that
    nothing waits for the device; several costly ones cost the sum of them.

    Args:
        transforms: At least one; all have to give results of the same shapes and types.
        probabilities: One a transform, which add up to 1 at most; the rest is for samples that
            stay as they are. None gives all the same, and leaves no rest.

    Raises:
        ArgumentError: Probabilities that are none.
        ArgumentTypeError: Something that is no `Transform`.

    Example:
        >>> import torch
        >>> from estimator.transforms import RandomFlip
        >>> sometimes = OneOf([RandomFlip(1.0), RandomFlip(1.0, "vertical")], [0.25, 0.25])
        >>> sometimes(torch.zeros(8, 1, 4, 4)).shape
        torch.Size([8, 1, 4, 4])
    """

    def __init__(
        self, transforms: Sequence[Transform], probabilities: Sequence[float] | None = None
    ) -> None:
        self.transforms = check_transforms(transforms, "OneOf(transforms=...)")
        count = len(self.transforms)
        given = [1 / count] * count if probabilities is None else list(probabilities)
        argument = "OneOf(probabilities=...)"
        self.probabilities = [check_probability(p, f"each of {argument}") for p in given]
        if len(given) != count or sum(given) > 1 + 1e-6:
            raise ArgumentError(
                f"{argument} must hold one number for each of {count} transforms, and add up to 1 "
                f"at most; received {probabilities!r}."
            )

    def __call__(self, batch: Any, generator: torch.Generator | None = None) -> Any:
        """The batch, each sample with the change that was drawn for it.

        Args:
            batch: As the transforms take it.
            generator: Where chance comes from; None is the global stream.

        Raises:
            DataError: A transform changed the number of samples, or their shapes differ.
        """
        found = _first_tensor(batch)
        if found is None:
            raise DataError(f"{self!r} needs a batch with tensors; received {describe(batch)}.")
        device = found.device if generator is None else generator.device
        drawn = torch.rand(len(found), generator=generator, device=device).to(found.device)
        # Numbers above a sum that was rounded down are the last transform's, if none is left over.
        rest = len(self.transforms) if self.leaves_none else 0
        results, choice, limit = [batch], torch.full_like(drawn, rest, dtype=torch.long), 0.0
        for transform, probability in zip(self.transforms, self.probabilities, strict=True):
            results.append(transform(batch, generator))
            check_samples(batch, results[-1], transform)
            chosen = (drawn >= limit) & (drawn < limit + probability)
            choice = torch.where(chosen, len(results) - 1, choice)
            limit += probability
        if self.leaves_none:  # what came in need not be like the results then
            results[0] = results[-1]
        return self._chosen(results, choice)

    @property
    def leaves_none(self) -> bool:
        """Whether no sample stays as it is."""
        return sum(self.probabilities) >= 1 - 1e-6

    def _chosen(self, results: list[Any], choice: Tensor) -> Any:
        first = results[0]
        if all(result is first for result in results):
            return first
        if isinstance(first, Mapping):
            return {key: self._chosen([r[key] for r in results], choice) for key in first}
        if isinstance(first, (tuple, list)):
            items = [self._chosen(list(column), choice) for column in zip(*results, strict=True)]
            return type(first)(*items) if hasattr(first, "_fields") else type(first)(items)
        forms = {(tuple(r.shape), r.dtype) for r in results if isinstance(r, Tensor)}
        if len(forms) != 1 or not isinstance(first, Tensor):
            raise DataError(
                f"{self!r} needs transforms whose results are alike; received "
                f"{describe(list(results))}. Let all of them give the same shape and type."
            )
        for number, result in enumerate(results[1:], 1):
            first = torch.where(per_sample(choice == number, result), result, first)
        return first


def _first_tensor(batch: Any) -> Tensor | None:
    if isinstance(batch, Tensor):
        return batch if batch.ndim else None
    values = batch.values() if isinstance(batch, Mapping) else batch
    if not isinstance(values, (str, bytes)) and hasattr(values, "__iter__"):
        return next((t for t in map(_first_tensor, values) if t is not None), None)
    return None
