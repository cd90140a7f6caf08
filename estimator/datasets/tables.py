"""Tables of numbers and words: california-housing and titanic."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from estimator.datasets.place import Folder, existing_file, existing_folder
from estimator.datasets.splits import Splits, dealt
from estimator.datasets.text import read_lines
from estimator.handlers.base import ArgumentError, DataError, nearest

ORIGIN = "https://github.com/ageron/handson-ml2"
HOUSING_NUMBERS = (
    *("longitude", "latitude", "housing_median_age", "total_rooms", "total_bedrooms"),
    *("population", "households", "median_income"),
)
TITANIC_NUMBERS = ("Pclass", "Age", "SibSp", "Parch", "Fare")
Missing = Literal["error", "drop", "fill"]


def california_housing(
    folder: Folder = None, *, missing: Missing = "error", seed: int = 0
) -> Splits:
    """Houses of California by block (Pace, Barry, 1997): 20,640 rows, and what they are worth.

    Args:
        folder: Where "housing.csv" is. None means the folder "california-housing" in the folder
            that the environment variable ESTIMATOR_DATA names.
        missing: What becomes of rows with an empty cell (207, in total_bedrooms): "error" refuses
            them, "drop" leaves the rows out, "fill" takes the middle value of the training part.
        seed: Of the split: 70 % train, 15 % validate and 15 % test.

    Returns:
        Pairs of x (N, 13) float32, as the file has it, and y (N, 1) float32, the value in dollars.
        `columns` names those of x; words have a column each, 1 where it is theirs.

    Raises:
        ArgumentError: `missing` is unknown.
        DataError: The file is missing or damaged, or has empty cells that are to be refused.
    """
    place = existing_folder("california-housing", folder, ORIGIN)
    path = existing_file(place, "housing.csv")
    words = ("ocean_proximity",)
    table = read_table(path, HOUSING_NUMBERS, words=words, target="median_house_value")
    return _splits(table, path, missing, seed=seed)


def titanic(folder: Folder = None, *, missing: Missing = "error", seed: int = 0) -> Splits:
    """Passengers of the Titanic: 891 rows, and who survived.

    Name, ticket and cabin are left out.

    Args:
        folder: Where "train.csv" is. None means the folder "titanic" in the folder that the
            environment variable ESTIMATOR_DATA names.
        missing: What becomes of rows with an empty cell (177 in Age, 2 in Embarked): "error"
            refuses them, "drop" leaves the rows out, "fill" takes the middle value of the
            training part, and its most frequent word.
        seed: Of the split: 70 % train, 15 % validate and 15 % test.

    Returns:
        Pairs of x (N, 10) float32, as the file has it, and y (N, 1) float32, 1 who survived.
        `columns` names those of x; words have a column each, 1 where it is theirs.

    Raises:
        ArgumentError: `missing` is unknown.
        DataError: The file is missing or damaged, or has empty cells that are to be refused.
    """
    path = existing_file(existing_folder("titanic", folder, ORIGIN), "train.csv")
    table = read_table(path, TITANIC_NUMBERS, words=("Sex", "Embarked"), target="Survived")
    splits = _splits(table, path, missing, seed=seed)
    return Splits(splits.train, splits.val, splits.test, ("died", "survived"), splits.columns)


def read_table(
    path: Path, numbers: Sequence[str], *, words: Sequence[str] = (), target: str
) -> dict[str, Tensor]:
    r"""Reads columns of a CSV file with a header.

    Args:
        path: The file, UTF-8, gzipped or plain.
        numbers: Columns of numbers.
        words: Columns of words; each word becomes a column "name=word" of 0 and 1.
        target: The column of numbers to predict.

    Returns:
        Columns (N,) float64 in the order that they were asked for, words in that of the alphabet,
        the target last. An empty cell, or "nan" in any case, is NaN; of words, in all of their
        columns.

    Raises:
        DataError: A column is missing, a row is cut, or a cell is no number, with its line.

    Example:
        >>> from pathlib import Path
        >>> _ = Path("t.csv").write_text("a,kind,y\n1,x,0\n,z,1\n")
        >>> read_table(Path("t.csv"), ["a"], words=["kind"], target="y")["a"].tolist()
        [1.0, nan]
    """
    reader = csv.reader(line + "\n" for line in read_lines(path, "utf-8-sig"))
    header = next(reader)
    for name in (*numbers, *words, target):
        if name not in header:
            raise DataError(f"{path}: there must be a column {name!r}. {nearest(name, header)}")
    rows: list[list[str]] = []
    lines: list[int] = []
    for row in reader:
        if row and len(row) != len(header):
            raise DataError(
                f"{path}: line {reader.line_num} must have {len(header)} cells, as the header; "
                f"received {len(row)}. Is the file cut?"
            )
        rows += [row] if row else []
        lines += [reader.line_num] if row else []
    if not rows:
        raise DataError(f"{path}: there must be rows below the header; there are none.")
    cells = {name: [row[header.index(name)].strip() for row in rows] for name in header}
    table = {name: _floats(cells[name], lines, name, path) for name in numbers}
    for name in words:
        table |= _one_hot(cells[name], name)
    table[target] = _floats(cells[target], lines, target, path)
    return table


def _floats(cells: list[str], lines: list[int], name: str, path: Path) -> Tensor:
    values = []
    for cell, line in zip(cells, lines, strict=True):
        try:
            values.append(float(cell) if cell else math.nan)
        except ValueError:
            values.append(math.inf)
        if math.isinf(values[-1]):
            raise DataError(
                f"{path}: the column {name!r} must hold finite numbers; line {line} has {cell!r}."
            )
    return torch.tensor(values, dtype=torch.float64)


def _one_hot(cells: list[str], name: str) -> dict[str, Tensor]:
    empty = {cell for cell in cells if cell.lower() in ("", "nan")}
    known = {
        f"{name}={word}": torch.tensor(
            [math.nan if cell in empty else float(cell == word) for cell in cells]
        )
        for word in sorted(set(cells) - empty)
    }
    return {column: values.double() for column, values in known.items()}


def _splits(table: dict[str, Tensor], path: Path, missing: Missing, *, seed: int) -> Splits:
    if missing not in ("error", "drop", "fill"):
        raise ArgumentError(
            f"missing=... must be 'error', 'drop' or 'fill'; received {missing!r}. "
            f"{nearest(str(missing), ('error', 'drop', 'fill'))}"
        )
    *columns, target = table
    values = torch.stack([table[name] for name in columns], dim=-1)
    y = table[target]
    # The columns of words are empty together.
    empty = {
        name.partition("=")[0]: count for name in table if (count := int(table[name].isnan().sum()))
    }
    if empty and (missing == "error" or target in empty):
        raise DataError(
            f"{path}: cells must not be empty or NaN; received "
            f"{', '.join(f'{count} in {name!r}' for name, count in empty.items())}, of {len(y)} "
            "rows. Pass missing='drop' to leave these rows out, or missing='fill' to put the "
            "middle value there."
        )
    if missing == "drop":
        whole = ~values.isnan().any(dim=-1)
        values, y = values[whole], y[whole]
    parts = dealt(len(y), (0.15, 0.15), seed)
    values = _filled(values, values[parts[0]], columns)
    x, y = values.float(), y.float().unsqueeze(-1)
    train, val, test = ((x[rows], y[rows]) for rows in parts)
    return Splits(train, val, test, columns=tuple(columns))


def _filled(values: Tensor, train: Tensor, columns: list[str]) -> Tensor:
    """Values with the middle ones of the training part, or its most frequent words, for NaN."""
    middle = train.nanmedian(dim=0).values
    share = train.nan_to_num().mean(dim=0)
    kinds = [name.partition("=")[0] if "=" in name else None for name in columns]
    for kind in set(kinds) - {None}:
        own = torch.tensor([k == kind for k in kinds])
        most = torch.where(own, share, -1).argmax()
        middle = torch.where(own, (torch.arange(len(columns)) == most).double(), middle)
    return torch.where(values.isnan(), middle, values)
