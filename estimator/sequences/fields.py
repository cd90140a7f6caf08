"""The columns of a reservoir: tensors in memory that workers write to, one row a place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from estimator.handlers.base import DataError
from estimator.processor import describe
from estimator.sequences.batches import Named, collated, each, is_words
from estimator.sequences.shared import Block
from estimator.sequences.work import Failure, Outcome, Task, Work, applied, failure

_ALIGNED = 64


class Layout(NamedTuple):
    """What all samples of a reservoir look like, and where their columns are.

    Attributes:
        skeleton: A batch of none.
        names: Of the columns, for messages.
        shapes: Of one row each.
        dtypes: Of each.
        slots: How many rows.
        block: The name of the memory that they are in; "" before there is one.
    """

    skeleton: Any
    names: list[str]
    shapes: list[tuple[int, ...]]
    dtypes: list[torch.dtype]
    slots: int
    block: str = ""

    def bytes(self) -> list[int]:
        """The size of each column, up to where the next one may begin."""
        sizes = []
        for shape, dtype in zip(self.shapes, self.dtypes, strict=True):
            size = torch.Size(shape).numel() * dtype.itemsize * self.slots
            sizes.append(-(-max(size, 1) // _ALIGNED) * _ALIGNED)
        return sizes


def layout_of(content: Any, uid: Any, slots: int) -> Layout:
    """The layout for samples like those of a batch.

    Args:
        content: A batch without identities.
        uid: The identity of its first sample, for messages.
        slots: How many samples are to have a place.

    Raises:
        DataError: A column of words.
    """
    columns = _columns(content)
    for name, column in columns:
        if not isinstance(column, torch.Tensor):
            raise DataError(
                f"a reservoir holds tensors, arrays and numbers; sample{name} of {uid!r} is "
                f"{describe(column[0])}. Leave it out, or give its index in place of it."
            )
    return Layout(
        each(content, lambda column: column[:0]), [name for name, _ in columns],
        [tuple(c.shape[1:]) for _, c in columns], [c.dtype for _, c in columns], slots,
    )  # fmt: skip


def _columns(content: Any, name: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    if isinstance(content, dict):
        for key, value in content.items():
            found += _columns(value, f"{name}[{key!r}]")
        return found
    if isinstance(content, (tuple, list)) and not is_words(content):
        for key, value in enumerate(content):
            found += _columns(value, f"{name}[{key}]")
        return found
    return [(name, content)]


def _row(column: Any) -> Any:
    return (tuple(column.shape[1:]), column.dtype) if isinstance(column, torch.Tensor) else "words"


class Fields:
    """The columns themselves, as this process sees them.

    Args:
        layout: Of the samples; where it names no block, one is made.
    """

    def __init__(self, layout: Layout) -> None:
        sizes = layout.bytes()
        self._owns = not layout.block
        self._block = Block(sum(sizes)) if self._owns else Block(name=layout.block)
        self.layout = layout._replace(block=self._block.name)
        self.columns: list[torch.Tensor] = []
        at = 0
        for shape, dtype, size in zip(layout.shapes, layout.dtypes, sizes, strict=True):
            count = torch.Size(shape).numel() * layout.slots
            if count:
                column = torch.frombuffer(self._block.bytes, dtype=dtype, count=count, offset=at)
            else:
                column = torch.empty(0, dtype=dtype)
            self.columns.append(column.view(layout.slots, *shape))
            at += size

    def write(self, slot: int, sample: Any, uid: Any) -> None:
        """Writes a sample to a place.

        Raises:
            DataError: It is not like the first one.
        """
        layout = self.layout
        columns = _columns(collated([sample], [uid]))
        if [name for name, _ in columns] != layout.names:
            raise DataError(
                f"the sample {uid!r} must have the structure of the first one, {layout.names}; "
                f"received {describe(sample)}."
            )
        for (name, column), shape, dtype in zip(columns, layout.shapes, layout.dtypes, strict=True):
            found = _row(column)
            if found != (shape, dtype):
                raise DataError(
                    f"sample{name} of {uid!r} must be like that of the first one, "
                    f"{(shape, dtype)}; received {found}. Resize or convert it in fn."
                )
        for mine, (_, theirs) in zip(self.columns, columns, strict=True):
            mine[slot] = theirs[0]

    def read(self, slots: torch.Tensor) -> Any:
        """A batch of the samples at these places, in memory of its own."""
        rows = (column.index_select(0, slots) for column in self.columns)
        return each(self.layout.skeleton, lambda _: next(rows))

    def close(self) -> None:
        """Lets go of the memory."""
        self.columns.clear()
        self._block.close(unlink=self._owns)


class Target(NamedTuple):
    """Where the samples of a task go: one place each."""

    layout: Layout
    slots: list[int]


class StoreWork:
    """Applies a function to samples, and writes what it makes to their places.

    The outcome names the samples that have one, by the places; the first task has no target yet,
    and brings its samples along.

    Args:
        fn: Of one sample.
    """

    def __init__(self, fn: Callable[[Any], Any]) -> None:
        self.fn = fn
        self._fields: Fields | None = None

    def __call__(self, task: Task, at: Callable[[int], None]) -> Outcome:
        """Does the work."""
        if task.into is None:
            return Work(self.fn)(task, at)
        target: Target = task.into
        if self._fields is None:
            self._fields = Fields(target.layout)
        samples, uids, failures = applied(self.fn, task, at)
        stored = stored_in(self._fields, target.slots, samples, uids, failures)
        return Outcome(stored, failures)

    def close(self) -> None:
        """Lets go of the memory."""
        if self._fields is not None:
            self._fields.close()
        self._fields = None


def stored_in(
    fields: Fields, slots: Sequence[int], samples: Sequence[Any], uids: Sequence[Any],
    failures: list[Failure],
) -> Named:  # fmt: skip
    """Writes samples to places; those that do not fit join the failures.

    Returns:
        The places that were written to, and the identities of what they hold.
    """
    used: list[int] = []
    names: list[Any] = []
    for sample, uid in zip(samples, uids, strict=True):
        slot = slots[len(used)]
        try:
            fields.write(slot, sample, uid)
        except Exception as error:
            failures.append(failure(uid, error))
        else:
            used.append(slot)
            names.append(uid)
    return Named(used, names)
