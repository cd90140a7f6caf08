"""Notebooks of the tutorials, executed in a folder of their own."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from PIL import Image

TUTORIALS = Path(__file__).parents[1] / "tutorials"


def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]  # of nbformat


class Executed:
    """An executed notebook, whose cells are found by their ids."""

    def __init__(self, notebook: Any, folder: Path) -> None:
        self.cells = {cell.id: cell for cell in notebook.cells}
        self.folder = folder

    def outputs(self, cell: str) -> list[Any]:
        found: list[Any] = self.cells[cell].outputs
        return found

    def printed(self, cell: str) -> str:
        return "".join(o.text for o in self.outputs(cell) if o.get("name") == "stdout")

    def result(self, cell: str) -> str:
        (result,) = [o for o in self.outputs(cell) if o.output_type == "execute_result"]
        return str(result.data["text/plain"])

    def picture(self, cell: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
        (encoded,) = [o.data["image/png"] for o in self.outputs(cell) if "data" in o]
        with Image.open(io.BytesIO(base64.b64decode(encoded))) as image:
            return np.asarray(image.convert("RGB"))


def execute(
    name: str, folders: pytest.TempPathFactory, *, settings: str | None = None, **variables: str
) -> Executed:
    """Runs a notebook, with other settings where they are given; an error of a cell is raised."""
    folder, home = folders.mktemp("notebook"), folders.mktemp("jupyter")
    notebook = read(TUTORIALS / name)
    for cell in notebook.cells:
        if cell.id == "settings" and settings is not None:
            cell.source = settings
    with pytest.MonkeyPatch.context() as patch:
        for variable in ("JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "IPYTHONDIR"):
            patch.setenv(variable, str(home / variable.lower()))
        for variable, value in {"OMP_NUM_THREADS": "1", **variables}.items():
            patch.setenv(variable, value)
        NotebookClient(
            notebook,
            timeout=300,
            kernel_name="python3",
            resources={"metadata": {"path": str(folder)}},
        ).execute()
    return Executed(notebook, folder)


def complaints(executed: Executed) -> list[str]:
    """Cells that ended in an error, or printed a warning."""
    return [
        name
        for name, cell in executed.cells.items()
        for output in cell.get("outputs", [])
        if output.output_type == "error" or "Warning" in output.get("text", "")
    ]
