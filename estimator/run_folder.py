"""`RunFolder`: the folder that a run has for itself, and what it keeps there by default."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from estimator.handlers.base import ArgumentError, ArgumentTypeError, EventHandler, FolderError
from estimator.handlers.best_history import BestHistoryHandler
from estimator.handlers.checkpoint import CheckpointHandler
from estimator.handlers.csv_log import CSVLogHandler
from estimator.handlers.logging import LoggingHandler
from estimator.handlers.lr_recorder import LRRecorderHandler
from estimator.handlers.tensorboard import TensorBoardHandler
from estimator.notices import notice
from estimator.run_record import RECORD, RunRecord, described

if TYPE_CHECKING:
    from collections.abc import Iterator

    from estimator.distributed import World

_NAME = re.compile(r'[^\x00-\x1f<>:"/\\|?*]*[^\x00-\x1f<>:"/\\|?*. ]')
_MOST = 100_000


@final
class RunFolder:
    """Where a run keeps what it writes: `runs/<name>_r<number>`, with the next free number.

    Nothing is ever overwritten, and two processes that start at once get two numbers. With
    `fit(..., run=RunFolder("mnist"))`, or `run="mnist"` in short, the folder holds `run.json` (the
    arguments, versions, machine, git commit, command and outcome), `trainer.txt` (the log),
    `history.csv`, `history.json`, `best_history.txt`, `tensorboard/`, `checkpoints/` and
    `lr_recorder/`. A handler given to `fit` takes the place of a default one of its class; handlers
    whose `folder` is None write to their own places in the run folder.

    Args:
        name: Of the run. A path with a slash is the folder itself, without a number.
        root: The folder of the run folders, for a name.
        sources: Whether `sources/` gets a copy of the Python files that the program imported from
            its own folder.

    Raises:
        ArgumentTypeError: `name` is not a string or path.
        ArgumentError: `name` is empty, or has characters that not every system has in names.

    Example:
        >>> RunFolder("mnist", root="results")
        RunFolder('mnist', root='results')
    """

    def __init__(
        self, name: str | os.PathLike[str], *, root: str | os.PathLike[str] = "runs",
        sources: bool = False,
    ) -> None:  # fmt: skip
        if not isinstance(name, (str, os.PathLike)):
            raise ArgumentTypeError(
                "fit(run=...) must be a name, the path of a folder or a RunFolder; received "
                f"{name!r}."
            )
        self.name, self.root, self.sources = os.fspath(name), os.fspath(root), sources
        self.is_path = any(mark in self.name for mark in (os.sep, os.altsep or os.sep, "/"))
        if not self.is_path and not _NAME.fullmatch(self.name):
            raise ArgumentError(
                "fit(run=...) must be a name of letters, digits and marks that file names can "
                f'have, such as "mnist_cnn", or a path with a slash; received {self.name!r}.'
            )

    def __repr__(self) -> str:
        root = "" if self.root == "runs" else f", root={self.root!r}"
        return f"RunFolder({self.name!r}{root}{', sources=True' if self.sources else ''})"

    def claim(self, *, goes_on: bool) -> Path:
        """Makes the folder, or finds the one to go on in.

        Args:
            goes_on: Whether the newest folder of that name is taken, if there is one.

        Raises:
            ArgumentError: A path that holds something already, with `goes_on=False`.
            FolderError: It cannot be made.
        """
        try:
            if self.is_path:
                return self._claim_path(Path(self.name), goes_on=goes_on)
            return self._claim_number(Path(self.root), goes_on=goes_on)
        except OSError as error:
            raise FolderError(
                f"fit(run={self.name!r}) must name a folder that can be made and written; received "
                f"one that cannot ({error.strerror}: {error.filename!r}). Choose another."
            ) from error

    def _claim_path(self, path: Path, *, goes_on: bool) -> Path:
        path.mkdir(parents=True, exist_ok=True)
        if goes_on:
            return path.absolute()
        try:
            # The record itself is the claim: of two processes one can make it.
            (path / RECORD).touch(exist_ok=False)
        except FileExistsError:
            raise self._taken(path) from None
        if len(os.listdir(path)) > 1:
            (path / RECORD).unlink()
            raise self._taken(path)
        return path.absolute()

    def _taken(self, path: Path) -> ArgumentError:
        return ArgumentError(
            f"fit(run={self.name!r}) must be a folder that is new or empty, since nothing is "
            f"overwritten; received one that holds files. Pass resume=True to go on in it, or "
            f'a name such as "{path.name}", which gets the next free number.'
        )

    def _claim_number(self, root: Path, *, goes_on: bool) -> Path:
        root.mkdir(parents=True, exist_ok=True)
        numbers = self._numbers(root)
        if goes_on and numbers:
            return (root / f"{self.name}_r{max(numbers)}").absolute()
        for number in range(max(numbers, default=-1) + 1, _MOST):
            path = root / f"{self.name}_r{number}"
            try:
                path.mkdir()
            except FileExistsError:
                continue  # Another process was faster.
            (path / RECORD).touch()
            return path.absolute()
        raise ArgumentError(f"fit(run={self.name!r}) has no free number below {_MOST} in {root}.")

    def _numbers(self, root: Path) -> list[int]:
        pattern = re.compile(re.escape(self.name) + r"_r(\d+)")
        found = [pattern.fullmatch(name) for name in os.listdir(root)]
        return [int(match[1]) for match in found if match]


class OpenRun:
    """The run folder of one `fit`: its path, and the record in it.

    Args:
        folder: What was asked for.
        path: The folder.
        goes_on: Whether the run may go on with one that the folder holds.
        is_first: Whether this is the first of the processes, which writes.
    """

    def __init__(
        self, folder: RunFolder, path: Path, *, goes_on: bool, is_first: bool = True
    ) -> None:
        self.path = path
        self.record = RunRecord(path, sources=folder.sources, goes_on=goes_on)
        self._is_first = is_first

    def with_defaults(self, chosen: Sequence[EventHandler], *, show: bool) -> list[EventHandler]:
        """The handlers of the run, with those that a run folder has by default.

        Args:
            chosen: Those that the run has anyhow.
            show: Whether notices may go to stderr.
        """
        defaults: list[EventHandler] = [
            CheckpointHandler(), TensorBoardHandler(), BestHistoryHandler(),
            CSVLogHandler(self.path / "history.csv"),
        ]  # fmt: skip
        if importlib.util.find_spec("matplotlib") is not None:
            defaults.append(LRRecorderHandler())
        else:
            notice(
                "The run folder gets no lr_recorder/ without matplotlib: "
                'pip install "torch-estimator[report]".',
                show=show,
            )
        kinds = {type(handler) for handler in chosen}
        self.record.arguments["handlers"] = "\n".join(map(described, chosen))
        log = LoggingHandler(self.path / "trainer.txt", console=False)
        missing = [each for each in defaults if type(each) not in kinds]
        return [self.record, log, *chosen, *missing]

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Writes the last word of the record; a folder whose run never began goes again."""
        try:
            yield
        except BaseException as error:
            if self._is_first:
                self.record.close(error)
            raise
        if self._is_first:
            self.record.close(None)


def is_run_folder(path: Path) -> bool:
    """Whether a run keeps its files there."""
    return (path / RECORD).is_file()


def open_run(run: Any, resume: Any, world: World) -> OpenRun | None:
    """The run folder of a `fit`; None without one.

    Args:
        run: A name, a path or a `RunFolder`; None, where `resume` is no run folder, is none.
        resume: As given to `fit`.
        world: The processes of the run, of which the first makes the folder.
    """
    if run is None:
        if not isinstance(resume, (str, os.PathLike)) or not is_run_folder(Path(resume)):
            return None
        run, resume = RunFolder(f"{os.path.abspath(resume)}{os.sep}"), True
    folder = run if isinstance(run, RunFolder) else RunFolder(run)
    goes_on = resume is True
    path = world.first(lambda: folder.claim(goes_on=goes_on))
    return OpenRun(folder, path, goes_on=goes_on, is_first=world.rank == 0)


def kept(folder: OpenRun | None) -> AbstractContextManager[None]:
    """`OpenRun.kept` of a run that has a folder."""
    return nullcontext() if folder is None else folder.kept()
