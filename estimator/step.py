"""`Step`: what is done with one batch, in training and in evaluation."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch

from estimator.accumulation import Accumulation
from estimator.gather import Picked
from estimator.handlers.base import ArgumentError, DataError, nearest
from estimator.loss import as_losses
from estimator.loss_kinds import Count, items_in_graph
from estimator.processor import UID, BatchProcessor, UidSample, describe
from estimator.runtime import Runtime, detach
from estimator.stats import TrainStats
from estimator.trainer import BoundTrainer

Strategy = Literal["ddp", "fsdp2"]


class Step:
    """The work on one batch; every result goes into the batch fields of the stats.

    Args:
        stats: The shared state.
        processor: Bound to the net and its loss.
        runtime: Device and precision.
        needs: What handlers declared: "sample_losses", "uids".
    """

    def __init__(
        self, stats: TrainStats, processor: BatchProcessor, *, runtime: Runtime, needs: set[str]
    ) -> None:
        self.stats, self.processor, self.runtime = stats, processor, runtime
        self.serve(needs)
        self.is_sum = processor.sums()
        self.averages_classes = processor.averages_classes
        self.evaluates_sum = processor.sums(evaluating=True)
        self.trainers: list[BoundTrainer] = []
        self.parameters: list[torch.Tensor] = []
        self.accumulation = Accumulation(1, is_sum=self.is_sum)
        self.weight: Count = 0
        """What this batch counts in a mean loss."""
        self.samples = 0
        """Samples of this batch, over all processes."""

    def group_by(self, batches: int) -> None:
        """Lets an optimizer step follow each group of so many batches."""
        self.accumulation = Accumulation(batches, is_sum=self.is_sum)

    def spread_by(self, strategy: Strategy | None) -> None:
        """Chooses how several processes train one net.

        Args:
            strategy: "ddp" (which None means too) or "fsdp2"; one process warns of either.

        Raises:
            ArgumentError: It is neither.
        """
        check_strategy(strategy)
        if strategy is not None:
            warnings.warn(
                f"fit(strategy={strategy!r}) has no effect in one process. Start several, as in: "
                "torchrun --nproc-per-node 2 your_script.py",
                stacklevel=4,
            )

    def shard(self) -> None:
        """Splits the weights over several processes, before optimizers take them."""

    def join(self, loss: torch.Tensor) -> None:
        """Makes several processes train one net.

        Args:
            loss: Of a batch for a look, with its graph.
        """

    def leave(self) -> None:
        """Lets go of what `join` made."""

    def settle(self) -> None:
        """Gives the net the same buffers on all processes, before they are used or saved."""

    def in_order(self, outputs: list[Any]) -> list[Any]:
        """The outputs of all processes for each batch, in the order of its samples.

        Args:
            outputs: Of each batch, for the samples of this process.
        """
        return outputs

    def serve(self, needs: set[str]) -> None:
        """Takes over what the present handlers want computed."""
        self.per_sample, self.needs_uids = "sample_losses" in needs, "uids" in needs

    def open(self, batch: Any) -> None:
        """Brings a batch to the device and fills the batch fields."""
        stats, processor = self.stats, self.processor
        stats.uids = stats.outputs = stats.loss = stats.sample_losses = None
        if type(batch) is Picked:
            batch = batch.take(batch.rows)
        if type(batch) is UidSample:
            batch, stats.uids = batch
        elif isinstance(batch, Mapping):
            stats.uids = batch.get(UID)
        if batch is None:
            raise _no_batch(stats)
        if self.needs_uids and stats.uids is None:
            raise _no_uids(batch)
        stats.batch = batch
        split = processor.split if stats.phase == "train" else processor.evaluate_split
        inputs, targets = split(batch)
        move = self.runtime.move
        stats.inputs = inputs = move(inputs)
        stats.targets = targets = move(targets)
        stats.batch_size = self.samples = processor.size(inputs, targets)

    def forward(self) -> torch.Tensor:
        """Runs the net and the loss.

        Returns:
            The loss to differentiate.
        """
        stats, processor = self.stats, self.processor
        with self.runtime.autocast:
            outputs = stats.outputs = processor.forward(stats.inputs)
            loss = processor.loss(outputs, stats.targets)
        return self._keep(loss)

    def _keep(self, result: Any) -> torch.Tensor:
        stats = self.stats
        loss, parts = as_losses(result, "the loss")
        stats.loss = loss.detach()
        stats.losses = {name: part.detach() for name, part in parts.items()} if parts else {}
        if self.per_sample:
            with torch.no_grad():
                single = self.processor.sample_losses(detach(stats.outputs), stats.targets)
            stats.sample_losses = single.detach().float()
        return loss

    def backward(self, loss: torch.Tensor) -> None:
        """Adds this batch's gradients to those of its group."""
        stats, group = self.stats, self.accumulation
        if group.filled == 0:
            for parameter in self.parameters:
                parameter.grad = None
        samples = stats.batch_size
        assert samples is not None
        outputs = stats.outputs = detach(stats.outputs)
        divided_by = items_in_graph(loss) if self.averages_classes else None
        if divided_by is None:
            items = self.processor.count(outputs, stats.targets, samples)
        else:
            items = divided_by
        self.weight = samples if self.is_sum else items
        self.runtime.backward(group.weigh(loss, items, samples) if group.weighs else loss)
        group.filled += 1
        stats.stepped = False

    def finish_gradients(self) -> None:
        """Makes the gradients complete and unscaled."""
        self.runtime.unscale(self.trainers)
        self.accumulation.finish(self.parameters)

    def update(self) -> None:
        """Clips, lets the optimizers step, and advances schedulers that count steps."""
        for trainer in self.trainers:
            trainer.clip()
        if self.runtime.step(self.trainers):
            for trainer in self.trainers:
                trainer.after_step()
            self.stats.stepped = True
            self.stats.step += 1

    def evaluate(self) -> None:
        """Runs the net, and the loss unless this is a prediction."""
        stats, processor = self.stats, self.processor
        with self.runtime.autocast:
            outputs = stats.outputs = processor.evaluate_forward(stats.inputs)
            if not self.evaluates_loss:
                return
            loss = processor.evaluate_loss(outputs, stats.targets)
        self._keep(loss)
        self._weigh_evaluated()

    @property
    def evaluates_loss(self) -> bool:
        """Whether the present pass without gradients has a loss."""
        return self.stats.phase != "predict" and self.processor.has_loss

    def _weigh_evaluated(self) -> None:
        stats = self.stats
        samples = stats.batch_size
        assert samples is not None
        counted = self.processor.evaluate_count(stats.outputs, stats.targets, samples)
        self.weight = samples if self.evaluates_sum else counted


def check_strategy(strategy: object) -> None:
    """Checks that a strategy is None or a known one."""
    if strategy is not None and strategy not in get_args(Strategy):
        raise ArgumentError(
            f"fit(strategy=...) must be 'ddp', 'fsdp2' or None; received {strategy!r}. "
            f"{nearest(str(strategy), get_args(Strategy))}"
        )


def _no_batch(stats: TrainStats) -> DataError:
    number = "a batch" if stats.batch_index is None else f"batch {stats.batch_index + 1}"
    return DataError(
        f"the {stats.phase} data must yield batches; received None as {number}. Does the "
        "collate_fn of the loader, or the generator, end with a return?"
    )


def _no_uids(batch: Any) -> DataError:
    return DataError(
        f"a handler follows single samples and needs their identities; received a batch without: "
        f"{describe(batch)}. Wrap the data: with_uids(loader), or add a key {UID!r} to "
        "dictionary batches."
    )
