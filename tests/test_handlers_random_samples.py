"""Random samples: which, when, their files, and runs that go on or lack something."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sample_sections import TwoProcesses, full_disk, names, pixels, section, text
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from estimator import Estimator, with_uids
from estimator.handlers import (
    CheckpointHandler,
    EventHandler,
    RandomSamplesHandler,
    WorstSamplesHandler,
    every,
)
from estimator.handlers._chosen_samples import Chosen, ChosenSamples, keys_of, newest, orders
from estimator.handlers.base import (
    ArgumentError,
    ArgumentTypeError,
    EstimatorError,
    Every,
    MissingExtraError,
)
from estimator.stats import TrainStats

X = torch.rand(50, 1, 8, 8, generator=torch.Generator().manual_seed(0))
Y = torch.arange(50) % 3


def fit(handler: EventHandler, *others: EventHandler, **changes: Any) -> tuple[Any, TrainStats]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    est = Estimator(net, nn.CrossEntropyLoss())
    settings: dict[str, Any] = {"train": (X[:40], Y[:40]), "val": (X[40:], Y[40:]), "epochs": 3}
    settings |= {"device": "cpu", "progress": False, "batch_size": 7, "seed": 1}
    return net, est.fit(**(settings | changes), handlers=[handler, *others])


def uids(folder: Path, split: str) -> list[str]:
    cards = section(folder / "random_samples.section.json")["samples"]
    return [str(c["facts"]["uid"]) for c in cards if c["facts"]["split"] == split]


def test_files_hold_the_samples_with_target_and_prediction(tmp_path: Path) -> None:
    classes = ["north", "a/b <script>", "$x$"]
    net, _ = fit(RandomSamplesHandler(tmp_path, samples=4, classes=classes))
    stems = [f"{split}_s{k}_e3" for split in ("train", "validation") for k in range(4)]
    galleries = ["gallery_train.png", "gallery_validation.png"]
    pictures = [f"{stem}_input.png" for stem in stems]
    assert names(tmp_path) == sorted(
        [*(f"{s}.txt" for s in stems), *pictures, *galleries, "random_samples.section.json"]
    )
    found = section(tmp_path / "random_samples.section.json")
    assert (found["order"], found["epoch"], len(found["samples"])) == (440, 3, 8)
    assert [picture["file"] for picture in found["pictures"]] == galleries
    columns = ["split", "sample", "uid", "epoch", "target", "prediction"]
    assert found["tables"][0]["columns"] == columns
    for row in found["tables"][0]["rows"]:
        split, k, uid, epoch, target, prediction = row
        lines = text(tmp_path / f"{split}_s{k}_e3.txt")
        place = uid if split == "train" else 40 + uid
        assert (lines["uid"], lines["split"], lines["epoch"]) == (str(uid), split, "3")
        assert lines["target"] == str(int(Y[place])) and target == classes[Y[place]]
        assert prediction == lines["prediction_class"] and epoch == 3
        if split == "validation":
            assert lines["prediction"] == str(int(net(X[place : place + 1]).argmax()))
        picture = pixels(tmp_path / f"{split}_s{k}_e3_input.png")
        np.testing.assert_array_equal(picture[6::12, 6::12], (X[place, 0] * 255).round())


def test_the_choice_is_of_uid_and_seed_alone(tmp_path: Path) -> None:
    chosen = []
    for seed, size, epochs in ((0, 7, 1), (0, 40, 2), (1, 7, 1)):
        folder = tmp_path / f"{seed}{size}"
        fit(
            RandomSamplesHandler(folder, samples=5, seed=seed),
            batch_size=size, epochs=epochs, seed=size,
        )  # fmt: skip
        chosen.append(uids(folder, "train"))
    assert chosen[0] == chosen[1] != chosen[2]
    best = orders(torch.arange(40), 0).argsort(descending=True)[:5]
    assert chosen[0] == [str(uid) for uid in best.tolist()]


def test_orders_are_spread_evenly() -> None:
    for keys in (torch.arange(20_000), torch.arange(20_000) << 40, -torch.arange(20_000)):
        shares = -orders(keys, 3).double() / 2**53
        assert shares.min() >= 0 and shares.max() <= 1
        assert shares.histc(10, 0, 1).sub(2000).abs().max() < 200
        assert len(shares.unique()) > 19_990


@pytest.mark.parametrize("kind", ["texts", "numbers"])
def test_uids_of_other_kinds(kind: str, tmp_path: Path) -> None:
    given: list[Any] = [f"{'é' * (n % 5)}/../{n}\n<script>" for n in range(40)]
    given = given if kind == "texts" else list(range(100, 140))
    loader = DataLoader(with_uids(TensorDataset(X[:40], Y[:40]), given), 7, shuffle=True)
    assert keys_of(given)[0].unique().numel() == 40
    found = []
    for name in ("a", "b"):
        fit(RandomSamplesHandler(tmp_path / name, samples=3), train=loader, val=None, batch_size=32)
        found.append(uids(tmp_path / name, "train"))
        assert len(names(tmp_path / name, ".txt")) == 3
    assert found[0] == found[1] and len(set(found[0])) == 3
    assert set(found[0]) <= {" ".join(str(uid).split()) for uid in given}


def test_numbers_in_a_list_have_the_keys_of_a_tensor() -> None:
    keys, rows = keys_of([3, 5])
    assert keys.tolist() == rows.tolist() == keys_of(torch.tensor([3, 5]))[0].tolist() == [3, 5]
    assert keys_of(["ab", "b"])[0].tolist() == keys_of(["ab", "b", "longer"])[0][:2].tolist()


def test_every_writes_at_epochs_and_at_the_end(tmp_path: Path) -> None:
    fit(RandomSamplesHandler(tmp_path, samples=1, every=every(epochs=2)), epochs=5)
    texts = names(tmp_path, ".txt")
    assert texts == [f"{s}_s0_e{e}.txt" for s in ("train", "validation") for e in (2, 4, 5)]
    # Another run leaves its own epochs only, with and without a schedule.
    (tmp_path / "notes_s0_e9.txt").touch()
    fit(RandomSamplesHandler(tmp_path, samples=1, every=every(epochs=2)), epochs=2)
    assert names(tmp_path, "_e2.txt") == ["train_s0_e2.txt", "validation_s0_e2.txt"]
    assert len(names(tmp_path, ".txt")) == 3
    fit(RandomSamplesHandler(tmp_path, samples=1), val=None, epochs=1)
    assert names(tmp_path, ".txt") == ["notes_s0_e9.txt", "train_s0_e1.txt", "validation_s0_e2.txt"]


class Stop(EventHandler):
    def __init__(self, step: int) -> None:
        super().__init__()
        self.at = step

    def batch_end(self, stats: TrainStats) -> None:
        if stats.step == self.at:
            stats.stop("enough")


@pytest.mark.parametrize("step", [3, 6, 8])
def test_a_run_that_goes_on_leaves_what_a_whole_one_leaves(step: int, tmp_path: Path) -> None:
    whole, parts, saves = (tmp_path / name for name in ("whole", "parts", "saves"))
    fit(RandomSamplesHandler(whole, samples=4))
    fit(RandomSamplesHandler(parts, samples=4), CheckpointHandler(saves), Stop(step))
    assert names(parts, ".section.json"), "what there was is shown"
    fit(
        RandomSamplesHandler(parts, samples=4), CheckpointHandler(saves), Stop(999), resume=saves
    )  # fmt: skip
    assert names(parts) == names(whole)
    for name in names(whole):
        assert (parts / name).read_bytes() == (whole / name).read_bytes(), name


def test_training_is_as_without_it(tmp_path: Path) -> None:
    weights = [fit(h)[0][1].weight for h in (RandomSamplesHandler(tmp_path), Stop(999))]
    assert torch.equal(*weights)


def test_an_error_leaves_what_was_seen_before_it(tmp_path: Path) -> None:
    class Break(EventHandler):
        def batch_end(self, stats: TrainStats) -> None:
            if stats.step == 9:
                raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        fit(RandomSamplesHandler(tmp_path, samples=2), Break())
    assert names(tmp_path, ".txt") == [
        f"{s}_s{k}_e1.txt" for s in ("train", "validation") for k in (0, 1)
    ]


def test_a_full_disk_stops_nothing_and_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full_disk)
        _, stats = fit(RandomSamplesHandler(tmp_path))
    assert stats.missing == {"the random samples": "No space left on device"}
    assert "Training goes on" in caplog.text and names(tmp_path) == []
    assert stats.epoch == 3


def test_samples_without_pictures_and_of_text(tmp_path: Path) -> None:
    words = torch.randint(0, 5, (12, 6))
    net = nn.Sequential(nn.EmbeddingBag(5, 4), nn.Linear(4, 2))
    handler = RandomSamplesHandler(
        tmp_path, samples=2, decode=lambda row: "".join("vwxyz"[word] for word in row.tolist())
    )
    Estimator(net, nn.CrossEntropyLoss()).fit(
        (words, torch.arange(12) % 2), handlers=[handler], device="cpu", progress=False
    )
    found = section(tmp_path / "random_samples.section.json")
    assert found["pictures"] == [] and names(tmp_path, ".png") == []
    for k, card in enumerate(found["samples"]):
        row = words[card["facts"]["uid"]].tolist()
        expected = "".join("vwxyz"[word] for word in row)
        assert card["facts"]["input"] == text(tmp_path / f"train_s{k}_e1.txt")["input"] == expected


def test_the_place_in_the_run_folder_and_evaluate_alone(tmp_path: Path) -> None:
    handler = RandomSamplesHandler(samples=1)
    net = nn.Linear(2, 2)
    data = torch.rand(4, 2), torch.arange(4) % 2
    with pytest.raises(ArgumentError, match=r'RandomSamplesHandler\(folder="\.\.\."\)'):
        Estimator(net, nn.CrossEntropyLoss()).fit(data, handlers=[handler], progress=False)
    Estimator(net, nn.CrossEntropyLoss()).evaluate(data, handlers=[handler])
    stats = TrainStats(net, torch.device("cpu"))
    stats.run_dir = tmp_path
    handler.train_begin(stats)
    handler.train_end(stats)
    assert names(tmp_path) == ["random_samples"]


def test_memory_does_not_grow_with_the_data() -> None:
    chosen = ChosenSamples(3, 0)
    stats = TrainStats(nn.Identity(), torch.device("cpu"))
    sizes = []
    for number in range(60):
        stats.uids = torch.arange(4) + 4 * number
        chosen.add(stats, lambda: {"input": torch.rand(4, 5)}, 4)
        sizes.append(chosen._top._rows["input"].shape[0])
    assert set(sizes) == {6 + 16 * 4}
    chosen.add(stats, dict, 0)
    assert [c.uid for c in chosen.take(1, stats.world)][:3] == (
        orders(torch.arange(240), 0).argsort(descending=True)[:3].tolist()
    )


def test_samples_of_all_processes_are_chosen_from() -> None:
    chosen = ChosenSamples(2, 0)
    stats = TrainStats(nn.Identity(), torch.device("cpu"))
    stats.uids = torch.tensor([1])
    chosen.add(stats, lambda: {"input": torch.ones(1)}, 1)
    other = Chosen(9, 0.0, 1, {})
    world: Any = TwoProcesses([other])
    assert [c.uid for c in chosen.take(1, world)] == [9, 1]
    assert newest([other], [other._replace(epoch=2)], 5)[0].epoch == 2


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"samples": 0}, ArgumentError, r"samples=\.\.\.\) .* received 0"),
        ({"every": Every(steps=3)}, ArgumentError, r"count epochs.*every\(steps=3\)"),
        ({"every": 3}, ArgumentTypeError, r"must be an Every; received 3"),
        ({"classes": "ab"}, ArgumentTypeError, r"received 'ab'"),
        ({"decode": 1}, ArgumentTypeError, r"decode=\.\.\.\) must be a function"),
        ({"seed": 0.5}, ArgumentTypeError, r"seed=\.\.\.\) must be a whole number; received 0.5"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words) as caught:
        RandomSamplesHandler("unused", **arguments)
    assert isinstance(caught.value, EstimatorError)


@pytest.mark.parametrize("make", [RandomSamplesHandler, WorstSamplesHandler])
def test_a_missing_extra_is_said_at_construction(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingExtraError, match=r"torch-estimator\[report\]"):
        make("unused")


def test_a_row_that_is_not_finite_is_shown_and_said(tmp_path: Path) -> None:
    class Clean(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(64, 3)

        def forward(self, x: Tensor) -> Any:
            return self.layer(x.nan_to_num().flatten(1))

    x = X[:4].clone()
    x[:, 0, 0, 0] = torch.tensor([float("nan"), float("inf"), -float("inf"), float("nan")])
    handler = RandomSamplesHandler(tmp_path, samples=4)
    Estimator(Clean(), nn.CrossEntropyLoss()).fit(
        (x, Y[:4]), handlers=[handler], device="cpu", progress=False
    )
    for k in range(4):
        assert pixels(tmp_path / f"train_s{k}_e1_input.png")[0, 0].tolist() == [255, 0, 255]
        lines = text(tmp_path / f"train_s{k}_e1.txt")
        assert lines["input"].endswith("(1 of 64 values are not finite)")
