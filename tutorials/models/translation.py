"""From English to German: an encoder, and a decoder with attention, on multi30k.

In training the decoder is given the right words before each word (teacher forcing). To translate,
it is given its own: the best one (greedy), or several of the best (beam).

    python tutorials/models/translation.py --data FOLDER [--quick]

FOLDER has the folder multi30k; ESTIMATOR_DATA names it as well. BLEU, the score of translations,
needs sacrebleu: pip install 'torch-estimator[text]'.
"""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from functools import partial
from typing import Any

import _text as text
import torch
from _script import run, table
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR

from estimator import BatchProcessor, Estimator, Trainer
from estimator.datasets import multi30k
from estimator.handlers.base import require


class Encoder(nn.Module):
    """Reads a sentence from both ends: a state for each word, and one for the whole."""

    def __init__(self, words: int, size: int) -> None:
        super().__init__()
        self.embed = nn.Sequential(nn.Embedding(words, size, text.PAD), nn.Dropout(0.3))
        self.rnn = nn.GRU(size, size // 2, batch_first=True, bidirectional=True)

    def forward(self, source: Tensor) -> tuple[Tensor, Tensor]:
        lengths = (source != text.PAD).sum(1)
        return text.read_both_ways(self.rnn, self.embed(source), lengths)


class Decoder(nn.Module):
    """Looks at the encoder's states before each word (Luong et al., 2015, arXiv:1508.04025)."""

    def __init__(self, words: int, size: int) -> None:
        super().__init__()
        self.embed = nn.Sequential(nn.Embedding(words, size, text.PAD), nn.Dropout(0.3))
        self.rnn = nn.GRU(size, size, batch_first=True)
        self.key = nn.Linear(size, size, bias=False)
        self.join = nn.Sequential(nn.Linear(2 * size, size), nn.Tanh(), nn.Dropout(0.3))
        self.next = nn.Linear(size, words)

    def forward(self, before: Tensor, last: Tensor, states: Tensor, padding: Tensor) -> Any:
        """Scores of the word after each of `before`, (N, T, words), and the last state."""
        x, last = self.rnn(self.embed(before), last.unsqueeze(0))
        scores = x @ self.key(states).transpose(1, 2)
        attention = scores.masked_fill(padding.unsqueeze(1), -torch.inf).softmax(2)
        return self.next(self.join(torch.cat([x, attention @ states], 2))), last[0]


class Translator(nn.Module):
    def __init__(self, source_words: int, target_words: int, size: int) -> None:
        super().__init__()
        self.encoder, self.decoder = Encoder(source_words, size), Decoder(target_words, size)

    def forward(self, source: Tensor, before: Tensor) -> Tensor:
        states, last = self.encoder(source)
        scores, _ = self.decoder(before, last, states, source == text.PAD)
        return scores.transpose(1, 2)  # cross-entropy has the classes second

    def translate(self, source: Tensor, beams: int, longest: int = 40) -> Tensor:
        source = source.repeat_interleave(beams, 0)
        states, last = self.encoder(source)

        def step(word: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
            scores, state = self.decoder(word.unsqueeze(1), state, states, source == text.PAD)
            return scores[:, 0], state

        return text.beam_search(step, last, beams, longest)


class Teaching(BatchProcessor):
    """Gives the decoder the right words, each to be followed by the next."""

    def split(self, batch: tuple[Tensor, Tensor]) -> Any:
        source, target = batch
        return (source, target[:, :-1]), target[:, 1:]


class Translating(BatchProcessor):
    """Lets the decoder go on from its own words."""

    def __init__(self, beams: int) -> None:
        self.beams = beams

    def evaluate_split(self, batch: tuple[Tensor, Tensor]) -> Any:
        return batch

    def evaluate_forward(self, source: Tensor) -> Tensor:
        return self.net.translate(source, self.beams)


def read(args: Namespace) -> Any:
    """Loaders of the three parts, both vocabularies, and the German sentences of the test."""
    data = multi30k(args.data)
    parts = [data.train, data.val, data.test]
    if args.quick:
        parts = [[side[:n] for side in p] for p, n in zip(parts, (1000, 200, 200), strict=True)]
    batch_size, min_count = (32, 2) if args.quick else (64, 3)
    known = [text.Vocabulary(map(text.words, side), min_count) for side in parts[0]]
    rows = [[text.encode_pair(known, pair) for pair in zip(*part, strict=True)] for part in parts]
    return text.loaders(*rows, collate=text.pad_all, batch_size=batch_size), known, parts[2][1]


def train(data: Any, bleu: Any, seed: int, epochs: int, size: int) -> dict[str, Any]:
    """Trains a net, and translates the sentences of the test with it."""
    torch.manual_seed(seed)
    (train, val, test), known, references = data
    began, net = time.perf_counter(), Translator(len(known[0]), len(known[1]), size)
    est = Estimator(net, nn.CrossEntropyLoss(ignore_index=text.PAD), processor=Teaching())
    cycle = partial(OneCycleLR, max_lr=3e-3, total_steps=epochs * len(train))
    trainer = partial(Trainer, "adam", clip_norm=1.0, scheduler=cycle)
    trainers = {part: trainer(params=part) for part in ("encoder", "decoder")}
    stats = est.fit(train, val, epochs, trainers)
    row = {"seed": seed, "epochs": epochs, "seconds": round(time.perf_counter() - began)}
    row |= {"val loss": stats.val["loss"], "by frequency": text.loss_by_frequency(train, val)}
    for beams in (1, 5):
        found = Estimator(net, processor=Translating(beams)).predict(test)
        texts = [text.sentence(known[1].decode(numbers)) for numbers in found.tolist()]
        row[f"BLEU with {beams}"] = bleu(texts, [references]).score
    return row


def main() -> None:
    args = text.arguments(__doc__, "multi30k")
    bleu = require("sacrebleu", "text", "the score of translations").corpus_bleu
    data, (epochs, size) = read(args), (5, 128) if args.quick else (4, 256)
    print(table(rows := [train(data, bleu, s, args.epochs or epochs, size) for s in args.seeds]))
    if any(row["val loss"] > row["by frequency"] - 1 for row in rows):
        sys.exit("A loss must be at least 1 below that of words by their frequency alone.")


if __name__ == "__main__":
    run(main)
