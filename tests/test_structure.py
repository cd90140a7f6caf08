"""Outputs of batches that are joined, and those that cannot be."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from batch_runs import numbers
from torch.nn.utils.rnn import pack_sequence

from estimator import DataError
from estimator.structure import concatenate

A = numbers(5)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (
            [torch.zeros(2, 5), torch.zeros(2, 7)],
            r"received tensor\(2, 5\) float32 and tensor\(2, 7",
        ),
        ([torch.zeros(2), torch.tensor(1.0)], r"tensor\(2,\) float32 and tensor\(\)"),
        ([{"a": A}, {"b": A}], r"\{'a': tensor.*\} and \{'b': tensor"),
        ([(A, A), (A,)], "Pad them to one length, or collect them"),
        ([(A, A), [A, A]], "alike beyond it"),
        ([{"a": A}, A], r"\{'a': .*\} and tensor\(5, 1\)"),
        ([A, None], "and None"),
        ([{"a": (torch.zeros(1, 2),)}, {"a": (torch.zeros(1, 3),)}], r"\(1, 2\) .* and .*\(1, 3\)"),
    ],
)
def test_outputs_that_cannot_be_joined_are_refused(parts: list[Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        concatenate(parts)


def test_packed_sequences_are_not_taken_apart() -> None:
    packed = [pack_sequence([torch.ones(n, 1)]) for n in (2, 3)]
    found = concatenate(packed)
    assert [one.data.shape[0] for one in found] == [2, 3]
