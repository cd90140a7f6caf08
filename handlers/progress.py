"""`ProgressHandler`: a bar for each epoch and each validation."""

from __future__ import annotations

import functools
import math
import shutil
import sys
from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec
from time import perf_counter
from typing import TYPE_CHECKING, Any

from estimator.handlers.base import ArgumentError, ArgumentTypeError, Band, EventHandler

if TYPE_CHECKING:
    from tqdm import tqdm

    from estimator.stats import TrainStats

    BarMaker = Callable[..., tqdm[Any]]

# Reading the clock this seldom costs a batch next to nothing already. More would not gain, and a
# bar that met a slow stretch after a fast one would stand still for long.
_MOST_BATCHES_UNSEEN = 16


class ProgressHandler(EventHandler):
    """Shows a tqdm bar for each training epoch, and one for each validation while it lasts.

    Bars appear on stderr where that is a terminal, and in notebooks, as a widget when ipywidgets
    is installed. Anywhere else (a file, a pipe, a job) the handler does nothing. It serves
    `evaluate` and `predict` too. The loss is that of the latest batch, and is read from its device
    only when a bar is drawn; an epoch's last line shows its results.

    Args:
        refresh: Least number of seconds between two drawings of an open bar. A bar is drawn
            when it opens and closes as well; one of a validation only opens after this time.
        band: When it runs within an event; None is `Band.REPORT`.

    Raises:
        ArgumentTypeError: `refresh` is not a number.
        ArgumentError: `refresh` is not above 0, or not finite.

    Example:
        >>> import torch
        >>> from estimator import Estimator
        >>> est = Estimator(torch.nn.Linear(2, 1), loss=torch.nn.MSELoss())
        >>> data = torch.randn(8, 2), torch.randn(8, 1)
        >>> stats = est.fit(data, epochs=1, trainers="sgd", device="cpu", progress=False,
        ...                 handlers=[ProgressHandler(refresh=0.5)])
    """

    band = Band.REPORT
    first_process_only = True

    def __init__(self, *, refresh: float = 0.1, band: Band | None = None) -> None:
        super().__init__(band=band)
        if not isinstance(refresh, (int, float)) or isinstance(refresh, bool):
            raise ArgumentTypeError(
                f"ProgressHandler(refresh=...) must be a number of seconds; received {refresh!r}. "
                "Write ProgressHandler(refresh=0.1), for example."
            )
        if not (math.isfinite(refresh) and refresh > 0):
            raise ArgumentError(
                "ProgressHandler(refresh=...) must be a finite time above 0; "
                f"received {refresh!r}. Leave the handler out for a run without bars."
            )
        self.refresh = refresh
        self._training: _Meter | None = None
        self._validation: _Meter | None = None

    @property
    def visible(self) -> bool:
        """Whether a bar can be seen here: stderr is a terminal, or this is a notebook."""
        return _bar_maker() is not None

    def epoch_begin(self, stats: TrainStats) -> None:
        """Opens the epoch's bar."""
        make = _bar_maker()
        if make is None:
            return
        of = "" if stats.epochs is None else f"/{stats.epochs}"
        # A stream without a length is measured by the run's target.
        by_steps = stats.batches is None and stats.iterations is not None
        unit = " step" if by_steps else " batch"
        make = partial(make, desc=f"Epoch {stats.epoch + 1}{of}", unit=unit)
        self._training = _Meter(make, self.refresh, by_steps, stats.batches_done)
        self._training.open(stats)

    def batch_end(self, stats: TrainStats) -> None:
        """Counts the batch."""
        meter = self._training
        if meter is None or stats.error is not None:
            return
        meter.count += 1
        if meter.count >= meter.due:
            meter.look(stats)

    def validation_begin(self, stats: TrainStats) -> None:
        """Starts the time after which a bar is worth its line."""
        make, epoch = _bar_maker(), self._training
        if make is None:
            return
        # In the place of the epoch's bar, which comes back afterwards. With a line of its own, a
        # notebook that shows text and cannot move up would get a new one at each drawing.
        place = None if epoch is None or epoch.bar is None else abs(epoch.bar.pos)
        desc = stats.phase.capitalize()
        make = partial(make, desc=desc, unit=" batch", leave=False, position=place)
        self._validation = _Meter(make, self.refresh)

    def validation_batch_end(self, stats: TrainStats) -> None:
        """Counts the batch."""
        meter = self._validation
        if meter is None or stats.error is not None:
            return
        meter.count += 1
        if meter.count >= meter.due:
            meter.look(stats)

    def validation_end(self, stats: TrainStats) -> None:
        """Takes the validation's bar away."""
        if self._validation is not None:
            self._validation.close(stats)
            self._validation = None

    def epoch_end(self, stats: TrainStats) -> None:
        """Closes the epoch's bar with the results of its row."""
        if self._training is not None:
            self._training.close(stats, _results(stats.history.rows[-1]))
            self._training = None

    def error(self, stats: TrainStats) -> None:
        """Closes what is open, so that a traceback begins on its own line."""
        self.train_end(stats)

    def train_end(self, stats: TrainStats) -> None:
        """Closes what is open."""
        self.validation_end(stats)
        if self._training is not None:
            self._training.close(stats)
            self._training = None


class _Meter:
    """A bar, what it has counted, and the count at which to look at the clock again.

    The bar is made when it is first drawn: one that nobody sees costs nothing.
    """

    __slots__ = ("bar", "by_steps", "count", "drawn_at", "drawn_count", "due", "make", "refresh")

    def __init__(
        self, make: BarMaker, refresh: float, by_steps: bool = False, count: int = 0
    ) -> None:
        self.make, self.refresh, self.by_steps = make, refresh, by_steps
        self.bar: tqdm[Any] | None = None
        # A resumed run begins inside an epoch.
        self.count = self.drawn_count = count
        self.due = count + 1
        self.drawn_at = perf_counter()

    def open(self, stats: TrainStats) -> None:
        """Makes the bar, which draws it."""
        total = stats.iterations if self.by_steps else stats.batches
        self.bar = self.make(total=total, initial=self._position(stats))

    def look(self, stats: TrainStats) -> None:
        """Draws the bar if it is time, and foretells when it will be time again."""
        passed = perf_counter() - self.drawn_at
        done = self.count - self.drawn_count
        wait = self.refresh - passed
        if wait <= 0:
            self._draw(stats)
            self.drawn_at, self.drawn_count = perf_counter(), self.count
            wait = self.refresh
        ahead = int(wait * done / passed) if passed > 0 else _MOST_BATCHES_UNSEEN
        self.due = self.count + min(max(ahead, 1), _MOST_BATCHES_UNSEEN)

    def _draw(self, stats: TrainStats) -> None:
        if self.bar is None:
            self.open(stats)
            return
        if stats.loss is not None:
            self.bar.set_postfix_str(f"loss={float(stats.loss):.4g}", refresh=False)
        self.bar.update(self._position(stats) - self.bar.n)

    def close(self, stats: TrainStats, results: str | None = None) -> None:
        """Draws the bar a last time and ends its line."""
        if self.bar is None:
            return
        self.bar.n = self._position(stats)
        if results is not None:
            self.bar.set_postfix_str(results, refresh=False)
            # This line is not drawn over: it may be as long as its results are.
            self.bar.ncols = None
        self.bar.close()

    def _position(self, stats: TrainStats) -> int:
        return stats.step if self.by_steps else self.count


def _bar_maker() -> BarMaker | None:
    """What makes the bars that suit this place; None where nobody would see one."""
    # Only a notebook has loaded IPython by itself; to import it would cost everyone else.
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    in_notebook = getattr(shell, "kernel", None) is not None
    # Without these two tqdm would weigh for itself which of our calls to draw.
    make = partial(_bar, mininterval=0, miniters=1)
    # Without ipywidgets the notebook's bar warns and fails, where one of text does well.
    if in_notebook and find_spec("ipywidgets") is not None:
        from tqdm.notebook import tqdm as notebook_bar

        return partial(make, notebook_bar, dynamic_ncols=True)
    if in_notebook or (sys.stderr is not None and sys.stderr.isatty()):
        from tqdm import tqdm as text_bar

        # Not tqdm's own measure: a terminal that says it has 0 columns would stay empty. A full
        # line would break on terminals that put the cursor into the next one.
        size = shutil.get_terminal_size()
        return partial(make, text_bar, file=sys.stderr, ncols=size.columns - 1, nrows=size.lines)
    return None


def _bar(kind: type[tqdm[Any]], **settings: Any) -> tqdm[Any]:
    return _unwatched(kind)(**settings)  # type: ignore[arg-type]  # a class has a hash


@functools.cache
def _unwatched(kind: type[tqdm[Any]]) -> type[tqdm[Any]]:
    """The same kind of bar without the thread that tqdm starts to watch its bars."""
    return type(kind.__name__, (kind,), {"monitor_interval": 0})


def _results(row: Mapping[str, Any]) -> str:
    named = {k: v for k, v in row.items() if k.startswith(("train_", "val_")) and v is not None}
    return ", ".join(f"{k.removeprefix('train_')}={v:.4g}" for k, v in named.items())
