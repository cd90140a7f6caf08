"""A BatchProcessor may be overridden one part at a time; the rest stays as it is."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from batch_runs import QUIET, line, numbers, pairs, whole
from torch import Tensor, nn

from estimator import (
    ArgumentError,
    ArgumentTypeError,
    BatchProcessor,
    DataError,
    Estimator,
    TrainStats,
)
from estimator.handlers import EarlyStoppingHandler, EventHandler

BATCHES = pairs(10, 4)


def trained(processor: BatchProcessor, batches: Any, **arguments: Any) -> TrainStats:
    """One epoch and one validation of a line that stays where it is, at three times its input."""
    net = line()
    est = Estimator(net, arguments.pop("loss", nn.MSELoss()), processor=processor, **arguments)
    still = torch.optim.SGD(net.parameters(), lr=0.0)
    return est.fit(batches, batches, 1, **QUIET | {"trainers": still})


def mean(values: Tensor) -> float:
    return float(values.double().mean())


SQUARES = mean(numbers(10) ** 2)  # of 3 x - 2 x


def test_split_alone() -> None:
    class Swapped(BatchProcessor):
        def split(self, batch: Any) -> tuple[Any, Any]:
            return batch[1] / 2, batch[0] * 3

    stats = trained(Swapped(), BATCHES)
    assert stats["train_loss"] == stats["val_loss"] == [0.0]


def test_evaluate_split_alone() -> None:
    class Shifted(BatchProcessor):
        def evaluate_split(self, batch: Any) -> tuple[Any, Any]:
            inputs, _ = self.split(batch)
            return inputs, 3 * inputs + 2

    stats = trained(Shifted(), BATCHES)
    assert stats["train_loss"] == [pytest.approx(SQUARES, rel=1e-6)]
    assert stats["val_loss"] == [4.0]


def test_a_split_of_another_kind_of_batch() -> None:
    class Sample:
        def __init__(self, x: Tensor) -> None:
            self.x = x

    class Attributes(BatchProcessor):
        def split(self, batch: Any) -> tuple[Any, Any]:
            return batch.x, 3 * batch.x - 1

    stats = trained(Attributes(), [Sample(x) for x, _ in BATCHES])
    assert (stats.samples, stats["val_loss"]) == (10, [1.0])


def test_forward_alone_is_that_of_validation_too() -> None:
    class Doubled(BatchProcessor):
        def forward(self, inputs: Any) -> Any:
            return super().forward(inputs) * 2

    stats = trained(Doubled(), BATCHES)
    assert stats["train_loss"] == stats["val_loss"] == [pytest.approx(16 * SQUARES, rel=1e-6)]


def test_another_net_in_validation() -> None:
    averaged = nn.Linear(1, 1, bias=False)
    nn.init.constant_(averaged.weight, 2.0)

    class Averaged(BatchProcessor):
        def evaluate_forward(self, inputs: Any) -> Any:
            return averaged(inputs)

    stats = trained(Averaged(), BATCHES, metrics=["mae"])
    assert (stats["val_loss"], stats["val_mae"]) == ([0.0], [0.0])
    assert stats["train_loss"] == [pytest.approx(SQUARES, rel=1e-6)]


def test_a_dict_of_losses_gives_columns_and_a_sum() -> None:
    class Parts(BatchProcessor):
        def loss(self, outputs: Any, targets: Any) -> Any:
            error = outputs - targets
            return {"square": error.pow(2).mean(), "spread": error.abs()}

    stats = trained(Parts(), BATCHES)
    for side in ("train", "val"):
        assert stats[f"{side}_square"] == [pytest.approx(SQUARES, rel=1e-6)]
        assert stats[f"{side}_spread"] == [pytest.approx(4.5, rel=1e-6)]
        assert stats[f"{side}_loss"] == [pytest.approx(SQUARES + 4.5, rel=1e-6)]


def test_a_loss_needs_no_criterion() -> None:
    class Signed(BatchProcessor):
        def loss(self, outputs: Any, targets: Any) -> Any:
            return (outputs - targets).mean()

    stats = trained(Signed(), BATCHES, loss=None)
    assert stats["val_loss"] == [pytest.approx(4.5)]


def test_another_loss_in_validation() -> None:
    class Largest(BatchProcessor):
        def evaluate_loss(self, outputs: Any, targets: Any) -> Any:
            return {"largest": (outputs - targets).max()}

    stats = trained(Largest(), BATCHES)
    assert stats["train_loss"] == [pytest.approx(SQUARES, rel=1e-6)]
    # Weighted by samples, which is what a loss of one's own counts.
    assert (
        stats["val_loss"] == stats["val_largest"] == [pytest.approx((3 * 4 + 7 * 4 + 9 * 2) / 10)]
    )
    assert "val_square" not in stats.history.to_dict()


def test_losses_are_weighted_by_what_count_says() -> None:
    class Tokens(BatchProcessor):
        def count(self, outputs: Any, targets: Any, samples: int) -> Any:
            return (targets > 7).sum()

        def loss(self, outputs: Any, targets: Any) -> Any:
            kept = targets > 7
            return ((outputs - targets) * kept).sum() / kept.sum().clamp(min=1)

    stats = trained(Tokens(), BATCHES)
    kept = numbers(10)[numbers(10) * 2 > 7]
    assert stats["train_loss"] == stats["val_loss"] == [pytest.approx(mean(kept), rel=1e-6)]


def test_an_evaluation_counts_its_own_way() -> None:
    class First(BatchProcessor):
        def evaluate_count(self, outputs: Any, targets: Any, samples: int) -> Any:
            return 1

    stats = trained(First(), BATCHES)
    per_batch = [mean((y - 3 * x) ** 2) for x, y in BATCHES]
    assert stats["train_loss"] == [pytest.approx(SQUARES, rel=1e-6)]
    assert stats["val_loss"] == [pytest.approx(sum(per_batch) / 3, rel=1e-6)]


def test_a_size_of_its_own() -> None:
    class Halves(BatchProcessor):
        def size(self, inputs: Any, targets: Any) -> int:
            return super().size(inputs, targets) // 2

    assert trained(Halves(), BATCHES).samples == 5


class Single(EventHandler):
    """Keeps the losses of single samples."""

    needs = frozenset({"sample_losses"})

    def __init__(self) -> None:
        super().__init__()
        self.train: list[Any] = []
        self.val: list[Any] = []

    def batch_end(self, stats: TrainStats) -> None:
        assert stats.sample_losses is not None
        self.train += stats.sample_losses.tolist()

    def validation_batch_end(self, stats: TrainStats) -> None:
        assert stats.sample_losses is not None
        self.val += stats.sample_losses.tolist()


class Absolute(BatchProcessor):
    def loss(self, outputs: Any, targets: Any) -> Any:
        return (outputs - targets).abs().mean()


class AbsoluteOfEach(Absolute):
    def sample_losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs - targets).abs().flatten(1).mean(1)


def test_losses_of_single_samples() -> None:
    for processor, power in ((BatchProcessor(), 2), (AbsoluteOfEach(), 1)):
        single = Single()
        est = Estimator(line(), nn.MSELoss(), processor=processor)
        still = QUIET | {"trainers": torch.optim.SGD(est.net.parameters(), lr=0.0)}
        est.fit(BATCHES, BATCHES, 1, handlers=single, **still)
        expected = [float(n) ** power for n in range(10)]
        assert single.train == single.val == expected


def test_a_loss_of_its_own_says_what_its_samples_lose() -> None:
    est = Estimator(line(), nn.MSELoss(), processor=Absolute())
    with pytest.raises(DataError, match=r"Absolute has a loss of its own.*sample_losses too"):
        est.fit(BATCHES, epochs=1, handlers=Single(), **QUIET)
    wanting = Estimator(line(), metrics=["mae"])
    with pytest.raises(DataError, match=r"Override BatchProcessor\.sample_losses"):
        wanting.processor.sample_losses(numbers(2), numbers(2))


def test_a_processor_serves_several_estimators() -> None:
    processor = BatchProcessor()
    first = Estimator(line(), nn.MSELoss(), processor=processor, targets="y")
    second = Estimator(nn.Identity(), nn.L1Loss(), processor=processor)
    assert first.evaluate([{"x": numbers(2), "y": 3 * numbers(2) + 1}]) == {"loss": 1.0}
    assert second.evaluate([(numbers(2), numbers(2) + 5)]) == {"loss": 5.0}
    assert not hasattr(processor, "net")
    assert (processor.criterion, processor.target_keys) == (None, None)


def test_a_named_part_can_be_followed() -> None:
    class Parts(BatchProcessor):
        def loss(self, outputs: Any, targets: Any) -> Any:
            return {"a_loss": (outputs - targets).mean() ** 2}

    est = Estimator(line(), processor=Parts())
    handler = EarlyStoppingHandler("val_a_loss", patience=1)
    stats = est.fit(BATCHES, BATCHES, 3, handlers=handler, **QUIET)
    assert stats.best["val_a_loss"].value == min(stats["val_a_loss"])


def test_teacher_forcing_in_training_alone() -> None:
    """A translation model: its own shifted targets in training, its own words in evaluation."""

    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.step = nn.Linear(1, 1, bias=False)
            nn.init.constant_(self.step.weight, 2.0)

        def forward(self, source: Tensor, given: Tensor | None = None) -> Tensor:
            words: list[Tensor] = [self.step(source if given is None else given)]
            if given is not None:
                return words[0]
            for _ in range(2):
                words.append(self.step(words[-1]))
            return torch.cat(words, 1).unsqueeze(-1)

    class Translation(BatchProcessor):
        def split(self, batch: Any) -> tuple[Any, Any]:
            source, target = batch
            before = torch.cat([source.unsqueeze(-1), target[:, :-1]], 1)
            return (source, before), target

        def evaluate_split(self, batch: tuple[Any, Any]) -> tuple[Any, Any]:
            return batch

    source = numbers(4) + 1
    target = torch.stack([2 * source, 4 * source, 9 * source], 1)
    net = Decoder()
    est = Estimator(net, nn.L1Loss(), processor=Translation())
    still = QUIET | {"trainers": torch.optim.SGD(net.parameters(), lr=0.0)}
    stats = est.fit([(source, target)], [(source, target)], 1, **still)
    assert stats["train_loss"] == [pytest.approx(mean(source) / 3)]
    assert stats["val_loss"] == [pytest.approx(mean(source) / 3)]
    assert whole(est.predict([(source[:1], target[:1])])) == [2, 4, 8]


@pytest.mark.parametrize("processor", [BatchProcessor, "default", 3])
def test_a_processor_must_be_an_object(processor: Any) -> None:
    with pytest.raises(ArgumentTypeError, match=r"processor=\.\.\.\) must be a BatchProcessor obj"):
        Estimator(line(), nn.MSELoss(), processor=processor)


def test_training_needs_a_loss_from_somewhere() -> None:
    class Evaluates(BatchProcessor):
        def evaluate_loss(self, outputs: Any, targets: Any) -> Any:
            return outputs.mean()

    for processor in (None, BatchProcessor(), Evaluates()):
        with pytest.raises(ArgumentError, match=r"Estimator\(loss=\.\.\.\) is needed to train"):
            Estimator(line(), processor=copy.copy(processor)).fit(BATCHES, **QUIET)
