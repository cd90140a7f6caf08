"""Errors: what counts as one, in which order, and the files that show them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from output_nets import Net, batches, data
from sample_sections import TwoProcesses, full_disk, names, pixels, section, text
from torch import Tensor, nn

from estimator import Estimator
from estimator.handlers import ErrorsHandler, EventHandler, every
from estimator.handlers._error_rows import ErrorRows, Errors
from estimator.handlers.base import ArgumentError, Band
from estimator.outputs import ClassificationOutput, EmbeddingOutput, RegressionOutput
from estimator.stats import TrainStats

NAN = math.nan


def run(handler: ErrorsHandler, *rows: tuple[Any, Any], inputs: Any = None) -> TrainStats:
    """Evaluates batches of outputs and targets, by hand."""
    stats = TrainStats(nn.Identity(), torch.device("cpu"))
    stats.phase, first = "evaluate", 0
    handler.validation_begin(stats)
    for outputs, targets in rows:
        parts = outputs.values() if isinstance(outputs, dict) else [outputs]
        size = stats.batch_size = len(next(iter(parts)))
        stats.uids = torch.arange(first, first + size)
        stats.inputs = torch.rand(size, 3) if inputs is None else inputs[first : first + size]
        stats.outputs, stats.targets, first = outputs, targets, first + size
        handler.validation_batch_end(stats)
    handler.validation_end(stats)
    return stats


def table(folder: Path, name: str = "output_evaluate", number: int = 1) -> list[Any]:
    rows: list[Any] = section(folder / f"{name}.section.json")["tables"][number]["rows"]
    return rows


def test_wrong_classes_stand_in_the_order_of_confidence(tmp_path: Path) -> None:
    logits = torch.tensor([[4.0, 0, 0], [0, 1, 0], [0, 3, 0], [0, 0, 2], [9, 0, 0], [0, 5, 0]])
    targets = torch.tensor([0, 0, 0, 1, -100, 7])
    images = torch.rand(6, 1, 8, 8)
    handler = ErrorsHandler(tmp_path, classes=["cat", "<b>/$x$", "dog"])
    run(handler, (logits[:4], targets[:4]), (logits[4:], targets[4:]), inputs=images)
    shares = logits.softmax(1).max(1).values
    rows = table(tmp_path)
    assert [row[:4] for row in rows] == [
        [0, 2, "0 cat", "1 <b>/$x$"], [1, 3, "1 <b>/$x$", "2 dog"], [2, 1, "0 cat", "1 <b>/$x$"],
    ]  # fmt: skip
    assert [row[4] for row in rows] == pytest.approx(shares[[2, 3, 1]].tolist())
    found = section(tmp_path / "output_evaluate.section.json")
    assert found["title"] == "Errors: output, evaluate" and found["order"] == 400
    assert found["tables"][0]["rows"] == [[3, 4, 3]]
    assert found["text"].startswith("3 of 4 samples (75.00%) were answered wrongly")
    assert [picture["file"] for picture in found["pictures"]] == ["gallery_output_evaluate.png"]
    lines = text(tmp_path / "output_evaluate_s0.txt")
    assert (lines["uid"], lines["target_class"]) == ("2", "cat")
    assert float(lines["confidence"]) == pytest.approx(shares[2].item())
    picture = pixels(tmp_path / "output_evaluate_s0_input.png")
    assert (picture[6::12, 6::12] == (images[2, 0] * 255).round().numpy()).all()


def test_an_answer_that_is_no_number_is_the_first_error(tmp_path: Path) -> None:
    logits = torch.tensor([[0.0, 9.0], [NAN, 0.0], [5.0, 0.0]])
    run(ErrorsHandler(tmp_path), (logits, torch.tensor([0, 0, 0])))
    assert [row[1] for row in table(tmp_path)] == [1, 0]
    assert table(tmp_path)[0][4] == "NaN" and table(tmp_path, number=0) == [[2, 3, 2]]
    values = torch.tensor([[1.0], [NAN], [9.0]])
    run(ErrorsHandler(tmp_path / "r"), (values, torch.tensor([[3.0], [2.0], [NAN]])))
    assert [row[1] for row in table(tmp_path / "r")] == [1, 0]


@pytest.mark.parametrize("form", ["whole", "floating", "named", "column"])
def test_one_column_is_the_logit_of_the_second_class(form: str, tmp_path: Path) -> None:
    logits = torch.tensor([[3.0], [-4.0], [-1.0], [2.0]])
    targets = torch.tensor([[0], [1], [0], [1]])
    classes = None
    if form != "whole":
        targets = targets.float()
    if form == "named":
        targets[3] = 0.5  # neither 0 nor 1: two names say that it is a class all the same
        classes = ["no", "yes"]
    if form == "column":
        logits, targets = logits[:, 0], targets[:, 0]
    run(ErrorsHandler(tmp_path, classes=classes), (logits, targets))
    rows = [row for row in table(tmp_path) if row[1] != 3]
    assert [row[1] for row in rows] == [1, 0]
    assert [row[4] for row in rows] == pytest.approx(
        [torch.sigmoid(torch.tensor(z)).item() for z in (4.0, 3.0)]
    )
    assert rows[0][3].split()[0] == "0"


def test_the_surest_wrong_label_counts(tmp_path: Path) -> None:
    logits = torch.tensor([[9.0, -1.0, 2.0], [1.0, 1.0, -1.0], [-3.0, 2.0, -2.0]])
    targets = torch.tensor([[1, 1, 0], [1, 1, 0], [1, 1, 0]])
    run(ErrorsHandler(tmp_path), (logits, targets))
    assert [row[1] for row in table(tmp_path)] == [2, 0]
    shares = torch.sigmoid(torch.tensor([3.0, 2.0])).tolist()
    assert [row[4] for row in table(tmp_path)] == pytest.approx(shares)
    assert table(tmp_path)[0][2:4] == ["[1 1 0]", "[0 1 0]"]


def test_the_largest_distances_of_numbers(tmp_path: Path) -> None:
    targets = torch.tensor([[1.0, 2.0], [0.0, NAN], [5.0, 5.0], [NAN, NAN]])
    run(ErrorsHandler(tmp_path, most=2), (torch.ones(4, 2), targets))
    assert [row[1] for row in table(tmp_path)] == [2, 1]
    assert [row[4] for row in table(tmp_path)] == [4.0, 1.0]
    found = section(tmp_path / "output_evaluate.section.json")
    assert found["tables"][1]["columns"][4] == "residual"
    assert found["tables"][0]["rows"] == [[None, 3, 2]]
    assert "largest distance" in found["text"]
    assert text(tmp_path / "output_evaluate_s0.txt")["residual"] == "4"


def test_what_has_no_errors_to_show(tmp_path: Path) -> None:
    words, whole = torch.rand(2, 3, 8), torch.zeros(2, dtype=torch.long)
    skipped: list[tuple[Any, Any]] = [
        (words, torch.zeros(2, 8, dtype=torch.long)),  # sequences of classes
        (torch.rand(2, 1, 8, 8), torch.rand(2, 1, 8, 8)),  # maps
        (torch.rand(2, 3), torch.rand(2, 4)),
        (whole, whole),
        (torch.rand(2, 0), torch.rand(2, 0)),
        (torch.rand(2, 2), torch.rand(2, 2, dtype=torch.complex64)),
        (torch.rand(2, 3), None),
        ({"a": torch.rand(2, 3), "b": torch.rand(2, 3)}, whole),
    ]
    for rows in skipped:
        run(ErrorsHandler(tmp_path), rows)
    assert names(tmp_path) == []
    right = torch.eye(2) * 9
    run(ErrorsHandler(tmp_path), (right, torch.tensor([0, 1])))
    assert section(tmp_path / "output_evaluate.section.json")["text"].startswith("None of 2")
    assert names(tmp_path) == ["output_evaluate.section.json"]


def test_former_errors_of_the_same_pass_are_removed(tmp_path: Path) -> None:
    wrong, targets = torch.tensor([[0.0, 1.0]] * 3), torch.zeros(3, dtype=torch.long)
    handler = ErrorsHandler(tmp_path)
    run(handler, (wrong, targets), inputs=torch.rand(3, 1, 8, 8))
    (tmp_path / "output_validation_s7.txt").touch()
    run(handler, (wrong[:1], targets[:1]))
    assert names(tmp_path) == [
        "output_evaluate.section.json", "output_evaluate_s0.txt", "output_validation_s7.txt"
    ]  # fmt: skip


def tasks(z: Tensor, b: dict[str, Any]) -> dict[str, Any]:
    return {
        "soft/max": ClassificationOutput(z, "label", mask="known"),
        "soft_max": RegressionOutput(z[:, :2], "number"),
        "point": EmbeddingOutput(z),
    }


def test_outputs_that_describe_themselves_are_judged_one_by_one(tmp_path: Path) -> None:
    net, d = Net(tasks), data(12, known=torch.arange(12) > 3, sample_uid=torch.arange(12) + 50)
    Estimator(net).evaluate(batches(d, 5), handlers=[ErrorsHandler(tmp_path)])
    assert names(tmp_path, ".json") == [
        "soft_max_2_evaluate.section.json", "soft_max_evaluate.section.json"
    ]  # fmt: skip
    z = net.layer(d["x"]).detach()
    confidence, guess = z.softmax(1).max(1)
    wrong = (guess != d["label"]) & d["known"]
    order = [u for u in confidence.argsort(descending=True).tolist() if wrong[u]]
    assert [row[1] - 50 for row in table(tmp_path, "soft_max_evaluate")] == order
    far = (z[:, :2] - d["number"]).abs().mean(1).argsort(descending=True)
    assert [row[1] - 50 for row in table(tmp_path, "soft_max_2_evaluate")] == far.tolist()


class Weights(EventHandler):
    """Keeps what the net has learned after each epoch."""

    def __init__(self) -> None:
        super().__init__(band=Band.OBSERVE)
        self.seen: list[Tensor] = []

    def epoch_end(self, stats: TrainStats) -> None:
        self.seen.append(next(stats.net.parameters()).detach().clone())


def fit(*handlers: EventHandler, **changes: Any) -> tuple[Estimator, TrainStats]:
    torch.manual_seed(0)
    x, y = torch.randn(30, 4), torch.arange(30) % 3
    est = Estimator(nn.Linear(4, 3), nn.CrossEntropyLoss())
    settings: dict[str, Any] = {"val": (x[20:], y[20:]), "epochs": 3, "device": "cpu"}
    return est, est.fit(
        (x[:20], y[:20]), **(settings | changes), handlers=list(handlers), progress=False
    )


def test_a_fit_writes_its_last_validation_and_learns_the_same(tmp_path: Path) -> None:
    ours, theirs = Weights(), Weights()
    est, _ = fit(ErrorsHandler(tmp_path), ours)
    fit(theirs)
    assert all(map(torch.equal, ours.seen, theirs.seen))
    assert section(tmp_path / "output_validation.section.json")["epoch"] == 3
    torch.manual_seed(0)
    x, y = torch.randn(30, 4)[20:], (torch.arange(30) % 3)[20:]
    z = est.net(x).detach()
    confidence, guess = z.softmax(1).max(1)
    order = [u for u in confidence.argsort(descending=True).tolist() if guess[u] != y[u]]
    assert [row[1] for row in table(tmp_path, "output_validation")] == order


def test_every_writes_during_the_run(tmp_path: Path) -> None:
    epochs: list[int] = []

    class Read(EventHandler):
        def epoch_begin(self, stats: TrainStats) -> None:
            path = tmp_path / "output_validation.section.json"
            epochs.append(section(path)["epoch"] if path.exists() else 0)

    fit(ErrorsHandler(tmp_path, every=every(epochs=2)), Read(), epochs=5)
    assert epochs == [0, 0, 2, 2, 4]
    assert section(tmp_path / "output_validation.section.json")["epoch"] == 5


def test_without_a_validation_nothing_is_written(tmp_path: Path) -> None:
    fit(ErrorsHandler(tmp_path), val=None)
    assert names(tmp_path) == []


def test_evaluate_goes_to_the_folder_of_the_fit_before_it(tmp_path: Path) -> None:
    handler, data = ErrorsHandler(), (torch.randn(9, 4), torch.arange(9) % 3)
    est = Estimator(nn.Linear(4, 3), nn.CrossEntropyLoss())
    est.evaluate(data, handlers=[handler])
    with pytest.raises(ArgumentError, match=r'ErrorsHandler\(folder="\.\.\."\)'):
        est.fit(data, handlers=[handler], progress=False)
    stats = TrainStats(nn.Identity(), torch.device("cpu"))
    stats.run_dir = tmp_path
    handler.train_begin(stats)
    handler.train_end(stats)
    est.predict(data[0], handlers=[handler])
    assert names(tmp_path / "errors") == []
    est.evaluate(data, handlers=[handler])
    assert "output_evaluate.section.json" in names(tmp_path / "errors")


def test_a_full_disk_stops_nothing_and_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full_disk)
        _, stats = fit(ErrorsHandler(tmp_path))
    assert stats.missing == {"the errors of validation": "No space left on device"}
    assert stats.epoch == 3 and names(tmp_path) == []


def test_a_thousand_classes_of_which_a_part_is_kept(tmp_path: Path) -> None:
    logits = torch.zeros(1, 300_000)
    logits[0, 123_457] = 40.0
    run(ErrorsHandler(tmp_path), (logits, torch.tensor([3])))
    lines = text(tmp_path / "output_evaluate_s0.txt")
    assert (lines["prediction"], lines["confidence"]) == ("123457", "1")
    assert lines["output"] == "shape 300000 min 0 max 40 (shown as 150000)"


def test_values_whose_form_changes_are_not_kept(tmp_path: Path) -> None:
    outputs = [torch.tensor([[0.0, 9.0]]), torch.tensor([[0.0, 8.0]])]
    targets = [torch.tensor([0]), torch.tensor([[0]])]
    run(ErrorsHandler(tmp_path), *zip(outputs, targets, strict=True))
    assert [row[1:4] for row in table(tmp_path)] == [[0, "not kept", "1"], [1, "not kept", "1"]]


def test_memory_is_bounded_and_all_processes_count(tmp_path: Path) -> None:
    rows = ErrorRows(3, binary=False)
    stats = TrainStats(nn.Identity(), torch.device("cpu"))
    for number in range(60):
        stats.uids = torch.arange(4) + 4 * number
        stats.outputs = torch.tensor([[0.0, 1 + number / 10]]).expand(4, 2)
        stats.targets, stats.inputs = torch.zeros(4, dtype=torch.long), torch.rand(4, 7)
        rows.add(stats, 4)
        assert rows._outputs[""].top._rows["input"].shape == (3 + 16 * 4, 7)
    own = rows.take(stats.world)[""]
    assert (own.wrong, own.samples) == (240, 240)
    assert [error.uid for error in own.worst] == [236, 237, 238]
    world: Any = TwoProcesses({"": own, "b": Errors([], 0, 5)})
    rows.add(stats, 4)
    both = rows.take(world)
    assert (both[""].wrong, both[""].samples, len(both[""].worst)) == (244, 244, 3)
    assert both["b"].samples == 5
