"""`ActivationStatsHandler`: moments of what each layer puts out."""

from __future__ import annotations

import functools
import logging
import os
import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from estimator.handlers._stats_writer import (
    EVERY_100_STEPS,
    MOMENTS,
    StatsWriter,
    StepClock,
    dense,
    floating,
    moments,
    reduced,
)
from estimator.handlers.base import (
    ArgumentError,
    ArgumentTypeError,
    Band,
    EventHandler,
    Every,
    check_every,
    nearest,
    own_folder,
)

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle

    from estimator.stats import TrainStats

_LOG = logging.getLogger("estimator")
_NET = "(net)"


class _Call(NamedTuple):
    layer: str
    size: int
    values: torch.Tensor


class ActivationStatsHandler(EventHandler):
    """Records what layers put out in the forward pass of training.

    Forward hooks are on the layers only while a due batch passes. Each output is reduced on its
    device before the next layer can change it in place, and all are read to the host in one
    transfer. A layer that is called several times gives the moments over all its calls; of
    outputs in tuples, lists and dicts every floating-point tensor counts.

    Writes `<folder>/activations.csv` with one row for each layer and due step, and mean and
    standard deviation to `<folder>/tensorboard`. The columns are `epoch` (finished epochs), `step`
    (number of the optimizer step that the batch belongs to), `layer`, `mean`, `std` (of a
    population), `min`, `max`, `zeros` (share of elements that are exactly 0, as behind a ReLU)
    and `nonfinite` (count of NaN and infinite elements). A layer that did not run has empty
    cells. Of accumulated batches the first is measured.

    A fit that starts anew replaces the table; one that goes on appends to it, without the rows of
    steps that it is to do again.

    Args:
        folder: Where the files go; None is `layers/` in the run folder.
        layers: Names as in `net.named_modules()`; None takes all modules that hold no others.
        every: When to measure; `every(epochs=n)` takes the first step of each n-th epoch.
        band: When this handler runs within an event.

    Raises:
        ArgumentTypeError: `every` is not an `Every`, or `layers` are not names.
        ArgumentError: `layers` is empty; at train_begin: the net has no such layer.

    Example:
        >>> import tempfile, torch
        >>> from estimator import Estimator
        >>> from estimator.handlers.base import every
        >>> est = Estimator(torch.nn.Sequential(torch.nn.Linear(2, 1)), loss=torch.nn.MSELoss())
        >>> data = torch.randn(8, 2), torch.randn(8, 1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     stats = est.fit(data, epochs=2, trainers="sgd", device="cpu", progress=False,
        ...                     handlers=ActivationStatsHandler(folder, every=every(2)))
        ...     with open(f"{folder}/activations.csv", encoding="utf-8") as table:
        ...         lines = table.read().splitlines()
        >>> [line.split(",")[:3] for line in lines]
        [['epoch', 'step', 'layer'], ['1', '2', '0']]
    """

    band = Band.OBSERVE
    first_process_only = True
    state_names = ("schedule",)

    def __init__(
        self,
        folder: str | os.PathLike[str] | None = None,
        *,
        layers: Iterable[str] | None = None,
        every: Every = EVERY_100_STEPS,
        band: Band | None = None,
    ) -> None:
        super().__init__(band=band)
        self.folder = folder
        self.layers = _checked(layers)
        self.every = check_every(every, "ActivationStatsHandler(every=...)")
        self._names: list[str] = []
        self.schedule: list[float] | None = None
        self._clock: StepClock | None = None
        self._writer: StatsWriter | None = None
        self._hooks: list[RemovableHandle] = []
        self._calls: list[_Call] = []
        self._moment: tuple[int, int] | None = None
        self._told_missing = False

    def train_begin(self, stats: TrainStats) -> None:
        """Finds the layers and opens the files."""
        folder = own_folder(self.folder, stats, "layers", "ActivationStatsHandler")
        self._names = self._find(stats.net)
        self._told_missing = False
        columns, charts = ["epoch", "step", "layer", *MOMENTS], ["mean", "std"]
        if stats.samples == 0:
            self.schedule = None
        self._clock = StepClock(self.every, stats, self.schedule)
        self._writer = StatsWriter(
            folder, "activations", columns=columns, charts=charts, step=self._clock.measured
        )

    def _find(self, net: nn.Module) -> list[str]:
        if self.layers is None:
            return [name for name, m in net.named_modules() if next(m.children(), None) is None]
        known = dict(net.named_modules(remove_duplicate=False))
        for name in self.layers:
            if name not in known:
                raise ArgumentError(
                    f"ActivationStatsHandler(layers=...) must name layers of "
                    f"{type(net).__name__}; received {name!r}. {nearest(name, known)}"
                )
        return self.layers

    def batch_begin(self, stats: TrainStats) -> None:
        """Puts hooks on for a due batch."""
        assert self._clock is not None, "train_begin comes first"
        if not self._clock.due(stats):
            return
        self._moment = (stats.epoch, stats.step + 1)
        for name in self._names:
            hook = functools.partial(self._measure, name)
            self._hooks.append(stats.net.get_submodule(name).register_forward_hook(hook))

    def _measure(self, name: str, _module: nn.Module, _inputs: Any, output: Any) -> None:
        with torch.no_grad():
            for values in map(dense, floating(output)):
                self._calls.append(_Call(name, values.numel(), reduced(values)))

    def forward_end(self, stats: TrainStats) -> None:
        """Takes the hooks off."""
        self._take_off()

    def batch_end(self, stats: TrainStats) -> None:
        """Writes what was measured."""
        moment, self._moment = self._moment, None
        calls, self._calls = self._calls, []
        if moment is None or stats.error is not None:
            return
        rows = _rows(self._names, calls, stats.device)
        assert self._writer is not None
        self._writer.write(*moment, {name or _NET: row for name, row in rows.items()})
        self._tell_missing([name for name, row in rows.items() if row is None])

    def _tell_missing(self, names: list[str]) -> None:
        if not names or self._told_missing:
            return
        self._told_missing = True
        text = (
            f"ActivationStatsHandler: {', '.join(map(repr, names))} did not run or gave no "
            "floating-point tensor; the cells are empty."
        )
        if self.layers is None:
            _LOG.info(text)
        else:
            warnings.warn(f"{text} Take them out of layers=.", stacklevel=2)

    def error(self, stats: TrainStats) -> None:
        """Takes the hooks off when the batch never got to its forward_end."""
        self._take_off()

    def train_end(self, stats: TrainStats) -> None:
        """Closes the files."""
        self.state_dict()
        self._take_off()
        if self._writer is not None:
            self._writer.close()
        self._clock = self._writer = self._moment = None
        self._calls = []

    def state_dict(self) -> dict[str, Any]:
        """Which steps were measured, whose rows are on the disk."""
        if self._clock is not None:
            self.schedule = self._clock.place()
        return super().state_dict()

    def _take_off(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []


def _checked(layers: Iterable[str] | None) -> list[str] | None:
    if layers is None:
        return None
    names = [] if isinstance(layers, str) else list(layers)
    if isinstance(layers, str) or not all(isinstance(name, str) for name in names):
        raise ArgumentTypeError(
            "ActivationStatsHandler(layers=...) must be names of layers in a list, or None for "
            f"all; received {layers!r}. Write layers=['conv1'], for example."
        )
    if not names:
        raise ArgumentError(
            f"ActivationStatsHandler(layers=...) must name at least one layer; received {layers!r}."
            " Pass None for all layers."
        )
    return list(dict.fromkeys(names))


def _rows(
    names: list[str], calls: list[_Call], device: torch.device
) -> dict[str, list[float] | None]:
    parts: dict[str, list[tuple[int, list[float]]]] = {name: [] for name in names}
    if calls:
        table = torch.stack([call.values.to(device) for call in calls]).tolist()
        for call, (_norm, *values) in zip(calls, table, strict=True):
            parts[call.layer].append((call.size, values))
    return {name: moments(of) if of else None for name, of in parts.items()}
