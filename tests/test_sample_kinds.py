"""What a sample's values are taken for, and how much of large ones is kept."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from estimator.handlers import _sample_kinds
from estimator.handlers._sample_kinds import kept, layout
from estimator.handlers._sample_rows import rows_of


@pytest.mark.parametrize(
    ("shape", "letters"),
    [
        ((1, 28, 28), "CHW"),
        ((3, 2, 9), "CHW"),
        ((4, 16, 16), "CHW"),
        ((32, 32, 3), "HWC"),
        ((28, 28), "HW"),
        ((20, 30, 40), "DHW"),
        ((1, 20, 30, 40), "CDHW"),
        ((16, 3, 30, 40), "DCHW"),
        ((16, 5, 30, 40), ""),
        ((4, 4, 2, 2), ""),
        ((17,), "T"),
        ((16,), ""),
        ((100, 2), "TC"),
        ((2, 100), "CT"),
        ((4, 4), ""),
        ((2, 5, 6), ""),
        ((), ""),
        ((0, 28), ""),
        ((2, 2, 2, 2, 2), ""),
    ],
)
def test_the_dimensions_of_a_value(shape: tuple[int, ...], letters: str) -> None:
    assert layout(shape, torch.float32) == letters
    assert layout(shape, torch.complex64) == ""


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.bool])
def test_whole_numbers_in_a_row_are_no_series(dtype: torch.dtype) -> None:
    assert layout((500,), dtype) == ""
    assert layout((500,), torch.int16) == "T"
    assert layout((28, 28), dtype) == "HW"


@pytest.mark.parametrize(
    ("batch", "step"),
    [
        (torch.rand(2, 1, 40, 40), (1, 3, 3)),
        (torch.rand(2, 40, 40), (3, 3)),
        (torch.rand(2, 3, 9000), (1, 121)),
        (torch.randint(0, 255, (2, 64, 64, 3), dtype=torch.uint8), (4, 4, 1)),
    ],
)
def test_of_a_large_value_every_nth_is_kept_without_a_copy(
    batch: Tensor, step: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_sample_kinds, "ROW_BYTES", 1000)
    found = dict(kept("input.x", batch))
    assert list(found) == ["input.x", "shape.input.x", "range.input.x"]
    row = found["input.x"]
    assert row.nbytes <= 2000
    assert row.data_ptr() == batch.data_ptr()
    strides = zip(row.stride()[1:], batch.stride()[1:], strict=True)
    assert tuple(kept_one // each for kept_one, each in strides) == step
    assert layout(row.shape[1:], row.dtype) == layout(batch.shape[1:], batch.dtype)
    assert found["shape.input.x"].tolist() == [list(batch.shape[1:])] * 2
    for place in range(2):
        ends = [batch[place].min().item(), batch[place].max().item()]
        assert found["range.input.x"][place].tolist() == ends


def test_of_a_volume_some_planes_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_sample_kinds, "ROW_BYTES", 40_000)
    row = dict(kept("input", torch.rand(1, 60, 64, 64)))["input"]
    assert row.shape[1] == 20 and row.nbytes <= 40_000


def test_what_has_no_picture_is_described_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_sample_kinds, "ROW_BYTES", 10)
    table = torch.tensor([[3, -4, 9, 1], [5, 5, 6, 6]])
    found = dict(kept("target", table))
    assert {n: v.tolist() for n, v in found.items()} == {
        "shape.target": [[4], [4]],
        "range.target": [[-4.0, 9.0], [5.0, 6.0]],
    }
    assert list(dict(kept("input", table.to(torch.complex64)))) == ["shape.input"]


def test_a_limit_that_cannot_be_kept_ends_in_single_pixels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_sample_kinds, "ROW_BYTES", 10)
    assert dict(kept("input", torch.rand(2, 3, 16, 16)))["input"].shape == (2, 3, 1, 1)


def test_rows_do_not_keep_a_graph_alive() -> None:
    output = torch.rand(2, 3, requires_grad=True) * 2
    rows = rows_of({"output": {"a": output}, "input": None, "target": "text"}, 2)
    assert {name: row.requires_grad for name, row in rows.items()} == {"output.a": False}
