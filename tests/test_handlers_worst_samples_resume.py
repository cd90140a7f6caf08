"""Worst samples of a run that goes on, or begins anew, where tables are already."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sample_runs import Run, facts, table

from estimator.handlers.base import FolderError
from estimator.handlers.worst_samples import WorstSamplesHandler


def test_a_resumed_run_goes_on_with_the_table(tmp_path: Path) -> None:
    first = Run(WorstSamplesHandler(tmp_path))
    first.epoch(([1, 2], [1.0, 2.0]), val=(([8], [1.0]),))
    first.epoch(([1, 3], [9.0, 9.0]), val=(([8], [2.0]),))
    # The checkpoint was that of the first epoch's end.
    second = Run(WorstSamplesHandler(tmp_path), epoch=1, step=1)
    second.epoch(([1, 2], [3.0, 4.0]), val=(([8], [5.0]),)).end()
    found = table(tmp_path)
    assert (found["uids"].tolist(), found["epochs"].tolist()) == ([1, 2], [1, 2])
    assert found["loss"].tolist() == [[1.0, 3.0], [2.0, 4.0]]
    assert table(tmp_path, "validation")["loss"].tolist() == [[1.0, 5.0]]
    assert facts(tmp_path / "samples_train", 1)["mean_loss"] == "3"


@pytest.mark.parametrize("uids", [[5, 6, 7, 8], ["e", "f", "g", "h"]])
@pytest.mark.parametrize("worst", [1, 3])
def test_an_epoch_goes_on_where_it_was_cut(tmp_path: Path, uids: list[Any], worst: int) -> None:
    first = Run(WorstSamplesHandler(tmp_path, worst=3)).epoch((uids, [1.0, 2.0, 3.0, 4.0]))
    first.handler.epoch_begin(first.stats)
    # Rows of several sizes, and one value that the later batches have no more.
    inputs = {"words": torch.full((3, 2), 7), "gone": torch.ones(3)}
    first.batch(uids[:3], [9.0, 5.0, 5.0], inputs=inputs)
    first.stats.batches_done = 1
    first.handler.epoch_end(first.stats)
    state = pickle.loads(pickle.dumps(first.handler.state_dict()))
    first.end()
    assert first.handler.state_dict()["passes"].keys() == {"train", "validation"}
    assert (tmp_path / "worst_samples_train_e2.png").exists()

    handler = WorstSamplesHandler(tmp_path, worst=worst)
    handler.load_state_dict(state)
    second = Run(handler, epoch=1, step=2)
    assert not (tmp_path / "worst_samples_train_e2.png").exists()
    second.stats.batches_done = 1
    second.epoch(([uids[3], uids[0]], [5.0, 7.0], {"inputs": {"words": torch.full((2, 4), 8)}}))
    found = table(tmp_path)
    assert (found["epochs"].tolist(), found["steps"].tolist()) == ([1, 2], [1, 3])
    assert found["loss"].tolist() == [[1.0, 8.0], [2.0, 5.0], [3.0, 5.0], [4.0, 5.0]]
    second.end()
    told = [facts(tmp_path / "samples_train", number) for number in range(1, worst + 1)]
    assert [row["uid"] for row in told] == [str(uids[place]) for place in (0, 3, 2)[:worst]]
    assert told[0]["input.words"] == "[7 7 0 0]" and "input.gone" not in told[0]


def test_a_validation_that_was_given_up_is_forgotten(tmp_path: Path) -> None:
    run = Run(WorstSamplesHandler(tmp_path))
    run.handler.epoch_begin(run.stats)
    run.stats.interrupted = "SIGTERM"
    run.validate(([1, 2], [5.0, 6.0]))
    run.stats.batches_done = 1
    run.handler.epoch_end(run.stats)
    assert not (tmp_path / "validation.npz").exists()


def test_equal_losses_are_ranked_alike_however_often_a_checkpoint_is_made(tmp_path: Path) -> None:
    kept = []
    for saves in (False, True):
        run = Run(WorstSamplesHandler(tmp_path / str(saves), worst=2))
        run.handler.epoch_begin(run.stats)
        for number in range(6):
            run.batch([4 * number + place for place in range(4)], [1.0] * 4)
            if saves:
                run.handler.state_dict()
        kept.append(run.handler.state_dict()["passes"]["train"]["pass"]["numbers"].tolist())
    assert kept == [[0, 1, 2, 3]] * 2


def test_resuming_a_finished_run_leaves_its_files_alone(tmp_path: Path) -> None:
    Run(WorstSamplesHandler(tmp_path)).epoch(([1], [1.0])).end()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    Run(WorstSamplesHandler(tmp_path), epoch=1, step=1).end()
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_fresh_run_begins_a_new_table(tmp_path: Path) -> None:
    handler = WorstSamplesHandler(tmp_path)
    Run(handler).epoch(([1], [1.0]), val=(([2], [1.0]),)).end()
    Run(handler).epoch(([7], [1.0])).end()
    assert table(tmp_path)["uids"].tolist() == [7]
    assert not (tmp_path / "validation.npz").exists()


def test_a_lost_table_leaves_nothing_to_draw(tmp_path: Path) -> None:
    first = Run(WorstSamplesHandler(tmp_path)).epoch(([1], [1.0]))
    second = WorstSamplesHandler(tmp_path)
    second.load_state_dict(first.handler.state_dict())
    (tmp_path / "train.npz").unlink()
    with pytest.warns(UserWarning, match="losses of earlier epochs are missing"):
        Run(second, epoch=1, step=1).end()
    assert list(tmp_path.iterdir()) == []


def test_a_missing_or_damaged_table_is_said(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="resumes after epoch 1.*losses of earlier epochs"):
        Run(WorstSamplesHandler(tmp_path), epoch=1, step=3)
    np.save(tmp_path / "one.npy", np.zeros(3))
    one_array = (tmp_path / "one.npy").read_bytes()
    for damage in (b"", b"PK\x03\x04 no archive", b"text", one_array):
        (tmp_path / "train.npz").write_bytes(damage)
        with pytest.raises(FolderError, match="Delete it to go on"):
            Run(WorstSamplesHandler(tmp_path), epoch=1, step=3)
