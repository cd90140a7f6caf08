"""What a recorded batch gives, and the proof that it gives what the eager step does."""

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Callable, Container, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch

from estimator.engine.capture import Recorded
from estimator.engine.cause import CannotTraceError, Cause, place_of
from estimator.engine.leaves import flatten, rebuild
from estimator.engine.standing import Sight, Untouched, modules_of
from estimator.engine.watch import owners
from estimator.randomness import random_states, set_random_states
from estimator.step import Step

if TYPE_CHECKING:
    from estimator.engine.graph import GraphStep

Named = list[tuple[str, torch.Tensor | None]]
_BATCH_FIELDS = (
    *("batch", "inputs", "targets", "uids", "batch_size"),
    *("outputs", "loss", "losses", "sample_losses", "stepped"),
)
_NEAR = 1e-5


class Shown:
    """What a batch shows to handlers, in memory that its next replay writes over.

    Made inside the recording, from what the step has left in the stats.

    Args:
        step: After its backward.
    """

    def __init__(self, step: Step) -> None:
        stats, weight = step.stats, step.weight
        self.names = list(stats.losses)
        self.outputs: list[torch.Tensor] = []
        self.form = flatten(stats.outputs, self.outputs)
        self.single = stats.sample_losses
        self.samples = step.samples
        self.count = None if isinstance(weight, torch.Tensor) else weight
        self.numbers = _numbers(step)
        alike = len({(t.dtype, t.shape) for t in self.numbers}) == 1
        # One copy of all of them is one launch a step, in place of one each.
        self.packed = torch.stack(self.numbers) if alike else None

    def give(self, step: Step) -> None:
        """Fills the batch fields with copies, which handlers may keep."""
        stats = step.stats
        if self.packed is None:
            numbers = [number.clone() for number in self.numbers]
        else:
            numbers = list(self.packed.clone().unbind())
        stats.outputs = rebuild(self.form, [output.clone() for output in self.outputs])
        stats.sample_losses = None if self.single is None else self.single.clone()
        if numbers:  # a prediction has none
            stats.loss = numbers[0]
            stats.losses = dict(zip(self.names, numbers[1:], strict=False))
            step.weight = numbers[-1] if self.count is None else self.count

    def named(self) -> Named:
        """All of it, for a comparison."""
        numbers: Named = [("loss", number) for number in self.numbers]
        return [*numbers, *(("output", t) for t in self.outputs), ("loss of a sample", self.single)]


def shown_by(step: Step) -> Named:
    """What an eager step has shown, in the order of `Shown.named`."""
    stats, outputs = step.stats, []  # type: ignore[var-annotated]  # filled by flatten
    flatten(stats.outputs, outputs)
    named: Named = [("loss", number) for number in _numbers(step)]
    return [*named, *(("output", t) for t in outputs), ("loss of a sample", stats.sample_losses)]


def _numbers(step: Step) -> list[torch.Tensor]:
    """The loss, its parts and what the batch counts; nothing in a prediction."""
    stats, weight = step.stats, step.weight
    if stats.loss is None:
        return []
    counted = [weight] if isinstance(weight, torch.Tensor) else []
    return [stats.loss, *stats.losses.values(), *counted]


class Odd(NamedTuple):
    """A result of a replay that is not the eager one."""

    name: str
    is_near: bool


class Trial:
    """A replay whose effects are undone, to be compared with the eager step that follows.

    Args:
        device: Of the run.
        tensors: All that the replay writes to and the eager step too.
        replay: Does the work.
        results: What it gives besides.
    """

    def __init__(
        self, device: torch.device, tensors: Named, *, replay: Callable[[], None], results: Named
    ) -> None:
        self.device, self.tensors = device, tensors
        held = [t for _, t in (*tensors, *results) if t is not None]
        before, streams = [t.detach().clone() for t in held], random_states(device)
        try:
            replay()
            self.made, self.drawn = _copies([*results, *tensors]), random_states(device)
        finally:
            with torch.no_grad():
                for tensor, content in zip(held, before, strict=True):
                    tensor.copy_(content)
            set_random_states(streams, device)

    def difference(self, results: Named, *, close: bool) -> Odd | None:
        """What the replay has made otherwise than the eager step, which has been by now.

        Args:
            results: What that has given, in the order of those of the replay.
            close: Whether rounding may differ.
        """
        drawn = random_states(self.device)
        for stream in ("torch", "device"):
            if stream in drawn and not torch.equal(drawn[stream], self.drawn[stream]):
                return Odd("number of random draws", False)
        now = [*results, *self.tensors]
        if len(now) != len(self.made):
            return Odd("number of results", False)
        pairs = []
        for (name, wanted), (_, made) in zip(now, self.made, strict=True):
            if wanted is None or made is None or _kind(made) != _kind(wanted):
                if made is not wanted:
                    return Odd(name, False)
            else:
                pairs.append((name, made, wanted.detach()))
        # One wait for all of them.
        equal = torch.stack([_is_same(made, wanted).to(self.device) for _, made, wanted in pairs])
        unequal = [pair for pair, is_same in zip(pairs, equal.tolist(), strict=True) if not is_same]
        odds = [Odd(name, _is_near(made, wanted)) for name, made, wanted in unequal]
        # What is far off says more than what is near.
        odds.sort(key=lambda odd: odd.is_near)
        return next((odd for odd in odds if not (close and odd.is_near)), None)


def _kind(tensor: torch.Tensor) -> tuple[torch.Size, torch.dtype]:
    return tensor.shape, tensor.dtype


def _copies(tensors: Named) -> Named:
    return [(name, None if t is None else t.detach().clone()) for name, t in tensors]


def _is_same(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return ((a == b) | ((a != a) & (b != b))).all()


def _is_near(a: torch.Tensor, b: torch.Tensor) -> bool:
    if not a.is_floating_point():
        return False
    room = max(_NEAR, 4 * torch.finfo(a.dtype).eps)
    gap, size = (a - b).double().abs().amax(), b.double().abs().amax()
    return bool(gap <= room * size)


def written(step: Step, *, weights: bool, but: Container[int] = ()) -> Named:
    """What a step writes to in place: buffers, and weights with their optimizer's state.

    Args:
        step: Of the run.
        weights: Whether its optimizers step too.
        but: Ids of tensors that only the eager step writes to.
    """
    named: Named = []
    for owner in owners(step.processor):
        named += [("buffer", buffer) for buffer in owner.buffers()]
    if weights:
        named += [("weight", p) for p in step.parameters]
        for trainer in step.trainers:
            for state in trainer.optimizer.state.values():
                named += [("state", t) for t in state.values() if _is_written(t, but)]
    return named


def _is_written(value: object, but: Container[int]) -> bool:
    return isinstance(value, torch.Tensor) and id(value) not in but


@contextlib.contextmanager
def put_back(step: Step) -> Iterator[None]:
    """Makes the step, the batch fields and the gradients as they were before a recording."""
    stats = step.stats
    before = {name: getattr(stats, name) for name in _BATCH_FIELDS}
    weight, group, samples = step.weight, step.accumulation, step.samples
    gradients = [p.grad for p in step.parameters]
    step.accumulation = copy.copy(group)
    # Casts that were kept from outside would be frozen, and those made inside are not computed.
    torch.clear_autocast_cache()
    try:
        yield
    finally:
        torch.clear_autocast_cache()
        step.weight, step.accumulation, step.samples = weight, group, samples
        for name, value in before.items():
            setattr(stats, name, value)
        for p, gradient in zip(step.parameters, gradients, strict=True):
            p.grad = gradient


def record(
    step: GraphStep, work: Callable[[], None], inputs: Sequence[torch.Tensor], *, lends: bool,
    sight: Sight | None = None,
) -> tuple[Recorded, float]:  # fmt: skip
    """Records work of a step, and leaves everything as it was.

    Args:
        step: Whose work it is.
        work: What is recorded.
        inputs: Tensors that get other values.
        lends: Whether optimizers step in it.
        sight: Who is to see what it takes for granted; None for a training step.

    Returns:
        The recording, and the seconds that it took.

    Raises:
        CannotTraceError: The work is more than what the device does.
    """
    began = time.perf_counter()
    (step.sight if sight is None else sight).note()
    untouched = Untouched([step.processor, *modules_of(step.processor)])
    with contextlib.ExitStack() as stack:
        stack.callback(untouched.put_back)
        stack.enter_context(put_back(step))
        for lent in step.updates.lents if lends else ():
            stack.enter_context(lent.lent())
        try:
            recorded = step.recorder.record(work, inputs)
        except Exception:
            # Random numbers may come from a renewed stream by now, which others do not know.
            step.let_go()
            raise
        changed = untouched.changed()
    if changed is not None:
        recorded.reset()
        raise CannotTraceError(Cause("E104", changed))
    step.cost = time.perf_counter() - began
    return recorded, step.cost


def cause_of(error: Exception, what: str) -> Cause:
    """Why something could not be recorded."""
    if isinstance(error, CannotTraceError):
        return error.cause
    if isinstance(error, torch.OutOfMemoryError):
        return Cause("E118", "there is not enough memory for a recording")
    line = str(error).partition("\n")[0]
    code = "E102" if what == "the step" else "E116"
    return Cause(code, f"{what} cannot be recorded: {line}", place_of(error))


def static_copies(leaves: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Tensors of their own for the values of a batch."""
    return [leaf.detach().clone().requires_grad_(leaf.requires_grad) for leaf in leaves]
