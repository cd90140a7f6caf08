"""The images of the demo: read from files, downloaded where they are missing."""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import re
import runpy
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from estimator import ArgumentError, DataError

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
    images, labels, test_images, test_labels = map(
        demo_data.read_idx, demo_data.fashion_mnist_files()
    )
    assert images.shape == (60_000, 28, 28) and test_images.shape == (10_000, 28, 28)
    assert np.bincount(labels).tolist() == [6000] * 10
    assert np.bincount(test_labels).tolist() == [1000] * 10
    assert (images / 255).mean() == pytest.approx(0.2860, abs=1e-4)
    assert (images / 255).std() == pytest.approx(0.3530, abs=1e-4)

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
    told = (tmp_path / "1/worst_samples/samples_validation").glob("001_uid_*.txt")
    text = "".join(path.read_text("utf-8") for path in told)
    assert re.search(r"^uid=60\d{3}$", text, re.M)
    assert re.search(r"^target_class=[A-Z][\w /-]+$", text, re.M)
    assert history is not None and len(Path(history[1]).read_text("utf-8").splitlines()) == 2


@pytest.mark.parametrize("samples", [5, 60_001])
def test_a_wrong_number_of_samples_is_refused(demo_data: ModuleType, samples: int) -> None:
    with pytest.raises(ArgumentError, match=rf"from 6 to 60000; received {samples}\."):
        demo_data.fashion_mnist(samples)


@pytest.fixture
def origin(demo_data: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in place of the address to download from, with four small files."""
    folder = tmp_path / "origin"
    folder.mkdir()
    sums = {}
    for number, name in enumerate(demo_data.CHECKSUMS):
        header = bytes([0, 0, 8, 2]) + (2).to_bytes(4, "big") + (3).to_bytes(4, "big")
        content = gzip.compress(header + bytes(range(number, number + 6)))
        (folder / name).write_bytes(content)
        sums[name] = hashlib.sha256(content).hexdigest()
    monkeypatch.setattr(demo_data, "CHECKSUMS", sums)
    monkeypatch.setattr(demo_data, "ADDRESS", folder.as_uri())
    monkeypatch.delenv("ESTIMATOR_DATA", raising=False)
    return folder


def test_files_are_downloaded_once(demo_data: ModuleType, origin: Path, tmp_path: Path) -> None:
    cache = tmp_path / "deep/cache"
    files = demo_data.fashion_mnist_files(cache)
    assert files == [cache / name for name in demo_data.CHECKSUMS]
    assert sorted(cache.iterdir()) == sorted(files)
    for number, file in enumerate(files):
        assert file.read_bytes() == (origin / file.name).read_bytes()
        assert demo_data.read_idx(file).tolist() == (np.arange(6).reshape(2, 3) + number).tolist()
        (origin / file.name).unlink()
    assert demo_data.fashion_mnist_files(cache) == files


def test_a_corrupted_download_is_not_kept(
    demo_data: ModuleType, origin: Path, tmp_path: Path
) -> None:
    first, bad, *later = demo_data.CHECKSUMS
    (origin / bad).write_bytes((origin / bad).read_bytes()[:-1])
    cache = tmp_path / "cache"
    with pytest.raises(DataError, match=rf"{bad} could not be .* another SHA-256 sum") as caught:
        demo_data.fashion_mnist_files(cache)
    assert [path.name for path in cache.iterdir()] == [first]
    assert all(name in str(caught.value) for name in (first, bad, *later, str(cache), "yourself"))


def test_a_damaged_file_of_the_cache_is_replaced(
    demo_data: ModuleType, origin: Path, tmp_path: Path
) -> None:
    files = demo_data.fashion_mnist_files(tmp_path)
    files[2].write_bytes(b"half")
    demo_data.fashion_mnist_files(tmp_path)
    assert files[2].read_bytes() == (origin / files[2].name).read_bytes()


@pytest.mark.usefixtures("origin")
def test_an_unreachable_host_says_which_files_to_put_where(
    demo_data: ModuleType,
    demo_here: Callable[..., None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cache = tmp_path / "cache"
    with socket.socket() as closed:
        # Bound and not listening: nothing else can answer there, and a call is refused at once.
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setattr(demo_data, "ADDRESS", f"http://127.0.0.1:{closed.getsockname()[1]}")
        monkeypatch.setenv("no_proxy", "*")
        with pytest.raises(SystemExit) as caught:
            demo_here("--data", "fashion-mnist", "--cache", str(cache))
    message = str(caught.value)
    assert "refused" in message and f"into {cache} yourself" in message
    assert all(name in message for name in demo_data.CHECKSUMS)
    assert list(cache.iterdir()) == []


@pytest.mark.usefixtures("origin")
def test_a_cache_that_cannot_be_made_is_told(demo_data: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="could not be downloaded .*(File exists|Not a directory)"):
        demo_data.fashion_mnist_files(tmp_path / "file")


def test_nothing_is_downloaded_into_the_folder_of_the_user(
    demo_data: ModuleType, origin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ESTIMATOR_DATA", str(tmp_path))
    folder = tmp_path / "fashion-mnist"
    folder.mkdir()
    first, second, *_ = demo_data.CHECKSUMS
    (folder / first).write_bytes((origin / first).read_bytes())
    (folder / second).write_bytes(b"other")
    with pytest.raises(DataError, match="are missing or damaged") as caught:
        demo_data.fashion_mnist_files()
    assert first not in str(caught.value) and second in str(caught.value)
    assert len(list(folder.iterdir())) == 2
