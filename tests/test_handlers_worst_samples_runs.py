"""Worst samples: resumed and broken runs, odd data, and wrong arguments."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sample_runs import Run, facts, pixels, table
from torch import nn

from estimator import Estimator, Trainer
from estimator.handlers import _top_rows
from estimator.handlers.base import (
    ArgumentError,
    ArgumentTypeError,
    Band,
    DataError,
    EstimatorError,
    EventHandler,
    Every,
    every,
)
from estimator.handlers.worst_samples import WorstSamplesHandler
from estimator.stats import TrainStats


def test_uids_may_be_text(tmp_path: Path) -> None:
    run = Run(WorstSamplesHandler(tmp_path, worst=3))
    images = torch.rand(3, 3, 100, 120)
    run.epoch((["b/1", "a c\t$x$"], [1.0, 3.0], {"inputs": images[:2]}))
    run.epoch((["a c\t$x$", "a much longer name"], [1.0, 0.5], {"inputs": images[1:]}))
    run.end()
    assert table(tmp_path)["uids"].tolist() == ["a c\t$x$", "a much longer name", "b/1"]
    lines = (tmp_path / "worst_samples_train_e2.txt").read_text().splitlines()[1:]
    assert [line.split("\t")[0] for line in lines] == ["a c $x$", "b/1", "a much longer name"]
    assert (tmp_path / "worst_samples_train_e2.csv").read_text().count("\t") == 1
    folder = tmp_path / "samples_train"
    assert (folder / "002_uid_b_1.txt").exists()
    assert [facts(folder, number)["epoch"] for number in (1, 2, 3)] == ["2", "1", "2"]
    picture = pixels(folder / "001_uid_a_c_x_.png")
    np.testing.assert_array_equal(picture, (images[1] * 255).round().permute(1, 2, 0))


def test_uids_of_two_kinds_are_refused(tmp_path: Path) -> None:
    for first, second in (([1, 2], ["x", "y"]), (["x", "y"], [1, 2])):
        run = Run(WorstSamplesHandler(tmp_path))
        run.epoch((first, [1.0, 2.0]))
        with pytest.raises(DataError, match="all integers or all strings; received"):
            run.epoch((second, [1.0, 2.0]))


def test_the_last_validation_of_an_epoch_counts(tmp_path: Path) -> None:
    run = Run(WorstSamplesHandler(tmp_path))
    run.handler.epoch_begin(run.stats)
    run.validate(([1, 2], [5.0, 6.0]))
    run.validate(([1, 2], [0.0, 0.0]), phase="evaluate")
    run.validate(([1, 2], [3.0, 4.0]))
    run.stats.epoch = 1
    run.handler.epoch_end(run.stats)
    run.handler.epoch_begin(run.stats)
    run.batch([1], [1.0])
    run.stats.epoch = 2
    run.validate()
    run.handler.epoch_end(run.stats)
    found = table(tmp_path, "validation")
    assert (found["epochs"].tolist(), found["loss"].tolist()) == ([1], [[3.0], [4.0]])
    assert table(tmp_path)["epochs"].tolist() == [2]


def test_drawing_is_due_by_epochs_and_at_the_end(tmp_path: Path) -> None:
    run = Run(WorstSamplesHandler(tmp_path, every=every(epochs=2)))
    for epoch in range(1, 6):
        run.epoch(([epoch], [1.0]))
        assert (tmp_path / f"worst_samples_train_e{epoch}.png").exists() is (epoch in (2, 4))
    (tmp_path / "worst_samples_train_e4.png").unlink()
    run.end()
    drawn = sorted(path.name for path in tmp_path.glob("*.png"))
    names = [f"worst_samples_train_e{epoch}" for epoch in (2, 4, 5)]
    expected = [f"{name}{end}.png" for name in names for end in ("", "_raw")]
    assert drawn == sorted(set(expected) - {"worst_samples_train_e4.png"})
    assert pixels(tmp_path / "worst_samples_train_e4_raw.png").shape == (4, 4, 3)


def test_nothing_is_drawn_twice(tmp_path: Path) -> None:
    run = Run(WorstSamplesHandler(tmp_path, every=every(epochs=1))).epoch(([1], [1.0]))
    (tmp_path / "worst_samples_train_e1.png").unlink()
    run.end()
    assert not (tmp_path / "worst_samples_train_e1.png").exists()


def test_an_error_draws_nothing_and_lets_go(tmp_path: Path) -> None:
    handler = WorstSamplesHandler(tmp_path, every=every(epochs=1))
    run = Run(handler)
    run.batch([1], [1.0])
    run.stats.error = RuntimeError("broken")
    run.stats.sample_losses = None
    handler.batch_end(run.stats)
    run.stats.phase = "validation"
    handler.validation_batch_end(run.stats)
    handler.epoch_end(run.stats)
    run.end()
    assert list(tmp_path.iterdir()) == []
    assert pickle.loads(pickle.dumps(handler)).worst == 50
    handler.train_end(TrainStats(nn.Identity(), torch.device("cpu")))
    assert handler.state_dict() == {"passes": {"train": {}, "validation": {}}}


def test_a_fit_that_breaks_keeps_the_tables_of_its_epochs(tmp_path: Path) -> None:
    class Break(EventHandler):
        def batch_end(self, stats: TrainStats) -> None:
            if stats.step == 3:
                raise RuntimeError("broken")

    data = (torch.rand(8, 3), torch.rand(8, 1))
    with pytest.raises(RuntimeError, match="broken"):
        Estimator(nn.Linear(3, 1), loss=nn.MSELoss()).fit(
            data, data, epochs=3, trainers=Trainer("sgd", lr=0.1), device="cpu", batch_size=4,
            handlers=[WorstSamplesHandler(tmp_path), Break()], progress=False,
        )  # fmt: skip
    assert table(tmp_path)["loss"].shape == (8, 1)
    assert not list(tmp_path.glob("*.png"))


def test_losses_of_several_columns_are_averaged(tmp_path: Path) -> None:
    run = Run(WorstSamplesHandler(tmp_path)).epoch(([1, 2], [[1.0, 3.0], [5.0, 6.0]]))
    assert table(tmp_path)["loss"].tolist() == [[2.0], [5.5]]
    run.end()
    data = (torch.rand(6, 3), torch.rand(6, 4))
    net = nn.Linear(3, 4)
    Estimator(net, loss=nn.MSELoss()).fit(
        data, data, epochs=3, trainers=Trainer("sgd", lr=0.1), device="cpu",
        handlers=[WorstSamplesHandler(tmp_path / "fit")], progress=False,
    )  # fmt: skip
    expected = (net(data[0]) - data[1]).square().mean(1).detach()
    found = table(tmp_path / "fit", "validation")["loss"][:, 2]
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-5)
    told = facts(tmp_path / "fit" / "samples_train", 1)
    assert len(told["target"].split()) == len(told["prediction"].split()) == 4


def test_dictionaries_and_several_outputs_are_told_by_name(tmp_path: Path) -> None:
    run = Run(WorstSamplesHandler(tmp_path, classes=["a", "b", "c"]))
    images = torch.tensor([0, 200, 100, 7], dtype=torch.uint8).view(2, 1, 1, 2).expand(2, 1, 2, 2)
    inputs = {"age": torch.tensor([30, 40]), "scan": images, "place": ["x", "y"], "scale": 2.0}
    inputs |= {"pair": (torch.ones(2, 20), torch.ones(5)), "huge": torch.ones(2, 300_000)}
    inputs["sparse"] = torch.eye(2).to_sparse()
    targets = {"digit": torch.tensor([0, 2]), "angle": torch.tensor([0.5, 1.5])}
    outputs = {"digit": torch.eye(3)[:2], "angle": torch.tensor([0.25, 1.0]), "mask": torch.eye(2)}
    fields = {"inputs": inputs, "targets": targets, "outputs": outputs}
    run.epoch(([4, 6], [1.0, 2.0], fields)).end()
    assert facts(tmp_path / "samples_train", 1) == {
        "rank": "1", "uid": "6", "mean_loss": "2", "seen": "1", "epoch": "1",
        "target.digit": "2", "target_class.digit": "c", "target.angle": "1.5",
        "prediction.digit": "1", "prediction_class.digit": "b",
        "prediction.angle": "1", "prediction_class.angle": "b", "prediction.mask": "1",
        "prediction_class.mask": "b", "input.age": "40",
        "input.huge": "shape 300000 min 1 max 1 (shown as 150000)",
        "input.scan": "[100 7 100 7]", "input.pair.0": "shape 20 min 1 max 1 mean 1",
        "output.digit": "[0 1 0]", "output.angle": "1", "output.mask": "[0 1]",
    }  # fmt: skip
    picture = pixels(tmp_path / "samples_train" / "001_uid_6.png")
    assert picture[[0, 95], :][:, [0, 95]].tolist() == [[100, 7], [100, 7]]


@pytest.mark.parametrize(
    ("image", "shown"),
    [
        (torch.tensor([[-1.0, 1.0], [0.0, 0.5]]), [[0, 255], [128, 191]]),
        (torch.full((2, 2), 7.0), [[128, 128], [128, 128]]),
        (torch.tensor([[True, False], [False, True]]), [[255, 0], [0, 255]]),
        (torch.tensor([[0, 10], [5, 20]]), [[0, 128], [64, 255]]),
    ],
)
def test_pixel_values_are_brought_into_range(
    tmp_path: Path, image: torch.Tensor, shown: list[list[int]]
) -> None:
    run = Run(WorstSamplesHandler(tmp_path, worst=1))
    run.epoch(([1], [1.0], {"inputs": (image[None, None],)})).end()
    picture = pixels(tmp_path / "samples_train" / "001_uid_1.png")
    assert picture[::48, ::48].tolist() == shown


def test_rows_whose_size_changes_are_filled_up_and_others_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_top_rows, "WAITING_BYTES", 1)
    run = Run(WorstSamplesHandler(tmp_path, worst=5))
    run.handler.epoch_begin(run.stats)
    run.batch([], torch.zeros(0))
    for number, length in enumerate([2, 4, 3]):
        inputs: dict[str, Any] = {"words": torch.full((1 + number, length), number + 1)}
        inputs["kind"] = torch.ones(1 + number, dtype=torch.long if number else torch.float)
        if number < 2:
            inputs["gone"] = torch.ones(1 + number)
        uids = [10 * number + place for place in range(1 + number)]
        run.batch(uids, torch.full((1 + number,), 3.0 - number), inputs=inputs)
    run.stats.epoch = 1
    run.handler.epoch_end(run.stats)
    run.end()
    told = [facts(tmp_path / "samples_train", number) for number in range(1, 6)]
    assert [row["input.words"] for row in told] == [
        "[1 1 0 0]", "[2 2 2 2]", "[2 2 2 2]", "[3 3 3 0]", "[3 3 3 0]"
    ]  # fmt: skip
    assert {name for row in told for name in row if name.startswith("input")} == {"input.words"}


def test_repeated_samples_do_not_push_others_out(tmp_path: Path) -> None:
    run = Run(WorstSamplesHandler(tmp_path, worst=2))
    uids, losses = torch.tensor([1, 1, 2, 3]), torch.tensor([5.0, 7.0, 4.0, 1.0])
    run.epoch((uids, losses, {"inputs": torch.arange(4)})).end()
    told = [facts(tmp_path / "samples_train", number) for number in (1, 2)]
    assert [(row["uid"], row["mean_loss"], row["input"]) for row in told] == [
        ("1", "6", "1"), ("2", "4", "2")
    ]  # fmt: skip


def test_batches_made_in_inference_mode_are_taken(tmp_path: Path) -> None:
    run = Run(WorstSamplesHandler(tmp_path, worst=2))
    run.handler.epoch_begin(run.stats)
    with torch.inference_mode():
        rows = [{"inputs": torch.ones(4, length)} for length in (2, 3)]
        run.validate(*[([1, 2, 3, 4], torch.rand(4), row) for row in rows])
    run.batch([1], torch.ones(1), inputs=torch.ones(1, 2, requires_grad=True))
    run.stats.epoch = 1
    run.handler.epoch_end(run.stats)
    run.end()
    assert facts(tmp_path / "samples_validation", 1)["input"].startswith("[1 1")
    assert facts(tmp_path / "samples_train", 1)["input"] == "[1 1]"


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"worst": 0}, ArgumentError, r"worst=\.\.\..* received 0"),
        ({"worst": True}, ArgumentError, r"received True"),
        ({"rank": "max"}, ArgumentError, r"'mean' or 'sum'; received 'max'"),
        ({"every": Every(steps=5)}, ArgumentError, r"count epochs.*received every\(steps=5\)"),
        ({"every": 5}, ArgumentTypeError, r"every=\.\.\.\) must be an Every; received 5"),
        ({"classes": "ab"}, ArgumentTypeError, r"classes=\.\.\..*received 'ab'"),
        ({"classes": [1]}, ArgumentTypeError, r"list of names"),
        ({"classes": []}, ArgumentError, r"at least one name"),
        ({"band": 3}, ArgumentTypeError, r"must be a Band"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text) as caught:
        WorstSamplesHandler("unused", **arguments)
    assert isinstance(caught.value, EstimatorError)


def test_what_the_loop_reads_of_the_class(tmp_path: Path) -> None:
    handler = WorstSamplesHandler(tmp_path, band=Band.DECIDE)
    assert (handler.band, WorstSamplesHandler.band) == (Band.DECIDE, Band.OBSERVE)
    assert handler.needs == {"sample_losses", "uids"}
