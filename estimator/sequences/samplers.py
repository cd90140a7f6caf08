"""Orders in which samples are drawn; each can be found again at any place, as that of `fit` is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from estimator.handlers.base import ArgumentError
from estimator.sampler import ResumableSampler
from estimator.sequences.options import check_whole


class _Drawing(ResumableSampler):
    """A sampler that draws from samples which may be more or fewer than those of an epoch."""

    def __init__(
        self, population: int, draws: int, batch_size: int, *, drop_last: bool, seed: int | None
    ) -> None:
        check_whole(type(self).__name__, "samples", draws, 1)
        super().__init__(draws, batch_size, drop_last=drop_last, seed=seed)
        self.population = population


class ReplacementSampler(_Drawing):
    """Batches of samples drawn with replacement, so that one may come twice and another never.

    Args:
        population: How many samples there are to draw from.
        batch_size: Samples of a batch, over all processes together.
        samples: Draws of an epoch; None is as many as there are samples.
        drop_last: Whether a last batch with fewer samples is left out.
        seed: Of the order; None draws one from torch's stream.

    Example:
        >>> sampler = ReplacementSampler(3, 4, samples=8)
        >>> [len(batch) for batch in sampler], max(max(batch) for batch in sampler) < 3
        ([4, 4], True)
    """

    def __init__(
        self, population: int, batch_size: int, *, samples: int | None = None,
        drop_last: bool = False, seed: int | None = 0,
    ) -> None:  # fmt: skip
        check_whole("ReplacementSampler", "population", population, 1)
        draws = population if samples is None else samples
        super().__init__(population, draws, batch_size, drop_last=drop_last, seed=seed)

    def _order(self, seed: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.randint(self.population, (self.samples,), generator=generator)


class BalancedSampler(_Drawing):
    """Batches in which all classes come equally often over an epoch.

    A class with fewer samples has them repeated, each as often as the others give or take one; of
    a class with more, each epoch has other ones.

    Args:
        labels: The class of each sample.
        batch_size: Samples of a batch, over all processes together.
        samples: Draws of an epoch; None is as many as there are samples.
        classes: All classes that there are to be; None is those that `labels` has.
        drop_last: Whether a last batch with fewer samples is left out.
        seed: Of the order; None draws one from torch's stream.

    Raises:
        ArgumentError: A class has no sample, or a label is none of the classes.

    Example:
        >>> sampler = BalancedSampler([0, 0, 0, 0, 0, 1], batch_size=6)
        >>> drawn = next(iter(sampler))
        >>> drawn.count(5)
        3
    """

    def __init__(
        self, labels: Any, batch_size: int, *, samples: int | None = None,
        classes: Sequence[Any] | None = None, drop_last: bool = False, seed: int | None = 0,
    ) -> None:  # fmt: skip
        self.members = _members("BalancedSampler(labels=...)", labels, classes)
        count = sum(map(len, self.members))
        draws = count if samples is None else samples
        super().__init__(count, draws, batch_size, drop_last=drop_last, seed=seed)

    def _order(self, seed: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        share, rest = divmod(self.samples, len(self.members))
        # Those that get one more differ from epoch to epoch.
        turns = torch.randperm(len(self.members), generator=generator).tolist()
        parts = [
            _repeated(self.members[at], share + (turn < rest), generator)
            for turn, at in enumerate(turns)
        ]
        drawn = torch.cat(parts)
        return drawn[torch.randperm(len(drawn), generator=generator)]


class InterleavedSampler(_Drawing):
    """Batches that take a sample of each group in turn.

    An epoch is as long as the smallest group lasts; of the larger ones, each epoch has others.

    Args:
        groups: The group of each sample, such as the data set that it comes from.
        batch_size: Samples of a batch, over all processes together.
        drop_last: Whether a last batch with fewer samples is left out.
        seed: Of the order; None draws one from torch's stream.

    Example:
        >>> sampler = InterleavedSampler(["a", "a", "a", "b", "b"], batch_size=4)
        >>> [index >= 3 for index in next(iter(sampler))]
        [False, True, False, True]
    """

    def __init__(
        self, groups: Any, batch_size: int, *, drop_last: bool = False, seed: int | None = 0
    ) -> None:
        self.members = _members("InterleavedSampler(groups=...)", groups, None)
        shortest = min(map(len, self.members))
        super().__init__(
            sum(map(len, self.members)), shortest * len(self.members), batch_size,
            drop_last=drop_last, seed=seed,
        )  # fmt: skip

    def _order(self, seed: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        length = self.samples // len(self.members)
        return torch.stack([_repeated(m, length, generator) for m in self.members], 1).flatten()


def _repeated(members: torch.Tensor, draws: int, generator: torch.Generator) -> torch.Tensor:
    """Draws in which each member comes equally often, give or take one, in a random order."""
    rounds = -(-draws // len(members))
    orders = [torch.randperm(len(members), generator=generator) for _ in range(rounds)]
    return members[torch.cat([*orders, torch.empty(0, dtype=torch.int64)])[:draws]]


def _members(argument: str, labels: Any, classes: Sequence[Any] | None) -> list[torch.Tensor]:
    """The indices of each class."""
    given = labels.tolist() if hasattr(labels, "tolist") else list(labels)
    found: dict[Any, list[int]] = {each: [] for each in classes or ()}
    for index, label in enumerate(given):
        if classes is not None and label not in found:
            raise ArgumentError(
                f"{argument} must be of the classes {list(classes)!r}; received {label!r} for "
                f"sample {index}."
            )
        found.setdefault(label, []).append(index)
    empty = [name for name, indices in found.items() if not indices]
    if empty or not found:
        raise ArgumentError(
            f"{argument} must have a sample of each class; received none of "
            f"{', '.join(map(repr, empty)) or 'any class'}. Leave empty classes out of classes=."
        )
    return [torch.tensor(indices) for indices in found.values()]
