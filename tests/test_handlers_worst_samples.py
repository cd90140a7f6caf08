"""The loss table, the map, the exported samples: all by their content."""

from __future__ import annotations

import csv
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sample_runs import HOST_READS, Run, facts, pixels, table
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from estimator import Estimator, Trainer, with_uids
from estimator.handlers import _top_rows
from estimator.handlers.worst_samples import WorstSamplesHandler


def test_table_holds_the_mean_of_an_epoch_and_marks_the_unseen(tmp_path: Path) -> None:
    run = Run(WorstSamplesHandler(tmp_path))
    run.epoch(([7, 3], [0.5, 1.0]), ([3, 9], [2.0, 4.0]), val=(([3], [8.0]),))
    run.epoch(([9, 1], [3.0, 0.25]))
    found = table(tmp_path)
    assert found["uids"].tolist() == [1, 3, 7, 9]
    assert found["epochs"].tolist() == [1, 2]
    assert found["steps"].tolist() == [2, 3]
    assert found["loss"].dtype == np.float32
    nan = np.nan
    expected = [[nan, 0.25], [1.5, nan], [0.5, nan], [4.0, 3.0]]
    np.testing.assert_array_equal(found["loss"], expected)
    assert table(tmp_path, "validation")["loss"].tolist() == [[8.0]]
    run.end()
    lines = (tmp_path / "worst_samples_train_e2.txt").read_text().splitlines()
    assert [line.split("\t") for line in lines] == [
        ["uid", "mean_loss", "seen"],
        ["9", "3.5", "2"],
        ["3", "1.5", "1"],
        ["7", "0.5", "1"],
        ["1", "0.25", "1"],
    ]
    with open(tmp_path / "worst_samples_train_e2.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["uid", "mean_loss", "seen", "epoch_1", "epoch_2"]
    assert rows[1:3] == [["9", "3.5", "2", "4", "3"], ["3", "1.5", "1", "1.5", ""]]


def test_sum_ranks_samples_that_more_epochs_saw_higher(tmp_path: Path) -> None:
    for rank, first in (("mean", "5"), ("sum", "6")):
        folder = tmp_path / rank
        run = Run(WorstSamplesHandler(folder, rank=rank))  # type: ignore[arg-type]  # both are right
        run.epoch(([5, 6], [3.0, 2.0])).epoch(([6], [2.0])).end()
        lines = (folder / "worst_samples_train_e2.txt").read_text().splitlines()
        assert lines[0].split("\t")[1] == f"{rank}_loss"
        assert lines[1].split("\t")[0] == first
        assert facts(folder / "samples_train", 1)[f"{rank}_loss"] == lines[1].split("\t")[1]


def test_three_epochs_are_three_rows_with_the_worst_sample_left(tmp_path: Path) -> None:
    run = Run(WorstSamplesHandler(tmp_path))
    for _ in range(3):
        run.epoch((list(range(200)), torch.linspace(0, 1, 200)))
    run.end()
    raw = pixels(tmp_path / "worst_samples_train_e3_raw.png")
    assert raw.shape == (3, 200, 3)
    assert raw[:, 0].tolist() == [[255, 0, 0]] * 3
    assert raw[:, -1].tolist() == [[255, 255, 0]] * 3
    # Half way from the median of the last epoch to the largest loss.
    assert raw[0, 50].tolist() == pytest.approx([255, 127, 0], abs=2)


def test_first_epoch_is_on_top_and_the_unseen_is_grey(tmp_path: Path) -> None:
    run = Run(WorstSamplesHandler(tmp_path))
    run.epoch(([1, 2, 3], [9.0, 1.0, 0.0])).epoch(([1, 2], [0.0, 1.0])).end()
    raw = pixels(tmp_path / "worst_samples_train_e2_raw.png")
    red, yellow, grey = [255, 0, 0], [255, 255, 0], [150, 150, 150]
    assert raw[0].tolist()[0] == red
    assert raw[1].tolist()[0] == yellow
    assert raw[:, 2].tolist() == [yellow, grey]
    drawn = pixels(tmp_path / "worst_samples_train_e2.png")[..., :3]
    height, width = drawn.shape[:2]
    reds = np.argwhere((drawn[:, : int(width * 0.9)] == red).all(2))
    greys = np.argwhere((drawn == grey).all(2))
    assert (np.median(reds, 0) < [height / 2, width / 2]).all(), "upper left"
    assert (np.median(greys, 0) > [height / 2, width / 2]).all(), "lower right"
    assert (greys[:, 0] > 0.9 * height).any(), "the legend names the grey"


@pytest.mark.parametrize(
    ("losses", "colours"),
    [
        ([[2.0, 2.0]], [[255, 255]]),
        ([[float("nan"), 1.0]], [[0, 255]]),
        ([[float("inf"), float("nan")]], [[0, 0]]),
        ([[4.0, 2.0], [0.0, 0.0]], [[0, 128], [255, 255]]),
        ([[1.0, 2.0], [float("inf"), float("inf")]], [[255, 0], [0, 0]]),
    ],
)
def test_colours_of_equal_and_endless_losses(
    tmp_path: Path, losses: list[list[float]], colours: list[list[int]]
) -> None:
    run = Run(WorstSamplesHandler(tmp_path))
    for row in losses:
        run.epoch(([0, 1], row))
    run.end()
    raw = pixels(tmp_path / f"worst_samples_train_e{len(losses)}_raw.png")
    uids = [line.split("\t")[0] for line in _lines(tmp_path, len(losses))]
    order = [uids.index("0"), uids.index("1")]
    assert raw[:, order, 1].tolist() == colours
    assert (raw[..., 0] == 255).all()


def _lines(folder: Path, epoch: int) -> list[str]:
    return (folder / f"worst_samples_train_e{epoch}.txt").read_text().splitlines()[1:]


def test_only_the_worst_thousand_are_drawn(tmp_path: Path) -> None:
    losses = torch.rand(1500)
    Run(WorstSamplesHandler(tmp_path, worst=1)).epoch((torch.arange(1500), losses)).end()
    assert pixels(tmp_path / "worst_samples_train_e1_raw.png").shape == (1, 1500, 3)
    assert len(_lines(tmp_path, 1)) == 1500
    with open(tmp_path / "worst_samples_train_e1.csv", newline="") as file:
        rows = list(csv.reader(file))[1:]
    order = losses.argsort(descending=True)[:1000]
    assert [int(row[0]) for row in rows] == order.tolist()


@pytest.mark.parametrize("text", [False, True])
def test_copies_are_exactly_those_of_the_worst(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: bool
) -> None:
    monkeypatch.setattr(_top_rows, "WAITING_BYTES", 200)
    run = Run(WorstSamplesHandler(tmp_path, worst=10))
    losses = torch.rand(4, 60)
    losses[3] /= 10  # what the ranking rests on are the epochs before
    for epoch in range(4):
        order = torch.randperm(60)
        batches = []
        for part in order.split(7):
            uids: Any = [f"s{uid}" for uid in part.tolist()] if text else part
            values = part.float() * 10 + epoch
            batches.append((uids, losses[epoch, part], {"inputs": values[:, None]}))
        run.epoch(*batches)
    run.end()
    worst = losses.mean(0).argsort(descending=True)[:10].tolist()
    for number, uid in enumerate(worst, start=1):
        told = facts(tmp_path / "samples_train", number)
        assert told["uid"] == (f"s{uid}" if text else str(uid))
        assert float(told["mean_loss"]) == pytest.approx(losses[:, uid].mean().item())
        assert (told["epoch"], told["input"]) == ("4", str(uid * 10 + 3))


def test_rows_survive_tensors_that_the_next_batch_overwrites(tmp_path: Path) -> None:
    x, y, out = torch.zeros(2, 1), torch.zeros(2, dtype=torch.long), torch.zeros(2, 3)
    uids, losses = torch.zeros(2, dtype=torch.long), torch.zeros(2)
    run = Run(WorstSamplesHandler(tmp_path, worst=2))
    run.handler.epoch_begin(run.stats)
    for number in range(3):
        x.fill_(number), y.fill_(number), out.zero_(), uids.copy_(torch.arange(2) + 2 * number)
        out[:, number] = 1
        losses.copy_(torch.tensor([0.5, 9.0 - number]))
        run.batch(uids, losses, inputs=x, targets=y, outputs=out)
    run.stats.epoch = 1
    run.handler.epoch_end(run.stats)
    run.end()
    for number, uid in enumerate([1, 3], start=1):
        told = facts(tmp_path / "samples_train", number)
        assert (told["uid"], told["target"], told["prediction"]) == (str(uid), *[str(uid // 2)] * 2)
        assert told["input"] == str(uid // 2)


def test_no_host_read_in_a_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(WorstSamplesHandler(tmp_path, worst=3))
    images = torch.rand(8, 1, 4, 4)
    batch = {"inputs": images, "targets": torch.arange(8), "outputs": torch.rand(8, 10)}
    run.epoch((torch.arange(8), torch.rand(8), batch))
    run.handler.epoch_begin(run.stats)

    def refuse(*_: Any) -> None:
        raise AssertionError("a tensor was read on the host")

    with monkeypatch.context() as patch:
        for name in HOST_READS:
            patch.setattr(Tensor, name, refuse)
        for _ in range(40):
            run.batch(torch.arange(8), torch.rand(8), **batch)
        run.validate(*[(torch.arange(8), torch.rand(8), batch)] * 40)
    run.stats.epoch += 1
    run.handler.epoch_end(run.stats)
    assert table(tmp_path)["loss"].shape == table(tmp_path, "validation")["loss"].shape[:1] + (2,)


def test_fit_records_the_losses_and_exports_the_samples(tmp_path: Path) -> None:
    x, y = torch.rand(40, 1, 8, 8), torch.arange(40) % 4
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    names = ["north", "east", "south", "west"]
    handler = WorstSamplesHandler(tmp_path, worst=5, classes=names)
    estimator = Estimator(net, loss=nn.CrossEntropyLoss())
    loader = DataLoader(with_uids(TensorDataset(x[:30], y[:30])), 8, shuffle=True)
    for _ in range(2):  # the same object serves a second fit
        estimator.fit(
            loader, (x[30:], y[30:]), epochs=2, trainers=Trainer("sgd", lr=0.1), device="cpu",
            handlers=[handler], progress=False,
        )  # fmt: skip
        handler = pickle.loads(pickle.dumps(handler))
    assert table(tmp_path)["loss"].shape == (30, 2)
    assert not np.isnan(table(tmp_path)["loss"]).any()
    with torch.no_grad():
        outputs = net(x[30:])
        losses = nn.functional.cross_entropy(outputs, y[30:], reduction="none")
    found = table(tmp_path, "validation")
    np.testing.assert_allclose(found["loss"][:, 1], losses.numpy(), rtol=1e-5)
    worst = np.argsort(-found["loss"].mean(1, dtype=np.float64), kind="stable")[:5]
    folder = tmp_path / "samples_validation"
    assert len(list(folder.iterdir())) == 10
    for number, uid in enumerate(worst.tolist(), start=1):
        told, guess = facts(folder, number), int(outputs[uid].argmax())
        assert (told["uid"], told["target"]) == (str(uid), str(int(y[30 + uid])))
        assert told["target_class"] == names[int(y[30 + uid])]
        assert (told["prediction"], told["prediction_class"]) == (str(guess), names[guess])
        picture = pixels(folder / f"{number:03d}_uid_{uid}.png")
        assert picture.shape == (96, 96)
        np.testing.assert_array_equal(picture[6::12, 6::12], (x[30 + uid, 0] * 255).round())
    assert repr(WorstSamplesHandler("a", worst=3)) == "WorstSamplesHandler(folder='a', worst=3)"


def test_gallery_shows_the_pictures_in_their_order(tmp_path: Path) -> None:
    shades = torch.tensor([1.0, 0.0, 0.0, 0.5])
    images = shades.view(4, 1, 1, 1).expand(4, 3, 6, 6)
    run = Run(WorstSamplesHandler(tmp_path, classes=["no", "yes"]))
    answers = {"targets": torch.tensor([0, 1, 1, 0]), "outputs": torch.rand(4, 1) - 0.5}
    run.epoch(([1, 2, 3, 4], [4.0, 3.0, 2.0, 1.0], {"inputs": images, **answers})).end()
    gallery = pixels(tmp_path / "gallery_train.png")[..., :3]
    assert gallery.shape == (260, 620, 3)
    centres = [gallery[112, 77 + 155 * column].tolist() for column in range(4)]
    assert centres == [[255] * 3, [0] * 3, [0] * 3, [128] * 3]
    for column in range(4):
        cell = gallery[188:, 155 * column : 155 * (column + 1)]
        assert (cell < 100).any(2).sum() > 100, "a caption"
        assert (cell[:, [0, -1]] == 255).all(), "which keeps to its cell"
    told = facts(tmp_path / "samples_train", 2)
    assert told["target_class"] == "yes"
    assert told["prediction"] == str(int(answers["outputs"][1, 0] > 0))


def test_a_sample_without_a_picture_gets_an_empty_frame(tmp_path: Path) -> None:
    run = Run(WorstSamplesHandler(tmp_path))
    run.epoch(([1], [1.0], {"inputs": torch.zeros(1, 1, 2, 2)}))
    run.epoch(([2], [2.0], {"inputs": torch.zeros(1, 2)})).end()
    gallery = pixels(tmp_path / "gallery_train.png")[..., :3]
    assert gallery[60, 77].tolist() == [255] * 3, "the frame of the worst"
    assert gallery[60, 77 + 155].tolist() == [0] * 3
    assert (gallery[100:125, 40:115] < 200).any(), "says that there is none"


def test_a_gallery_without_pictures_is_not_kept(tmp_path: Path) -> None:
    (tmp_path / "gallery_train.png").touch()
    folder = tmp_path / "samples_train"
    folder.mkdir()
    (folder / "050_uid_7.png").touch()
    (folder / "notes.txt").touch()
    Run(WorstSamplesHandler(tmp_path)).epoch(([1], [1.0], {"inputs": torch.ones(1, 3)})).end()
    assert not (tmp_path / "gallery_train.png").exists()
    assert sorted(path.name for path in folder.iterdir()) == ["001_uid_1.txt", "notes.txt"]
    assert facts(folder, 1)["input"] == "[1 1 1]"


def test_a_sample_that_became_worst_unseen_has_only_its_losses_told(tmp_path: Path) -> None:
    run = Run(WorstSamplesHandler(tmp_path, worst=1))
    image = {"inputs": torch.rand(4, 1, 3, 3)}
    run.epoch(([1, 2, 3, 4], [9.0, 8.0, 7.0, 6.0], image))
    run.epoch(([1, 2], [0.0, 0.0], {"inputs": image["inputs"][:2]})).end()
    told = facts(tmp_path / "samples_train", 1)
    assert told == {
        "rank": "1", "uid": "3", "mean_loss": "7", "seen": "1", "epoch": "no copy was kept"
    }  # fmt: skip
