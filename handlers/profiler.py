"""`ProfilerHandler`: where the time of some steps of the run goes."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from estimator.handlers.base import (
    ArgumentError,
    Band,
    EventHandler,
    Section,
    Table,
    own_folder,
    reporting,
    write_section,
    write_whole,
)

if TYPE_CHECKING:
    from estimator.stats import TrainStats

_LOG = logging.getLogger("estimator")
_WHAT = "the profile of the run"
_TRACE, _TOP = "trace.pt.trace.json", 20


class ProfilerHandler(EventHandler):
    """Profiles some batches of the run with `torch.profiler`.

    The batches are those that the run trains on in any case: data, forward, backward and optimizer
    step, as the engine computes them. After them the profiler is gone, and the rest of the run is
    as fast as without.

    Writes `<folder>/trace.pt.trace.json`, which TensorBoard (with its profiler plug-in), Perfetto
    and `chrome://tracing` read, the operations that took most time as `<folder>/operations.txt`,
    and a section of the page.

    Args:
        folder: Where the files go; None is the folder "profiler" of the run folder.
        wait: Batches before the profiler is warmed up; the first ones are not typical.
        warmup: Batches that it sees and forgets.
        active: Batches that are recorded; a run that ends before gives those that it had.
        band: When this handler runs within an event. REPORT, so that it sees what others do.

    Raises:
        ArgumentError: A number of batches is not a whole one, or too small; at train_begin:
            there is neither a folder nor a run folder.

    Example:
        >>> import tempfile
        >>> from estimator import Estimator
        >>> est = Estimator(torch.nn.Linear(2, 1), loss=torch.nn.MSELoss())
        >>> data = torch.randn(64, 2), torch.randn(64, 1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     handler = ProfilerHandler(folder, wait=0, active=2)
        ...     stats = est.fit(data, batch_size=8, device="cpu", progress=False, handlers=handler)
        ...     names = sorted(path.name for path in Path(folder).iterdir())
        >>> names
        ['operations.txt', 'profiler.section.json', 'trace.pt.trace.json']
    """

    band = Band.REPORT
    first_process_only = True

    def __init__(
        self,
        folder: str | os.PathLike[str] | None = None,
        *,
        wait: int = 2,
        warmup: int = 1,
        active: int = 10,
        band: Band | None = None,
    ) -> None:
        super().__init__(band=band)
        self.folder = folder
        self.wait = _checked("wait", wait, 0)
        self.warmup = _checked("warmup", warmup, 0)
        self.active = _checked("active", active, 1)
        self._folder: Path | None = None
        self._profiler: torch.profiler.profile | None = None
        self._seen = 0

    def train_begin(self, stats: TrainStats) -> None:
        """Makes the folder."""
        self._folder = own_folder(self.folder, stats, "profiler", "ProfilerHandler")
        self._profiler, self._seen = None, 0

    def epoch_begin(self, stats: TrainStats) -> None:
        """Starts to count batches, before the first one is fetched."""
        if self._profiler is not None or self._folder is None:
            return
        if torch._C._autograd._profiler_enabled():
            # A second one would end it.
            self._give_up(stats, "another profiler is running")
        else:
            self._start(stats)

    def _start(self, stats: TrainStats) -> None:
        kinds = [torch.profiler.ProfilerActivity.CPU]
        if stats.device.type == "cuda":
            kinds.append(torch.profiler.ProfilerActivity.CUDA)
        schedule = torch.profiler.schedule(
            wait=self.wait, warmup=self.warmup, active=self.active, repeat=1
        )
        profiler = torch.profiler.profile(activities=kinds, schedule=schedule, acc_events=True)
        profiler.start()
        self._profiler = profiler

    def _give_up(self, stats: TrainStats, reason: str) -> None:
        self._folder = self._profiler = None
        stats.missing[_WHAT] = reason
        _LOG.error("Could not make %s: %s. Training goes on.", _WHAT, reason)

    def batch_end(self, stats: TrainStats) -> None:
        """Ends one batch of the profile, and the profile with the last one."""
        if self._profiler is None or stats.error is not None:
            return
        self._seen += 1
        if self._seen == self.wait + self.warmup + self.active:
            self._finish(stats)
        else:
            self._profiler.step()

    def _finish(self, stats: TrainStats) -> None:
        profiler, folder = self._profiler, self._folder
        assert profiler is not None and folder is not None
        self._profiler = self._folder = None
        profiler.stop()
        recorded = min(self.active, self._seen - self.wait - self.warmup)
        with reporting(stats, _WHAT):
            draft = folder / f".{_TRACE}.{os.getpid()}.tmp"
            try:
                profiler.export_chrome_trace(str(draft))
                draft.replace(folder / _TRACE)
            finally:
                draft.unlink(missing_ok=True)
            averages: Any = profiler.key_averages()
            device = (
                "self_cuda_time_total" if stats.device.type == "cuda" else "self_cpu_time_total"
            )
            text = averages.table(sort_by=device, row_limit=_TOP, max_name_column_width=60)
            write_whole(folder / "operations.txt", f"{text}\n".encode())
            write_section(folder, "profiler", _section(averages, stats, recorded), stats)

    def train_end(self, stats: TrainStats) -> None:
        """Writes what was recorded of a run that ended before the profile."""
        profiler, folder = self._profiler, self._folder
        if profiler is not None and self._seen > self.wait + self.warmup:
            self._finish(stats)
        elif profiler is not None:
            profiler.stop()
            if stats.error is None:
                least = self.wait + self.warmup + 1
                self._give_up(stats, f"it needs {least} batches, and the run had {self._seen}")
        elif folder is not None and stats.error is None:
            self._give_up(stats, "no epoch began")
        self._folder = self._profiler = None


def _checked(name: str, number: object, least: int) -> int:
    if not isinstance(number, int) or isinstance(number, bool) or number < least:
        raise ArgumentError(
            f"ProfilerHandler({name}=...) must be a whole number of batches from {least} up; "
            f"received {number!r}."
        )
    return number


def _section(averages: Any, stats: TrainStats, recorded: int) -> Section:
    on_device = stats.device.type == "cuda"

    def own_time(row: Any) -> float:
        return float(row.self_device_time_total if on_device else row.self_cpu_time_total)

    total = sum(map(own_time, averages)) or 1.0
    found = sorted(averages, key=own_time, reverse=True)[:_TOP]
    rows = [
        [row.key, row.count, own_time(row) / 1000 / recorded, own_time(row) / total]
        for row in found
    ]
    where = "device" if on_device else "CPU"
    columns = ["operation", "calls", f"{where} milliseconds a batch", "share"]
    text = (
        f"{recorded} batches of the run. The trace {_TRACE} opens in Perfetto, chrome://tracing or "
        "TensorBoard."
    )
    return Section("Profile", 760, text, [Table("Operations by their own time", columns, rows)])
