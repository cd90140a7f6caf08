"""Classification reports: what they are made of, of which outputs, and what they say is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from output_nets import Net, batches, data, fit
from PIL import Image
from report_runs import Fold, Run, files, section, table
from torch import Tensor, nn

from estimator import Estimator
from estimator.handlers import (
    ClassificationReportHandler,
    MixUpHandler,
    RegressionReportHandler,
    _class_pictures,
)
from estimator.handlers._file_stem import file_stem
from estimator.outputs import (
    BinaryClassificationOutput,
    ClassificationOutput,
    EmbeddingOutput,
    RegressionOutput,
    TripletOutput,
)

NAN = float("nan")
PARTS = {f"output-val-{end}" for end in ("cm.png", "report.txt", "ROC.png", "PR.png")}
PARTS |= {"output-val.section.json"}
THREE = torch.eye(3)[[0, 1, 1, 1, 1, 2]] * 4, torch.tensor([0, 0, 0, 0, 1, 2])
"""Three samples of class 0 are taken for class 1; all others are right."""


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The figures that are written, by the name of their file."""
    found: dict[str, Any] = {}

    def keep(path: Path, figure: Any) -> None:
        found[path.name] = figure
        figure.draw_without_rendering()

    monkeypatch.setattr(_class_pictures, "write_figure", keep)
    return found


def test_rows_are_true_classes_and_columns_predicted_ones(
    tmp_path: Path, drawn: dict[str, Any]
) -> None:
    Run(ClassificationReportHandler(tmp_path, classes=["a", "b", "c"])).validate(THREE).end()
    axes = drawn["output-val-cm.png"].axes[0]
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("target", "predicted")
    np.testing.assert_allclose(axes.images[0].get_array()[0], [0.25, 0.75, 0])
    counts = {text.get_position(): text.get_text() for text in axes.texts}
    assert counts == {(0, 0): "1", (1, 0): "3", (1, 1): "1", (2, 2): "1"}
    for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
        assert [each.get_text() for each in labels] == ["a", "b", "c"]
    rows = {row["target \\ predicted"]: row for row in table(tmp_path, "Confusion matrix")}
    assert rows["a"] == {"target \\ predicted": "a", "a": 1, "b": 3, "c": 0}
    assert table(tmp_path, "Most common errors of each class") == [
        {"target": "a", "predicted": "b", "samples": 3, "share of the target": 0.75}
    ]
    text = (tmp_path / "output-val-report.txt").read_text("utf-8")
    assert "  a: b 3 (75.0%)\n" in text and "  a 1 3 0\n" in text
    assert "6 samples, accuracy 0.5000." in text


def test_pictures_are_files_and_the_section_names_them(tmp_path: Path) -> None:
    Run(ClassificationReportHandler(tmp_path)).validate(THREE).end()
    assert files(tmp_path) == PARTS
    found = section(tmp_path)
    assert (found["title"], found["order"]) == ("Classification: output, val", 300)
    assert {picture["file"] for picture in found["pictures"]} == {
        name for name in PARTS if name.endswith(".png")
    }
    with Image.open(tmp_path / "output-val-cm.png") as image:
        assert image.size[0] > 300 and len(image.convert("L").getcolors() or []) > 20


def test_a_fit_reports_each_split_by_its_own_samples(tmp_path: Path) -> None:
    x, y = torch.randn(20, 4), torch.arange(20) % 2
    est = Estimator(nn.Linear(4, 2), nn.CrossEntropyLoss(), ["accuracy"])
    handler = ClassificationReportHandler(tmp_path)
    stats = est.fit(
        (x, y), (x[:6], y[:6]), epochs=3, device="cpu", handlers=handler, progress=False
    )
    for split, column in (("train", "train_accuracy"), ("val", "val_accuracy")):
        means = {row[""]: row for row in table(tmp_path, "Means", f"output-{split}")}
        assert means["accuracy"]["F1"] == pytest.approx(stats[column][-1])
        assert means["accuracy"]["support"] == (20 if split == "train" else 6)


def test_one_logit_with_floating_targets(tmp_path: Path) -> None:
    logits = torch.tensor([[-2.0], [1.0], [0.5], [3.0], [1.0], [NAN]])
    targets = torch.tensor([[0.0], [0.0], [1.0], [1.0], [NAN], [1.0]])
    Run(ClassificationReportHandler(tmp_path, classes=["no", "yes"])).validate(
        (logits, targets), (logits[:2, 0], targets[:2, 0])
    ).end()
    assert "1 have no target, 1 have an answer that is not a number" in section(tmp_path)["text"]
    rows = table(tmp_path, "Confusion matrix")
    assert [(row["no"], row["yes"]) for row in rows] == [(2, 2), (0, 2)]
    assert [row["AUC"] for row in table(tmp_path, "By class")] == [None, pytest.approx(0.75)]


def test_numbers_in_one_column_are_no_classes(tmp_path: Path) -> None:
    numbers = torch.tensor([0.0, 1.0, 0.5, 2.0])
    for part in (numbers, numbers[:3], torch.tensor([0, 1, 7, 1]), torch.full((4,), NAN)):
        for handler in (ClassificationReportHandler(tmp_path), RegressionReportHandler(tmp_path)):
            Run(handler).validate((torch.randn(len(part)), part)).end()
        known = not part.isnan().all()
        assert ("output-val-predicted.png" in files(tmp_path)) is known
        assert "output-val-cm.png" not in files(tmp_path)
        for path in tmp_path.iterdir():
            path.unlink()


def test_missing_targets_and_those_out_of_range_do_not_count(tmp_path: Path) -> None:
    targets = torch.tensor([0, -100, 3, -1, 1, 2])
    Run(ClassificationReportHandler(tmp_path)).validate((THREE[0], targets)).end()
    found = section(tmp_path)
    assert found["text"].startswith(
        "3 samples, accuracy 1.0000. Not counted: 1 have no target, 2 have a target that is none"
    )
    Run(ClassificationReportHandler(tmp_path)).validate((THREE[0], targets.fill_(-100))).end()
    text = section(tmp_path)["text"]
    assert text.startswith("There is no classification report. No sample has a target that is")
    assert files(tmp_path) == {"output-val-report.txt", "output-val.section.json"}


def test_positions_of_sequences_count(tmp_path: Path) -> None:
    logits, targets = torch.randn(3, 4, 5), torch.randint(4, (3, 5))
    Run(ClassificationReportHandler(tmp_path)).validate((logits, targets)).end()
    accuracy = (logits.argmax(1) == targets).double().mean().item()
    assert table(tmp_path, "Means")[0]["F1"] == pytest.approx(accuracy)


def test_targets_with_a_column_a_class(tmp_path: Path) -> None:
    hot = torch.eye(3)[THREE[1]]
    Run(ClassificationReportHandler(tmp_path)).validate((THREE[0], hot)).end()
    assert table(tmp_path, "Confusion matrix")[0]["1"] == 3
    handler = ClassificationReportHandler(tmp_path)
    Run(handler).train((THREE[0], hot * 0.9 + 0.1 / 3)).validate((THREE[0], hot)).end()
    found = section(tmp_path, "output-train")
    assert "6 targets are probabilities or mixtures of classes, such as MixUp" in found["text"]
    assert (found["tables"], found["pictures"]) == ([], [])
    assert "have no one true class" in (tmp_path / "output-train-report.txt").read_text("utf-8")
    assert table(tmp_path, "Confusion matrix")[0]["1"] == 3
    numbers = tmp_path / "numbers"
    Run(ClassificationReportHandler(numbers)).validate((THREE[0], torch.randn(6, 3))).end()
    assert files(numbers) == set()


def test_mixed_batches_count_with_the_target_of_the_greater_share(tmp_path: Path) -> None:
    x, y = torch.randn(12, 4), torch.arange(12) % 3
    est = Estimator(nn.Linear(4, 3), nn.CrossEntropyLoss(), ["accuracy"])
    mixed = [MixUpHandler(3), ClassificationReportHandler(tmp_path)]
    stats = est.fit((x, y), epochs=1, device="cpu", handlers=mixed, progress=False)
    accuracy = table(tmp_path, "Means", "output-train")[0]["F1"]
    assert accuracy == pytest.approx(stats["train_accuracy"][-1])


def test_each_entry_of_a_dict_or_list_has_a_report(tmp_path: Path) -> None:
    outputs = {"a/b": THREE[0], "a:b": THREE[0][:, :1], "x" * 300: THREE[0], "none": THREE[0]}
    targets = {"a/b": THREE[1], "a:b": THREE[1] % 2, "x" * 300: THREE[1], "extra": THREE[1]}
    Run(ClassificationReportHandler(tmp_path)).validate((outputs, targets)).end()
    stems = {name.removesuffix(".section.json") for name in files(tmp_path) if "section" in name}
    assert stems == {f"{file_stem(name)}-val" for name in list(outputs)[:3]} and len(stems) == 3
    several = tmp_path / "list"
    Run(ClassificationReportHandler(several)).validate(([THREE[0]] * 2, [THREE[1]] * 2)).end()
    assert {"0-val-cm.png", "1-val-cm.png"} < files(several)
    single = tmp_path / "single"
    Run(ClassificationReportHandler(single)).validate(({"digit": THREE[0]}, THREE[1])).end()
    assert "digit-val-cm.png" in files(single)


def described(z: Tensor, batch: dict[str, Any]) -> dict[str, Any]:
    return {
        "kind": ClassificationOutput(z, "label", mask="there"),
        "yes": BinaryClassificationOutput(z[:, 0], "yes"),
        "soft": ClassificationOutput(z, "shares"),
        "count": RegressionOutput(z[:, :1], "yes"),
        "near": TripletOutput(z, "label"),
        "point": EmbeddingOutput(z),
        "several": BinaryClassificationOutput(z[:, :2], "both"),
    }


def test_outputs_that_describe_themselves(tmp_path: Path) -> None:
    columns = data(12, there=torch.arange(12) > 3, yes=torch.arange(12) % 2)
    columns |= {"shares": torch.full((12, 3), 1 / 3).double()}
    columns |= {"both": torch.ones(12, 2)}
    handlers = [ClassificationReportHandler(tmp_path), RegressionReportHandler(tmp_path)]
    _, stats = fit(Net(described), batches(columns, 5), batches(columns, 5), handlers=handlers)
    names = {name.removesuffix(".section.json") for name in files(tmp_path) if "section" in name}
    expected = {f"{name}-{split}" for name in ("kind", "yes", "soft", "count") for split in SPLITS}
    assert names == expected
    accuracy = table(tmp_path, "Means", "kind-val")[0]
    assert accuracy["F1"] == pytest.approx(stats["val_kind_accuracy"][-1])
    assert accuracy["support"] == 8
    assert table(tmp_path, "By class", "yes-val")[1]["AUC"] == pytest.approx(
        stats["val_yes_auroc"][-1]
    )
    assert "12 targets are probabilities" in section(tmp_path, "soft-val")["text"]
    assert section(tmp_path, "count-val")["title"].startswith("Regression")


SPLITS = ("train", "val")


def test_one_class_only(tmp_path: Path) -> None:
    Run(ClassificationReportHandler(tmp_path)).validate((THREE[0], torch.zeros(6).long())).end()
    assert (
        "AUC is not defined where samples of the class, or of all others, are missing"
        in (section(tmp_path)["text"])
    )
    rows = table(tmp_path, "By class")
    assert [row["AUC"] for row in rows] == ["NaN"] * 3
    assert [row["average precision"] for row in rows] == [1.0, "NaN", "NaN"]
    assert files(tmp_path) == PARTS - {"output-val-ROC.png"}


@pytest.mark.parametrize("classes", [39, 40, 1000])
def test_many_classes(tmp_path: Path, drawn: dict[str, Any], classes: int) -> None:
    targets = torch.arange(classes).repeat(2)
    logits = torch.eye(classes)[(targets + (torch.arange(len(targets)) % 7 == 0)) % classes]
    names = [f"class {number}" for number in range(classes)]
    Run(ClassificationReportHandler(tmp_path, classes=names)).validate((logits, targets)).end()
    axes = drawn["output-val-cm.png"].axes[0]
    labels = [each.get_text() for each in axes.get_yticklabels()]
    assert (labels == names) is (classes < 40) and len(labels) < 40
    assert max(axes.images[0].get_array().shape) <= 250
    titles = [each["title"] for each in section(tmp_path)["tables"]]
    assert ("Confusion matrix" in titles) is (classes <= 50)
    if classes == 1000:
        rows = table(tmp_path, "Classes that are confused most often")
        assert len(rows) == 100 and rows[0]["predicted"] != rows[0]["target"]
        assert "each point: the largest share in 4 x 4 classes" in axes.get_title()
    assert len(table(tmp_path, "By class")) == classes
    assert len(drawn["output-val-ROC.png"].axes[0].lines) < 45


def test_curves_of_many_samples_are_thinned_out(tmp_path: Path, drawn: dict[str, Any]) -> None:
    handler = ClassificationReportHandler(tmp_path)
    Run(handler).validate((torch.randn(3000), torch.arange(3000) % 2)).end()
    for name in ("ROC", "PR"):
        assert len(drawn[f"output-val-{name}.png"].axes[0].lines[0].get_xdata()) == 1000
    assert table(tmp_path, "By class")[1]["AUC"] == pytest.approx(0.5, abs=0.1)


def test_more_classes_than_a_matrix_can_hold(tmp_path: Path) -> None:
    handler = ClassificationReportHandler(tmp_path)
    Run(handler).validate((torch.zeros(2, 3000), torch.zeros(2).long())).end()
    assert "It has 3,000 classes; reports are made of up to 2,048" in section(tmp_path)["text"]


def test_shapes_that_change_are_told(tmp_path: Path) -> None:
    handler = ClassificationReportHandler(tmp_path)
    Run(handler).validate(THREE, (torch.zeros(2, 4), torch.zeros(2).long())).end()
    assert "The shapes of outputs and targets changed" in section(tmp_path)["text"]


def test_hostile_names(tmp_path: Path) -> None:
    names = ["<script>alert(1)</script>", "$\\frac{", "a/b\n'\"" * 60]
    Run(ClassificationReportHandler(tmp_path, classes=names)).validate(THREE).end()
    assert files(tmp_path) == PARTS
    assert [row["class"] for row in table(tmp_path, "By class")] == names
    text = (tmp_path / "output-val-report.txt").read_text("utf-8")
    assert max(map(len, text.splitlines())) < 200


def test_names_of_other_classes_are_not_used(tmp_path: Path) -> None:
    Run(ClassificationReportHandler(tmp_path, classes=["a", "b"])).validate(THREE).end()
    assert [row["class"] for row in table(tmp_path, "By class")] == ["0", "1", "2"]
    assert "names 2 classes of 3" in section(tmp_path)["text"]


def test_processes_are_added_up(tmp_path: Path) -> None:
    whole, half = tmp_path / "whole", tmp_path / "half"
    Run(ClassificationReportHandler(whole)).validate(THREE).end()
    other = ClassificationReportHandler(half)
    Run(other).validate((THREE[0][3:], THREE[1][3:]))
    taken = other._whole["val"].taken()
    run = Run(ClassificationReportHandler(half), world=Fold(taken))
    run.validate((THREE[0][:3], THREE[1][:3])).end()
    assert section(half) == section(whole)
    run = Run(ClassificationReportHandler(half), world=Fold(taken))
    run.validate((THREE[0][:3, :2], THREE[1][:3])).end()
    assert "It has other shapes in other processes" in section(half)["text"]
    run = Run(ClassificationReportHandler(half), world=Fold(taken))
    run.validate((THREE[0][:3], THREE[1][:3]))
    run.stats.error = RuntimeError("broken")
    run.end()
    assert "It is the share of the first of 2 processes." in section(half)["text"]


def test_only_the_first_process_writes(tmp_path: Path) -> None:
    world = Fold({})
    world.rank = 1
    Run(ClassificationReportHandler(tmp_path), world=world).validate(THREE).end()
    assert files(tmp_path) == set()
