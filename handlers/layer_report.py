"""`LayerReportHandler`: what each layer puts out and how its weights move, over all epochs."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from estimator.handlers._layer_maps import MAPS, LayerTable, draw_map
from estimator.handlers._parts import whole
from estimator.handlers._stats_writer import dense, floating, moments, reduced
from estimator.handlers.base import (
    Band,
    Clock,
    EventHandler,
    Every,
    Picture,
    Section,
    Table,
    check_every,
    own_folder,
    reporting,
    require,
    write_section,
    write_whole,
)

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle

    from estimator.stats import TrainStats

_NET = "(net)"
_RECTIFIERS = (nn.ReLU, nn.ReLU6)


class _Call(NamedTuple):
    layer: str
    size: int
    values: Tensor
    dead: Tensor | None


class LayerReportHandler(EventHandler):
    """Records activations and gradients of each layer over epochs, as one heat map each.

    Measured are the first batch and the first optimizer step of an epoch; forward hooks are on
    the layers only while that batch passes. Of each module that holds no others: mean and standard
    deviation of its outputs; for `nn.ReLU` and `nn.ReLU6` the share of dead units, which are 0 for
    all samples of the batch; and the norm of its gradient over that of its weights, before
    clipping. Results are read to the host once an epoch.

    Writes `<folder>/layers.csv` (columns `epoch`, `step`, `layer`, `mean`, `std`, `dead`,
    `nonfinite` and `gradient`, epochs counted from 1; a value that a layer lacks is empty), a
    picture `<folder>/<value>.png` each, and a section of the page.

    Args:
        folder: Where the files go; None is the folder "layers" of the run folder.
        every: When the pictures are drawn; None draws them at the end of the run.
        band: When this handler runs within an event.

    Raises:
        ArgumentTypeError: `every` is not an `Every`.
        MissingExtraError: matplotlib is not installed.
        ArgumentError: At train_begin, when there is neither a folder nor a run folder.

    Example:
        >>> import tempfile
        >>> from estimator import Estimator
        >>> est = Estimator(nn.Sequential(nn.Linear(2, 1), nn.ReLU()), loss=nn.MSELoss())
        >>> data = torch.randn(8, 2), torch.randn(8, 1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     stats = est.fit(data, epochs=2, trainers="sgd", device="cpu", progress=False,
        ...                     handlers=LayerReportHandler(folder))
        ...     lines = Path(folder, "layers.csv").read_text("utf-8").splitlines()
        >>> [line.split(",")[:3] for line in lines[1:]]
        [['1', '1', '0'], ['1', '1', '1'], ['2', '2', '0'], ['2', '2', '1']]
    """

    band = Band.OBSERVE

    def __init__(
        self,
        folder: str | os.PathLike[str] | None = None,
        *,
        every: Every | None = None,
        band: Band | None = None,
    ) -> None:
        super().__init__(band=band)
        self.folder = folder
        self.every = None if every is None else check_every(every, "LayerReportHandler(every=...)")
        require("matplotlib", "report", "LayerReportHandler")
        self._folder: Path | None = None
        self._table: LayerTable | None = None
        self._clock: Clock | None = None
        self._drawn = True
        self._forget()

    def _forget(self) -> None:
        self._hooks: list[RemovableHandle] = []
        self._calls: list[_Call] = []
        self._names: list[str] = []
        self._gradients: dict[str, Tensor] = {}
        self._waits_for_batch = self._waits_for_step = False
        self._step = 0

    def train_begin(self, stats: TrainStats) -> None:
        """Begins the table, or goes on with the one that there is."""
        self._forget()
        self._clock = None if self.every is None else self.every.clock(stats)
        if stats.world.rank > 0:
            return
        self._folder = own_folder(self.folder, stats, "layers", "LayerReportHandler")
        self._table, self._drawn = LayerTable(self._folder / "layers.csv", stats.step), True

    def epoch_begin(self, stats: TrainStats) -> None:
        """The next batch is measured, unless the epoch's first one was before a resume."""
        self._calls, self._gradients = [], {}
        self._waits_for_batch = self._waits_for_step = stats.batches_done == 0
        self._step = stats.step + 1

    def batch_begin(self, stats: TrainStats) -> None:
        """Puts hooks on for the epoch's first batch."""
        if not self._waits_for_batch:
            return
        self._waits_for_batch = False
        self._names = [
            name for name, m in stats.net.named_modules() if next(m.children(), None) is None
        ]
        for name in self._names:
            module = stats.net.get_submodule(name)
            hook = functools.partial(self._measure, name)
            self._hooks.append(module.register_forward_hook(hook))

    def _measure(self, name: str, module: nn.Module, _inputs: Any, output: Any) -> None:
        with torch.no_grad():
            for values in map(dense, floating(output)):
                dead = _dead(values) if isinstance(module, _RECTIFIERS) else None
                self._calls.append(_Call(name, values.numel(), reduced(values), dead))

    def forward_end(self, stats: TrainStats) -> None:
        """Takes the hooks off."""
        self._take_off()

    def error(self, stats: TrainStats) -> None:
        """Takes the hooks off when the batch never got to its forward_end."""
        self._take_off()

    def _take_off(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def backward_end(self, stats: TrainStats) -> None:
        """Reduces the gradients of the epoch's first step."""
        if not self._waits_for_step:
            return
        self._waits_for_step = False
        for name in self._names:
            ratio = _relative_gradient(stats.net.get_submodule(name))
            if ratio is not None:
                self._gradients[name] = ratio.to(stats.device)

    def epoch_end(self, stats: TrainStats) -> None:
        """Writes what was measured, and the pictures when they are due."""
        if stats.error is not None:
            return
        rows = self._rows(stats.device)
        due = self._clock is not None and self._clock.due(stats)
        if self._table is None:
            return
        # A run that goes on through a cut epoch measures no second time.
        epoch = stats.epoch + (stats.batches_done > 0)
        if rows:
            with reporting(stats, "the table of layers"):
                self._table.add(epoch, self._step, rows)
                self._drawn = False
        if due:
            self._draw(stats)

    def _rows(self, device: torch.device) -> dict[str, dict[str, float]]:
        calls, self._calls = self._calls, []
        gradients, self._gradients = self._gradients, {}
        rows: dict[str, dict[str, float]] = {}
        parts: dict[str, list[tuple[int, list[float]]]] = {}
        table = torch.stack([c.values.to(device) for c in calls]).tolist() if calls else []
        for call, (_norm, *values) in zip(calls, table, strict=True):
            parts.setdefault(call.layer, []).append((call.size, values))
        for name in self._names if calls or gradients else ():
            if name in parts:
                mean, std, *_, nonfinite = moments(parts[name])
                rows[name or _NET] = {"mean": mean, "std": std, "nonfinite": nonfinite}
        for name, shares in _by_layer(calls).items():
            rows[name or _NET]["dead"] = float(torch.stack(shares).mean())
        if gradients:
            ratios = torch.stack(list(gradients.values())).tolist()
            for name, ratio in zip(gradients, ratios, strict=True):
                rows.setdefault(name or _NET, {})["gradient"] = ratio
        return rows

    def train_end(self, stats: TrainStats) -> None:
        """Draws the pictures, also after an error."""
        self._take_off()
        if self._table is not None and not self._drawn:
            self._draw(stats)
        self._folder = self._table = self._clock = None
        self._forget()

    def _draw(self, stats: TrainStats) -> None:
        assert self._folder is not None and self._table is not None
        self._drawn = True
        with reporting(stats, "the pictures of layers"):
            pictures, last = [], dict[str, dict[str, float]]()
            for kind in MAPS:
                layers, epochs, values = self._table.matrix(kind.value)
                if not layers:
                    continue
                file = f"{kind.value}.png"
                shown = [_with_kind(stats.net, layer) for layer in layers]
                write_whole(self._folder / file, draw_map(kind, shown, epochs, values))
                pictures.append(Picture(file, kind.title))
                for layer, value in zip(layers, values[:, -1].tolist(), strict=True):
                    last.setdefault(layer, {})[kind.value] = value
            columns = ["layer", *(kind.value for kind in MAPS)]
            rows = [[layer, *(found.get(c) for c in columns[1:])] for layer, found in last.items()]
            text = "Measured on the first batch of each epoch."
            section = Section("Layers", 620, text, [Table("Last epoch", columns, rows)], pictures)
            write_section(self._folder, "layers", section, stats)


def _dead(values: Tensor) -> Tensor:
    """The share of units that are 0 for all samples and positions."""
    units = values.transpose(0, 1).flatten(1) if values.ndim > 1 else values[None]
    return (units == 0).all(1).to(torch.float32).mean()


def _relative_gradient(module: nn.Module) -> Tensor | None:
    """The norm of the gradient of a layer's own weights over the norm of these."""
    pairs = [(whole(p.grad), whole(p.detach())) for p in module.parameters(recurse=False)]
    there = [(g, p) for g, p in pairs if g is not None and p is not None and g.numel()]
    if not there:
        return None
    of_gradients, of_weights = (
        torch.stack([torch.linalg.vector_norm(dense(t)) for t in tensors]).norm()
        for tensors in zip(*there, strict=True)
    )
    ratio: Tensor = of_gradients / of_weights.clamp(min=1e-12)
    return ratio


def _with_kind(net: nn.Module, layer: str) -> str:
    """A layer's name and class; names of a `Sequential` are mere numbers."""
    module = dict(net.named_modules()).get("" if layer == _NET else layer)
    return layer if module is None else f"{layer} {type(module).__name__}"


def _by_layer(calls: list[_Call]) -> dict[str, list[Tensor]]:
    found: dict[str, list[Tensor]] = {}
    for call in calls:
        if call.dead is not None:
            found.setdefault(call.layer, []).append(call.dead)
    return found
