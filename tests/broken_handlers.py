"""Handlers that break one rule of the contract each."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import torch
from torch import nn

from estimator import DataError
from estimator.handlers import EventHandler
from estimator.stats import TrainStats

OPEN: list[IO[str]] = []
RUNNING: list[tuple[threading.Thread, threading.Event]] = []


def do_nothing(*_: object) -> None:
    pass


class Misspelt(EventHandler):
    def on_epoch_end(self, stats: TrainStats) -> None: ...


class EagerFile(EventHandler):
    def __init__(self, folder: Path) -> None:
        super().__init__()
        (folder / "log.txt").touch()


class LongRepr(EventHandler):
    def __repr__(self) -> str:
        return "LongRepr(\n)"


class OtherRepr(EventHandler):
    def __repr__(self) -> str:
        return "handler"


class TwoArguments(EventHandler):
    def epoch_end(self, stats: TrainStats, net: nn.Module) -> None:  # type: ignore[override]  # what it is here for
        ...


class KeepsLambda(EventHandler):
    def __init__(self) -> None:
        super().__init__()
        self.action = lambda: None


class KeepsLock(EventHandler):
    def train_begin(self, stats: TrainStats) -> None:
        self.lock = threading.Lock()


class LosesItsStep(EventHandler):
    """Stops at a step that its copies do not know."""

    step: int | None = None

    def __init__(self) -> None:
        super().__init__()
        self.step = 3

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def batch_end(self, stats: TrainStats) -> None:
        if stats.step == self.step:
            stats.stop("LosesItsStep")


class State(EventHandler):
    state_names = ("value",)

    def __init__(self, value: Any = 0) -> None:
        super().__init__()
        self.value = value


class StateInRun(State):
    def epoch_begin(self, stats: TrainStats) -> None:
        self.value = stats.device.type, Path()

    def train_end(self, stats: TrainStats) -> None:
        self.value = 0


class ForgetsState(State):
    def epoch_end(self, stats: TrainStats) -> None:
        self.value += 1

    def load_state_dict(self, state: Any) -> None: ...


class CountsCutEpochs(State):
    def epoch_end(self, stats: TrainStats) -> None:
        self.value += 1


class CountsGivenUpValidations(State):
    def validation_end(self, stats: TrainStats) -> None:
        self.value += stats.phase == "validation"


class DrawsFromItsOwnStream(EventHandler):
    """Shakes the weights, from a stream that begins anew with each run."""

    def train_begin(self, stats: TrainStats) -> None:
        self.own = torch.Generator().manual_seed(0)

    def batch_end(self, stats: TrainStats) -> None:
        noise = torch.rand(1, generator=self.own)
        next(stats.net.parameters()).data.add_(noise)


class TakesAnyState(State):
    def load_state_dict(self, state: Any) -> None:
        vars(self).update(state)


class ReadsValidation(EventHandler):
    """Takes it for granted that a validation has results."""

    def validation_end(self, stats: TrainStats) -> None:
        if stats.phase == "validation":
            assert stats.val["loss"] >= 0


class RefusesEmptyValidation(EventHandler):
    def validation_end(self, stats: TrainStats) -> None:
        if stats.phase == "validation" and "loss" not in stats.val:
            raise DataError("no batch")


class ReadsHistory(EventHandler):
    """Takes it for granted that each epoch has a validation."""

    def epoch_end(self, stats: TrainStats) -> None:
        if stats.error is None:
            assert stats.history.rows[-1]["val_loss"] is not None


class ReadsThirdSample(EventHandler):
    def batch_end(self, stats: TrainStats) -> None:
        if stats.error is None:
            stats.outputs[2]


class IgnoresStop(EventHandler):
    def batch_end(self, stats: TrainStats) -> None:
        stats.stopped = None


class RaisesAfterError(EventHandler):
    """Raises in one event while an exception passes."""

    def __init__(self, event: str, folder: Path) -> None:
        super().__init__()
        setattr(self, event, self._fail)

    @staticmethod
    def _fail(stats: TrainStats) -> None:
        if stats.error is not None:
            raise ValueError("a second one")


class NeedsTrainBegin(EventHandler):
    def train_begin(self, stats: TrainStats) -> None:
        self.steps: list[int] = []

    def train_end(self, stats: TrainStats) -> None:
        self.steps.clear()


class BrokenForGood(EventHandler):
    failed = False

    def error(self, stats: TrainStats) -> None:
        self.failed = True

    def train_begin(self, stats: TrainStats) -> None:
        assert not self.failed, "still broken"


class StopsAtOnce(EventHandler):
    def train_begin(self, stats: TrainStats) -> None:
        stats.stop("StopsAtOnce")


class CountsFromTrainBegin(EventHandler):
    def train_begin(self, stats: TrainStats) -> None:
        self.validations = 0

    def validation_end(self, stats: TrainStats) -> None:
        self.validations += 1


class DoublesOutputs(EventHandler):
    def validation_batch_end(self, stats: TrainStats) -> None:
        stats.outputs.mul_(2)


class CountsForever(EventHandler):
    epochs = 0

    def epoch_end(self, stats: TrainStats) -> None:
        self.epochs += 1
        if self.epochs == 3:
            stats.stop("CountsForever")


class ReadsLoss(EventHandler):
    def batch_end(self, stats: TrainStats) -> None:
        if stats.loss is not None:
            self.last = float(stats.loss)


class ReadsValidationLoss(EventHandler):
    def validation_batch_end(self, stats: TrainStats) -> None:
        if stats.loss is not None:
            self.last = f"{stats.loss:.3f}"


class LeavesHook(EventHandler):
    def train_begin(self, stats: TrainStats) -> None:
        stats.net.register_forward_hook(do_nothing)


class LeavesBackwardHook(EventHandler):
    def train_begin(self, stats: TrainStats) -> None:
        list(stats.net.children())[1].register_full_backward_hook(do_nothing)


class LeavesTensorHook(EventHandler):
    def train_begin(self, stats: TrainStats) -> None:
        next(stats.net.parameters()).register_hook(do_nothing)


class LeavesGradHook(EventHandler):
    def train_begin(self, stats: TrainStats) -> None:
        next(stats.net.parameters()).register_post_accumulate_grad_hook(do_nothing)


class LeavesAttribute(EventHandler):
    def train_begin(self, stats: TrainStats) -> None:
        vars(stats.net)["seen"] = True
        next(stats.net.parameters()).seen = True  # type: ignore[attr-defined]  # what it is here for


class LeavesHookOnError(EventHandler):
    def validation_begin(self, stats: TrainStats) -> None:
        self._hook = stats.net.register_forward_hook(do_nothing)

    def validation_end(self, stats: TrainStats) -> None:
        if stats.error is None:
            self._hook.remove()


class LeavesFile(EventHandler):
    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def train_begin(self, stats: TrainStats) -> None:
        OPEN.append((self.folder / "left.txt").open("w"))


class LeavesThread(EventHandler):
    def train_begin(self, stats: TrainStats) -> None:
        end = threading.Event()
        thread = threading.Thread(target=end.wait, name="left")
        thread.start()
        RUNNING.append((thread, end))


class KeepsNet(EventHandler):
    def train_begin(self, stats: TrainStats) -> None:
        self.net = stats.net


class KeepsStatsOnError(EventHandler):
    def error(self, stats: TrainStats) -> None:
        self.stats = stats


class LeavesEvaluationMode(EventHandler):
    def epoch_begin(self, stats: TrainStats) -> None:
        stats.net.eval()


class ValidatesInTrainingMode(EventHandler):
    def validation_begin(self, stats: TrainStats) -> None:
        stats.net.train()


class Freezes(EventHandler):
    def train_end(self, stats: TrainStats) -> None:
        next(stats.net.parameters()).requires_grad_(False)


class MovesStatistics(EventHandler):
    def train_end(self, stats: TrainStats) -> None:
        next(stats.net.buffers()).add_(1)


class ChangesHistory(EventHandler):
    def epoch_end(self, stats: TrainStats) -> None:
        stats.history.rows[-1]["val_loss"] = 0.0


class Draws(EventHandler):
    def __init__(self, draw: Callable[[], Any]) -> None:
        super().__init__()
        self.draw = draw

    def train_end(self, stats: TrainStats) -> None:
        self.draw()
