from __future__ import annotations

from collections import UserDict
from typing import Any

import pytest
import torch
from batch_runs import QUIET, Counted, line, numbers, pairs
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from estimator import BatchProcessor, DataError, Estimator, TrainStats
from estimator.handlers import EventHandler, Every
from estimator.runtime import move

A, B = numbers(5), 10 * numbers(5)


class Sum(nn.Module):
    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return a + b


def test_predict_several_inputs_in_the_first_place() -> None:
    est = Estimator(Sum())
    assert torch.equal(est.predict(((A, B), A), batch_size=2), A + B)
    assert torch.equal(est.predict(((A, B),), batch_size=2), A + B)
    assert torch.equal(est.predict([[[A, B]]]), A + B)


class Ends(nn.Module):
    def forward(self, packed: PackedSequence) -> Tensor:
        padded, lengths = nn.utils.rnn.pad_packed_sequence(packed, batch_first=True)
        return lengths


class Sizes(EventHandler):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Any] = []

    def validation_batch_end(self, stats: TrainStats) -> None:
        self.seen.append(stats.batch_size)


def test_predict_packed_sequences_without_targets() -> None:
    packed = pack_sequence([torch.ones(n, 1) for n in (5, 3, 2)])
    sizes = Sizes()
    est = Estimator(Ends())
    assert est.predict([packed, packed], handlers=sizes).tolist() == [5, 3, 2] * 2
    assert est.predict([(packed, A)]).tolist() == [5, 3, 2]
    assert sizes.seen == [3, 3]


def test_predict_takes_a_size_of_its_own() -> None:
    class Seven(BatchProcessor):
        def size(self, inputs: Any, targets: Any) -> int:
            return 7

    sizes = Sizes()
    Estimator(line(), processor=Seven()).predict([A], handlers=sizes)
    assert sizes.seen == [7]


def test_what_moves_itself_is_asked_to() -> None:
    class Encoding(UserDict[str, Any]):
        def to(self, device: Any) -> Encoding:
            self.where = device
            return self

    encoding = Encoding(a=A)
    moved = move({"x": (encoding,)}, torch.device("cpu"))
    assert moved["x"][0] is encoding
    packed = pack_sequence([torch.ones(2, 1)])
    assert type(move(packed, torch.device("cpu"))) is PackedSequence
    # batch_sizes must stay on the CPU
    assert move(packed, torch.device("meta")).batch_sizes.device.type == "cpu"


class Look(EventHandler):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def train_begin(self, stats: TrainStats) -> None:
        self.seen = {n: b.clone() for n, b in self.net.named_buffers()}


def test_lazy_modules_do_not_move_statistics() -> None:
    net = nn.Sequential(nn.LazyLinear(2), nn.BatchNorm1d(2), nn.Linear(2, 1))
    look = Look(net)
    Estimator(net, nn.MSELoss()).fit(pairs(4, 2), epochs=1, handlers=look, **QUIET)
    assert look.seen["1.running_mean"].tolist() == [0.0, 0.0]
    assert int(look.seen["1.num_batches_tracked"]) == 0


def test_lazy_buffers_without_lazy_parameters() -> None:
    net = nn.Sequential(nn.Linear(1, 2), nn.LazyBatchNorm1d(affine=False), nn.Linear(2, 1))
    look = Look(net)
    Estimator(net, nn.MSELoss()).fit(pairs(4, 2), epochs=1, handlers=look, **QUIET)
    assert look.seen["1.running_mean"].tolist() == [0.0, 0.0]


def test_buffers_that_forward_replaces_are_restored() -> None:
    class Counting(nn.Module):
        count: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.line = nn.Linear(1, 1)
            self.register_buffer("count", torch.tensor(0))

        def forward(self, x: Tensor) -> Any:
            if self.training:
                self.count = self.count + 1
            return self.line(x)

    net = Counting()
    look = Look(net)
    Estimator(net, nn.MSELoss()).fit(pairs(4, 2), pairs(4, 2), 1, handlers=look, **QUIET)
    assert int(look.seen["count"]) == 0
    assert int(net.count) == 2


@pytest.mark.parametrize("data", [[], Counted([]), iter(())])
def test_an_evaluation_of_nothing_is_refused(data: Any) -> None:
    est = Estimator(line(), nn.MSELoss(), ["mae"])
    with pytest.raises(DataError, match=r"evaluate\(data=\.\.\.\) must yield at least one batch"):
        est.evaluate(data)


def test_validation_that_runs_dry_is_refused() -> None:
    est = Estimator(line(), nn.MSELoss())
    with pytest.raises(DataError, match=r"fit\(val=\.\.\.\) must yield at least one batch"):
        est.fit(pairs(4, 2), iter(pairs(4, 2)), 1, validate=Every(steps=1), **QUIET)
