"""Each data set as tensors: from the real files where ESTIMATOR_DATA names them, else made ones."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from made_data import write_all, write_mnist

from estimator import ArgumentError, DataError, Estimator, MissingExtraError, datasets


class Source(NamedTuple):
    """A folder of data sets, and what must be found in it."""

    root: Path
    is_real: bool

    def expect(self, real: Any, made: Any) -> Any:
        return real if self.is_real else made


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    given = os.environ.get("ESTIMATOR_DATA")
    if given:
        return Source(Path(given), True)
    return Source(write_all(tmp_path_factory.mktemp("data")), False)


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Made files, found by the environment variable."""
    monkeypatch.setenv("ESTIMATOR_DATA", str(tmp_path))
    return write_all(tmp_path)


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_mnist_has_the_founding_split(source: Source, name: str) -> None:
    read = datasets.mnist if name == "mnist" else datasets.fashion_mnist
    data = read(source.root / name, held_out=source.expect(5_000, 10))
    shapes = [tuple(x.shape) for x, _ in (data.train, data.val, data.test)]
    side = source.expect(28, 4)
    counts = source.expect((55_000, 5_000, 10_000), (30, 10, 20))
    assert shapes == [(count, 1, side, side) for count in counts]
    assert data.train[0].dtype == torch.uint8 and data.train[1].dtype == torch.int64
    assert len(data.classes) == 10
    if source.is_real:
        pixels = torch.cat([data.train[0], data.val[0]]).double() / 255
        wanted = (0.1307, 0.3081) if name == "mnist" else (0.2860, 0.3530)
        assert (pixels.mean().item(), pixels.std().item()) == pytest.approx(wanted, abs=1e-4)
    else:
        assert data.train[1].tolist() == [i % 10 for i in range(30)]
        assert data.val[0][:, 0, 0, 0].tolist() == list(range(10))
    test_counts = torch.bincount(data.test[1]).tolist()
    of_mnist = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert test_counts == source.expect(of_mnist if name == "mnist" else [1000] * 10, [2] * 10)


def test_plain_files_are_read_as_well_as_gzipped_ones(tmp_path: Path) -> None:
    plain = datasets.mnist(write_mnist(tmp_path / "plain", packed=False), held_out=5)
    packed = datasets.mnist(write_mnist(tmp_path / "packed"), held_out=5)
    assert torch.equal(plain.train[0], packed.train[0]) and len(plain.val[1]) == 5


@pytest.mark.parametrize("held_out", [0, 40, True, 1.5])
def test_a_split_leaves_something_on_both_sides(tmp_path: Path, held_out: Any) -> None:
    with pytest.raises(ArgumentError, match=r"mnist\(held_out=\.\.\.\) must be from 1 to 39"):
        datasets.mnist(write_mnist(tmp_path), held_out=held_out)


def test_the_subset_of_cifar(source: Source) -> None:
    folder = source.root / "cifar-10-subset"
    data = datasets.cifar10_subset(folder, held_out=source.expect(800, 200))
    assert data.test is None and data.classes[3] == "cat"
    assert tuple(data.train[0].shape[1:]) == (3, 32, 32)
    counts = torch.bincount(data.val[1]).tolist()
    assert counts == source.expect([77, 64, 83, 76, 94, 81, 84, 71, 80, 90], [20] * 10)
    means = (data.train[0].double().mean((0, 2, 3)) / 255).tolist()
    wanted = source.expect((0.4916, 0.4818, 0.4447), (0, 4.5 / 255, 0))
    assert means == pytest.approx(wanted, abs=5e-3)


def test_sentences(source: Source) -> None:
    data = datasets.rt_polarity(source.root / "rt-polarity")
    parts = (data.train, data.val, data.test)
    total = source.expect(10_662, 40)
    assert [len(x) for x, _ in parts] == [total - 2 * round(total / 10)] + [round(total / 10)] * 2
    texts = [text for x, _ in parts for text in x]
    labels = torch.cat([y for _, y in parts])
    assert torch.bincount(labels).tolist() == [total // 2, total // 2]
    assert any("\u2014" in text or "\u2013" in text for text in texts), "Windows-1252 is read"
    again = datasets.rt_polarity(source.root / "rt-polarity")
    other = datasets.rt_polarity(source.root / "rt-polarity", seed=1)
    assert again.train[0] == data.train[0] != other.train[0]


def test_pairs_of_sentences(source: Source) -> None:
    data = datasets.multi30k(source.root / "multi30k")
    lengths = [len(part[0]) for part in (data.train, data.val, data.test)]
    assert lengths == source.expect([29_000, 1_014, 1_000], [6, 3, 2])
    assert any("ä" in text for text in data.train[1]), "UTF-8 is read"
    words = sum(len(text.split()) for text in data.val[0])
    assert words == source.expect(12_167, 6)


def test_nuclei(source: Source) -> None:
    data = datasets.dsb2018_nuclei(source.root / "dsb2018-nuclei")
    counts = [len(part["images"]) for part in (data.train, data.val)]
    assert counts == source.expect([100, 30], [3, 2]) and data.test is None
    nuclei = [int(part["instances"].flatten(1).amax(1).sum()) for part in (data.train, data.val)]
    assert nuclei == source.expect([2810, 921], [1 + 2 + 3, 1 + 2])
    share = data.train["masks"].double().mean().item()
    assert share == pytest.approx(source.expect(0.0718, (4 + 6 + 8) / (3 * 64)), abs=1e-4)
    assert data.train["images"].shape[1] == 1 and data.train["masks"].dtype == torch.int64


def test_cells(source: Source) -> None:
    size = source.expect((48, 64), (4, 6))
    with pytest.warns(UserWarning, match=r"\d boxes without area .* are dropped"):
        data = datasets.bccd(source.root / "bccd", size=size)
    counts = [len(part["images"]) for part in (data.train, data.val, data.test)]
    assert counts == source.expect([205, 87, 72], [1, 1, 1])
    parts = (data.train, data.val, data.test)
    boxes = sum(int(part["valid"].sum()) for part in parts)
    assert boxes == source.expect(4_888 - 2, 2)
    labels = torch.cat([part["labels"].flatten() for part in parts])
    assert torch.bincount(labels)[1:].tolist() == source.expect([4_153, 372, 361], [1, 0, 1])
    for part in parts:
        assert part["boxes"].shape == (*part["valid"].shape, 4) == (*part["labels"].shape, 4)
        assert (part["boxes"][~part["valid"]] == 0).all()
        assert (part["boxes"][..., 2] <= size[1]).all() and (part["boxes"][..., 3] <= size[0]).all()
        assert (part["boxes"][..., 2:] > part["boxes"][..., :2]).all(-1).equal(part["valid"])
        assert part["images"].shape[-2:] == size
    if not source.is_real:
        assert data.train["boxes"].tolist() == [[[0.5, 1.0, 2.5, 3.0]]]
        assert data.test["boxes"].tolist() == [[[0.0, 0.0, 6.0, 2.0]]]


@pytest.mark.parametrize("missing", ["drop", "fill"])
def test_tables(source: Source, missing: Any) -> None:
    housing = datasets.california_housing(source.root / "california-housing", missing=missing)
    titanic = datasets.titanic(source.root / "titanic", missing=missing)
    assert housing.columns[4] == "total_bedrooms" and "ocean_proximity=INLAND" in housing.columns
    assert titanic.classes == ("died", "survived") and "Sex=female" in titanic.columns
    rows = []
    for data, width in ((housing, 13), (titanic, 10)):
        parts = (data.train, data.val, data.test)
        x, y = (torch.cat(column) for column in zip(*parts, strict=True))
        assert x.shape == (len(y), width) and y.shape == (len(x), 1)
        assert x.isfinite().all() and y.isfinite().all() and x.dtype == y.dtype == torch.float32
        kinds = [name.partition("=")[0] for name in data.columns]
        for kind in {name for name in kinds if kinds.count(name) > 1}:
            own = [i for i, name in enumerate(kinds) if name == kind]
            assert (x[:, own].sum(1) == 1).all(), f"each row has one word of {kind}"
        rows.append(len(x))
    wanted = {"drop": source.expect([20_433, 712], [19, 18])}
    assert rows == wanted.get(missing, source.expect([20_640, 891], [20, 20]))


def test_filling_takes_the_middle_of_the_training_part(made: Path) -> None:
    data = datasets.california_housing(missing="fill")
    column = data.columns.index("total_bedrooms")
    parts = (data.train, data.val, data.test)
    row = next(x[y[:, 0] == 700] for x, y in parts if (y == 700).any())
    others = data.train[0][data.train[1][:, 0] != 700, column]
    assert row[0, column] == others.median()


@pytest.mark.parametrize(
    ("name", "counts"), [("california_housing", "1 in 'total_bedrooms'"),
                         ("titanic", "1 in 'Age', 1 in 'Embarked'")],
)  # fmt: skip
def test_empty_cells_are_told_by_column_and_number(made: Path, name: str, counts: str) -> None:
    with pytest.raises(DataError, match=rf"received {counts}, of 20 rows.*missing='drop'"):
        getattr(datasets, name)()
    with pytest.raises(ArgumentError, match="Did you mean 'drop'"):
        getattr(datasets, name)(missing="dropp")


def test_a_target_is_never_filled(made: Path) -> None:
    path = made / "titanic/train.csv"
    path.write_text(path.read_text().replace("\n3,1,", "\n3,nan,"))
    with pytest.raises(DataError, match="1 in 'Survived'"):
        datasets.titanic(missing="fill")


def test_digits_need_no_files() -> None:
    data = datasets.digits()
    parts = (data.train, data.val, data.test)
    assert [tuple(x.shape) for x, _ in parts] == [(n, 1, 8, 8) for n in (1257, 270, 270)]
    pixels = torch.cat([x for x, _ in parts])
    assert pixels.dtype == torch.uint8 and [int(p) for p in pixels.aminmax()] == [0, 255]
    assert data.classes == tuple("0123456789")
    assert not torch.equal(datasets.digits(seed=1).val[1], data.val[1])


def test_the_extra_of_the_digits_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(MissingExtraError, match=r"torch-estimator\[datasets\]"):
        datasets.digits()
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(MissingExtraError, match=r"torch-estimator\[datasets\]"):
        datasets.read_picture(Path("any.png"))


def test_shapes_tell_the_truth_about_themselves() -> None:
    data = datasets.shapes(100, size=32, noise=0, seed=3)
    part = data.train
    assert data.classes == ("background", "circle", "square", "triangle")
    assert {len(p["images"]) for p in (data.val, data.test)} == {20}
    assert (part["images"].dtype, part["masks"].dtype) == (torch.uint8, torch.int64)
    assert set(part["masks"].unique().tolist()) == {0, 1, 2, 3}
    valid, boxes, labels = part["valid"], part["boxes"], part["labels"]
    assert valid.any(1).all() and not valid.all()
    assert (boxes[~valid] == 0).all() and (labels[~valid] == 0).all() and (labels[valid] > 0).all()
    inside = torch.zeros_like(part["masks"], dtype=torch.bool)
    for sample, place in valid.nonzero().tolist():
        x1, y1, x2, y2 = boxes[sample, place].int().tolist()
        region = part["masks"][sample, y1:y2, x1:x2] == labels[sample, place]
        assert region[0].any() and region[-1].any() and region[:, 0].any() and region[:, -1].any()
        inside[sample, y1:y2, x1:x2] = True
    assert not (part["masks"][~inside] > 0).any(), "no shape lies outside all boxes"
    grey = part["images"].float().std(dim=1) == 0
    assert grey[part["masks"] == 0].all() and not grey[part["masks"] > 0].any()


def test_shapes_are_drawn_by_seed() -> None:
    first, same, other = (datasets.shapes(10, size=16, most=1, seed=s).train for s in (0, 0, 1))
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not torch.equal(first["images"], other["images"])
    before = torch.get_rng_state()
    datasets.shapes(10, size=16)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("wrong", [{"samples": 4}, {"size": 15}, {"most": 0}, {"most": 1.5}])
def test_shapes_that_cannot_be_drawn(wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(ArgumentError, match=rf"shapes\({name}=\.\.\.\) must be a whole number"):
        datasets.shapes(**wrong)


def test_parts_are_what_fit_takes() -> None:
    data = datasets.shapes(20, size=16)

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Conv2d(3, 4, 3, padding=1)

        def forward(self, images: torch.Tensor, **rest: torch.Tensor) -> torch.Tensor:
            outputs: torch.Tensor = self.layer(images.float() / 255)
            return outputs

    est = Estimator(Net(), torch.nn.CrossEntropyLoss(), targets="masks")
    stats = est.fit(data.train, data.val, epochs=1, device="cpu", progress=False)
    assert stats["val_loss"][-1] > 0
