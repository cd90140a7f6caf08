"""The images of the demo, and how it ends where they cannot be had."""

from __future__ import annotations

import importlib.util
import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from made_data import write_mnist

from estimator import ArgumentError
from estimator.datasets import mnist_files, read_idx

TUTORIALS = Path(__file__).parents[1] / "tutorials"


@pytest.fixture
def demo_data() -> ModuleType:
    """A module of its own for each test, to be patched at will."""
    spec = importlib.util.spec_from_file_location("demo_data", TUTORIALS / "demo_data.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def demo_here(demo_data: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Runs the script in this process, where a warning is an error."""

    def run(*arguments: str) -> None:
        monkeypatch.setitem(sys.modules, "demo_data", demo_data)
        monkeypatch.setattr(sys, "argv", ["demo.py", *arguments])
        runpy.run_path(str(TUTORIALS / "demo.py"), run_name="__main__")

    return run


def test_fashion_mnist_is_read(
    demo_data: ModuleType, data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ESTIMATOR_DATA", str(data_root))
    folder = data_root / "fashion-mnist"
    images = read_idx(folder / "train-images-idx3-ubyte.gz").numpy()
    labels = read_idx(folder / "train-labels-idx1-ubyte.gz")
    test_images = read_idx(folder / "t10k-images-idx3-ubyte.gz").numpy()
    test_labels = read_idx(folder / "t10k-labels-idx1-ubyte.gz")
    train, val, side, classes, _ = demo_data.fashion_mnist(samples=600)
    assert (len(train), len(val), side, len(classes)) == (600, 100, 28, 10)
    x = torch.stack([train[i][0] for i in range(600)])
    assert x.mean().abs() < 1e-5 and x.std() == pytest.approx(1, abs=1e-5)
    assert val[7][1] == test_labels[7] and classes[labels[0]] == "Ankle boot"
    expected = (test_images[7] - images[:600].mean()) / images[:600].std()
    np.testing.assert_allclose(val[7][0][0], expected, atol=1e-4)


def test_the_demo_trains_on_fashion_mnist(
    demo_here: Callable[..., None],
    data_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("ESTIMATOR_DATA", str(data_root))
    small = ("--samples", "600", "--epochs", "1", "--out", str(tmp_path))
    with pytest.raises(SystemExit, match=r"must be at least 0\.85"):
        demo_here("--data", "fashion-mnist", *small)
    history = re.search(r"^history +(\S+)$", capsys.readouterr().out, re.M)
    worst = tmp_path / "demo-fashion-mnist_r0/worst_samples_by_epoch"
    told = (worst / "samples_validation").glob("001_uid_*.txt")
    text = "".join(path.read_text("utf-8") for path in told)
    assert re.search(r"^uid=60\d{3}$", text, re.M)
    assert re.search(r"^target_class=[A-Z][\w /-]+$", text, re.M)
    assert history is not None and len(Path(history[1]).read_text("utf-8").splitlines()) == 2


@pytest.mark.parametrize("samples", [5, 60_001])
def test_a_wrong_number_of_samples_is_refused(demo_data: ModuleType, samples: int) -> None:
    with pytest.raises(ArgumentError, match=rf"from 6 to 60000; received {samples}\."):
        demo_data.fashion_mnist(samples)


def test_a_download_that_fails_ends_the_demo_with_its_message(
    demo_here: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ESTIMATOR_DATA", raising=False)
    monkeypatch.setattr(mnist_files, "FASHION_ADDRESS", (tmp_path / "nowhere").as_uri())
    cache = tmp_path / "cache"
    with pytest.raises(SystemExit) as caught:
        demo_here("--data", "fashion-mnist", "--cache", str(cache))
    assert f"put the file into {cache / 'fashion-mnist'} yourself" in str(caught.value)


def test_wrong_files_of_the_user_end_the_demo_with_their_message(
    demo_here: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ESTIMATOR_DATA", str(tmp_path))
    folder = write_mnist(tmp_path / "fashion-mnist")
    (folder / "train-labels-idx1-ubyte.gz").write_bytes(b"other")
    with pytest.raises(SystemExit, match=r"train-labels-idx1-ubyte\.gz: an IDX file begins with"):
        demo_here("--data", "fashion-mnist")
    assert len(list(folder.iterdir())) == 4
