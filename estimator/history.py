"""The table of a run: one row for each epoch and for each validation inside one."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from estimator.handlers.base import ArgumentError, nearest

Value = float | int | bool | None


class History:
    """Rows of numbers, read by column.

    Columns are `epoch` and `step` (finished counts), `time` (seconds since the run began), `lr`
    (the rate that the row's last step used; `lr_<trainer>` when there are several), `complete`
    (whether the row ends a full epoch), then `train_<name>` and `val_<name>`. A value that a row
    has not is None.

    Args:
        columns: Names that may be asked for before any row has them.

    Example:
        >>> history = History(["epoch", "val_loss"])
        >>> history.append({"epoch": 1, "val_loss": 0.5})
        >>> history.append({"epoch": 2})
        >>> history["val_loss"]
        [0.5, None]
    """

    def __init__(self, columns: Iterable[str] = ()) -> None:
        self.columns = list(columns)
        self.rows: list[dict[str, Value]] = []

    def append(self, row: Mapping[str, Value]) -> None:
        """Adds a row; names seen for the first time become columns."""
        self.rows.append(dict(row))
        self.columns.extend(name for name in row if name not in self.columns)

    def __len__(self) -> int:
        return len(self.rows)

    def __contains__(self, column: object) -> bool:
        return column in self.columns

    def __getitem__(self, column: str) -> list[Any]:
        """The column's values, one a row.

        Raises:
            ArgumentError: There is no such column.
        """
        if column not in self.columns:
            raise ArgumentError(
                f"history has no column {column!r}. {nearest(str(column), self.columns)}"
            )
        return [row.get(column) for row in self.rows]

    def __repr__(self) -> str:
        return f"History({len(self.rows)} rows: {', '.join(self.columns)})"

    def to_dict(self) -> dict[str, list[Value]]:
        """All columns by name."""
        return {column: self[column] for column in self.columns}

    def to_csv(self, path: str | os.PathLike[str]) -> Path:
        """Writes a table with full precision; a value that a row has not is an empty cell."""
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.columns, restval="")
            writer.writeheader()
            writer.writerows(
                {name: "" if value is None else value for name, value in row.items()}
                for row in self.rows
            )
        return Path(path)

    def to_json(self, path: str | os.PathLike[str]) -> Path:
        """Writes strict JSON, columns by name; values that are not finite become null."""
        finite = {
            column: [None if isinstance(v, float) and not math.isfinite(v) else v for v in values]
            for column, values in self.to_dict().items()
        }
        text = json.dumps(finite, indent=1, allow_nan=False)
        Path(path).write_text(text + "\n", encoding="utf-8")
        return Path(path)

    def state_dict(self) -> dict[str, Any]:
        """Columns and rows as plain lists and dicts."""
        return {"columns": list(self.columns), "rows": [dict(row) for row in self.rows]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state_dict` gave."""
        self.columns = list(state["columns"])
        self.rows = [dict(row) for row in state["rows"]]
