"""In-memory data by one indexed gather a batch, in the order of the DataLoader it replaces."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from operator import is_
from typing import Any, NamedTuple

import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    RandomSampler,
    SequentialSampler,
    default_collate,
)

from estimator.loaders import is_stock, length_of
from estimator.processor import UID, UidSample
from estimator.residence import Residence, bytes_of, in_words
from estimator.sampler import ResumableSampler, torch_seed
from estimator.staging import Streams, staged
from estimator.taking import ON_HOST, Reading, Taking, read_rows, taking
from estimator.uids import UidCollate


class Picked(NamedTuple):
    """A batch that is not gathered yet, so that a captured step can gather it itself.

    Attributes:
        rows: Indices into data that is on the device already, of shape (batch size,).
        take: Makes the batch from them. It is the same object in each epoch, and reads the same
            memory, as long as the data keeps its form.
    """

    rows: torch.Tensor
    take: Callable[[torch.Tensor], Any]


class Gathered:
    """The batches of a DataLoader over tensors, without its work on single samples.

    Values, structure, order and draws from random streams are those of the loader. Each epoch
    looks at the loader anew, whose dataset may have other rows by then.

    On an accelerator the data is kept there if there is room, and batches come as `Picked`. Else
    they are streamed to it while the ones before are computed.

    Args:
        loader: A loader that `gathered` accepts.
        residence: The tensors on the run's device; None leaves batches on the host.
        argument: What messages call the data.
    """

    def __init__(
        self, loader: DataLoader[Any], residence: Residence | None = None, argument: str = "data"
    ) -> None:
        self.loader, self.residence, self.argument = loader, residence, argument
        self._begun = False
        self._kept: _Kept | None = None

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        loader, plan = self.loader, self._plan()
        kept = None if plan is None else self._keep(plan)
        if plan is None or (kept is None and not _on_host(plan)):
            return iter(loader)
        # A loader seeds its workers when they start, whether or not there are any.
        if not (self._begun and loader.num_workers and loader.persistent_workers):
            torch.empty((), dtype=torch.int64).random_(generator=loader.generator)
        self._begun = True
        rows, is_drawn = _index_batches(loader, None if kept is None else kept.place)
        if kept is not None:
            return map(kept.batch, rows)
        streams = self._streams()
        if streams is not None:
            # Samplers that draw during an epoch would be ahead of the place that is saved.
            return staged(rows, plan.make, streams, ahead=1 if is_drawn else 0)
        return (plan.make(each, ON_HOST) for each in rows)

    def where(self) -> str:
        """Where the data is for the coming epoch, as the end of a sentence; "" on the host."""
        plan = self._plan()
        if plan is not None and self._keep(plan) is not None and self.residence is not None:
            size = in_words(bytes_of(plan.values))
            return f"{size} kept on {self.residence.device}"
        if plan is not None and _on_host(plan) and self._streams() is not None:
            assert self.residence is not None
            return f"streamed to {self.residence.device}"
        return ""

    def release(self) -> None:
        """Lets go of what is on the device."""
        self._kept = None
        if self.residence is not None:
            self.residence.release()

    def _plan(self) -> Taking | None:
        return _taking_of(self.loader, self.residence)

    def _streams(self) -> Streams | None:
        # Without a length, batches are asked for before the one before is computed.
        if self.residence is None or length_of(self.loader) is None:
            return None
        return self.residence.streams

    def _keep(self, plan: Taking) -> _Kept | None:
        """The data on the device, as it is at present; None where it stays on the host."""
        residence, before = self.residence, self._kept
        if residence is None or not residence.is_active:
            return None
        values = residence.copies(self, plan.values, self.argument)
        if values is None:
            self._kept = None
        elif before is None or not before.follow(plan, values):
            self._kept = _Kept(plan, values, residence.device)
        return self._kept


class _Kept:
    """A plan whose tensors are on the device.

    Args:
        plan: How batches are made.
        values: Its tensors of data, on the device.
        device: Where its other tensors go.
    """

    def __init__(self, plan: Taking, values: list[torch.Tensor], device: torch.device) -> None:
        self.plan, self.values = plan, values
        self.place = None if plan.has_words else device
        """Where indices go, of which words are found on the host."""
        self.numbers = [t.to(self.place, copy=True) for t in plan.numbers]
        data = {id(t): copy for t, copy in zip(plan.values, values, strict=True)}
        numbers = {id(t): copy for t, copy in zip(plan.numbers, self.numbers, strict=True)}

        def read_values(tensor: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
            return read_rows(data[id(tensor)], rows.to(device, non_blocking=True))

        def read(tensor: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
            return read_rows(numbers[id(tensor)], rows)

        make, reading = plan.make, Reading(read_values, read)
        self.take: Callable[[torch.Tensor], Any] = lambda rows: make(rows, reading)

    def batch(self, rows: torch.Tensor) -> Any:
        """A batch that is gathered later, unless it has words in it."""
        return self.take(rows) if self.plan.has_words else Picked(rows, self.take)

    def follow(self, plan: Taking, values: list[torch.Tensor]) -> bool:
        """Takes over the numbers of another epoch; False where the data has another form."""
        same = len(values) == len(self.values) and all(map(is_, values, self.values))
        if not same or plan.has_words or _forms(plan.numbers) != _forms(self.numbers):
            return False
        for mine, theirs in zip(self.numbers, plan.numbers, strict=True):
            mine.copy_(theirs)
        return True


def _forms(tensors: Sequence[torch.Tensor]) -> list[tuple[torch.Size, torch.dtype]]:
    return [(tensor.shape, tensor.dtype) for tensor in tensors]


def _on_host(plan: Taking) -> bool:
    return all(tensor.device.type == "cpu" for tensor in plan.values)


def _index_batches(
    loader: DataLoader[Any], device: torch.device | None = None
) -> tuple[Iterator[torch.Tensor], bool]:
    """The indices of each batch, and whether all of them are drawn before the first."""
    sampler: Any = loader.batch_sampler
    if isinstance(sampler, ResumableSampler):
        return sampler.tensors(device), True
    inner = sampler.sampler if type(sampler) is BatchSampler else None
    if type(inner) is RandomSampler and inner.generator is not None and _once(inner):
        return _drawn_again(sampler, inner, device), False
    order = _order(inner)
    if order is None:
        samples = len(loader.dataset)  # type: ignore[arg-type]  # what is gathered has a length
        return (_checked(batch, samples, device) for batch in sampler), False
    whole = len(order) - len(order) % sampler.batch_size if sampler.drop_last else len(order)
    return iter(order[:whole].to(device).split(sampler.batch_size) if whole else ()), True


def _checked(batch: Any, samples: int, device: torch.device | None) -> torch.Tensor:
    """The indices of a batch as a dataset takes them: negative ones count from the end."""
    rows = torch.tensor(batch)
    lowest, highest = min(batch), max(batch)
    # A device would end the process.
    if lowest < -samples or highest >= samples:
        raise IndexError(f"the sampler gave {batch!r} for a dataset of {samples} samples")
    rows = rows if lowest >= 0 else rows.where(rows >= 0, rows + samples)
    return rows.to(device, non_blocking=True)


def _once(sampler: RandomSampler) -> bool:
    return not sampler.replacement and sampler.num_samples == len(sampler.data_source)


def _order(sampler: Any) -> torch.Tensor | None:
    """The epoch's indices at once, drawn as the sampler draws them; None for other samplers."""
    if type(sampler) is SequentialSampler:
        return torch.arange(len(sampler))
    if type(sampler) is not RandomSampler or not _once(sampler):
        return None
    generator = torch.Generator().manual_seed(torch_seed())
    return torch.randperm(len(sampler.data_source), generator=generator)


def _drawn_again(
    batches: BatchSampler, sampler: RandomSampler, device: torch.device | None
) -> Iterator[torch.Tensor]:
    """The order of a sampler with a generator of its own, from which it draws when it ends too."""
    samples, size = len(sampler.data_source), batches.batch_size
    order = torch.randperm(samples, generator=sampler.generator).to(device)
    whole = samples - samples % size
    yield from order[:whole].split(size) if whole else ()
    torch.randperm(samples, generator=sampler.generator)
    if whole < samples and not batches.drop_last:
        yield order[whole:]


def gathered(
    data: Any, residence: Residence | None = None, argument: str = "data"
) -> Gathered | None:
    """The fast way through a DataLoader; None where it is not known to give the same batches.

    Args:
        data: What is gone through.
        residence: The tensors on the run's device; None leaves batches on the host.
        argument: What messages call the data.
    """
    fast = isinstance(data, DataLoader) and _taking_of(data, residence) is not None
    return Gathered(data, residence, argument) if fast else None


def _taking_of(loader: DataLoader[Any], residence: Residence | None) -> Taking | None:
    """Makes a batch of the loader's rows from their indices; None where only the loader can."""
    if not is_stock(loader) or loader.batch_sampler is None:
        return None
    collate: Any = loader.collate_fn
    merges = isinstance(collate, UidCollate)
    if merges:
        collate = collate.collate
    if collate is not default_collate or loader.worker_init_fn is not None:
        return None
    goes_on = residence is not None and residence.is_active
    if loader.pin_memory and not goes_on and torch.accelerator.is_available():
        return None
    plan = taking(loader.dataset, residence.device if goes_on and residence else None)
    if plan is None or _asked_for(loader.batch_sampler) > len(loader.dataset):  # type: ignore[arg-type]  # it has one
        return None
    return _merged(plan) if merges else plan


def _asked_for(sampler: Any) -> int:
    """How many samples a sampler takes its dataset to have, as far as it says."""
    if isinstance(sampler, ResumableSampler):
        # An epoch may have more draws than there are samples.
        return getattr(sampler, "population", sampler.samples)
    source = getattr(getattr(sampler, "sampler", None), "data_source", ())
    return length_of(source) or 0


def _merged(plan: Taking) -> Taking:
    """With identities beside dicts taken into them, as `UidCollate` does."""
    make = plan.make

    def merged(rows: torch.Tensor, reading: Reading) -> Any:
        batch = make(rows, reading)
        if type(batch) is not UidSample:
            return batch
        batch, uids = batch
        uids = list(uids) if isinstance(uids, tuple) else uids
        return {**batch, UID: uids} if isinstance(batch, dict) else UidSample(batch, uids)

    return plan._replace(make=merged)
