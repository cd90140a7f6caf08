"""`ExplanationHandler` in real runs: what it writes, and that a run is the same with it."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from explain_runs import FAST, arrays, facts, outcomes, section, text
from PIL import Image
from torch import Tensor, nn

from estimator import Estimator, Trainer
from estimator.explain import ExplanationHandler, files, grad_cam, integrated_gradients
from estimator.handlers import EarlyStoppingHandler, EventHandler, every
from estimator.handlers.base import ArgumentError, ArgumentTypeError, MissingExtraError
from estimator.outputs import ClassificationOutput, RegressionOutput
from estimator.randomness import random_state_kept, seed_everything
from estimator.sequences import SequenceArray
from estimator.stats import TrainStats
from estimator.testing import HandlerContract


class TestContract(HandlerContract):
    def make(self, folder: Path) -> EventHandler:
        methods = {"integrated_gradients": {"steps": 2}}
        return ExplanationHandler(
            folder, methods=methods, samples=1, worst=1, every=every(epochs=1)
        )


def pictures(samples: int, channels: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(samples)
    return torch.randn(samples, channels, 8, 8, generator=generator), torch.arange(samples) % 3


def net_of(channels: int = 1, outputs: int = 3) -> nn.Sequential:
    with random_state_kept():
        seed_everything(1)
        return nn.Sequential(
            nn.Conv2d(channels, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(),
            nn.Linear(144, outputs),
        )  # fmt: skip


def fit(
    net: nn.Module, train: Any, val: Any, *handlers: EventHandler, loss: Any = None, **more: Any
) -> TrainStats:
    with random_state_kept():
        seed_everything(0)
        arguments: dict[str, Any] = {"epochs": 2, "device": "cpu", "progress": False, **more}
        return Estimator(net, loss or nn.CrossEntropyLoss()).fit(
            train, val, trainers=Trainer("sgd", lr=0.01), handlers=list(handlers), **arguments
        )


@pytest.mark.parametrize("channels", [1, 3])
def test_the_worst_and_some_others_are_explained(tmp_path: Path, channels: int) -> None:
    net, val = net_of(channels), pictures(40, channels)
    names = ["cat", "dog", "cow"]
    handler = ExplanationHandler(tmp_path, samples=3, worst=4, classes=names)
    stats = fit(net, pictures(20, channels), val, handler, batch_size=16)
    assert stats.missing == {} and not net[0]._forward_hooks
    net.eval()
    answers = net(val[0])
    losses = nn.functional.cross_entropy(answers, val[1], reduction="none")
    found = facts(tmp_path)
    worst = losses.argsort(descending=True)[:4].tolist()
    assert [f["group"] for f in found] == [*(f"worst {i}" for i in (1, 2, 3, 4)),
                                           *(f"random {i}" for i in (1, 2, 3))]  # fmt: skip
    uids = [int(f["uid"]) for f in found]
    assert uids[:4] == worst and len(set(uids)) == 7
    for fact, uid in zip(found, uids, strict=True):
        share, best = answers[uid].softmax(0).max(0)
        assert fact["loss"] == pytest.approx(losses[uid].item(), rel=1e-4)
        assert (fact["target"], fact["prediction"]) == (names[val[1][uid]], names[best])
        assert fact["probability"] == pytest.approx(share.item(), rel=1e-4)
        assert fact["completeness error"] < 1e-3
    x = val[0][uids]
    maps = arrays(tmp_path, "grad_cam")
    expected = grad_cam(net, x).values
    given = np.stack([maps[str(uid)] for uid in uids])
    assert given.shape == (7, 1, 8, 8) and np.allclose(given, expected, atol=1e-5)
    gradients = arrays(tmp_path, "integrated_gradients")
    expected = integrated_gradients(net, x, baseline="mean").values
    assert np.allclose(np.stack([gradients[str(uid)] for uid in uids]), expected, atol=1e-5)
    assert set(arrays(tmp_path, "occlusion")) == set(map(str, uids))
    said = section(tmp_path)
    assert (said["title"], said["order"], said["epoch"]) == ("Explanations", 500, 2)
    assert set(outcomes(tmp_path).values()) == {"done"}
    for card in said["samples"]:
        (picture,) = card["pictures"]
        with Image.open(tmp_path / picture["file"]) as image:
            assert image.size == (1140, 305) and np.asarray(image).std() > 20
        lines = text(tmp_path, card)
        assert (
            lines[0] == f"uid={card['facts']['uid']}"
            and f"target={card['facts']['target']}" in lines
        )


def test_a_run_is_the_same_with_it(tmp_path: Path) -> None:
    weights = []
    for handlers in ([], [ExplanationHandler(tmp_path, samples=2, worst=2, every=every(epochs=1))]):
        net = net_of()
        fit(net, pictures(20), pictures(12), *handlers)
        weights.append(net.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert sorted(p.name for p in tmp_path.glob("epoch_*")) == ["epoch_0001", "epoch_0002"]


def test_the_run_folder_has_a_place_for_it(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "one"
    handler = ExplanationHandler(methods=["occlusion"], samples=1, worst=1)
    fit(net_of(), pictures(8), pictures(8), handler, run=str(run))
    (place,) = tmp_path.rglob("explanations.section.json")
    assert place.parent.name == "explanations"
    with pytest.raises(ArgumentError, match=r"ExplanationHandler\(folder=None\)"):
        fit(net_of(), pictures(8), pictures(8), handler)


def test_what_a_method_refuses_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    methods = ["grad_cam", "guided_backpropagation", "integrated_gradients"]
    handler = ExplanationHandler(
        tmp_path, methods=methods, samples=1, worst=1, every=every(epochs=1)
    )
    with caplog.at_level(logging.WARNING, "estimator"):
        fit(net, pictures(8), pictures(8), handler, epochs=3)
    said = outcomes(tmp_path)
    assert "takes the last convolution" in said["grad_cam"]
    assert "must have an nn.ReLU" in said["guided_backpropagation"]
    assert said["integrated_gradients"] == "done" and len(arrays(tmp_path, methods[2])) == 2
    lines = [r.getMessage() for r in caplog.records if "cannot explain" in r.getMessage()]
    assert len(lines) == 2 and lines[0].startswith("ExplanationHandler: grad_cam cannot explain")


def test_a_table_is_told_as_text(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 3, generator=generator)
    net = nn.Linear(3, 1)
    net.weight.data = torch.tensor([[0.1, -5.0, 1.0]])
    handler = ExplanationHandler(tmp_path, samples=2, worst=2)
    fit(net, (x, x[:, 1:2] * -5), (x, x[:, 1:2] * -5), handler, loss=nn.MSELoss(), epochs=1)
    table = section(tmp_path)["tables"][1]
    assert table["columns"] == ["number", "integrated_gradients", "occlusion"]
    assert [row[0] for row in table["rows"]] == ["input[1]", "input[2]", "input[0]"]
    assert table["rows"][0][1] == pytest.approx(table["rows"][0][2], rel=1e-3)
    card = section(tmp_path)["samples"][0]
    assert card["pictures"] == []
    lines = text(tmp_path, card)
    start = lines.index("number\tvalue\tintegrated_gradients\tocclusion")
    assert lines[start + 1].startswith("input[1]\t") and len(lines) == start + 4
    answer = net(x[int(card["facts"]["uid"])]).item()
    assert card["facts"]["prediction"] == pytest.approx(answer, rel=1e-4)


class Described(nn.Module):
    """Takes a batch with an image and numbers; the class comes second."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.numbers = net_of(), nn.Linear(2, 3)

    def forward(self, batch: dict[str, Any]) -> dict[str, Any]:
        found = self.image(batch["picture"]) + self.numbers(batch["x"])
        return {
            "free": RegressionOutput(found[:, 0], "y"),
            "kind": ClassificationOutput(found, "label"),
        }


def test_outputs_that_describe_themselves_and_an_image_among_numbers(tmp_path: Path) -> None:
    images, label = pictures(24)
    data = {"picture": images, "x": torch.randn(24, 2), "label": label, "y": torch.randn(24)}
    data["y"][5] = float("nan")
    handler = ExplanationHandler(tmp_path / "kind", samples=1, worst=2, output="kind")
    other = ExplanationHandler(tmp_path / "free", methods=["occlusion"], samples=1, worst=2)
    with random_state_kept():
        seed_everything(0)
        net = Described()
        Estimator(net).fit(
            SequenceArray(data, batch_size=8), SequenceArray(data, batch_size=8),
            device="cpu", progress=False, handlers=[handler, other],
        )  # fmt: skip
    found = facts(tmp_path / "kind")
    assert all(f["target"] == str(int(f["uid"]) % 3) and 0 < f["probability"] < 1 for f in found)
    assert set(outcomes(tmp_path / "kind").values()) == {"done"}
    assert all(a.shape == (1, 8, 8) for a in arrays(tmp_path / "kind", "occlusion").values())
    # The first output with a target is the default.
    found = facts(tmp_path / "free")
    assert all("probability" not in f and isinstance(f["prediction"], float) for f in found)


def test_a_full_disk_leaves_the_training_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(path: Path, content: bytes) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "write_whole", full)
    stats = fit(net_of(), pictures(8), pictures(8), ExplanationHandler(tmp_path, methods=FAST))
    assert stats.missing == {"the explanations": "No space left on device"}
    assert stats.epoch == 2 and "Could not write the explanations" in caplog.text
    assert list(tmp_path.rglob("*.json")) == []


def test_the_restored_net_is_explained(tmp_path: Path) -> None:
    net, val = net_of(), pictures(16)
    best = EarlyStoppingHandler("val_loss", patience=9, restore_best=True)
    handler = ExplanationHandler(tmp_path, methods=["grad_cam"], samples=2, worst=2)
    fit(net, pictures(16), val, best, handler, epochs=4)
    for uid, found in arrays(tmp_path, "grad_cam").items():
        assert np.allclose(found, grad_cam(net, val[0][int(uid)][None]).values[0], atol=1e-5)


@pytest.mark.parametrize("missing", ["captum", "matplotlib", "PIL"])
def test_what_is_not_installed_is_found_at_construction(
    missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [missing, *([f"{missing}.attr"] if missing == "captum" else [])]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match=rf"needs {missing}.*torch-estimator\[explain\]"):
        ExplanationHandler()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"methods": "grad_cam"}, ArgumentTypeError, "a list of names"),
        ({"methods": []}, ArgumentError, "at least one method"),
        ({"methods": ["gradcam"]}, ArgumentError, "received 'gradcam'. Did you mean 'grad_cam'"),
        ({"methods": {"grad_cam": {"layr": "x"}}}, ArgumentError, "Did you mean 'layer'"),
        ({"methods": {"occlusion": {"feature": 1}}}, ArgumentError, "received 'feature'"),
        ({"samples": -1}, ArgumentError, r"samples=...\) must be a whole number from 0"),
        ({"worst": 1.5}, ArgumentError, r"worst=...\) must be .* received 1.5"),
        ({"classes": "ab"}, ArgumentTypeError, "a list of names"),
        ({"every": every(5)}, ArgumentError, "must count epochs"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        ExplanationHandler(**arguments)
