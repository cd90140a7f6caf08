"""`LoggingHandler`: what a run does, in lines of text."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from estimator.handlers.base import (
    ArgumentTypeError,
    Band,
    Clock,
    EventHandler,
    Every,
    FolderError,
    check_every,
    writable_folder,
)

if TYPE_CHECKING:
    from estimator.history import Value
    from estimator.stats import TrainStats

_LOGGER = logging.getLogger("estimator")
_NOT_RESULTS = frozenset({"epoch", "step", "time", "complete"})


class LoggingHandler(EventHandler):
    """Writes a line for what will run, for each epoch, and for how the run ended.

    With `every` there are lines inside an epoch too:

        Iteration 100/10000 | 1235.5 examples/s | loss 0.1234 | elapsed 0:00:02 | left 0:04:16
        | fetch 12 % 3.1 ms | update 88 % 22.8 ms

    (one line). The speed is that since the last such line, validations left out; the loss is that
    of the latest batch. `fetch` is the wait for a batch and `update` the work on it, as a share of
    both and as a mean: a loader that cannot keep up shows here. `?` is what is not known.

    Lines go through the logger "estimator" at level INFO, a failure at WARNING. Several of these
    handlers in one run repeat no line.

    Args:
        file: A file to append to, in UTF-8; its folder is made. It gets this handler's lines
            and all else that passes the logger.
        every: When to write inside an epoch, as in `every(100)` or `every(seconds=30)`. A
            schedule in epochs thins out the lines of the epochs.
        console: Whether the lines are to be seen: during a run the logger lets INFO pass (unless
            it has a level of its own) and writes to stderr (unless it or the root has a handler).
            If not, they go to the file alone or, without a file, to the program's own handlers.
        band: When it runs within an event; None is `Band.REPORT`.

    Raises:
        ArgumentTypeError: `file` is not a path, or `every` is not an `Every`.
        FolderError: In a run: the file cannot be written.

    Example:
        >>> import tempfile, torch
        >>> from estimator import Estimator
        >>> est = Estimator(torch.nn.Linear(2, 1), loss=torch.nn.MSELoss())
        >>> data = torch.randn(8, 2), torch.randn(8, 1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder, "log.txt")
        ...     stats = est.fit(data, epochs=2, trainers="sgd", device="cpu", progress=False,
        ...                     handlers=[LoggingHandler(file, console=False)])
        ...     lines = file.read_text("utf-8").splitlines()
        >>> [line.split(" ", 2)[2][:9] for line in lines]
        ['Training ', 'Epoch 1/2', 'Epoch 2/2', 'Training ']
    """

    band = Band.REPORT
    first_process_only = True

    def __init__(
        self,
        file: str | os.PathLike[str] | None = None,
        *,
        every: Every | None = None,
        console: bool = True,
        band: Band | None = None,
    ) -> None:
        super().__init__(band=band)
        if file is not None and not (isinstance(file, (str, os.PathLike)) and os.fspath(file)):
            raise ArgumentTypeError(
                f"LoggingHandler(file=...) must be the path of a file or None; received {file!r}. "
                "Write LoggingHandler('runs/log.txt'), for example."
            )
        self.file = file
        self.every = None if every is None else check_every(every, "LoggingHandler(every=...)")
        self.console = console
        self._output: _Output | None = None
        self._clock: Clock | None = None
        self._sums = _Sums()
        self._batches = 0
        self._epoch: int | None = None
        self._epoch_start = 0.0

    def train_begin(self, stats: TrainStats) -> None:
        """Opens the file, and says what will run."""
        self._output = _Output(self.file, self.console)
        self._clock = None if self.every is None else self.every.clock(stats)
        self._batches, self._sums = 0, _Sums.of(stats, 0)
        self._say(stats, "begin", _opening(stats))

    def epoch_begin(self, stats: TrainStats) -> None:
        """Starts the time of the epoch."""
        self._epoch, self._epoch_start = stats.epoch, stats.elapsed

    def batch_end(self, stats: TrainStats) -> None:
        """Writes a line if it is time."""
        clock = self._clock
        if clock is None or clock.every.unit == "epochs" or stats.error is not None:
            return
        self._batches += 1
        if clock.due(stats):
            before, self._sums = self._sums, _Sums.of(stats, self._batches)
            self._say(stats, "iteration", _iteration(stats, before, self._sums))

    def validation_end(self, stats: TrainStats) -> None:
        """Writes the results of a validation inside an epoch; others are in the epoch's line."""
        inside = stats.phase == "validation" and stats.epoch == self._epoch
        gave_up = stats.interrupted is not None and not stats.val
        if inside and stats.error is None and not gave_up:
            results = [f"val_{name} {value:.4g}" for name, value in stats.val.items()]
            text = " | ".join([f"Validation at iteration {stats.step}", *results])
            self._say(stats, "validation", text)

    def epoch_end(self, stats: TrainStats) -> None:
        """Writes the epoch's row."""
        if stats.error is not None:
            return
        clock, row = self._clock, stats.history.rows[-1]
        left_out = clock is not None and clock.every.unit == "epochs" and not clock.due(stats)
        if not left_out or not row["complete"]:
            self._say(stats, "epoch", _epoch(stats, row, stats.elapsed - self._epoch_start))

    def train_end(self, stats: TrainStats) -> None:
        """Says how the run ended, and leaves logging as it was."""
        if self._output is not None:
            level = logging.INFO if stats.error is None else logging.WARNING
            self._say(stats, "end", _closing(stats), level)
            self._output.close()
        self._output = self._clock = self._epoch = None

    def _say(self, stats: TrainStats, kind: str, text: str, level: int = logging.INFO) -> None:
        assert self._output is not None, "train_begin makes it"
        self._output.write(text, level)
        said = stats.scratch.setdefault("LoggingHandler", {})
        moment = (stats.epoch, stats.step, stats.batch_index)
        # Several of these handlers may serve one run; what one has said no other repeats.
        if self._output.aloud and said.get(kind) != moment:
            said[kind] = moment
            _LOGGER.log(level, text, extra={"estimator_line": True})


class _Output:
    """What one handler adds to the logger for the length of a run."""

    def __init__(self, file: str | os.PathLike[str] | None, console: bool) -> None:
        self.aloud = console or file is None
        self._file = None if file is None else _open_file(file)
        self._sinks: list[logging.Handler] = [] if self._file is None else [self._file]
        above = logging.getLogger().handlers if _LOGGER.propagate else []
        heard = any(not isinstance(sink, _LineFile) for sink in [*_LOGGER.handlers, *above])
        if console and not heard:
            self._sinks.append(logging.StreamHandler(_AboveBars()))
        for sink in self._sinks:
            _LOGGER.addHandler(sink)
        self._changed_level = console and _LOGGER.level == logging.NOTSET
        if self._changed_level:
            _LOGGER.setLevel(logging.INFO)

    def write(self, text: str, level: int) -> None:
        """Writes a line to the file, whatever the logger lets pass."""
        if self._file is not None:
            self._file.handle(logging.LogRecord(_LOGGER.name, level, "", 0, text, None, None))

    def close(self) -> None:
        for sink in self._sinks:
            _LOGGER.removeHandler(sink)
            sink.close()
        if self._changed_level:
            _LOGGER.setLevel(logging.NOTSET)


class _AboveBars:
    """Whatever stderr is at the moment; open progress bars stay below what is written."""

    def write(self, text: str) -> None:
        from tqdm import tqdm

        tqdm.write(text, file=sys.stderr, end="")


class _LineFile(logging.FileHandler):
    """Gets its own handler's lines directly, so from the logger it takes all others only."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not hasattr(record, "estimator_line") and super().filter(record)


def _open_file(file: str | os.PathLike[str]) -> _LineFile:
    writable_folder(Path(file).parent, "the folder of LoggingHandler(file=...)")
    try:
        opened = _LineFile(file, encoding="utf-8")
    except OSError as error:
        raise FolderError(
            f"LoggingHandler(file=...) must be a file that can be written; received {file!r} "
            f"({error.strerror}). Choose another file or change its permissions."
        ) from error
    opened.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    return opened


class _Sums(NamedTuple):
    """What has been done since the run began; times in seconds."""

    samples: int = 0
    batches: int = 0
    fetch: float = 0.0
    update: float = 0.0

    @classmethod
    def of(cls, stats: TrainStats, batches: int) -> _Sums:
        return cls(stats.samples, batches, stats.fetch_seconds, stats.update_seconds)


def _opening(stats: TrainStats) -> str:
    parameters = _count(sum(p.numel() for p in stats.net.parameters()), "parameter")
    epochs, iterations = _count(stats.epochs or 1, "epoch"), stats.iterations
    target = epochs if iterations is None else _count(iterations, "iteration")
    begun = f" (resumes after {_done(stats)})" if stats.samples else ""
    parts = [f"Training {type(stats.net).__name__}, {parameters}, on {stats.device} for {target}"]
    for name, trainer in stats.trainers.items():
        rates = ", ".join(f"{rate:.6g}" for rate in dict.fromkeys(trainer.lrs))
        parts.append(f"{name} {type(trainer.optimizer).__name__} lr {rates}")
    return " | ".join(parts) + begun


def _iteration(stats: TrainStats, before: _Sums, now: _Sums) -> str:
    samples, batches, fetch, update = (b - a for a, b in zip(before, now, strict=True))
    where, done = _position(stats)
    busy, elapsed = fetch + update, stats.elapsed
    parts = [
        f"{where} | {_per(samples, busy)} examples/s",
        f"loss {'?' if stats.loss is None else format(float(stats.loss), '.4g')}",
        f"elapsed {_span(elapsed)}",
        f"left {_span(elapsed * max(1 / done - 1, 0)) if done else '?'}",
        f"fetch {_per(100 * fetch, busy, '.0f')} % {_per(1000 * fetch, batches)} ms",
        f"update {_per(100 * update, busy, '.0f')} % {_per(1000 * update, batches)} ms",
    ]
    return " | ".join(parts)


def _position(stats: TrainStats) -> tuple[str, float | None]:
    """Where the run stands, in words and as the fraction that is done, where that is known."""
    if stats.iterations is not None:
        return f"Iteration {stats.step}/{stats.iterations}", stats.step / stats.iterations
    if stats.epochs is None or stats.batches is None or stats.batch_index is None:
        return f"Iteration {stats.step}", None
    batch = stats.epoch * stats.batches + stats.batch_index + 1
    total = stats.epochs * stats.batches
    # Where several batches make a step, or a step was left out, the count of steps is not known.
    plain = f"/{total}" if batch == stats.step else f" | batch {batch}/{total}"
    return f"Iteration {stats.step}{plain}", batch / total


def _epoch(stats: TrainStats, row: dict[str, Value], seconds: float) -> str:
    of = "" if stats.epochs is None else f"/{stats.epochs}"
    complete = row["complete"]
    head = f"Epoch {stats.epoch}{of}" if complete else f"Epoch {stats.epoch + 1}{of} (incomplete)"
    parts = [head, f"{seconds:.1f} s"]
    for name, value in row.items():
        if name not in _NOT_RESULTS and value is not None:
            parts.append(f"{name} {format(value, '.6g' if name.startswith('lr') else '.4g')}")
    return " | ".join(parts)


def _closing(stats: TrainStats) -> str:
    outcome = f"stopped: {stats.stopped}" if stats.stopped else "completed"
    if stats.error is not None:
        line = str(stats.error).partition("\n")[0]
        outcome = f"failed: {type(stats.error).__name__}{line and ': '}{line}"
    return f"Training {outcome} | {_done(stats)} | {_span(stats.elapsed)}"


def _done(stats: TrainStats) -> str:
    inside = f" and {_count(stats.batches_done, 'batch', 'es')}" if stats.batches_done else ""
    return f"{_count(stats.epoch, 'epoch')}{inside}, {_count(stats.step, 'iteration')}"


def _per(part: float, whole: float, form: str = ".1f") -> str:
    return format(part / whole, form) if whole > 0 else "?"


def _span(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"


def _count(number: int, unit: str, plural: str = "s") -> str:
    return f"{number:,} {unit}{'' if number == 1 else plural}"
