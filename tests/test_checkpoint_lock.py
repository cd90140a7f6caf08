"""One run in a folder at a time, and never a lock that outlives its run."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from checkpoint_runs import files, new_stats, run, save_next, state_at
from test_handlers_checkpoint import Fail, fit

from estimator.handlers import _checkpoint_lock
from estimator.handlers._checkpoint_lock import LOCK, FolderLock
from estimator.handlers.base import FolderError
from estimator.handlers.checkpoint import CheckpointHandler, load_checkpoint

HOLD = """
import os, sys
from checkpoint_runs import new_stats, save_next, state_at
from estimator.handlers.checkpoint import CheckpointHandler

saver, stats = CheckpointHandler(sys.argv[1]), new_stats()
saver.train_begin(stats)
save_next(saver, stats, state_at(1))
worker = os.fork() if "fork" in sys.argv else None
print("held" if worker is None else worker, flush=True) if worker != 0 else None
sys.stdin.read()
os._exit(0)
"""


@contextmanager
def another_process(folder: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process that holds a folder until it is killed, and what it says when it does."""
    command = [sys.executable, "-c", HOLD, str(folder), *arguments]
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert process.stdin is not None and process.stdout is not None
    with process.stdin, process.stdout:
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()
            process.wait()


def begun(folder: Path) -> tuple[CheckpointHandler, Any]:
    saver, stats = CheckpointHandler(folder), new_stats()
    saver.train_begin(stats)
    return saver, stats


def test_a_second_run_is_told_who_holds_the_folder(tmp_path: Path) -> None:
    with another_process(tmp_path) as (process, said):
        assert said == "held"
        before = {name: (tmp_path / name).read_bytes() for name in files(tmp_path)}
        with pytest.raises(FolderError, match=r"folder=...\) must be .* no other run") as caught:
            run(tmp_path, state_at(1))
        holder = f"held by pid {process.pid} on host {socket.gethostname()}, since 2"
        assert f"{str(tmp_path)!r} is {holder}" in str(caught.value)
        assert "Wait for that run or stop it, or give this handler" in str(caught.value)
        assert {name: (tmp_path / name).read_bytes() for name in files(tmp_path)} == before
        assert load_checkpoint(tmp_path) == state_at(1)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert LOCK in files(tmp_path)
    run(tmp_path, state_at(1, second=True))
    assert files(tmp_path) == ["manifest.json", "step_00000001.pt", "step_00000001_1.pt"]


def test_a_worker_that_outlives_its_run_keeps_nobody_out(tmp_path: Path) -> None:
    with another_process(tmp_path, "fork") as (process, worker):
        with pytest.raises(FolderError, match=f"held by pid {process.pid} "):
            run(tmp_path, state_at(1))
        process.send_signal(signal.SIGKILL)
        process.wait()
        os.kill(int(worker), 0)
        run(tmp_path, state_at(1, second=True))
    assert load_checkpoint(tmp_path)["second"]


def test_two_handlers_of_one_process_cannot_share_a_folder(tmp_path: Path) -> None:
    saver, stats = begun(tmp_path)
    with pytest.raises(FolderError, match=f"held by pid {os.getpid()} .* a folder of its own"):
        fit(CheckpointHandler(tmp_path))
    save_next(saver, stats, state_at(1))
    with pytest.raises(FolderError, match=f"held by pid {os.getpid()} "):
        fit(CheckpointHandler(tmp_path), CheckpointHandler(tmp_path))
    saver.train_end(stats)
    fit(CheckpointHandler(tmp_path), CheckpointHandler(tmp_path / "other"))
    assert LOCK not in files(tmp_path) + files(tmp_path / "other")
    with pytest.raises(FolderError, match=f"held by pid {os.getpid()} "):
        fit(CheckpointHandler(tmp_path), CheckpointHandler(tmp_path))
    fit(CheckpointHandler(tmp_path))


def test_a_failed_run_lets_the_next_one_in(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="on purpose"):
        fit(CheckpointHandler(tmp_path), Fail(2))
    (tmp_path / "manifest.json").write_text("{")
    for _ in range(2):
        with pytest.raises(ValueError, match="must be a manifest"):
            fit(CheckpointHandler(tmp_path))
    (tmp_path / "manifest.json").unlink()
    fit(CheckpointHandler(tmp_path))
    assert files(tmp_path) == ["manifest.json", "step_00000004.pt", "step_00000008.pt"]


def test_a_run_that_was_refused_does_not_go_on_as_the_run_it_was(tmp_path: Path) -> None:
    saver, stats = begun(tmp_path)
    refused = CheckpointHandler(tmp_path)
    refused.load_state_dict({"run_id": "one"})
    with pytest.raises(FolderError):
        fit(refused)
    stats.error = RuntimeError("planned")
    saver.train_end(stats)
    fit(refused)
    entries = json.loads((tmp_path / "manifest.json").read_text("utf-8"))["checkpoints"]
    assert all(entry["run"] != "one" for entry in entries)


def test_a_lock_on_a_file_that_was_deleted_meanwhile_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, moments = _checkpoint_lock._lock, ["deleted", "replaced", "left"]

    def interfere(descriptor: int) -> None:
        moment = moments.pop(0)
        if moment != "left":
            (tmp_path / LOCK).unlink()
        if moment == "replaced":
            (tmp_path / LOCK).touch()
        lock(descriptor)

    monkeypatch.setattr(_checkpoint_lock, "_lock", interfere)
    held = FolderLock(tmp_path)
    assert moments == []
    monkeypatch.undo()
    with pytest.raises(FolderError, match=f"pid {os.getpid()} "):
        FolderLock(tmp_path)
    held.release()
    held.release()
    FolderLock(tmp_path).release()
    assert files(tmp_path) == []


def test_a_holder_that_has_not_yet_said_who_it_is(tmp_path: Path) -> None:
    held = FolderLock(tmp_path)
    (tmp_path / LOCK).write_text("")
    with pytest.raises(FolderError, match="is held by a run that has just begun"):
        FolderLock(tmp_path)
    held.release()


def refuse(number: int) -> Any:
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    return flock


def test_a_file_system_without_locks_is_used_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(fcntl, "flock", refuse(errno.ENOLCK))
    run(tmp_path, state_at(1))
    assert load_checkpoint(tmp_path) == state_at(1)
    (message,) = caplog.messages
    assert f"the file system of {tmp_path} has no locks" in message
    assert "See to it that no second run writes there" in message


def test_a_folder_that_cannot_be_locked_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "flock", refuse(errno.EIO))
    with pytest.raises(FolderError, match=r"that can be locked; received .*\(Input/output error\)"):
        run(tmp_path, state_at(1))


def test_a_disk_that_is_full_before_training_is_named(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        with pytest.raises(FolderError, match=r"can be locked; .*File too large.*Make room"):
            run(tmp_path, state_at(1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert files(tmp_path) == []
    run(tmp_path, state_at(1))


def test_the_lock_of_windows_leaves_the_holder_readable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked: list[int] = []

    def locking(descriptor: int, mode: int, size: int) -> None:
        assert (mode, size) == (2, 1)
        if locked:
            raise PermissionError(errno.EACCES, "Permission denied")
        locked.append(os.lseek(descriptor, 0, os.SEEK_CUR))

    fake = types.SimpleNamespace(locking=locking, LK_NBLCK=2)
    monkeypatch.setitem(sys.modules, "msvcrt", fake)
    monkeypatch.setattr(sys, "platform", "win32")
    held = FolderLock(tmp_path)
    text = (tmp_path / LOCK).read_text("utf-8")
    assert text.startswith(f"pid {os.getpid()} on host ") and locked[0] > len(text)
    with pytest.raises(FolderError, match=f"pid {os.getpid()} "):
        FolderLock(tmp_path)
    held.release()


def test_what_is_let_go_is_free_and_no_file_of_others_is_deleted(tmp_path: Path) -> None:
    held = FolderLock(tmp_path)
    _checkpoint_lock._let_go([held])
    other = FolderLock(tmp_path)
    held.release()
    assert files(tmp_path) == [LOCK]
    other.release()
    assert files(tmp_path) == []


def test_a_system_that_cannot_fork_has_locks_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "register_at_fork")
    assert list(_checkpoint_lock._locks_here.__wrapped__()) == []
