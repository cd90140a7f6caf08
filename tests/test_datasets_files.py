"""IDX and CIFAR files, whole and damaged, pickles that want to run code, and downloads."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import io
import os
import pickle
import socket
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_data import cifar_pickle, cifar_records, idx, write_mnist

from estimator import DataError, datasets
from estimator.datasets import cifar, mnist_files, place
from estimator.datasets.download import fetch

IMAGES = idx(np.zeros((5, 2, 2)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "begins with two zero bytes.*received nothing"),
        (b"PK\x03\x04", "begins with two zero bytes.*received 50 4b 03 04"),
        (b"\0\0\x05\x01", "begins with two zero bytes.*received 00 00 05 01"),
        (IMAGES[:3], "begins with two zero bytes.*received 00 00 08"),
        (b"\0\0\x0d\x03" + IMAGES[4:], r"type uint8 \(8\); received float32"),
        (idx(np.zeros(5)), r"images must have 3 dimension\(s\); received 1\. .*mixed up"),
        (IMAGES[:9], "sizes of 3 dimensions take 16 bytes; received 9 bytes in all. It is cut"),
        (IMAGES[:-1], r"of shape \(5, 2, 2\) must have 36 bytes; received 35. It is cut"),
        (IMAGES + b"\0", r"must have 36 bytes; received 37"),
        (gzip.compress(IMAGES)[:-9], "gzip is cut or damaged after"),
        (gzip.compress(IMAGES)[:12] + bytes(20), "gzip is cut or damaged after"),
    ],
)
def test_a_damaged_idx_file_says_what_is_wrong(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "images.gz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        datasets.read_idx(path, 3)
    assert str(caught.value).startswith(f"{path}: ")


def test_an_idx_file_without_dimensions_or_of_any(tmp_path: Path) -> None:
    path = tmp_path / "values"
    path.write_bytes(idx(np.arange(6).reshape(1, 2, 3)))
    assert datasets.read_idx(path).tolist() == [[[0, 1, 2], [3, 4, 5]]]
    with pytest.raises(DataError, match=r"values must have 2 dimension\(s\); received 3"):
        datasets.read_idx(path, 2)
    path.write_bytes(b"\0\0\x08\0")
    with pytest.raises(DataError, match="values must have one or more dimension"):
        datasets.read_idx(path)
    with pytest.raises(DataError, match="missing: the file cannot be read"):
        datasets.read_idx(tmp_path / "missing")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([i % 11 for i in range(40)], r"from 0 to 9; received 10 for sample 10, and 3 such"),
        (
            [i % 9 for i in range(40)],
            "each of 10 classes must have samples; received none of class 9",
        ),
        (
            [i % 10 for i in range(39)],
            "one label for each image of train-images.*, 40; received 39",
        ),
    ],
)
def test_labels_that_do_not_belong_to_the_images(
    tmp_path: Path, labels: list[int], message: str
) -> None:
    folder = write_mnist(tmp_path)
    path = folder / "train-labels-idx1-ubyte.gz"
    path.write_bytes(gzip.compress(idx(labels)))
    with pytest.raises(DataError, match=message) as caught:
        datasets.mnist(folder, held_out=5)
    assert str(caught.value).startswith(f"{path}: ")


def test_images_and_labels_that_are_swapped(tmp_path: Path) -> None:
    folder = write_mnist(tmp_path)
    (folder / "train-labels-idx1-ubyte.gz").rename(folder / "x")
    (folder / "train-images-idx3-ubyte.gz").rename(folder / "train-labels-idx1-ubyte.gz")
    (folder / "x").rename(folder / "train-images-idx3-ubyte.gz")
    with pytest.raises(
        DataError, match=r"images must have 3 dimension.* of images and of labels mixed"
    ):
        datasets.mnist(folder)


def write_cifar(folder: Path, content: bytes, ending: str) -> Path:
    folder.mkdir(parents=True)
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        (folder / f"{name}{ending}").write_bytes(content)
    return folder


def test_both_formats_of_cifar_hold_the_same(tmp_path: Path) -> None:
    binary, packed = tmp_path / "binary", tmp_path / "packed"
    write_cifar(binary / "cifar-10-batches-bin", cifar_records(20), ".bin")
    write_cifar(tmp_path / "python/cifar-10-batches-py", cifar_pickle(20), "")
    write_cifar(packed, gzip.compress(cifar_records(20)), ".bin.gz")
    read = [
        datasets.cifar10(tmp_path / name, held_out=30) for name in ("binary", "python", "packed")
    ]
    for data in read:
        assert tuple(data.train[0].shape) == (70, 3, 32, 32) and len(data.test[1]) == 20
        assert data.train[1].tolist() == [i % 10 for i in range(70)]
        for (x, y), (x1, y1) in zip(
            (data.train, data.val, data.test),
            (read[0].train, read[0].val, read[0].test),
            strict=True,
        ):
            assert torch.equal(x, x1) and torch.equal(y, y1)
            assert torch.equal(x[:, 1, 5, 5].long(), y), "the green plane is the second channel"
    (binary / "cifar-10-batches-bin/data_batch_3.bin").unlink()
    with pytest.raises(DataError, match=r"must hold the file 'data_batch_3\.bin'"):
        datasets.cifar10(binary)
    with pytest.raises(DataError, match=r"must hold the file 'data_batch_1\.bin'"):
        datasets.cifar10(tmp_path)


def test_a_pickle_of_python_2_is_read(tmp_path: Path) -> None:
    rows = cifar_records(10)
    pixels = b"".join(rows[i * 3073 + 1 : (i + 1) * 3073] for i in range(10))

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value

    # As Python 2 wrote it: short strings, flags of dtypes as numbers.
    content = (
        b"\x80\x02}(" + text(b"labels") + b"](" + b"".join(b"K" + bytes([i]) for i in range(10))
    )
    content += b"e" + text(b"data") + b"cnumpy.core.multiarray\n_reconstruct\n"
    content += b"cnumpy\nndarray\nK\x00\x85" + text(b"b") + b"\x87R(K\x01K\x0aM\x00\x0c\x86"
    content += b"cnumpy\ndtype\n" + text(b"u1") + b"K\x00K\x01\x87R(K\x03" + text(b"|")
    content += b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
    content += b"T" + len(pixels).to_bytes(4, "little") + pixels + b"tbu."
    path = tmp_path / "data_batch_1"
    path.write_bytes(content)
    x, y = datasets.read_cifar(path)
    assert y.tolist() == list(range(10)) and torch.equal(x[:, 1, 31, 31].long(), y)


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: pickle.dumps({b"data": Evil(folder)}, 2), r"asks for posix\.mkdir"),
        (lambda folder: pickle.dumps({b"data": np.array([Evil(folder)])}, 2), "array of objects"),
        (lambda folder: pickle.dumps(np.float64, 2), r"asks for numpy\.float64"),
        (lambda folder: b"\x80\x02cbuiltins\neval\n.", r"asks for (builtins|__builtin__)\.eval"),
        (lambda folder: cifar_pickle(10)[:-50], "UnpicklingError: |EOFError: "),
        (lambda folder: b"\x80\x02.", "IndexError|UnpicklingError"),
        (lambda folder: pickle.dumps([1], 2), r"'data' .* must be .*received NoneType in \[\]"),
        (lambda folder: cifar_pickle(10, data=np.zeros((10, 3072))), "an array .* of float64"),
        (lambda folder: cifar_pickle(10, data=np.zeros((10, 99), np.uint8)), r"array \(10, 99\)"),
        (lambda folder: cifar_pickle(10, data=[1]), "received a list of 1"),
        (lambda folder: cifar_pickle(10, labels=[1] * 9), "list of 10 .*received a list of 9"),
        (lambda folder: cifar_pickle(10, labels=["a"] * 10), "whole numbers; received a list"),
        (lambda folder: cifar_pickle(10, labels=[12] * 10), "from 0 to 9; received 12"),
        (lambda folder: cifar_records(10)[:-1], "records of 3073 bytes; received 30729 bytes"),
        (lambda folder: b"", "received 0 bytes"),
        (lambda folder: b"\x0b" + bytes(3072), "from 0 to 9; received 11 for sample 0"),
    ],
)
def test_a_damaged_or_dangerous_batch_of_cifar(
    tmp_path: Path, make: Callable[[Path], bytes], message: str
) -> None:
    path = tmp_path / "data_batch_1"
    path.write_bytes(make(tmp_path / "made by the pickle"))
    with pytest.raises(DataError, match=message) as caught:
        datasets.read_cifar(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert [file.name for file in tmp_path.iterdir()] == ["data_batch_1"]


def test_the_subset_must_have_all_classes(tmp_path: Path) -> None:
    (tmp_path / "data_batch_1_first4000.bin").write_bytes(cifar_records(9))
    with pytest.raises(DataError, match="none of class 9 among 9"):
        datasets.cifar10_subset(tmp_path)


def test_a_file_is_fetched_once_and_checked(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"abc" * 700_000)
    checksum = hashlib.sha256(source.read_bytes()).hexdigest()
    path = fetch(source.as_uri(), tmp_path / "deep/cache/copy", checksum)
    assert path.read_bytes() == source.read_bytes()
    source.unlink()
    assert fetch(source.as_uri(), path, checksum) == path
    path.write_bytes(b"half")
    with pytest.raises(DataError, match="copy could not be downloaded from file:"):
        fetch(source.as_uri(), path, checksum)
    assert [file.name for file in path.parent.iterdir()] == ["copy"]


def test_what_is_another_file_is_not_kept(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"other")
    found = hashlib.sha256(b"other").hexdigest()
    with pytest.raises(
        DataError, match=rf"5 bytes, has the SHA-256 sum {found} in place of {'0' * 64}"
    ):
        fetch(source.as_uri(), tmp_path / "cache/copy", "0" * 64)
    assert list((tmp_path / "cache").iterdir()) == []


class FailingHost(http.server.BaseHTTPRequestHandler):
    """Answers each address with a failure of its own."""

    def do_GET(self) -> None:
        if self.path == "/missing":
            self.send_error(404)
        elif self.path == "/cut":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"only this")
        else:
            self.server.released.wait(10)  # type: ignore[attr-defined]  # the test's own

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("no_proxy", "*")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), FailingHost)
    server.released = threading.Event()  # type: ignore[attr-defined]  # the test's own
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.released.set()  # type: ignore[attr-defined]  # the test's own
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("missing", "HTTP Error 404"),
        ("cut", r"IncompleteRead|9 bytes, has the SHA-256"),
        ("silent", "timed out"),
    ],
)
def test_a_host_that_fails(host: str, tmp_path: Path, address: str, message: str) -> None:
    with pytest.raises(DataError, match=rf"could not be downloaded .*({message})"):
        fetch(f"{host}/{address}", tmp_path / "cache/file", "0" * 64, timeout=0.2)
    assert list((tmp_path / "cache").iterdir()) == []


def test_nobody_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    with socket.socket() as closed:
        # Bound and not listening: nothing else can answer there, and a call is refused at once.
        closed.bind(("127.0.0.1", 0))
        with pytest.raises(DataError, match="refused"):
            fetch(f"http://127.0.0.1:{closed.getsockname()[1]}/x", tmp_path / "file", "0" * 64)
    with pytest.raises(DataError, match="unknown url type"):
        fetch("no address", tmp_path / "file", "0" * 64)
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="could not be downloaded .*(File exists|Not a directory)"):
        fetch("file:///x", tmp_path / "file/deeper", "0" * 64)


def test_mnist_is_downloaded_to_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ESTIMATOR_DATA", raising=False)
    origin = write_mnist(tmp_path / "origin")
    sums = {
        name: hashlib.sha256((origin / name).read_bytes()).hexdigest()
        for name in mnist_files.MNIST_CHECKSUMS
    }
    monkeypatch.setattr(mnist_files, "MNIST_CHECKSUMS", sums)
    monkeypatch.setattr(mnist_files, "MNIST_ADDRESS", origin.as_uri())
    monkeypatch.setattr(place, "CACHE", tmp_path / "cache")
    data = datasets.mnist(held_out=10)
    assert len(data.train[1]) == 30
    assert sorted(f.name for f in (tmp_path / "cache/mnist").iterdir()) == sorted(sums)
    data = datasets.mnist(held_out=10, cache=tmp_path / "other")
    assert (tmp_path / "other/mnist").is_dir()


def test_cifar_is_downloaded_and_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ESTIMATOR_DATA", raising=False)
    archive = tmp_path / cifar.ARCHIVE
    with tarfile.open(archive, "w:gz") as tar:
        for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}.bin")
            content = cifar_records(10)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    monkeypatch.setattr(cifar, "ADDRESS", tmp_path.as_uri())
    monkeypatch.setattr(cifar, "CHECKSUM", hashlib.sha256(archive.read_bytes()).hexdigest())
    cache = tmp_path / "cache"
    first = datasets.cifar10(cache=cache, held_out=10)
    (cache / "cifar-10/data_batch_2.bin").write_bytes(b"cut")
    second = datasets.cifar10(cache=cache, held_out=10)
    assert len(first.train[1]) == 40 and torch.equal(first.train[0], second.train[0])
    assert not list(cache.rglob("*.part"))
