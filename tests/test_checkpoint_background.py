"""Checkpoints written in the background: the same files, and no failure that goes unheard."""

from __future__ import annotations

import collections
import json
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoint_runs import files, new_stats, run, save_next, state_at
from test_handlers_checkpoint import BATCHES, Fail, Weights, fit, manifest, steps
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from estimator import Estimator
from estimator.handlers._checkpoint_state import host_copy
from estimator.handlers._checkpoint_writer import Writer
from estimator.handlers.base import Band, DataError, EventHandler, FolderError, every, once
from estimator.handlers.checkpoint import CheckpointHandler, best_checkpoint, load_checkpoint
from estimator.stats import TrainStats
from estimator.testing import HandlerContract

THREAD = "checkpoint-writer"


def writers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == THREAD]


class Gate:
    """Holds the writer before its next file until the gate is opened; fails a rename if asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, failing: str = "nothing") -> None:
        self.opened, self.reached = threading.Event(), threading.Event()
        self.failing, self.most = failing, 0
        self._save: Any = torch.save
        self._replace = os.replace
        monkeypatch.setattr(torch, "save", self._wait_and_save)
        monkeypatch.setattr(os, "replace", self._fail_or_replace)

    def _wait_and_save(self, state: Any, file: Any) -> None:
        assert threading.current_thread().name == THREAD
        self.most = max(self.most, len(writers()))
        self.reached.set()
        assert self.opened.wait(60)
        self._save(state, file)

    def _fail_or_replace(self, source: Path, target: Path) -> None:
        if target.name == self.failing:
            raise OSError(28, "No space left on device")
        self._replace(source, target)


class Open(EventHandler):
    """Opens a gate at one event of one step, and waits until the writer is done."""

    band = Band.PREPARE

    def __init__(self, gate: Gate, event: str, step: int) -> None:
        super().__init__()
        self.gate, self.step, self.threads = gate, step, list[int]()
        setattr(self, event, self._open)

    def _open(self, stats: TrainStats) -> None:
        if stats.step == self.step:
            self.threads.append(len(writers()))
            self.gate.opened.set()
            for thread in writers():
                thread.join()


class TestContract(HandlerContract):
    def make(self, folder: Path) -> EventHandler:
        return CheckpointHandler(folder, monitor="train_loss", background=True)


def test_it_saves_what_is_saved_in_the_foreground(tmp_path: Path) -> None:
    kept: list[Any] = []
    for name in ("front", "back"):
        torch.manual_seed(0)
        folder = tmp_path / name
        saver = CheckpointHandler(
            folder, every=every(3), monitor="val_loss", keep_last=2, background=name == "back"
        )
        fit(saver, losses=[3.0, 1.0, 2.0, 4.0])
        entries = manifest(folder)
        states = [load_checkpoint(folder / e["file"]) for e in entries]
        weights = [s["net"] | s["trainers"] for s in states]
        times = {"sha256": "", "run": ""}
        kept.append(([e | times for e in entries], best_checkpoint(folder).name, str(weights)))
        assert states[0]["net"]._metadata[""] == {"version": 1}
    assert kept[0] == kept[1]
    assert kept[0][1] == "step_00000008.pt"


def test_what_is_saved_is_of_its_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, weights = Gate(monkeypatch), Weights()
    saver = CheckpointHandler(tmp_path, every=every(1), keep_last=99, background=True)
    opener = Open(gate, "batch_end", 2)
    fit(saver, weights, opener)
    # The optimizer has stepped while the first checkpoint was being written.
    assert opener.threads == [1]
    for step in range(1, 2 * BATCHES + 1):
        state = load_checkpoint(tmp_path / f"step_{step:08d}.pt")
        assert torch.equal(state["net"]["weight"], weights.of_step[step])
    assert gate.most == 1
    assert steps(tmp_path) == list(range(1, 9))


@pytest.mark.parametrize(("event", "step"), [("batch_end", 2), ("batch_end", 3), ("epoch_end", 4)])
@pytest.mark.parametrize("failing", ["step_00000001.pt", "manifest.json"])
def test_a_write_that_fails_ends_the_run_at_the_next_event(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, event: str, step: int, failing: str
) -> None:
    folder = tmp_path / "run"
    run(folder, state_at(1, first=True))
    name = "step_00000001_1.pt" if failing.startswith("step") else failing
    gate = Gate(monkeypatch, name)
    seen: list[tuple[str, int]] = []

    class Watch(EventHandler):
        band = Band.REPORT

        def error(self, stats: TrainStats) -> None:
            seen.append((str(stats.error), stats.step))

    saver = CheckpointHandler(folder, every=once(1), background=True)

    with pytest.raises(FolderError, match=f"{name}' cannot be written .*No space left") as caught:
        fit(Open(gate, event, step), saver, Watch())
    assert [s for _, s in seen] == [step] and isinstance(caught.value.__cause__, OSError)
    assert files(folder) == ["manifest.json", "step_00000001.pt"]
    assert load_checkpoint(folder)["first"] and writers() == []


def test_a_last_write_that_fails_is_raised_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch, "step_00000008.pt")
    gate.opened.set()
    with pytest.raises(FolderError, match="step_00000008.pt' cannot be written"):
        fit(CheckpointHandler(tmp_path, background=True))
    assert steps(tmp_path) == [4] and writers() == []


def test_a_failed_run_waits_for_its_last_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder, failing in (("good", "nothing"), ("bad", "step_00000004.pt")):
        gate = Gate(monkeypatch, failing)

        class FailAndOpen(Fail):
            def batch_end(self, stats: TrainStats, gate: Gate = gate) -> None:
                if stats.step == self.step:
                    assert gate.reached.wait(60)
                    threading.Timer(0.05, gate.opened.set).start()
                super().batch_end(stats)

        saver = CheckpointHandler(tmp_path / folder, background=True)
        with pytest.raises(RuntimeError, match="failed on purpose") as caught:
            fit(saver, FailAndOpen(5))
        assert writers() == []
        monkeypatch.undo()
        notes = getattr(caught.value, "__notes__", [])
        if folder == "good":
            assert (steps(tmp_path / folder), notes) == ([4], [])
        else:
            (note,) = notes
            assert "last checkpoint could not be written either: " in note and "No space" in note
            assert files(tmp_path / folder) == []


def test_a_value_that_could_not_be_loaded_is_named_where_the_run_is(tmp_path: Path) -> None:
    class Mine(EventHandler):
        state_names = ("best",)
        best = np.float64(1)

    with pytest.raises(DataError, match="received handlers.Mine.best: numpy.float64"):
        fit(CheckpointHandler(tmp_path, background=True), Mine())
    assert files(tmp_path) == [] and writers() == []


def test_an_impatient_interrupt_still_leaves_a_whole_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    join, interrupts = threading.Thread.join, [KeyboardInterrupt()]

    def interrupted(thread: threading.Thread, timeout: float | None = None) -> None:
        if thread.name == THREAD and interrupts:
            raise interrupts.pop()
        join(thread, timeout)

    monkeypatch.setattr(threading.Thread, "join", interrupted)
    saver, stats = CheckpointHandler(tmp_path, background=True), new_stats()
    saver.train_begin(stats)
    save_next(saver, stats, state_at(1))
    with pytest.raises(KeyboardInterrupt):
        saver.train_end(stats)
    assert files(tmp_path) == ["manifest.json", "step_00000001.pt"]
    assert load_checkpoint(tmp_path) == state_at(1)


def test_one_task_at_a_time() -> None:
    writer, done = Writer(), list[int]()
    writer.collect(wait=True)
    for i in range(3):
        writer.start(lambda i=i: done.append(i))  # type: ignore[misc]  # bound by default
        writer.collect(wait=True)
    assert done == [0, 1, 2]


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_workers_can_be_forked_while_a_file_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    opener = Open(gate, "batch_end", 3)
    data = TensorDataset(torch.randn(8, 2), torch.randn(8, 1))
    loader = DataLoader(
        data, batch_size=4, num_workers=2, multiprocessing_context="fork", timeout=60
    )
    saver = CheckpointHandler(tmp_path, background=True)
    Estimator(nn.Linear(2, 1), nn.MSELoss()).fit(
        loader, epochs=3, device="cpu", handlers=[saver, opener], progress=False
    )
    # The second epoch's workers were forked, and had delivered, while the writer waited.
    assert opener.threads == [1]
    assert steps(tmp_path) == [2, 4, 6]


def test_a_copy_shares_nothing_and_says_the_same() -> None:
    weight = torch.arange(6.0).reshape(2, 3)
    turned = torch.tensor([1 + 2j])
    net = nn.Linear(2, 2)
    state: dict[str, Any] = {
        "tied": [weight, weight.detach(), weight.t(), weight[:1]],
        "conj": (turned, turned.conj()),
        "sparse": weight.to_sparse(),
        "parameter": nn.Parameter(torch.ones(1)),
        "net": net.state_dict(),
        "counter": collections.Counter("aab"),
        "plain": [None, {1, 2}, bytearray(b"a"), (1, "b"), {"c": 1.5}, torch.float16],
    }
    expected = {key: str(value) for key, value in state.items()}
    copied = host_copy(state)
    places = [tensor.data_ptr() for tensor in copied["tied"]]
    assert places[0] == places[1] and len(set(places)) == 3
    for tensor in (weight, turned, state["sparse"].values(), state["parameter"].data):
        tensor.zero_()
    net.requires_grad_(False).weight.zero_()
    state["plain"][2][0] = 0
    state["plain"][4]["c"] = state["counter"]["a"] = 0
    parameter = copied.pop("parameter")
    assert type(parameter) is torch.Tensor and parameter == 1
    assert {key: str(value) for key, value in copied.items()} == {
        key: text for key, text in expected.items() if key != "parameter"
    }
    assert [type(value) for value in copied.values()] == [type(state[key]) for key in copied]
    assert copied["net"]._metadata == state["net"]._metadata
    assert json.dumps(list(copied["net"])) == '["weight", "bias"]'
