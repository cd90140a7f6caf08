"""The projector's files, parsed: vectors, metadata, thumbnails and their list."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from projector_runs import FromOutputs, ReturnsTwo, Run, hooks, listed, metadata, sprite, vectors
from torch import Tensor, nn

from estimator import Estimator, Trainer
from estimator.handlers.base import (
    EventHandler,
    every,
)
from estimator.handlers.embedding import EmbeddingHandler
from estimator.stats import TrainStats


def test_fit_writes_a_layer_of_the_validation_set(tmp_path: Path) -> None:
    class SeesHooks(EventHandler):
        counts: set[int] = set()

        def batch_end(self, stats: TrainStats) -> None:
            self.counts.add(hooks(stats.net))

    x, y = torch.rand(50, 1, 6, 6), torch.arange(50) % 3
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 7), nn.ReLU(inplace=True), nn.Linear(7, 3))
    names = ["red", "green", "blue"]
    handler = EmbeddingHandler(tmp_path, layer="1", classes=names)
    estimator = Estimator(net, loss=nn.CrossEntropyLoss())
    for _ in range(2):  # the same object serves a second fit
        estimator.fit(
            (x[:30], y[:30]), (x[30:], y[30:]), epochs=2, trainers=Trainer("sgd", lr=0.1),
            device="cpu", batch_size=8, handlers=[handler, SeesHooks()], progress=False,
        )  # fmt: skip
        handler = pickle.loads(pickle.dumps(handler))
    assert SeesHooks.counts == {0}
    assert hooks(net) == 0
    folder = tmp_path / "00008" / "1"
    with torch.no_grad():
        expected, outputs = net[1](x[30:].flatten(1)), net(x[30:])
    np.testing.assert_allclose(vectors(folder), expected.numpy(), rtol=1e-5)
    assert (expected < 0).any(), "or the layer that works in place would not show"
    header, *rows = metadata(folder)
    guesses = outputs.argmax(1).tolist()
    found = [dict(zip(header, row, strict=True)) for row in rows]
    assert [row["target"] for row in found] == [str(int(t)) for t in y[30:]]
    assert [row["target_class"] for row in found] == [names[t] for t in y[30:]]
    assert [row["prediction"] for row in found] == [str(guess) for guess in guesses]
    assert [row["prediction_class"] for row in found] == [names[guess] for guess in guesses]
    sheet = sprite(folder)
    assert sheet.shape == (30, 30, 3), "5 x 5 tiles of 6 x 6 pixels"
    for place in (0, 7, 19):
        top, left = 6 * (place // 5), 6 * (place % 5)
        tile = (x[30 + place, 0] * 255).byte().numpy()
        np.testing.assert_array_equal(sheet[top : top + 6, left : left + 6, 1], tile)
    (entry,) = listed(tmp_path)
    assert entry["tensor_name"] == "1:00008"
    assert entry["tensor_path"] == "00008/1/tensors.tsv"
    assert entry["metadata_path"] == "00008/1/metadata.tsv"
    assert (entry["image_path"], entry["single_image_dim"]) == ("00008/1/sprite.png", "6")


def test_uids_stand_first_and_only_so_many_samples_are_taken(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Identity())
    run = Run(EmbeddingHandler(tmp_path, layer="0", samples=5), net)
    x = torch.arange(12.0).view(6, 2)
    run.stats.phase = "validation"
    run.handler.validation_begin(run.stats)
    run.batch(x[:3], torch.tensor([0.5, 1.5, 2.5]), torch.tensor([11, 12, 13]))
    assert hooks(net) == 1
    run.batch(x[:0], torch.zeros(0), torch.zeros(0))
    run.batch(x[3:], torch.tensor([3.5, 4.5, 5.5]), torch.tensor([14, 15, 16]))
    assert hooks(net) == 0, "there are enough"
    run.batch(x, torch.zeros(6), torch.arange(6))
    run.handler.validation_end(run.stats)
    run.end()
    folder = tmp_path / "00000" / "0"
    assert vectors(folder).tolist() == x[:5].tolist()
    assert metadata(folder) == [
        ["uid", "target", "prediction"],
        *[[str(11 + i), f"{i + 0.5:g}", f"[{2 * i} {2 * i + 1}]"] for i in range(5)],
    ]
    assert not (folder / "sprite.png").exists()


def test_uids_may_be_text_and_one_column_has_no_header(tmp_path: Path) -> None:
    run = Run(EmbeddingHandler(tmp_path))
    run.validate((torch.ones(2, 20), None, ["a\tb", "c\nd"]), (torch.ones(1, 20), None, ["e"]))
    run.end()
    assert metadata(tmp_path / "00000" / "outputs") == [["a b"], ["c d"], ["e"]]
    Run(EmbeddingHandler(tmp_path / "bare")).validate((torch.ones(2, 20),)).end()
    (entry,) = listed(tmp_path / "bare")
    assert "metadata_path" not in entry


@pytest.mark.parametrize(
    ("layer", "net", "expected"),
    [
        (None, nn.Identity(), [[1.0, 2.0], [3.0, 4.0]]),
        (None, ReturnsTwo(), [[3.0], [7.0]]),
        (FromOutputs(lambda outputs: outputs["rows"][0]), ReturnsTwo(), [[1.0, 2.0], [3.0, 4.0]]),
        ("0", nn.Sequential(ReturnsTwo()), [[3.0], [7.0]]),
        (FromOutputs(lambda x: x.bfloat16()), nn.Identity(), [[1.0, 2.0], [3.0, 4.0]]),
        (FromOutputs(lambda x: x[:, None, :, None]), nn.Identity(), [[1.0, 2.0], [3.0, 4.0]]),
    ],
)
def test_vectors_come_from_outputs_a_function_or_a_layer(
    tmp_path: Path, layer: Any, net: nn.Module, expected: list[list[float]]
) -> None:
    run = Run(EmbeddingHandler(tmp_path, layer=layer), net)
    run.validate((torch.tensor([[1.0, 2.0], [3.0, 4.0]]),), step=70).end()
    name = layer if isinstance(layer, str) else "outputs"
    assert vectors(tmp_path / "00070" / name).tolist() == expected


def test_writes_are_due_by_schedule_and_all_stay_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    handler = EmbeddingHandler(tmp_path, every=every(20))
    run = Run(handler)
    for step in (10, 20, 30, 40, 50):
        run.validate((torch.full((2, 1), float(step)),), step=step)
        run.validate(step=step)  # of no batch
    run.end()
    assert [entry["tensor_name"] for entry in listed(tmp_path)] == [
        "outputs:00020", "outputs:00040", "outputs:00050"
    ]  # fmt: skip
    Run(handler).validate((torch.zeros(2, 1),), step=40).end()
    assert sorted(entry["tensor_name"][-2:] for entry in listed(tmp_path)) == ["20", "40", "50"]
    assert [vectors(tmp_path / f"000{s}" / "outputs")[0, 0] for s in (20, 40, 50)] == [20, 0, 50]
    assert len(list(tmp_path.glob("events.out.tfevents.*"))) == 1
    assert not list(tmp_path.glob(".*")), "no scratch folder stays"
    assert capsys.readouterr() == ("", "")


def test_an_event_file_of_a_logger_stays_the_only_one(tmp_path: Path) -> None:
    (tmp_path / "events.out.tfevents.1.host").touch()
    Run(EmbeddingHandler(tmp_path)).validate((torch.zeros(2, 1),)).end()
    assert [p.name for p in tmp_path.glob("events*")] == ["events.out.tfevents.1.host"]


@pytest.mark.parametrize(
    ("images", "side", "pixel"),
    [
        (torch.full((2, 3, 4, 8), 0.2), 8, 51),
        (torch.full((2, 1, 8, 4), 200, dtype=torch.uint8), 8, 200),
        (torch.full((2, 3, 200, 100), 255, dtype=torch.uint8), 64, 255),
        (torch.tensor([-1.0, 3.0, 3.0, -1.0]).view(1, 1, 2, 2).expand(2, 1, 2, 2), 2, 0),
    ],
)
def test_thumbnails_are_small_squares(
    tmp_path: Path, images: Tensor, side: int, pixel: int
) -> None:
    Run(EmbeddingHandler(tmp_path)).validate((images,)).end()
    sheet = sprite(tmp_path / "00000" / "outputs")
    assert sheet.shape == (2 * side, 2 * side, 3)
    height, width = images.shape[2:]
    top = (side - height * side // max(height, width)) // 2
    left = (side - width * side // max(height, width)) // 2
    assert (sheet[top, left] == pixel).all()
    assert (sheet[top, side + left] == pixel).all()
    assert (sheet[side:] == 0).all()
    (entry,) = listed(tmp_path)
    assert entry["single_image_dim"] == str(side)


def test_thumbnails_and_columns_that_do_not_fit_are_left_out(tmp_path: Path) -> None:
    run = Run(EmbeddingHandler(tmp_path), ReturnsTwo())
    targets = [{"a": torch.zeros(2), "b": torch.zeros(2)}, {"a": torch.zeros(2, 3)}]
    run.validate((torch.rand(2, 1, 6, 6), targets[0]), (torch.rand(2, 1, 3, 12), targets[1])).end()
    folder = tmp_path / "00000" / "outputs"
    assert not (folder / "sprite.png").exists()
    assert len(metadata(folder)[0]) == 1
    plain = EmbeddingHandler(tmp_path / "plain", thumbnails=False)
    Run(plain).validate((torch.rand(2, 1, 6, 6),)).end()
    assert not list((tmp_path / "plain").rglob("sprite.png"))
