"""The runs that a contract suite makes: small, seeded, and broken off where a rule asks for it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, NamedTuple

import torch
from torch import nn

from estimator.estimator import Estimator
from estimator.handlers.base import Band, EventHandler
from estimator.randomness import random_state_kept, seed_everything
from estimator.stats import TrainStats
from estimator.testing._watch import PlannedError, Probe, counted_reads, random_streams
from estimator.trainer import Trainer

WARM_UP, MEASURED = 4, 20
"""Batches before and within the stretch in which reads are counted."""


class Rehearsed(NamedTuple):
    """A run that came to its end."""

    est: Estimator
    stats: TrainStats
    results: dict[str, Any]
    """What another run must equal."""
    streams: dict[str, Any]
    """Where it left the random streams."""


class Rehearsal:
    """What the runs are made of; see `HandlerContract`."""

    changes_validation: bool = False

    def make(self, folder: Path) -> EventHandler:
        """A new handler, made with the same settings each time.

        Args:
            folder: An empty folder of its own, for a handler that writes files.
        """
        raise NotImplementedError(f"{type(self).__name__}.make must return the handler to test.")

    def estimator(self) -> Estimator:
        """What trains with the handler; override it for one that needs another net or loss."""
        return Estimator(
            nn.Sequential(
                nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3)
            ),
            nn.CrossEntropyLoss(),
            ["accuracy"],
        )

    def data(self, samples: int) -> Any:
        """Arrays or a Dataset, for batches of 4; override it together with `estimator`.

        Args:
            samples: How many to make. The same number gives the same samples.
        """
        generator = torch.Generator().manual_seed(samples)
        return torch.randn(samples, 4, generator=generator), torch.arange(samples) % 3

    def _new(self, tmp_path: Path) -> EventHandler:
        return self.make(Path(mkdtemp(dir=tmp_path)))

    def _estimator(self) -> Estimator:
        with random_state_kept():
            seed_everything(0)
            return self.estimator()

    def _run(
        self, *handlers: EventHandler, est: Estimator | None = None, **changes: Any
    ) -> Rehearsed:
        """Trains; `changes` replace arguments of `fit`."""
        est = self._estimator() if est is None else est
        modes: dict[str, Any] = {"forward_end": [], "validation_batch_end": []}
        probes = [_mode_probe(event, seen) for event, seen in modes.items()]
        arguments = {
            "train": self.data(11),
            "val": self.data(6),
            "epochs": 2,
            "trainers": Trainer("sgd", lr=0.1),
            "device": "cpu",
            "batch_size": 4,
            "progress": False,
        }
        with random_state_kept():
            seed_everything(0)
            stats = est.fit(**(arguments | changes), handlers=[*handlers, *probes])
            streams = random_streams()
        return Rehearsed(est, stats, self._results(est, stats, modes), streams)

    def _results(self, est: Estimator, stats: TrainStats, modes: dict[str, Any]) -> dict[str, Any]:
        left_out = ("time", "val_") if self.changes_validation else ("time",)
        return {
            "stopped": stats.stopped,
            "modes of the modules at forward_end": modes["forward_end"],
            "modes of the modules at validation_batch_end": modes["validation_batch_end"],
            "modes of the modules after the run": _modes(est.net),
            "requires_grad": {name: p.requires_grad for name, p in est.net.named_parameters()},
            "weights and buffers": est.net.state_dict(),
            "history": [
                {name: value for name, value in row.items() if not name.startswith(left_out)}
                for row in stats.history.rows
            ],
        }

    def _break(self, moment: str, est: Estimator, *handlers: EventHandler) -> PlannedError:
        """Trains until an exception at a moment.

        From `forward_end` and `validation_begin` on the net fails in its next batch; at other
        moments another handler fails, which comes before these.
        """

        def fail(*_: Any) -> None:
            raise PlannedError("planned by HandlerContract")

        def fail_later(stats: TrainStats) -> None:
            hooks.append(stats.net.register_forward_pre_hook(fail))

        hooks: list[Any] = []
        in_net = moment in ("forward_end", "validation_begin")
        probe = Probe(moment, fail_later if in_net else fail, band=Band.PREPARE)
        try:
            self._run(probe, *handlers, est=est)
        except PlannedError as error:
            return error
        finally:
            for hook in hooks:
                hook.remove()
        raise AssertionError(f"{handlers}: the run must come as far as {moment}; it ended before")

    def _end(self, moment: str | None, est: Estimator, *handlers: EventHandler) -> None:
        """Trains to the end, or until an exception at a moment."""
        if moment is None:
            self._run(*handlers, est=est)
        else:
            self._break(moment, est, *handlers)

    def _reads(self, *handlers: EventHandler) -> dict[str, Counter[str]]:
        """What the host reads of tensors in a stretch of batches, by the event that ends these."""
        marks: dict[str, list[int]] = {"batch_end": [], "validation_batch_end": []}
        data = self.data(4 * (WARM_UP + MEASURED))
        with counted_reads() as reads:
            probes = [_marking_probe(event, at, reads) for event, at in marks.items()]
            self._run(*handlers, *probes, train=data, val=data, epochs=1)
        return {event: Counter(reads[at[WARM_UP - 1] : at[-1]]) for event, at in marks.items()}


def _modes(net: nn.Module) -> dict[str, bool]:
    return {name: module.training for name, module in net.named_modules()}


def _mode_probe(event: str, seen: list[Any]) -> Probe:
    return Probe(event, lambda stats: seen.append(_modes(stats.net)))


def _marking_probe(event: str, marks: list[int], reads: list[str]) -> Probe:
    return Probe(event, lambda stats: marks.append(len(reads)))
