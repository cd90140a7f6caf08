"""Is a sentence about a film positive or negative? A BiRNN and a TextCNN on rt-polarity.

The sentences of Pang and Lee (2005), a word a number, batches padded to their longest sentence.

    python tutorials/models/sentiment.py --data FOLDER             three seeds of both nets
    python tutorials/models/sentiment.py --data FOLDER --quick     a few seconds

FOLDER has the folder rt-polarity; the environment variable ESTIMATOR_DATA names it as well.
"""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from typing import Any, NamedTuple

import torch
from _script import run, table
from _text import PAD, Vocabulary, arguments, loaders, pad, read_both_ways
from torch import Tensor, nn
from torch.utils.data import DataLoader

from estimator import DataError, Estimator, Trainer
from estimator.datasets import rt_polarity
from estimator.handlers import EarlyStoppingHandler


def word_vectors(words: int, size: int) -> nn.Embedding:
    """Small random vectors, so that what is learned soon counts for more; padding is 0."""
    embed = nn.Embedding(words, size, padding_idx=PAD)
    with torch.no_grad():
        embed.weight.mul_(0.1)
    return embed


class TextCNN(nn.Module):
    """Convolutions over 3, 4 and 5 words, each at its maximum (Kim, 2014, arXiv:1408.5882)."""

    def __init__(self, words: int, size: int = 128, filters: int = 100) -> None:
        super().__init__()
        self.embed = word_vectors(words, size)
        self.convs = nn.ModuleList(nn.Conv1d(size, filters, k, padding=k // 2) for k in (3, 4, 5))
        self.dropout = nn.Dropout(0.5)
        self.classify = nn.Linear(3 * filters, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.dropout(self.embed(tokens)).transpose(1, 2)
        padding = (tokens == PAD).unsqueeze(1)
        # Without the mask, what is found would depend on how long the other sentences are.
        found = [
            conv(x)[..., : tokens.shape[1]].relu().masked_fill(padding, 0).amax(2)
            for conv in self.convs
        ]
        return self.classify(self.dropout(torch.cat(found, 1)))


class BiRNN(nn.Module):
    """An LSTM that reads from both ends, and the largest of its outputs over the sentence."""

    def __init__(self, words: int, size: int = 128, hidden: int = 64) -> None:
        super().__init__()
        self.embed = word_vectors(words, size)
        self.rnn = nn.LSTM(size, hidden, batch_first=True, bidirectional=True)
        self.dropout = nn.Dropout(0.5)
        self.classify = nn.Linear(2 * hidden, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.dropout(self.embed(tokens))
        _, last = read_both_ways(self.rnn, x, (tokens != PAD).sum(1))
        return self.classify(self.dropout(last))


NETS = {"TextCNN": TextCNN, "BiRNN": BiRNN}


class Data(NamedTuple):
    """Loaders of the three parts, and how many words are known."""

    train: DataLoader[Any]
    val: DataLoader[Any]
    test: DataLoader[Any]
    words: int


def collate(rows: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """A batch: sentences (N, words of the longest) and labels (N,)."""
    sentences, labels = zip(*rows, strict=True)
    return pad(sentences), torch.stack(labels)


def read(args: Namespace) -> Data:
    """The sentences as word numbers; few of them in the quick mode."""
    data = rt_polarity(args.data, encoding=args.encoding)
    parts = []
    for sentences, labels in (data.train, data.val, data.test):
        tokens = [sentence.split() for sentence in sentences]
        parts.append(list(zip(tokens, labels, strict=True))[: 2000 if args.quick else None])
    for label, name in enumerate(data.classes):
        if not any(tokens and int(other) == label for tokens, other in parts[0]):
            raise DataError(
                f"rt-polarity: both classes need sentences to train on; the {name} one has none "
                f"with words in it. Look into the file rt-polarity.{name[:3]}."
            )
    # Words that come once are trained as the unknown word, which validation has to know.
    vocabulary = Vocabulary((tokens for tokens, _ in parts[0]), min_count=2)
    rows = [[(vocabulary.encode(tokens), label) for tokens, label in part] for part in parts]
    return Data(*loaders(*rows, collate=collate, batch_size=50), words=len(vocabulary))


def train(name: str, data: Data, seed: int, epochs: int, rate: float) -> dict[str, Any]:
    """Trains a net and keeps the weights with the best validation accuracy."""
    torch.manual_seed(seed)
    began = time.perf_counter()
    est = Estimator(NETS[name](data.words), nn.CrossEntropyLoss(), ["accuracy"])
    stats = est.fit(
        data.train, data.val, epochs, Trainer("adam", lr=rate),
        handlers=EarlyStoppingHandler("val_accuracy", patience=2, restore_best=True),
    )  # fmt: skip
    seconds = round(time.perf_counter() - began)
    best = stats.best["val_accuracy"]
    return {
        "net": name, "seed": seed, "best epoch": best.epoch, "val accuracy": best.value,
        "test accuracy": est.evaluate(data.test)["accuracy"], "seconds": seconds,
    }  # fmt: skip


def main() -> None:
    args = arguments(__doc__, "rt-polarity", encoding="cp1252")
    torch.set_num_threads(1)  # more gain little on steps as small as these
    data = read(args)
    epochs, rate, goal = (4, 2e-3, 0.65) if args.quick else (8, 1e-3, 0.74)
    epochs = args.epochs or epochs
    rows = [train(net, data, seed, epochs, rate) for net in NETS for seed in args.seeds]
    print(table(rows))
    if any(row["val accuracy"] < goal for row in rows):
        sys.exit(f"Each validation accuracy must be at least {goal}.")


if __name__ == "__main__":
    run(main)
