"""multi30k: sentences in English and German."""

from __future__ import annotations

from pathlib import Path

from estimator.datasets.place import Folder, existing_file, existing_folder
from estimator.datasets.splits import Splits
from estimator.datasets.text import read_lines
from estimator.handlers.base import ArgumentError, DataError, nearest

ORIGIN = "https://github.com/multi30k/dataset"
TESTS = ("test_2016_flickr", "test_2017_flickr", "test_2017_mscoco", "test_2018_flickr")


def multi30k(folder: Folder = None, *, test: str = "test_2016_flickr") -> Splits:
    """Descriptions of pictures in two languages (Elliott et al., arXiv:1605.00459): 29,000 pairs.

    Args:
        folder: Where the files such as "train.en.gz" are, gzipped or plain. None means the folder
            "multi30k" in the folder that the environment variable ESTIMATOR_DATA names.
        test: Which of the four test sets is the test part.

    Returns:
        Pairs of lists, English and German sentences, as they were written.

    Raises:
        ArgumentError: There is no such test set.
        DataError: A file is missing or cut, or two have not the same number of lines.
    """
    if test not in TESTS:
        raise ArgumentError(
            f"multi30k(test=...) must be one of its test sets; received {test!r}. "
            f"{nearest(str(test), TESTS)}"
        )
    place = existing_folder("multi30k", folder, ORIGIN)
    train, val, tested = (_pairs(place, part) for part in ("train", "val", test))
    return Splits(train, val, tested)


def _pairs(folder: Path, part: str) -> tuple[list[str], list[str]]:
    paths = [existing_file(folder, f"{part}.{language}") for language in ("en", "de")]
    english, german = (read_lines(path) for path in paths)
    if len(english) != len(german):
        raise DataError(
            f"{paths[1]}: each line must translate one of {paths[0].name}, {len(english)}; "
            f"received {len(german)} lines. Is one of them cut, or of another part?"
        )
    return english, german
