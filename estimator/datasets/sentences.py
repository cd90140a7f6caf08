"""rt-polarity: sentences of film reviews, positive and negative."""

from __future__ import annotations

import torch

from estimator.datasets.place import Folder, existing_file, existing_folder
from estimator.datasets.splits import Splits, dealt
from estimator.datasets.text import read_lines

ORIGIN = "https://github.com/yoonkim/CNN_sentence"


def rt_polarity(folder: Folder = None, *, encoding: str = "cp1252", seed: int = 0) -> Splits:
    """Sentences with their sentiment (Pang, Lee, ACL 2005): 5,331 positive, 5,331 negative.

    Args:
        folder: Where "rt-polarity.neg" and "rt-polarity.pos" are. None means the folder
            "rt-polarity" in the folder that the environment variable ESTIMATOR_DATA names.
        encoding: Of both files.
        seed: Of the split: 80 % train, 10 % validate and 10 % test, of both classes together.

    Returns:
        Pairs of a list of sentences, in small letters with a space around each token, and labels
        (N,) int64: 0 negative, 1 positive.

    Raises:
        ArgumentError: There is no such encoding.
        DataError: A file is missing, empty, or in another encoding, and which.
    """
    place = existing_folder("rt-polarity", folder, ORIGIN)
    negative, positive = (
        [line.strip() for line in read_lines(existing_file(place, name), encoding)]
        for name in ("rt-polarity.neg", "rt-polarity.pos")
    )
    sentences = negative + positive
    labels = torch.cat([torch.zeros(len(negative)), torch.ones(len(positive))]).long()
    train, val, test = (
        ([sentences[i] for i in rows.tolist()], labels[rows])
        for rows in dealt(len(sentences), (0.1, 0.1), seed)
    )
    return Splits(train, val, test, ("negative", "positive"))
