"""What an ONNX file holds: named inputs, any batch size, and what the net gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import export_nets as nets
import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from estimator import Estimator, TrainStats
from estimator.export_check import difference
from estimator.exporting import ExportResult
from estimator.handlers.base import EstimatorError
from estimator.handlers.model_export import ModelExportHandler

Made = tuple[nn.Module, ExportResult]


def plain(outputs: Any) -> list[Tensor]:
    values = outputs.values() if isinstance(outputs, dict) else outputs
    return [value if isinstance(value, Tensor) else value.value for value in values]


def assert_equal(path: Path, inputs: dict[str, Tensor], expected: list[Tensor]) -> None:
    for found, wanted in zip(nets.run(path, **inputs), expected, strict=True):
        np.testing.assert_allclose(found, wanted.detach().numpy(), atol=1e-5)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Made:
    torch.manual_seed(0)
    net = nets.Images()
    path = tmp_path_factory.mktemp("images") / "new" / "model.onnx"
    example = torch.randn(3, 1, 6, 6), torch.zeros(3)
    net.norm.eval()
    before = {name: m.training for name, m in net.named_modules()}
    weights = {name: value.clone() for name, value in net.state_dict().items()}
    stream = torch.get_rng_state()
    result = Estimator(net, nn.CrossEntropyLoss()).export(path, example)
    assert {name: m.training for name, m in net.named_modules()} == before
    assert all(torch.equal(value, weights[name]) for name, value in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), stream)
    return net, result


def test_one_tensor_has_the_name_of_the_parameter_and_any_batch_size(images: Made) -> None:
    net, result = images
    expected = {"images": ["batch", 1, 6, 6]}, {"output": ["batch", 3]}
    assert nets.sizes(result.path) == (result.inputs, result.outputs) == expected
    net.eval()
    for samples in (1, 5, 17):
        x = torch.randn(samples, 1, 6, 6)
        assert_equal(result.path, {"images": x}, [net(x)])


def test_the_graph_computes_in_evaluation_and_its_weights_are_inside(images: Made) -> None:
    _, result = images
    model = onnx.load(result.path, load_external_data=False)
    kinds = {node.op_type for node in model.graph.node}
    assert "Conv" in kinds and "Dropout" not in kinds
    assert {i.data_location for i in model.graph.initializer} == {onnx.TensorProto.DEFAULT}
    names = sorted(path.name for path in result.path.parent.iterdir())
    assert names == ["model.onnx", "model.onnx.json"]


def test_the_result_says_what_was_compared_and_so_does_its_twin(images: Made) -> None:
    _, result = images
    assert result.batch_sizes == [1, 3, 6]
    assert 0 <= result.largest_difference == max(result.differences.values()) < 1e-5
    text = str(result)
    assert "images (batch, 1, 6, 6) -> output (batch, 3)" in text and "1, 3, 6" in text
    assert "\n" not in text
    twin = json.loads(result.path.with_name("model.onnx.json").read_text("utf-8"))
    assert twin["largest_difference"] == result.largest_difference
    assert twin["inputs"] == result.inputs and twin["outputs"] == result.outputs
    assert set(twin["differences"]) == {"1", "3", "6"} and twin["opset"] == result.opset
    assert twin["file"] == "model.onnx" and twin["versions"]["torch"] == torch.__version__


def test_a_tuple_has_an_input_for_each_parameter(tmp_path: Path) -> None:
    net = nets.Pair()
    example = torch.randn(1, 3), torch.randn(1, 4)
    result = Estimator(net).export(tmp_path / "pair.onnx", example)
    assert nets.sizes(result.path) == (
        {"left": ["batch", 3], "right": ["batch", 4]},
        {"output_0": ["batch", 2], "output_1": ["batch"]},
    )
    # An example of a single sample does not fix the file to one.
    assert result.batch_sizes == [1, 2, 4]
    left, right = torch.randn(9, 3), torch.randn(9, 4)
    assert_equal(result.path, {"left": left, "right": right}, list(net(left, right)))


def test_a_dict_of_any_length_is_exported_from_within_a_run(tmp_path: Path) -> None:
    torch.manual_seed(0)
    batch = nets.texts()
    del batch["words"]
    dynamic = {"tokens": {1: "time"}}
    handler = ModelExportHandler(tmp_path, dynamic=dynamic)
    net = nets.Texts()
    est = Estimator(net)
    est.fit([batch], [batch], epochs=2, trainers="adam", progress=False, handlers=handler)
    # The labels that the loader brings are no inputs.
    assert nets.sizes(tmp_path / "model.onnx") == (
        {"tokens": ["batch", "time"]}, {"digit": ["batch", 5], "angle": ["batch"]}
    )  # fmt: skip
    net.eval()
    for samples, length in ((1, 6), (3, 11), (8, 2)):
        batch = nets.texts(samples, length)
        expected = plain(net(batch))
        assert_equal(tmp_path / "model.onnx", {"tokens": batch["tokens"]}, expected)


def test_outputs_can_be_chosen_and_texts_in_a_batch_do_not_matter(tmp_path: Path) -> None:
    est = Estimator(nets.Texts())
    result = est.export(tmp_path / "one.onnx", nets.texts(), outputs=["angle"])
    assert result.inputs == {"tokens": ["batch", 6]} and result.outputs == {"angle": ["batch"]}


class Same(nn.Module):
    """Gives back under the names under which it takes, in a container; changes its input."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {"x": batch["x"].mul_(1) * self.scale, "more": [batch["deep"]["x"] + 1, None]}


def test_names_stay_distinct_and_a_compiled_net_is_exported_as_what_it_was(tmp_path: Path) -> None:
    net: Any = torch.compile(Same(), backend="eager")
    example: Any = {"x": torch.ones(2, 3), "deep": {"x": np.ones((2, 3), np.float32)}}
    result = Estimator(net).export(tmp_path / "same.onnx", example)
    assert list(result.inputs) == ["x", "deep.x"] and list(result.outputs) == ["x_", "more_0"]
    assert torch.equal(example["x"], torch.ones(2, 3))
    weights = [i.name for i in onnx.load(result.path).graph.initializer]
    assert not any("_orig_mod" in name for name in weights)


def test_weights_beyond_the_limit_lie_beside_and_former_ones_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("estimator.export_file.MOST_INSIDE", 0)
    net, path = nn.Linear(40, 30), tmp_path / "a.onnx"
    (tmp_path / "other.onnx.1.data").touch()
    former = tmp_path / "a.onnx.former.data"
    former.touch()
    Estimator(net).export(path, torch.ones(2, 40))
    beside = [p.name for p in tmp_path.glob("a.onnx.*.data")]
    assert len(beside) == 1 and beside != [former.name]
    assert (tmp_path / "other.onnx.1.data").exists()
    x = torch.randn(3, 40)
    assert_equal(path, {"input": x}, [net(x)])


def test_a_file_can_have_a_fixed_batch(tmp_path: Path) -> None:
    result = Estimator(nets.Fixed()).export(
        tmp_path / "a.onnx", torch.ones(4, 3), dynamic={"x": {0: None}}, opset=18
    )
    assert result.inputs == {"x": [4, 3]} and result.batch_sizes == [4] and result.opset == 18


@pytest.mark.parametrize(
    ("expected", "found", "distance"),
    [
        ([1.0, 2.0], [1.0, 2.0], 0.0), ([0.5], [0.25], 0.25), ([100.0], [99.0], 0.01),
        ([float("nan")], [float("nan")], 0.0), ([float("nan")], [1.0], float("inf")),
        ([float("inf")], [float("inf")], 0.0), ([float("inf"), 1.0], [1.0, 1.0], float("inf")),
        ([1.0], [1.0, 2.0], float("inf")), ([], [], 0.0),
    ],
)  # fmt: skip
def test_the_difference_of_outputs(
    expected: list[float], found: list[float], distance: float
) -> None:
    wanted = torch.tensor(expected)
    assert difference(wanted, np.array(found, np.float32)) == distance
    assert difference(wanted.to(torch.int32), np.array([1.5], np.float64)) == float("inf")


def test_stats_export_needs_a_run() -> None:
    stats = TrainStats(nn.Identity(), torch.device("cpu"))
    with pytest.raises(EstimatorError, match="needs a run that is going on"):
        stats.export("a.onnx", torch.ones(2, 1))


def test_adaptive_maxima_are_exported_too(tmp_path: Path) -> None:
    net = nn.Sequential(nn.AdaptiveMaxPool2d((4, None)), nn.AdaptiveMaxPool2d(3))
    result = Estimator(net).export(tmp_path / "a.onnx", torch.randn(2, 3, 7, 5))
    assert result.outputs == {"output": ["batch", 3, 3, 3]} and result.largest_difference == 0
    assert type(net[0]) is nn.AdaptiveMaxPool2d
    x = torch.randn(5, 3, 7, 5)
    assert_equal(result.path, {"input": x}, [net(x)])


def test_an_output_of_any_length_says_so(tmp_path: Path) -> None:
    class States(nn.GRU):
        def forward(self, x: Tensor) -> Any:  # type: ignore[override]  # one tensor in, two out
            states, last = super().forward(x)
            return states, torch.cat([states, states], 1)

    # The second one finds the caches of the first.
    for size in (2, 3):
        net = States(3, size, batch_first=True, bidirectional=True)
        est, dynamic = Estimator(net), {"x": {1: "time"}}
        result = est.export(tmp_path / "a.onnx", torch.randn(2, 5, 3), dynamic=dynamic)
        states, double = result.outputs.values()
        assert states == ["batch", "time", 2 * size] and isinstance(double[1], str)
        x = torch.randn(3, 9, 3)
        assert_equal(result.path, {"x": x}, list(net(x)))
