"""`Estimator`: a net, its loss and its metrics, with `fit`, `evaluate` and `predict`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from estimator.choosing import HandlerLike, Handlers, chosen_handlers
from estimator.dispatch import Dispatch, as_handler
from estimator.engine.options import Engine, check_engine_argument
from estimator.engine.report import report
from estimator.exporting import Dynamic, ExportResult, export_onnx
from estimator.fitting import FitOptions, Trainers
from estimator.handle import Handle
from estimator.handlers.base import ArgumentError, ArgumentTypeError, EventHandler, Every
from estimator.loss import Criterion
from estimator.lr_finder import LRFinderResult, find_lr
from estimator.metrics import MetricSet
from estimator.plan import write_plan
from estimator.plots import plot_losses
from estimator.processor import BatchProcessor, check_target_keys
from estimator.randomness import seed_everything
from estimator.run_folder import RunFolder
from estimator.runtime import Precision
from estimator.standalone import run_pass
from estimator.stats import TrainStats
from estimator.step import Step, Strategy
from estimator.structure import concatenate
from estimator.trainer import BoundTrainer, Trainer, TrainerSpec
from estimator.training import run_training
from estimator.weights import read_weights, write_weights

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class Estimator:
    """Trains a net, evaluates it and predicts with it.

    Args:
        net: Any module.
        loss: A callable `(outputs, targets)`, or several in a dict
            (`name -> callable` or `name -> (callable, weight)`, paired with the same keys of
            outputs and targets) or in a list (paired by position). None for nets that return
            outputs of `estimator.outputs`, which bring loss and metrics along, that are only
            asked to predict, or whose `processor` computes the loss.
        metrics: The same three forms. One metric is a name ("accuracy", "top5_accuracy", "mae",
            "mse", "rmse", "f1", "perplexity", "auroc", "iou"), a function
            `(outputs, targets)`, a `Metric` or a torchmetrics object.
        targets: Which keys of a dictionary batch go to the loss; the rest goes to the net.
        processor: What splits batches, runs the net and takes the loss, where the default does
            not do.

    Raises:
        ArgumentError: An unknown metric name, or `targets` that are not keys.
        ArgumentTypeError: An argument of the wrong kind, such as a class in place of an object.

    Example:
        >>> x = torch.randn(64, 4)
        >>> est = Estimator(nn.Linear(4, 2), nn.CrossEntropyLoss(), ["accuracy"])
        >>> stats = est.fit((x, (x[:, 0] > 0).long()), epochs=2, trainers=Trainer("adam", lr=0.1),
        ...                 device="cpu", progress=False)
        >>> stats.epoch, sorted(est.evaluate((x, (x[:, 0] > 0).long())))
        (2, ['accuracy', 'loss'])
    """

    def __init__(
        self, net: nn.Module, loss: Any = None, metrics: Any = None, *,
        targets: str | list[str] | None = None, processor: BatchProcessor | None = None,
    ) -> None:  # fmt: skip
        if not isinstance(net, nn.Module):
            raise ArgumentTypeError(
                f"Estimator(net=...) must be a torch.nn.Module object; received {net!r}."
            )
        if processor is not None and not isinstance(processor, BatchProcessor):
            raise ArgumentTypeError(
                "Estimator(processor=...) must be a BatchProcessor object; received "
                f"{processor!r}. Derive from BatchProcessor and pass an instance."
            )
        self.net = net
        self.loss = loss
        criterion = None if loss is None else Criterion(loss)
        by_position = criterion is not None and criterion.by_position
        self.metrics = MetricSet(metrics, by_position=by_position)
        processor = BatchProcessor() if processor is None else processor
        self.processor = processor.bound(net, criterion, check_target_keys(targets))
        self.train_stats: TrainStats | None = None
        self.handlers: list[EventHandler] = []
        self.trainers: dict[str, tuple[Trainer, BoundTrainer]] = {}
        self._hooks: Dispatch | None = None
        self._step: Step | None = None
        self._engine, self._served = Engine(), list[str]()

    def fit(
        self, train: Any, val: Any = None, epochs: int | None = None, trainers: Trainers = None,
        device: str | torch.device | None = None, *,
        iterations: int | None = None, handlers: Handlers = None, validate: Every | None = None,
        accumulate: int = 1, batch_size: int = 32, precision: Precision | None = None,
        engine: str | Engine = "auto", strategy: Strategy | None = None,
        run: str | os.PathLike[str] | RunFolder | None = None,
        resume: str | os.PathLike[str] | bool | None = None, seed: int | None = None,
        progress: bool = True,
    ) -> TrainStats:  # fmt: skip
        """Trains the net.

        A second `fit` has new counters and a new history; without `trainers` it goes on with the
        optimizers and schedulers of the first.

        Args:
            train: A DataLoader, any iterable of batches (one-shot streams with `iterations`), a
                Dataset, or arrays `(x, y)`. A batch is a tuple or list whose last item is the
                target, or a dict.
            val: The same forms, or a fraction of a `train` that has a length.
            epochs: Epochs to train; neither this nor `iterations` means one epoch.
            trainers: A `Trainer`, an optimizer by name, class or instance, or a list or dict of
                these with disjoint parameters. Default: SGD with a rate of 0.001.
            device: Where to train; None takes the accelerator if there is one, else the CPU.
            iterations: Optimizer steps to train, in place of epochs.
            handlers: Handlers of this fit alone, after those of `add`.
            validate: When to validate; None is after each epoch. The end of a run that reached
                its target is validated in any case.
            accumulate: Batches for one optimizer step.
            batch_size: Samples a batch, for arrays and Datasets.
            precision: "fp32" (default), "bf16" or "fp16".
            engine: "auto" replays steps, as straight-line code on the CPU and as CUDA graphs on a
                GPU, where that gives the same bits sooner; "eager" never does, "replay" and
                "graph" do so by name from the first step; or an `Engine`.
            strategy: How several processes, started by torchrun, train the net: "ddp" (default)
                keeps it whole on each, "fsdp2" leaves each a part of every weight. Each batch is
                dealt to them, so that `batch_size` is that of all together.
            run: A name, such as "mnist": the run keeps its log, history, checkpoints and record in
                a new folder `runs/mnist_r<number>`; a path with a slash is the folder itself; see
                `RunFolder`. With `resume=True` the newest of that name goes on.
            seed: Of Python, NumPy and torch; None leaves their streams alone, so that `fit`
                equals a plain loop after the same `torch.manual_seed`.
            resume: Go on where a run stopped, inside an epoch too: a checkpoint, a folder with
                checkpoints, a run folder, or True for that of this fit's `CheckpointHandler` or
                `run` (where an empty folder starts afresh). Epochs and iterations count from the
                run's beginning.
            progress: Whether a bar (or, without a terminal, a line an epoch) shows the run, and
                notices may go to stderr.

        Returns:
            The state of the finished run, with its history.

        Raises:
            ArgumentError: An argument breaks its rule, or a folder cannot be written.
            DataError: Batches, net, loss and metrics do not fit together, found on a first batch
                before anything is trained; or `resume` finds no good checkpoint, or one of a run
                with other data, handlers or trainers.
            MonitorError: A handler or scheduler follows a value that cannot appear.
        """
        if seed is not None:
            seed_everything(seed)
        options = FitOptions(
            epochs, iterations, device, validate, accumulate, batch_size, precision,
            check_engine_argument(engine), strategy, seed, resume, progress,
        )  # fmt: skip
        return run_training(self, train, val, options, trainers, handlers, run=run)

    def engine_report(self) -> str:
        """How the steps of the last fit were computed, how long each way took, and why."""
        return report(self._step, self._served)

    def evaluate(
        self, data: Any, *, handlers: Handlers = None,
        batch_size: int = 32,
    ) -> dict[str, float]:  # fmt: skip
        """The loss and the metrics over a data set.

        Args:
            data: The forms that `fit` takes.
            handlers: Handlers of this pass, after those of `add`; validation events fire.
            batch_size: Samples a batch, for arrays and Datasets.

        Returns:
            Values by name, such as `{"loss": 0.31, "accuracy": 0.91}`.
        """
        chosen = chosen_handlers(self.handlers, handlers)
        return run_pass(self, data, "evaluate", chosen, batch_size).stats.val

    def predict(
        self, data: Any, *, handlers: Handlers = None,
        batch_size: int = 32,
    ) -> Any:  # fmt: skip
        """The net's outputs for a whole data set, in order, on the CPU.

        Args:
            data: The forms that `fit` takes, with or without targets; a single array is inputs.
            handlers: Handlers of this pass, after those of `add`; validation events fire.
            batch_size: Samples a batch, for arrays and Datasets.

        Returns:
            The structure of one batch's outputs (tensor, tuple or dict), over all samples.
        """
        chosen = chosen_handlers(self.handlers, handlers)
        run = run_pass(self, data, "predict", chosen, batch_size)
        assert run.evaluation.collected is not None
        return concatenate(run.step.in_order(run.evaluation.collected))

    def add(self, handler: HandlerLike) -> Handle:
        """Attaches a handler to every following `fit`, `evaluate` and `predict`.

        While a fit is going on, handlers join and leave between two epochs.

        Args:
            handler: A handler object, or a function marked with `on`.

        Returns:
            A handle with `remove`, usable in a `with` statement.
        """
        added = as_handler(handler)
        self.handlers.append(added)
        if self._hooks is not None and self._hooks.is_going_on:
            self._hooks.join_later(added)
        return Handle(added, self._remove)

    def _remove(self, handler: EventHandler) -> None:
        if not any(handler is other for other in self.handlers):
            return
        self.handlers = [other for other in self.handlers if other is not handler]
        if self._hooks is not None and self._hooks.is_going_on:
            self._hooks.leave_later(handler)

    def plan(self) -> str:
        """The loop, with which handler runs where: of the last fit, or of the next by default.

        Example:
            >>> print(Estimator(nn.Linear(1, 1)).plan().splitlines()[1])
              epoch_begin               MetricHandler
        """
        hooks = self._hooks
        if hooks is None:
            hooks = Dispatch(chosen_handlers(self.handlers, None))
            hooks.bind(TrainStats(self.net, torch.device("cpu")))
        return write_plan(hooks)

    def plot_loss_graph(self, ax: Axes | None = None) -> Figure:
        """Draws training and validation loss over epochs.

        Args:
            ax: Where to draw; None makes a figure, which a notebook shows.

        Raises:
            ArgumentError: Nothing was trained yet.
            MissingExtraError: matplotlib is not installed.
        """
        if self.train_stats is None or not len(self.train_stats.history):
            raise ArgumentError("plot_loss_graph draws a history; there is none yet. Call fit().")
        return plot_losses(self.train_stats.history, ax)

    def find_lr(
        self, train: Any, *, trainers: TrainerSpec | None = None, low: float = 1e-7,
        high: float = 10.0, steps: int = 100, batch_size: int = 32,
        device: str | torch.device | None = None,
    ) -> LRFinderResult:  # fmt: skip
        """Tries learning rates from low to high, one a step, and suggests one.

        Weights, optimizer and random streams are afterwards as before (Smith, 2017,
        "Cyclical Learning Rates for Training Neural Networks", arXiv:1506.01186).

        Args:
            train: The forms that `fit` takes.
            trainers: One trainer, whose rate is varied; default SGD.
            low: First rate.
            high: Last rate.
            steps: How many rates; the sweep ends early where the loss diverges.
            batch_size: Samples a batch, for arrays and Datasets.
            device: Where to train.

        Returns:
            The rates and losses, with `.suggestion` and `.plot()`.
        """
        return find_lr(
            self, train, trainers, bounds=(low, high), steps=steps, batch_size=batch_size,
            device=device,
        )  # fmt: skip

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the net's weights, under a temporary name first so that no half file is left."""
        write_weights(self.net, path)

    def export(
        self, path: str | os.PathLike[str], example: Any, *,
        dynamic: Dynamic | None = None, outputs: Sequence[str] | None = None,
        opset: int | None = None,
    ) -> ExportResult:  # fmt: skip
        """Writes the net as an ONNX file, which is run beside the net first: see `export_onnx`.

        Args:
            path: The file.
            example: A batch as the loader yields it, with or without targets.
            dynamic: Further axes of any size than the batch, as `{"tokens": {1: "time"}}`.
            outputs: Names of the outputs that are wanted; None takes all.
            opset: The version of ONNX's operators; None is the exporter's own choice.

        Example:
            >>> Estimator(nn.Linear(2, 1)).export("linear.onnx", torch.ones(1, 2)).inputs
            {'input': ['batch', 2]}
        """
        return export_onnx(
            self.net, self.processor, path, example, dynamic=dynamic, outputs=outputs, opset=opset
        )

    def load_weights(self, path: str | os.PathLike[str]) -> None:
        """Reads weights that `save` or a `CheckpointHandler` wrote; never runs code from a file.

        Of a checkpoint these are the weights that were validated: where an `EMAHandler` was
        attached, its average.

        Raises:
            DataError: The file holds no weights, or those of another net.
        """
        read_weights(self.net, path)

    def __repr__(self) -> str:
        metrics = ", ".join(self.metrics.names)
        return f"Estimator({type(self.net).__name__}, loss={self.loss!r}, metrics=[{metrics}])"
