"""Made-up data in the layouts of the real sets, from which a net can learn."""

from __future__ import annotations

import csv
import struct
from collections.abc import Iterable
from pathlib import Path

import numpy as np

HOUSING = (
    *("longitude", "latitude", "housing_median_age", "total_rooms", "total_bedrooms"),
    *("population", "households", "median_income", "median_house_value", "ocean_proximity"),
)
TITANIC = (
    *("PassengerId", "Survived", "Pclass", "Name", "Sex", "Age", "SibSp", "Parch", "Ticket"),
    *("Fare", "Cabin", "Embarked"),
)


def write_housing(root: Path, rows: int = 4000, *, noise: float = 40_000) -> Path:
    """Values that are linear in the columns, with noise in dollars; 12 cells are empty.

    A row inland is worth less, and two rows lie on islands.
    """
    random = np.random.default_rng(0)
    numbers = random.normal(size=(rows, 8)) * [2, 2, 12, 2e3, 400, 1e3, 400, 2]
    numbers += [-120, 35, 28, 2600, 540, 1400, 500, 4]
    numbers[:, 4] += numbers[:, 3] / 5
    places = random.choice(["INLAND", "NEAR BAY"], rows)
    places[:2] = "ISLAND"
    values = 2e5 + 45_000 * (numbers[:, 7] - 4) - 20_000 * (numbers[:, 1] - 35)
    values += np.where(places == "INLAND", -50_000, 0) + noise * random.normal(size=rows)
    cells = np.column_stack([numbers, values]).round(4).astype(str)
    cells[10:22, 4] = ""
    table = ([*row, place] for row, place in zip(cells, places, strict=True))
    return _write_csv(root / "california-housing/housing.csv", HOUSING, table)


def write_titanic(root: Path, rows: int = 900, *, strength: float = 6.0) -> Path:
    """Passengers whose chance is a logistic function of sex and class; 40 ages are empty."""
    random = np.random.default_rng(0)
    women, rank = random.random(rows) < 0.35, random.integers(1, 4, rows)
    age, fare = random.normal(30, 12, rows).round(1), random.gamma(1.5, 20, rows).round(2)
    scores = strength * (women - 0.35) - strength / 3 * (rank - 2) - 0.01 * (age - 30)
    survived = random.random(rows) < 1 / (1 + np.exp(-scores))
    ports = random.choice(list("SCQ"), rows)
    table = (
        [i, int(survived[i]), rank[i], 'Doe, "Jo"', "female" if women[i] else "male"]
        + [
            "" if i < 40 else age[i],
            i % 3,
            i % 2,
            f"t{i}",
            fare[i],
            "",
            "" if i == 50 else ports[i],
        ]
        for i in range(rows)
    )
    return _write_csv(root / "titanic/train.csv", TITANIC, table)


def write_digits(root: Path, train: int = 6_000, test: int = 500) -> Path:
    """Files of MNIST: each class has a picture of its own, a fifth of it white, under noise."""
    random = np.random.default_rng(0)
    kinds = 200 * (random.random((10, 7, 7)) < 0.2).repeat(4, axis=1).repeat(4, axis=2)
    folder = root / "mnist"
    folder.mkdir(parents=True, exist_ok=True)
    for part, count in (("train", train), ("t10k", test)):
        labels = random.permutation(np.arange(count) % 10).astype(np.uint8)
        noise = random.integers(-60, 61, (count, 28, 28))
        images = np.clip(kinds[labels] + noise, 0, 255).astype(np.uint8)
        for kind, values in (("images-idx3", images), ("labels-idx1", labels)):
            header = bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape)
            (folder / f"{part}-{kind}-ubyte").write_bytes(header + values.tobytes())
    return folder


def write_pictures(root: Path, count: int = 300) -> Path:
    """A batch of CIFAR-10: each class has a colour, under noise."""
    random = np.random.default_rng(0)
    labels = (np.arange(count) % 10).astype(np.uint8)
    colours = random.integers(0, 256, (10, 3)).repeat(1024, axis=1)
    images = np.clip(colours[labels] + random.integers(-40, 41, (count, 3072)), 0, 255)
    path = root / "cifar-10-subset/data_batch_1_first4000.bin"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(np.column_stack([labels, images.astype(np.uint8)]).tobytes())
    return path


def _write_csv(path: Path, header: Iterable[str], rows: Iterable[Iterable[object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
    return path
