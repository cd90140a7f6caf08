"""From what the user passes as data to batches that can be gone through again and again."""

from __future__ import annotations

import copy
import itertools
import reprlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from estimator.dealing import deal, with_shares
from estimator.distributed import ALONE, World
from estimator.gather import Gathered, gathered
from estimator.handlers.base import ArgumentError, ArgumentTypeError, DataError
from estimator.loaders import Rows, as_dataset, length_of
from estimator.look import look
from estimator.place import (
    after_batches,
    generators,
    kind_of,
    loader_state,
    set_epoch,
    set_generators,
)
from estimator.randomness import random_state_kept, set_random_states
from estimator.residence import Residence
from estimator.sampler import ResumableSampler, SeededDataset, torch_seed
from estimator.uids import UidDataset


class Source:
    """Batches of one data argument, epoch after epoch.

    Args:
        data: A DataLoader, any iterable of batches, a Dataset, or arrays.
        argument: What messages call it, such as "fit(train=...)".
        batch_size: Samples a batch, for arrays and Datasets.
        shuffle: Whether those are shuffled each epoch.
        uids: Whether a handler needs identities, which arrays and Datasets then get.
        seed: Of the order of arrays and Datasets; None draws one where they are shuffled.
        world: The processes among which each batch is dealt.
        residence: Where the run keeps data in memory, on a device whose random stream belongs to a
            place in the data; None is the host.

    Raises:
        ArgumentError: There is no data, or arrays of different lengths.
        ArgumentTypeError: Nothing that can be gone through.
        DataError: Data that cannot be dealt to several processes.
    """

    def __init__(
        self, data: Any, argument: str, *, batch_size: int = 32, shuffle: bool = False,
        uids: bool = False, seed: int | None = None, world: World = ALONE,
        residence: Residence | None = None,
    ) -> None:  # fmt: skip
        if data is None:
            raise ArgumentError(
                f"{argument} needs data: a DataLoader, an iterable of batches, a Dataset or "
                "arrays (x, y); received None."
            )
        self.is_replaced = isinstance(data, DataLoader)
        """Whether a DataLoader is not asked for its batches where `fast` serves them."""
        if isinstance(data, Gathered):
            data = data.loader
        dataset = as_dataset(data, argument)
        if dataset is not None:
            data = _loader(dataset, argument, batch_size, shuffle=shuffle, uids=uids, seed=seed)
        if not isinstance(data, Iterable) or isinstance(data, (str, bytes, Mapping)):
            raise ArgumentTypeError(
                f"{argument} must be a DataLoader, an iterable of batches, a Dataset or arrays "
                f"(x, y); received {reprlib.repr(data)}."
            )
        self.is_dealt = world.size > 1
        if self.is_dealt:
            data = deal(data, argument, world)
        self.data: Iterable[Any] = data
        self.fast = gathered(data, residence, argument)
        """What serves the data in the place of a DataLoader that works sample by sample."""
        if self.fast is None and residence is not None:
            residence.refuse(argument, "its batches are not rows of tensors in memory")
        self.argument = argument
        self.takes_batch_size = dataset is not None
        self.one_shot = isinstance(data, Iterator)
        self.batches = length_of(data)
        self.kind = "ends" if self.one_shot else kind_of(data)
        self.device = torch.device("cpu") if residence is None else residence.device
        self._held: Iterator[Any] | None = None
        self._began: dict[str, Any] | None = None
        self._at_end = False
        self._ahead: dict[int, tuple[Any, Any]] = {}
        self._before: dict[str, Any] = {}

    def epoch(self, number: int = 0) -> Iterator[Any]:
        """An iterator over the batches of one epoch.

        Args:
            number: Finished epochs, for samplers whose order depends on it.
        """
        held, self._held = self._held, None
        return self._begin(number) if held is None else held

    def _iterate(self) -> Iterator[Any]:
        data: Any = self.data
        batches = data if self.fast is None else self.fast
        return with_shares(batches, data.batch_sampler) if self.is_dealt else iter(batches)

    def _begin(self, number: int) -> Iterator[Any]:
        self._ahead = {}
        set_epoch(self.data, number)
        if self.kind == "again":
            self._began = loader_state(self.data, self.device)
        iterator = self._iterate()
        if not self._at_end:
            return iterator
        # A loader whose state is that of an epoch's end may have nothing left to give at first.
        self._at_end, batch = False, next(iterator, self)
        return self._iterate() if batch is self else itertools.chain([batch], iterator)

    def first(self) -> Any:
        """The first batch of the coming epoch, which stays in that epoch.

        Raises:
            DataError: There is none.
        """
        data: Any = self.data
        before = loader_state(data, self.device)
        before["state"] = copy.deepcopy(data.state_dict()) if self.kind == "state" else None
        iterator = self._begin(0)
        batch = next(iterator, self)
        if batch is self:
            raise self.empty()
        self._held, self._before = itertools.chain([batch], iterator), before
        return batch

    def release(self) -> None:
        """Lets go of the workers of an epoch that was not begun, and of copies on the device."""
        self._held = None
        if self.fast is not None:
            self.fast.release()

    def served(self) -> str:
        """How batches are made and where their data is, in one line; "" where it is as given."""
        data: Any = self.data
        where = "" if self.fast is None else self.fast.where()
        made = "batches are gathered from the arrays" if where else ""
        if self.fast is not None and self.is_replaced:
            made = (
                f"batches are gathered from the tensors of the {type(data.dataset).__name__}, in "
                "the DataLoader's order"
            )
        text = "; ".join(filter(None, (made, where)))
        return f"{self.argument}: {text}." if text else ""

    def place(self, done: int) -> dict[str, Any]:
        """The place after `done` batches of the present epoch, as plain values and tensors."""
        data: Any = self.data
        place: dict[str, Any] = {"kind": self.kind, "done": done, "batches": self.batches}
        place["generators"] = [generator.get_state() for generator in generators(data)]
        if done == 0 and self._held is not None:
            place |= self._before
        elif self.kind == "state":
            place["state"] = self._ahead[done][0] if done in self._ahead else data.state_dict()
        if self.kind == "sampler":
            sampler = data.batch_sampler
            place |= {n: getattr(sampler, n) for n in ("seed", "samples", "batch_size")}
        elif self.kind == "again" and done:
            place["began"] = self._began
        return place

    def peek(self, iterator: Iterator[Any], done: int, default: object) -> Any:
        """The batch after `done` batches of an epoch, or a default; the place stays before it."""
        if done not in self._ahead:
            data: Any = self.data
            state = copy.deepcopy(data.state_dict()) if self.kind == "state" else None
            self._ahead = {done: (state, next(iterator, default))}
        return self._ahead[done][1]

    def go_back(self, place: Mapping[str, Any]) -> None:
        """Makes a place the present one again, for a pass that is to be gone through anew."""
        set_generators(self.data, place["generators"], self.argument)
        self._ahead = {place["done"]: (place.get("state"), None)}

    def finds(self, place: Mapping[str, Any]) -> bool:
        """Whether this data can go on at a place."""
        inside: bool = place["done"] > 0
        return not inside or self.kind == place["kind"] != "ends"

    def take_up(self, place: Mapping[str, Any]) -> None:
        """Prepares the epochs to come for a run that goes on at a place.

        Raises:
            DataError: The data is not of the size that it had.
        """
        data: Any = self.data
        if not self.one_shot:
            self._held = None
        names = ("batches", "samples", "batch_size") if self.kind == "sampler" else ("batches",)
        here: Any = data.batch_sampler if self.kind == "sampler" else None
        own = {n: self.batches if n == "batches" else getattr(here, n) for n in names}
        known = {n: place.get(n, own[n]) for n in names}
        if own != known:
            raise DataError(
                f"{self.argument} must be of the size that it had when the checkpoint was made: "
                f"{known}; received {own}. Resume with the data and the batch size of that run."
            )
        if self.kind == place["kind"]:
            set_generators(data, place["generators"], self.argument)
            if self.kind == "sampler":
                here.seed = place["seed"]
            elif self.kind == "state":
                data.load_state_dict(place["state"])
                self._at_end = place["done"] == 0

    def rest(self, number: int, place: Mapping[str, Any]) -> Iterator[Any]:
        """An iterator over the batches that are left of an epoch.

        Args:
            number: Finished epochs.
            place: What `place` gave inside this epoch.
        """
        data: Any = self.data
        done = place["done"]
        set_epoch(data, number, done)
        if self.kind == "again":
            self._began = dict(place["began"])
            after = [generator.get_state() for generator in generators(data)]
            set_random_states(self._began["streams"], self.device)
            set_generators(data, self._began["generators"], self.argument)
            rest = after_batches(self._iterate(), done, self.argument)
            set_generators(data, after, self.argument)
            return rest
        return self._iterate()

    def sample(self) -> Any:
        """A batch for a look, with nothing taken from loaders, streams or random states.

        Returns:
            The batch, or None where a look would cost something: a stream's batch, the start of
            workers, or a step of a sampler that is not torch's own.

        Raises:
            DataError: There is none.
        """
        if self.batches == 0:
            raise self.empty()
        with random_state_kept() as drawn:
            if isinstance(self.data, DataLoader):
                return look(self.data)
            batch = self.first()
            if drawn() and not self.one_shot:
                # These draws belong where the epoch begins: it goes through the data anew.
                self._held = None
            return batch

    def empty(self) -> DataError:
        """The error of a loader that yields nothing."""
        return DataError(
            f"{self.argument} must yield at least one batch an epoch; it yielded none. Check the "
            "length of the data, drop_last, and whether an iterator was used up before."
        )


def _loader(
    dataset: Dataset[Any], argument: str, batch_size: int, *, shuffle: bool, uids: bool,
    seed: int | None,
) -> DataLoader[Any]:  # fmt: skip
    if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
        function = argument.partition("(")[0]
        raise ArgumentError(
            f"{function}(batch_size=...) must be a whole number from 1 up; received {batch_size!r}."
        )
    if isinstance(dataset, IterableDataset):
        return DataLoader(dataset, batch_size)
    length = length_of(dataset)
    if not length:
        raise ArgumentError(
            f"{argument} as a Dataset must have a length, above 0; received "
            f"{type(dataset).__name__} of length {length}. Derive from IterableDataset "
            "where the length is not known."
        )
    seed = seed if seed is not None else torch_seed() if shuffle else 0
    sampler = ResumableSampler(length, batch_size, shuffle=shuffle, seed=seed)
    source: Dataset[Any] = UidDataset(dataset) if uids else dataset
    if not isinstance(dataset, (TensorDataset, Rows)):
        source = SeededDataset(source)
    return DataLoader(source, batch_sampler=sampler, generator=torch.Generator())
