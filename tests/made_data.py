"""Small data sets in the layouts of the real ones, for tests that have no real files."""

from __future__ import annotations

import gzip
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

VOC = """<annotation><object><name>{0}</name><bndbox><xmin>{1}</xmin><ymin>{2}</ymin>
<xmax>{3}</xmax><ymax>{4}</ymax></bndbox></object></annotation>"""


def idx(values: Any) -> bytes:
    """An IDX file of bytes."""
    array = np.asarray(values, np.uint8)
    return (
        bytes([0, 0, 8, array.ndim])
        + struct.pack(f">{array.ndim}I", *array.shape)
        + array.tobytes()
    )


def write_mnist(folder: Path, *, packed: bool = True) -> Path:
    """The four files of MNIST, of 40 and 20 images of 4x4 pixels with their label in each."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, count in (("train", 40), ("t10k", 20)):
        labels = np.arange(count) % 10
        images = np.broadcast_to(labels[:, None, None], (count, 4, 4))
        for name, values in (("images-idx3", images), ("labels-idx1", labels)):
            path = folder / f"{part}-{name}-ubyte"
            if packed:
                path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(idx(values)))
            else:
                path.write_bytes(idx(values))
    return folder


def cifar_records(count: int) -> bytes:
    """A binary batch of CIFAR-10; image i has the label i % 10, which its green plane repeats."""
    rows = np.zeros((count, 3073), np.uint8)
    rows[:, 0] = np.arange(count) % 10
    rows[:, 1025:2049] = rows[:, :1]
    return rows.tobytes()


def cifar_pickle(count: int, **changes: Any) -> bytes:
    """The same images as a Python batch."""
    rows = np.frombuffer(cifar_records(count), np.uint8).reshape(count, 3073)
    batch = {b"batch_label": b"one", b"labels": rows[:, 0].tolist(), b"data": rows[:, 1:].copy()}
    batch |= {name.encode(): value for name, value in changes.items()}
    return pickle.dumps(batch, protocol=2)


def write_all(root: Path) -> Path:
    """Every data set that has a reader, in the folders of ESTIMATOR_DATA."""
    write_mnist(root / "mnist")
    write_mnist(root / "fashion-mnist")
    _write(
        root / "cifar-10-subset/data_batch_1_first4000.bin.gz", gzip.compress(cifar_records(1000))
    )
    _write(root / "rt-polarity/rt-polarity.neg", "dull \x85 film\nweak\n".encode("latin-1") * 10)
    _write(root / "rt-polarity/rt-polarity.pos", b"fine film\nnice \x97 one\n" * 10)
    for part, count in (("train", 6), ("val", 3), ("test_2016_flickr", 2)):
        for language, word in (("en", "dog"), ("de", "Häuser")):
            text = "".join(f"{word} {i}\n" for i in range(count)).encode()
            _write(root / f"multi30k/{part}.{language}.gz", gzip.compress(text))
    for part, count in (("train", 3), ("val", 2)):
        for i in range(count):
            pixels = np.zeros((8, 8), np.uint8)
            pixels[2:4, 2 : 4 + i] = i + 1
            save_image(root / f"dsb2018-nuclei/{part}/labels/{i}.png", pixels)
            rgba = np.stack([pixels * 50] * 3 + [np.full_like(pixels, 255)], axis=-1)
            save_image(root / f"dsb2018-nuclei/{part}/images/{i}.png", rgba)
    _write_cells(root / "bccd")
    _write_tables(root)
    return root


def _write_cells(folder: Path) -> None:
    objects = {
        "a": ("RBC", 1, 2, 5, 6), "b": ("WBC", 3, 3, 3, 3), "c": ("Platelets", 0, 0, 12, 4),
    }  # fmt: skip
    for name, values in objects.items():
        save_image(folder / f"JPEGImages/{name}.jpg", np.full((8, 12, 3), 9, np.uint8))
        _write(folder / f"Annotations/{name}.xml", VOC.format(*values).encode())
    for part, name in (("train", "a"), ("val", "b"), ("test", "c")):
        _write(folder / f"ImageSets/Main/{part}.txt", f"{name}\n".encode())


def _write_tables(root: Path) -> None:
    header = "longitude,latitude,housing_median_age,total_rooms,total_bedrooms,population,"
    header += "households,median_income,median_house_value,ocean_proximity\n"
    near = ("INLAND", "NEAR BAY", "<1H OCEAN", "ISLAND", "NEAR OCEAN")
    rows = [f"-1,2,3,4,{'' if i == 7 else i},6,7,8,{i * 100},{near[i % 5]}\n" for i in range(20)]
    _write(root / "california-housing/housing.csv", (header + "".join(rows)).encode())
    header = "PassengerId,Survived,Pclass,Name,Sex,Age,SibSp,Parch,Ticket,Fare,Cabin,Embarked\n"
    rows = [
        f'{i},{i % 2},3,"Doe, J.",{"male" if i % 2 else "female"},{"" if i == 4 else i},1,0,t,7.5,,'
        f"{'' if i == 9 else 'SCQ'[i % 3]}\n"
        for i in range(20)
    ]
    _write(root / "titanic/train.csv", (header + "".join(rows)).encode())


def save_image(path: Path, pixels: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
