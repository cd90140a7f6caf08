"""Augmentations: the same samples before and after each draw, told apart by their uids."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sample_sections import full_disk, names, pixels, section, text
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from estimator import Estimator, with_uids
from estimator.handlers import (
    AugmentationsHandler,
    AugmentHandler,
    CheckpointHandler,
    EventHandler,
    MixUpHandler,
)
from estimator.handlers.base import ArgumentError, ArgumentTypeError
from estimator.stats import TrainStats

# Each sample has a shade of its own, between 0 and 1.
X = (torch.arange(20.0) / 40).view(20, 1, 1, 1).expand(20, 1, 8, 8).clone()
Y = torch.arange(20) % 3


class Shift:
    """Adds a number of its own to each sample: what was added is known from the picture."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, batch: Any) -> Any:
        self.calls += 1
        images, targets = batch
        return images + 0.1 * ((self.calls - 1) // 4 + 1), targets


def fit(*handlers: EventHandler, **changes: Any) -> tuple[nn.Module, TrainStats]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    settings: dict[str, Any] = {"train": (X, Y), "epochs": 3, "batch_size": 5, "seed": 1}
    settings |= {"device": "cpu", "progress": False}
    est = Estimator(net, nn.CrossEntropyLoss())
    return net, est.fit(**(settings | changes), handlers=list(handlers))


def shade(path: Path) -> float:
    picture = pixels(path)
    assert (picture == picture[0, 0]).all()
    return float(picture[0, 0]) / 255


def test_each_draw_is_one_of_its_own_sample(tmp_path: Path) -> None:
    fit(AugmentationsHandler(tmp_path, samples=4, draws=3), AugmentHandler(Shift()))
    found = section(tmp_path / "augmentations.section.json")
    assert (found["order"], len(found["samples"])) == (460, 4)
    for uid, draws, changed, by_loader in found["tables"][0]["rows"]:
        assert (draws, changed, by_loader) == (3, "yes", "no")
        stem = f"train_s{uid}"
        assert shade(tmp_path / f"{stem}_before_input.png") == pytest.approx(uid / 40, abs=0.003)
        for draw in range(3):
            value = shade(tmp_path / f"{stem}_a{draw}_input.png")
            assert value == pytest.approx(uid / 40 + 0.1 * (draw + 1), abs=0.003)
            lines = text(tmp_path / f"{stem}_a{draw}.txt")
            assert (lines["uid"], lines["epoch"]) == (str(uid), str(draw + 1))
            assert lines["target"] == str(int(Y[uid])) and lines["draw"] == str(draw)
            assert "prediction" in lines
        assert "output" not in text(tmp_path / f"{stem}_before.txt")
        sheet = pixels(tmp_path / f"{stem}_sheet.png")[..., 0]
        centres = [sheet[112, 77 + 155 * column] / 255 for column in range(4)]
        expected = [uid / 40 + 0.1 * k for k in range(4)]
        np.testing.assert_allclose(centres, expected, atol=0.008)
    assert "3 of 3" in found["text"] and "Nothing" not in found["text"]
    assert len(names(tmp_path, ".txt")) == 4 * 4


def test_mixtures_show_the_target_that_was_trained_on(tmp_path: Path) -> None:
    handlers = [MixUpHandler(3, alpha=5.0), AugmentationsHandler(tmp_path, samples=2, draws=2)]
    fit(*handlers, epochs=2)
    for path in tmp_path.glob("*_a*.txt"):
        shares = [float(share) for share in text(path)["target"].strip("[]").split()]
        assert sum(shares) == pytest.approx(1, abs=1e-4) and len(shares) == 3
    for path in tmp_path.glob("*_before.txt"):
        uid = int(path.name.removeprefix("train_s").removesuffix("_before.txt"))
        assert text(path)["target"] == str(int(Y[uid]))


def test_nothing_more_is_collected_when_all_have_their_draws(tmp_path: Path) -> None:
    handler, kept = AugmentationsHandler(tmp_path, samples=2, draws=2), []

    class Look(EventHandler):
        def batch_end(self, stats: TrainStats) -> None:
            assert handler._chosen is not None
            kept.append(handler._chosen._top._filled)

    fit(Look(), handler, epochs=4)
    assert all(kept[5:8]) and not any(kept[8:])
    assert len(names(tmp_path, "a1.txt")) == 2 and not names(tmp_path, "a2.txt")
    assert section(tmp_path / "augmentations.section.json")["epoch"] == 2


class Noisy(Dataset[Any]):
    """Augments by itself."""

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> Any:
        return X[index] + torch.rand(()) / 2, Y[index]


def test_a_loader_that_augments_by_itself_is_said(tmp_path: Path) -> None:
    loader = DataLoader(with_uids(Noisy()), 5, shuffle=True)
    fit(
        AugmentationsHandler(tmp_path, samples=3, draws=2), train=loader, batch_size=32
    )  # fmt: skip
    found = section(tmp_path / "augmentations.section.json")
    assert "it augments by itself: the sample before is not known" in found["text"]
    assert [row[1:] for row in found["tables"][0]["rows"]] == [[2, "no", "yes"]] * 3


def test_a_run_without_augmentation_is_said(tmp_path: Path) -> None:
    x = X.clone()
    x[:, 0, 0, 0] = float("nan")
    net = nn.Sequential(nn.Flatten(), nn.Unflatten(1, (64,)), Clean(), nn.Linear(64, 3))
    Estimator(net, nn.CrossEntropyLoss()).fit(
        (x, Y), epochs=2, device="cpu", progress=False,
        handlers=[AugmentationsHandler(tmp_path, samples=2)],
    )  # fmt: skip
    found = section(tmp_path / "augmentations.section.json")
    assert "Nothing has changed them" in found["text"] and "2 of 5" in found["text"]


class Clean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.nan_to_num()


class ByName(nn.Module):
    """Takes what it needs of a batch by its name."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 3)

    def forward(self, image: Tensor, loaded_input: Tensor) -> Any:
        return self.layer(image.flatten(1)) + loaded_input


def test_dictionaries_keep_their_names_whatever_these_are(tmp_path: Path) -> None:
    uids = [f"{'a/b' if n % 2 else 'a_b'}" + "x" * (n // 2) for n in range(20)]
    columns: dict[str, Any] = {
        "image": X,
        "loaded_input": torch.ones(20, 3),
        "label": Y,
        "sample_uid": uids,
    }
    part: Any = {k: v[:5] for k, v in columns.items()}
    est = Estimator(ByName(), nn.CrossEntropyLoss(), targets="label")
    twice = AugmentHandler(lambda batch: {**batch, "image": batch["image"] * 2})
    est.fit(
        [part], epochs=2, device="cpu", progress=False,
        handlers=[AugmentationsHandler(tmp_path, samples=5, draws=2), twice],
    )  # fmt: skip
    found = section(tmp_path / "augmentations.section.json")
    assert sorted(row[0] for row in found["tables"][0]["rows"]) == sorted(uids[:5])
    stems = {name.removesuffix("_before.txt") for name in names(tmp_path, "_before.txt")}
    assert len(stems) == 5 and {"train_sa_b", "train_sa_b_2"} <= stems
    for stem in stems:
        before, after = (text(tmp_path / f"{stem}_{end}.txt") for end in ("before", "a1"))
        assert before["uid"] == after["uid"]
        number = uids.index(before["uid"])
        assert before["input.label"] == str(int(Y[number]))
        assert after["input.loaded_input"] == "[1 1 1]" == before["input.loaded_input"]
        for end, factor in (("before", 1), ("a1", 2)):
            image = shade(tmp_path / f"{stem}_{end}_image.png")
            assert image == pytest.approx(factor * number / 40, abs=0.003)


class Stop(EventHandler):
    def __init__(self, step: int) -> None:
        super().__init__()
        self.at = step

    def batch_end(self, stats: TrainStats) -> None:
        if stats.step == self.at:
            stats.stop("enough")


def noisy(batch: Any) -> Any:
    return batch[0] + torch.rand_like(batch[0]), batch[1]


@pytest.mark.parametrize("step", [2, 4, 7])
def test_a_run_that_goes_on_leaves_what_a_whole_one_leaves(step: int, tmp_path: Path) -> None:
    whole, parts, saves = (tmp_path / name for name in ("whole", "parts", "saves"))

    def run(folder: Path, *more: EventHandler, **changes: Any) -> None:
        handler = AugmentationsHandler(folder, samples=4, draws=2)
        fit(handler, AugmentHandler(noisy), *more, **changes)

    run(whole)
    run(parts, CheckpointHandler(saves), Stop(step))
    assert names(parts, ".section.json")
    run(parts, CheckpointHandler(saves), Stop(999), resume=saves)
    assert names(parts) == names(whole)
    for name in names(whole, ".txt") + names(whole, ".png"):
        assert (parts / name).read_bytes() == (whole / name).read_bytes(), name


def test_training_is_as_without_it(tmp_path: Path) -> None:
    nets = [
        fit(*handlers, AugmentHandler(noisy))[0]
        for handlers in ([AugmentationsHandler(tmp_path)], [])
    ]
    assert all(map(torch.equal, *(net.state_dict().values() for net in nets)))


def test_a_step_that_fills_the_batch_late(tmp_path: Path) -> None:
    handler = AugmentationsHandler(tmp_path, samples=2, draws=1)
    stats = TrainStats(nn.Identity(), torch.device("cpu"))
    handler.train_begin(stats)
    handler.epoch_begin(stats)
    handler.batch_begin(stats)
    stats.batch, stats.uids, stats.batch_size = X[:2], torch.tensor([4, 6]), 2
    stats.inputs, stats.targets = X[:2] * 2, Y[:2]
    handler.batch_end(stats)
    stats.epoch = 1
    handler.epoch_end(stats)
    assert names(tmp_path, ".txt") == [
        f"train_s{u}_{e}.txt" for u in (4, 6) for e in ("a0", "before")
    ]
    assert text(tmp_path / "train_s4_a0.txt")["target"] == "0"
    assert "target" not in text(tmp_path / "train_s4_before.txt")
    handler.train_end(stats)


def test_batches_that_hold_no_tensors_have_no_before(tmp_path: Path) -> None:
    handler = AugmentationsHandler(tmp_path, samples=1)
    stats = TrainStats(nn.Identity(), torch.device("cpu"))
    handler.train_begin(stats)
    handler.epoch_begin(stats)
    stats.batch, stats.uids, stats.batch_size = (["a"], ["b"]), ["only/one"], 1
    stats.inputs, stats.targets = torch.tensor([[1, 2]]), torch.tensor([1])
    handler.batch_begin(stats)
    handler.batch_end(stats)
    stats.epoch = 1
    handler.epoch_end(stats)
    assert names(tmp_path) == ["augmentations.section.json", "train_sonly_one_a0.txt"]


def test_a_full_disk_stops_nothing_and_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full_disk)
        _, stats = fit(AugmentationsHandler(tmp_path))
    assert stats.missing == {"the augmentations": "No space left on device"}
    assert stats.epoch == 3


def test_the_place_in_the_run_folder_and_wrong_arguments(tmp_path: Path) -> None:
    handler = AugmentationsHandler()
    stats = TrainStats(nn.Identity(), torch.device("cpu"))
    with pytest.raises(ArgumentError, match=r'AugmentationsHandler\(folder="\.\.\."\)'):
        handler.train_begin(stats)
    handler.train_end(stats)
    stats.run_dir = tmp_path
    handler.train_begin(stats)
    assert names(tmp_path) == ["augmentations"]
    for arguments, error in (
        ({"samples": 0}, ArgumentError),
        ({"draws": True}, ArgumentError),
        ({"seed": None}, ArgumentTypeError),
        ({"decode": "x"}, ArgumentTypeError),
        ({"classes": []}, ArgumentError),
    ):
        with pytest.raises(error, match=r"AugmentationsHandler\(.*received"):
            AugmentationsHandler("unused", **arguments)
