"""Which samples are kept and how they are told, with bad ones among them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from explain_runs import FAST, Run, arrays, facts, outcomes, section, text
from PIL import Image
from sample_runs import HOST_READS
from torch import Tensor, nn

from estimator.explain import ExplanationHandler, handler, kept
from estimator.explain.drawing import drawing
from estimator.explain.kept import Collector

X = torch.randn(6, 1, 6, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(6) % 3


def flat_net(size: int = 36, outputs: int = 3) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(size, outputs))


def explained(folder: Path, net: nn.Module, *batches: Any, **settings: Any) -> None:
    settings = {"methods": FAST, "samples": 0, "worst": 2, **settings}
    Run(ExplanationHandler(folder, **settings), net).validate(*batches).end()


def test_hostile_names(tmp_path: Path) -> None:
    uids = ["../a/b", "../a\\b", "x" * 300, "<script>\n'\"", "5", "6"]
    names = ["a/../b$\\frac$", "<script>alert(1)</script>" * 20, "line\nbreak"]
    batch = (X, Y, [6.0, 5.0, 4.0, 3.0, 2.0, 1.0], uids)
    explained(tmp_path, flat_net(), batch, worst=4, classes=names)
    place = tmp_path / "epoch_0000"
    stems = sorted(path.stem for path in place.glob("*.txt"))
    assert stems == [
        "worst_001_uid_.._a_b", "worst_002_uid_.._a_b", f"worst_003_uid_{'x' * 40}",
        "worst_004_uid__script_",
    ]  # fmt: skip
    assert len(list(place.iterdir())) == 16 and not list(tmp_path.parent.glob("*b*.txt"))
    cards = section(tmp_path)["samples"]
    assert [card["facts"]["uid"] for card in cards] == [*uids[:3], "<script> '\""]
    assert text(tmp_path, cards[3])[0] == "uid=<script> '\""
    assert {card["facts"]["target"] for card in cards} == set(names)


def test_samples_that_are_not_finite_are_told_and_the_others_explained(tmp_path: Path) -> None:
    x = X.clone()
    x[2, 0, 1, 1] = float("nan")
    losses = torch.tensor([0.1, 0.2, float("nan"), 0.3, float("inf"), 0.0])
    explained(tmp_path, flat_net(), (x, Y, losses, torch.arange(6)), worst=3)
    found = facts(tmp_path)
    assert [f["uid"] for f in found] == ["2", "4", "3"]
    assert (found[0]["loss"], found[1]["loss"]) == ("NaN", "Infinity")
    assert "infinite numbers in sample 0" in found[0]["not explained"]
    assert set(arrays(tmp_path, "occlusion")) == {"3", "4"}
    assert "not explained=" in "\n".join(text(tmp_path, section(tmp_path)["samples"][0]))


def test_a_net_whose_answers_are_not_finite(tmp_path: Path) -> None:
    net = flat_net()
    next(net.parameters()).data.fill_(float("nan"))
    explained(tmp_path, net, (X, Y, [1.0] * 6))
    assert all("the net's answer must be finite" in f["not explained"] for f in facts(tmp_path))


class Picky(nn.Module):
    def forward(self, x: Tensor, gone: Tensor) -> Tensor:
        raise AttributeError("planned")


def test_a_net_that_cannot_be_called_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    explained(tmp_path, Picky(), ((X, X), Y, [1.0] * 6))
    assert outcomes(tmp_path) == {"all methods": "AttributeError: planned"}
    assert len(facts(tmp_path)) == 2 and "all methods cannot explain" in caplog.text


def test_no_numbers_among_the_inputs(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Embedding(5, 4), nn.Flatten(), nn.Linear(8, 3))
    words = torch.tensor([[0, 1], [2, 3]])
    explained(tmp_path, net, (words, Y[:2], [1.0, 2.0]))
    assert "no input of numbers" in outcomes(tmp_path)["all methods"]


def test_large_samples_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "SAMPLE_BYTES", 3 << 20)
    big = torch.zeros(2, 1, 1024, 1024)
    run = Run(ExplanationHandler(tmp_path, methods=FAST), flat_net())
    run.validate((big, Y[:2], [1.0, 2.0]), (X, Y, [1.0] * 6)).end()
    assert (
        "Samples of 4 MiB are too large to be kept; those up to 3 MiB" in section(tmp_path)["text"]
    )
    assert len(facts(tmp_path)) == 6


def test_samples_of_another_shape_are_left_out(tmp_path: Path) -> None:
    run = Run(ExplanationHandler(tmp_path, methods=FAST, samples=0), flat_net())
    run.validate((X, Y, [1.0] * 6), (X[..., :4], Y, [9.0] * 6)).end()
    assert "another shape" in section(tmp_path)["text"]
    assert [f["loss"] for f in facts(tmp_path)] == [1.0] * 6


def test_the_last_validation_counts_and_the_same_samples_are_drawn(tmp_path: Path) -> None:
    uids = []
    for times in (1, 2):
        folder = tmp_path / str(times)
        run = Run(ExplanationHandler(folder, methods=FAST, samples=4, worst=1), flat_net())
        for loss in range(times):
            batches = [(X, Y, [float(loss)] * 6, torch.arange(6) + 6 * i) for i in range(16)]
            run.validate(*batches)
        run.validate((X, Y, [5.0] * 6), phase="evaluate").end()
        uids.append([f["uid"] for f in facts(folder)])
        assert facts(folder)[0]["loss"] == times - 1
    assert uids[0] == uids[1] and len(set(uids[0])) == 5
    assert max(map(int, uids[0])) > 30


def test_memory_is_bounded_and_nothing_is_read_in_a_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(ExplanationHandler(tmp_path, methods=FAST), flat_net())
    run.stats.phase = "validation"
    run.handler.validation_begin(run.stats)
    collector = run.handler._collector
    assert collector is not None

    def refuse(*_: Any) -> None:
        raise AssertionError("a tensor was read on the host")

    losses = torch.rand(6)
    uids = torch.arange(6)
    with monkeypatch.context() as patch:
        for name in HOST_READS:
            patch.setattr(Tensor, name, refuse)
        for _ in range(100):
            run.batch(X, Y, losses, uids)
    assert len(collector._waiting) == 100 % 16
    counts = {group: len(rows["loss"]) for group, rows in collector._kept.items()}
    assert counts == {"worst": 8, "random": 16}
    assert all(row.data_ptr() != X.data_ptr() for row in collector._waiting[0].values())
    monkeypatch.setattr(kept, "_WAITING_BYTES", 100)
    run.batch(X, Y, losses, uids)
    assert collector._waiting == []


def test_several_processes_are_put_together() -> None:
    class World:
        size = 2

        def __init__(self, rank: int) -> None:
            self.rank = rank
            self.parts: list[Any] = []

        def gather(self, part: Any) -> list[Any]:
            self.parts.append(part)
            return [FIRST, part] if self.rank else [part]

    class Stats:
        def __init__(self, rank: int, losses: list[float], size: int = 6) -> None:
            self.world, self.inputs = World(rank), torch.randn(len(losses), size)
            self.targets, self.outputs = Y[: len(losses)], torch.zeros(len(losses), 3)
            self.sample_losses, self.uids = torch.tensor(losses), None

    def collected(rank: int, *args: Any) -> Any:
        stats, collector = Stats(rank, *args), Collector(2, 1, rank)
        collector.add(stats)  # type: ignore[arg-type]  # as much of it as is used
        return collector.take(stats), stats.world.parts[0]  # type: ignore[arg-type]  # as above

    alone, FIRST = collected(0, [1.0, 4.0, 2.0, 0.5])
    assert [s.loss for s in alone.samples[:2]] == [4.0, 2.0] and len(alone.samples) == 3
    both, _ = collected(1, [3.0, 0.1, 5.0])
    assert [(s.group, s.loss) for s in both.samples[:2]] == [("worst", 5.0), ("worst", 4.0)]
    assert both.samples[2].group == "random" and both.samples[2].loss not in (5.0, 4.0)
    # What has another shape cannot be in one batch.
    mixed, _ = collected(1, [9.0], 7)
    assert [s.loss for s in mixed.samples[:2]] == [4.0, 2.0]


def test_a_split_net_is_not_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handler, "is_sharded", lambda net: True)
    explained(tmp_path, flat_net(), (X, Y, [1.0] * 6))
    assert outcomes(tmp_path) == {"all methods": "the net is split over several processes"}


def test_errors_and_interruptions(tmp_path: Path) -> None:
    for name, error, files in (("a", ValueError(), 1), ("b", KeyboardInterrupt(), 0)):
        run = Run(ExplanationHandler(tmp_path / name, methods=FAST), flat_net())
        run.validate((X, Y, [1.0] * 6))
        run.stats.error = error
        run.validate((X, Y, [2.0] * 6)).end()
        found = list((tmp_path / name).glob("*.json"))
        assert len(found) == files
        assert not files or facts(tmp_path / name)[0]["loss"] == 1.0
    run = Run(ExplanationHandler(tmp_path / "c", methods=FAST), flat_net())
    run.stats.interrupted = "SIGINT"
    run.validate((X, Y, [1.0] * 6)).end()
    assert list((tmp_path / "c").iterdir()) == []


def test_no_validation(tmp_path: Path) -> None:
    explains = ExplanationHandler(tmp_path, methods=FAST)
    with pytest.warns(UserWarning, match="this run has none: nothing will be written"):
        run = Run(explains, flat_net(), validates=False)
    run.end()
    assert list(tmp_path.iterdir()) == []


def test_a_binary_answer_of_one_column(tmp_path: Path) -> None:
    net = flat_net(outputs=1)
    explained(tmp_path, net, (X, Y % 2, [1.0] * 6), classes=["no", "yes"], worst=6)
    logits = net(X)[:, 0].detach()
    for fact in facts(tmp_path):
        logit = logits[int(fact["uid"])]
        assert fact["prediction"] == ("yes" if logit > 0 else "no")
        assert fact["probability"] == pytest.approx(float(logit.abs().sigmoid()), rel=1e-5)
    # What speaks for the prediction adds up to more than 0 against the mean of all.
    (low, high) = int(logits.argmin()), int(logits.argmax())
    found = arrays(tmp_path, "integrated_gradients")
    assert found[str(low)].sum() > 0 and found[str(high)].sum() > 0


@pytest.mark.parametrize(
    ("targets", "classes", "keys"),
    [
        (torch.randn(6, 3), None, {"target", "prediction", "explained"}),
        (None, None, {"prediction", "probability"}),
        (torch.rand(6, 3), ["a", "b", "c"], {"target", "prediction", "probability"}),
    ],
)
def test_answers_of_several_numbers(
    tmp_path: Path, targets: Any, classes: Any, keys: set[str]
) -> None:
    explained(tmp_path, flat_net(), (X, targets, [1.0] * 6), classes=classes)
    always = {"uid", "group", "loss", "completeness error"}
    assert all(set(f) - always == keys for f in facts(tmp_path))


def test_a_thousand_classes(tmp_path: Path) -> None:
    names = [f"class {i}" for i in range(1000)]
    explained(tmp_path, flat_net(outputs=1000), (X, Y, [1.0] * 6), classes=names)
    assert all(f["prediction"] in names for f in facts(tmp_path))


def test_two_pictures_and_a_volume(tmp_path: Path) -> None:
    class Two(nn.Module):
        def forward(self, left: Tensor, volume: Tensor, number: Tensor) -> Tensor:
            return left.mean((2, 3)) * 2 + volume.mean((2, 3, 4)) + number

    volume = torch.randn(6, 3, 4, 6, 6)
    inputs = {"left": X.expand(-1, 3, -1, -1), "volume": volume, "number": torch.zeros(6, 1)}
    explained(tmp_path, Two(), (inputs, Y, [1.0] * 6), worst=1, methods=["occlusion"])
    card = section(tmp_path)["samples"][0]
    names = [picture["caption"] for picture in card["pictures"]]
    assert names == ["left: occlusion", "volume: occlusion"]
    found = [np.load(path).shape for path in sorted((tmp_path / "epoch_0000").glob("*.npy"))]
    assert found == [(3, 6, 6), (3, 4, 6, 6)]


class Structured(nn.Module):
    """Uses one number of a nested batch, and what is no row."""

    def forward(self, x: Tensor, more: Any, idle: Tensor, factor: Tensor, name: str) -> Any:
        return x * more["by"][0] * factor + len(name) + idle.detach()


def test_nested_inputs_keep_their_structure(tmp_path: Path) -> None:
    x, by = torch.ones(6, 1), torch.arange(6.0)[:, None]
    more = {"by": (by, None)}
    inputs = (x, more, torch.ones(6, 1), torch.tensor(2.0), "ab")
    methods = {"integrated_gradients": {"baseline": 0.0}}
    batch = (inputs, torch.rand(6), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    explained(tmp_path, Structured(), batch, methods=methods)
    found = arrays(tmp_path, "integrated_gradients")
    assert {uid: float(value[0]) for uid, value in found.items()} == pytest.approx(
        {"5": 10.0, "4": 8.0}, rel=1e-4
    )
    # The answer has no gradient by the other number.
    assert [row[0] for row in section(tmp_path)["tables"][1]["rows"]] == ["input.0[0]"]


def test_long_tables_are_cut(tmp_path: Path) -> None:
    x = torch.randn(6, 600)
    explained(tmp_path, flat_net(600), (x, Y, [1.0] * 6), methods=["occlusion"])
    table = section(tmp_path)["tables"][1]
    assert table["title"].endswith("the 64 largest of 600") and len(table["rows"]) == 64
    sizes = [row[1] for row in table["rows"]]
    assert sizes == sorted(sizes, reverse=True)
    # Two numbers are covered at once.
    values = next(iter(arrays(tmp_path, "occlusion").values()))
    assert values.shape == (600,)


def test_a_former_write_of_the_same_epoch_is_replaced(tmp_path: Path) -> None:
    place = tmp_path / "epoch_0000"
    place.mkdir()
    for name in ("worst_009_uid_3.png", "notes.txt"):
        (place / name).write_text("former")
    explained(tmp_path, flat_net(), (X, Y, [1.0] * 6))
    assert not (place / "worst_009_uid_3.png").exists() and (place / "notes.txt").exists()


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_pictures_of_any_channels(channels: int) -> None:
    image, values = torch.rand(channels, 9, 7), torch.zeros(1, 9, 7)
    values[0, 2, 3] = 1.0
    png = drawing(image, {"grad_cam": values, "occlusion": -values}, ["a $ b"],
                  signed={"grad_cam": False, "occlusion": True})  # fmt: skip
    with Image.open(io.BytesIO(png)) as found:
        seen = np.asarray(found.convert("RGB")).astype(int)
    assert seen.shape == (305, 855, 3)
    # The one number that counts is bright in one map and blue in the other.
    middle, right = seen[85:295, 295:505], seen[85:295, 580:790]
    assert (middle[..., 0] - middle[..., 2]).max() > 60
    assert (right[..., 2] - right[..., 0]).max() > 40
    none = drawing(image, {}, ["x"], signed={})
    assert none[:4] == b"\x89PNG"
