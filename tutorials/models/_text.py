"""What the scripts about text share: words, a vocabulary, and batches padded to one length."""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad as widen
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence
from torch.utils.data import DataLoader, Sampler

PAD, UNKNOWN, BEGIN, END = range(4)
MARKS = ["<pad>", "<unknown>", "<begin>", "<end>"]


def words(sentence: str) -> list[str]:
    """Words, with their hyphens and apostrophes, and each punctuation mark for itself."""
    return re.findall(r"\w+(?:[-'’]\w+)*|[^\w\s]", sentence)


def sentence(tokens: Iterable[str]) -> str:
    """The way back from `words`."""
    return re.sub(r" ([.,;:!?])", r"\1", " ".join(tokens))


class Vocabulary:
    """Numbers for the words of the training sentences, the frequent ones first.

    Args:
        sentences: Each a list of words.
        min_count: Rarer words are unknown ones, as are those that no training sentence has.
    """

    def __init__(self, sentences: Iterable[Sequence[str]], min_count: int = 1) -> None:
        counts = Counter(word for each in sentences for word in each)
        frequent = [word for word, count in counts.most_common() if count >= min_count]
        self.words = [*MARKS, *frequent]
        self.numbers = {word: number for number, word in enumerate(self.words)}

    def __len__(self) -> int:
        return len(self.words)

    def encode(self, tokens: Iterable[str]) -> Tensor:
        """Word numbers, shape (words,); a sentence without words is one unknown word."""
        return torch.tensor([self.numbers.get(w, UNKNOWN) for w in tokens] or [UNKNOWN])

    def decode(self, numbers: Iterable[int]) -> list[str]:
        """The words up to the end mark, without padding."""
        found = []
        for number in numbers:
            if number == END:
                break
            if number not in (PAD, BEGIN):
                found.append(self.words[number])
        return found


def pad(rows: Sequence[Tensor]) -> Tensor:
    """Sentences as one tensor, shape (sentences, words of the longest)."""
    return pad_sequence(list(rows), batch_first=True, padding_value=PAD)


def pad_all(rows: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """A batch of rows that hold a sentence in several languages, each padded for itself."""
    return tuple(map(pad, zip(*rows, strict=True)))


def encode_pair(vocabularies: Sequence[Vocabulary], pair: Sequence[str]) -> tuple[Tensor, ...]:
    """A sentence and its translation as word numbers, between marks of their begin and end."""
    marked = [[MARKS[BEGIN], *words(text), MARKS[END]] for text in pair]
    return tuple(v.encode(tokens) for v, tokens in zip(vocabularies, marked, strict=True))


def loss_by_frequency(train: DataLoader[Any], held_out: DataLoader[Any]) -> float:
    """The cross-entropy of held-out translations for who knows how frequent words are, no more."""
    known, asked = (torch.cat([row[1][1:] for row in data.dataset]) for data in (train, held_out))  # type: ignore[attr-defined]  # it has one
    counts = torch.bincount(known, minlength=int(asked.max()) + 1) + 1.0
    return float(-(counts / counts.sum()).log()[asked].mean())


def read_both_ways(rnn: nn.LSTM | nn.GRU, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Reads padded sentences from both ends, as if there were no padding.

    An ONNX file has no packed sequences: there, each sentence is turned round within its length.

    Args:
        rnn: Of one layer, with the batch first.
        x: Shape (N, T, features).
        lengths: Words of each sentence.

    Returns:
        The states, (N, T, 2 * hidden), 0 behind a sentence, and the last ones, (N, 2 * hidden).
    """
    if not torch.compiler.is_exporting():
        packed = pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
        states, last = rnn(packed)
        last = last[0] if isinstance(rnn, nn.LSTM) else last
        states, _ = pad_packed_sequence(states, batch_first=True, total_length=x.shape[1])
        return states, torch.cat([last[0], last[1]], 1)
    places = torch.arange(x.shape[1], device=x.device)
    ends = lengths.view(-1, 1, 1) - 1
    turned = (ends - places.view(1, -1, 1)).clamp(min=0)
    onwards = _one_way(rnn, x, "")
    back = _one_way(rnn, x.gather(1, turned.expand(-1, -1, x.shape[2])), "_reverse")
    size = onwards.shape[2]
    last = torch.cat(
        [values.gather(1, ends.expand(-1, 1, size))[:, 0] for values in (onwards, back)], 1
    )
    states = torch.cat([onwards, back.gather(1, turned.expand(-1, -1, size))], 2)
    return states.masked_fill(places.view(1, -1, 1) > ends, 0), last


def _one_way(rnn: nn.LSTM | nn.GRU, x: Tensor, ending: str) -> Tensor:
    names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    weights = [getattr(rnn, name + ending) for name in names]
    start = x.new_zeros(1, x.shape[0], rnn.hidden_size)
    settings = (weights, True, 1, 0.0, False, False, True)
    is_lstm = isinstance(rnn, nn.LSTM)
    found = torch.lstm(x, [start, start], *settings) if is_lstm else torch.gru(x, start, *settings)
    states: Tensor = found[0]
    return states


class SimilarLengths(Sampler[list[int]]):
    """Batches of sentences that need little padding, drawn anew in each epoch.

    Args:
        lengths: Of each sentence.
        batch_size: Sentences a batch.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int) -> None:
        self.lengths, self.batch_size = torch.tensor(lengths), batch_size

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        # Noise, so that sentences do not meet the same neighbours in each epoch.
        noisy = self.lengths + 2 * torch.rand(len(self.lengths))
        batches = noisy.argsort().split(self.batch_size)
        return (batches[i].tolist() for i in torch.randperm(len(batches)).tolist())


def loaders(
    train: Sequence[Any], *held_out: Sequence[Any], collate: Callable[..., Any], batch_size: int
) -> list[DataLoader[Any]]:
    """A loader that shuffles the training rows, and one in order for each held-out part.

    Args:
        train: Rows that begin with a sentence as word numbers.
        *held_out: Further rows.
        collate: Makes a batch of a list of rows.
        batch_size: Rows a batch.
    """
    shuffled: Any = SimilarLengths([len(row[0]) for row in train], batch_size)
    data: list[Any] = [train, *held_out]
    return [
        DataLoader(data[0], batch_sampler=shuffled, collate_fn=collate),
        *(DataLoader(rows, batch_size, collate_fn=collate) for rows in data[1:]),
    ]


def beam_search(
    step: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], state: Tensor, beams: int, longest: int
) -> Tensor:
    """The likeliest sentences, by mean over their words, that so many beams find; 1 is greedy.

    Args:
        step: From the last words (N * beams,) and the states to scores of the next words
            (N * beams, words) and new states.
        state: The states to begin with, (N * beams, ...); beams of a sentence are neighbours.
        beams: How many beginnings of each sentence are followed.
        longest: Words a sentence, at most.

    Returns:
        Word numbers (N, longest), with END and then PAD behind each sentence.
    """
    rows = torch.arange(0, len(state), beams, device=state.device)
    written = torch.full((len(state), 1), BEGIN, device=state.device)
    # The beams of a sentence begin alike, so that only the first may go on.
    total = torch.full((len(rows), beams), -torch.inf, device=state.device)
    total[:, 0] = 0
    for _ in range(longest):
        scores, state = step(written[:, -1], state)
        scores[:, [PAD, UNKNOWN, BEGIN]] = -torch.inf
        scores = scores.log_softmax(1)
        ended = (written == END).any(1)
        scores[ended] = -torch.inf
        scores[ended, PAD] = 0
        each = (total.unsqueeze(2) + scores.view(len(rows), beams, -1)).flatten(1)
        total, best = each.topk(beams)
        parents = (rows.unsqueeze(1) + best // scores.shape[1]).flatten()
        word = (best % scores.shape[1]).view(-1, 1)
        written, state = torch.cat([written[parents], word], 1), state[parents]
        if (written == END).any(1).all():
            break
    lengths = (written != PAD).sum(1).view(total.shape) - 1
    chosen = written[rows + (total / lengths).argmax(1), 1:]
    return widen(chosen, (0, longest - chosen.shape[1]), value=PAD)


def arguments(description: str, folder: str, encoding: str | None = None) -> argparse.Namespace:
    """Reads the command line.

    Args:
        description: Of the script.
        folder: What the data set's own folder is called.
        encoding: The usual one, where another can be said.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="has the folder of the data; or ESTIMATOR_DATA")
    parser.add_argument("--epochs", type=int, help="to train at most")
    parser.add_argument("--quick", action="store_true", help="a few sentences, a few seconds")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    if encoding is not None:
        parser.add_argument("--encoding", default=encoding, help=f"of the text; {encoding}")
    args = parser.parse_args()
    if args.data is not None:
        args.data /= folder
    return args
