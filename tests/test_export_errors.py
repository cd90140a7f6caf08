"""What cannot be exported says why, and leaves the net and a former file alone."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import export_nets as nets
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from estimator import Estimator
from estimator.export_check import check_model
from estimator.export_form import ExportError
from estimator.handlers.base import ArgumentError, ArgumentTypeError, MissingExtraError


class Svd(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        values: Tensor = torch.linalg.svdvals(x)
        return values


class Packed(nn.Module):
    def forward(self, x: Tensor) -> PackedSequence:
        return pack_sequence([x[0]])


class Nothing(nn.Module):
    def forward(self, x: Tensor) -> str:
        return "nothing"


class Locked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lock = (_ for _ in ())

    def forward(self, x: Tensor) -> Tensor:
        return x


SQUARE = torch.randn(4, 3, 3)


@pytest.mark.parametrize(
    ("net", "words"),
    [
        (nets.Branching(), ["Branching", "depends on values of its input", "export_nets.py:"]),
        (nets.Fixed(), ["any size of the axis 'batch'", "'x' to 4", "dynamic={'x': {0: None}}"]),
        (nets.Noisy(), ["other outputs than the net", "batch size", "random numbers"]),
        (nets.Constant(), ["depend on no input"]),
        (Svd(), ["Svd", "No ONNX function found", "svd"]),
        (Packed(), ["packed sequence"]),
        (Nothing(), ["must return a tensor", "str"]),
        (Locked(), ["cannot be copied", "generator"]),
        (nn.Linear(7, 2), ["batch that the net can be run on", "(4, 3, 3)"]),
    ],
)
def test_a_net_that_cannot_be_exported_says_why(
    net: nn.Module, words: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"former")
    net.train()
    levels = [handler.level for handler in logging.getLogger("torch").handlers]
    with pytest.raises(ExportError) as caught:
        Estimator(net).export(path, SQUARE)
    assert [word for word in words if word not in str(caught.value)] == [], str(caught.value)
    assert len(str(caught.value).splitlines()) <= 2
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("model.onnx", b"former")]
    assert all(module.training for module in net.modules())
    assert [handler.level for handler in logging.getLogger("torch").handlers] == levels
    assert capfd.readouterr() == ("", "")


class Lengths(nn.Module):
    """Takes up to eight positions."""

    def __init__(self) -> None:
        super().__init__()
        self.place = nn.Embedding(8, 2)

    def forward(self, x: Tensor, more: Tensor) -> Tensor:
        out: Tensor = x + self.place(torch.arange(x.shape[1])).sum(1)
        return out


@pytest.mark.parametrize(
    ("dynamic", "words"),
    [
        ({"y": {1: "time"}}, ["inputs of the net", "'y'", "There are: more, x"]),
        ({"x": {2: "time"}}, ["from 0 to 1", "{2: 'time'}"]),
        ({"x": {1: "no name"}}, ["'no name'"]),
        ({"x": "time"}, ["received 'time'"]),
        ({"x": {1: "time"}, "more": {1: "time"}}, ["one name to axes of one size", "Use two"]),
    ],
)
def test_axes_that_are_not_there_are_refused(
    dynamic: Any, words: list[str], tmp_path: Path
) -> None:
    with pytest.raises(ArgumentError) as caught:
        Estimator(Lengths()).export(
            tmp_path / "a.onnx", (torch.ones(2, 7), torch.ones(2, 5)), dynamic=dynamic
        )
    assert [word for word in words if word not in str(caught.value)] == [], str(caught.value)


def test_a_net_that_takes_no_other_length_is_found_out(tmp_path: Path) -> None:
    class OneLength(Lengths):
        def forward(self, x: Tensor, more: Tensor) -> Tensor:
            if torch.compiler.is_exporting():
                return x * 2
            return x.view(-1, 7) * 2

    example = torch.ones(2, 7), torch.ones(2, 5)
    with pytest.raises(ExportError, match="itself cannot be run with other sizes"):
        Estimator(OneLength()).export(tmp_path / "a.onnx", example, dynamic={"x": {1: "time"}})


def test_a_net_with_a_longest_length_is_compared_at_shorter_ones(tmp_path: Path) -> None:
    example = torch.ones(2, 7), torch.ones(2, 5)
    result = Estimator(Lengths()).export(tmp_path / "a.onnx", example, dynamic={"x": {1: "time"}})
    assert result.inputs == {"x": ["batch", "time"]} and result.batch_sizes == [1, 2, 5]


def test_arguments_of_the_wrong_kind(tmp_path: Path) -> None:
    est = Estimator(nn.Linear(3, 2))
    with pytest.raises(ArgumentError, match="is a folder"):
        est.export(tmp_path, torch.ones(2, 3))
    with pytest.raises(ArgumentTypeError, match="names of outputs in a list"):
        est.export(tmp_path / "a.onnx", torch.ones(2, 3), outputs="output")
    with pytest.raises(ArgumentError, match="must name outputs of the net; received 'x'"):
        est.export(tmp_path / "a.onnx", torch.ones(2, 3), outputs=["x"])
    with pytest.raises(ExportError, match="must hold a tensor"):
        est.export(tmp_path / "a.onnx", "text")
    with pytest.raises(ExportError, match="packed sequence"):
        est.export(tmp_path / "a.onnx", pack_sequence([torch.ones(2, 3)]))


@pytest.mark.parametrize("library", ["onnxscript", "onnxruntime"])
def test_a_missing_library_names_the_extra(
    library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingExtraError, match=rf"{library}.*torch-estimator\[onnx\]"):
        Estimator(nn.Linear(3, 2)).export(tmp_path / "a.onnx", torch.ones(2, 3))


def test_a_file_that_is_none_is_found_by_the_checker(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(b"nothing of the kind")

    class Named:
        net = nn.Identity()

    with pytest.raises(ExportError, match="the ONNX file of Identity breaks a rule"):
        check_model(tmp_path / "a.onnx", Named())  # type: ignore[arg-type]  # all that it asks for


class Shapes(nn.Module):
    """Asks an input for its sizes alone: one that another has too, and one that it alone has."""

    def forward(self, x: Tensor, mask: Tensor, labels: Tensor) -> Tensor:
        return x.new_ones(labels.shape[0], mask.shape[1]) + x.sum()


def test_an_input_that_is_asked_for_its_sizes_alone(tmp_path: Path) -> None:
    example = torch.zeros(4, 3), torch.ones(4, 6), torch.ones(4)
    batch = (example, torch.zeros(4))
    dynamic = {"mask": {1: "time"}}
    result = Estimator(Shapes()).export(tmp_path / "a.onnx", batch, dynamic=dynamic)
    assert result.inputs == {"x": ["batch", 3], "mask": ["batch", "time"]}
    (found,) = nets.run(result.path, x=torch.zeros(2, 3), mask=torch.ones(2, 9))
    assert found.shape == (2, 9)


def test_a_file_that_does_not_run_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("no such operator\nand more")

    monkeypatch.setattr("onnxruntime.InferenceSession", broken)
    with pytest.raises(ExportError, match="cannot be run by onnxruntime.*no such operator$"):
        Estimator(nn.Linear(3, 2)).export(tmp_path / "a.onnx", torch.ones(2, 3))
    assert list(tmp_path.iterdir()) == []


def test_split_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("estimator.export_form.is_sharded", lambda net: True)
    with pytest.raises(ExportError, match="split over several"):
        Estimator(nn.Linear(3, 2)).export(tmp_path / "a.onnx", torch.ones(2, 3))
