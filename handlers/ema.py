"""`EMAHandler`: an exponential moving average of the weights."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch

from estimator.handlers._parts import own_parts
from estimator.handlers.base import (
    ArgumentError,
    Band,
    Clock,
    DataError,
    EventHandler,
    Every,
    HandlerError,
    check_every,
)

if TYPE_CHECKING:
    from estimator.stats import TrainStats


_Pairs = tuple[list[torch.Tensor], list[torch.Tensor]]


class EMAHandler(EventHandler):
    """Averages the weights over the steps, and validates with the average.

    From the weights at the beginning on, after each optimizer step,

        average <- decay * average + (1 - decay) * weights

    (Polyak and Juditsky, Acceleration of Stochastic Approximation by Averaging, 1992; with
    exponential weights as in Tarvainen and Valpola, arXiv:1703.01780). Weights in half precision
    are averaged in float32. Buffers are not averaged: running statistics stay those of the net.

    While the handler is attached, `validation`, `evaluate` and `predict` use the average. It is
    copied into the parameters in place and the weights are copied back afterwards, so optimizers
    and captured graphs keep their tensors. One average of a net can be shown at a time.

    Args:
        decay: How much of the average stays at each update, from 0 to below 1.
        every: The steps at which to update; None means each.
        warmup: Whether the decay of update t (from 0) is at most (1 + t) / (10 + t), so that
            the first weights are forgotten sooner.
        use_at_end: Whether the average is left in the net when the run ends without an error.
        band: When it runs within an event, before PERSIST; OBSERVE by default.

    Raises:
        ArgumentError: `decay` is out of its range, `every` is not in steps, or `band` is too late.

    Example:
        >>> import torch
        >>> from estimator import Estimator
        >>> data = (torch.randn(8, 2), torch.randn(8, 1))
        >>> net, ema = torch.nn.Linear(2, 1), EMAHandler(decay=0.9)
        >>> stats = Estimator(net, torch.nn.MSELoss()).fit(
        ...     data, epochs=3, device="cpu", handlers=[ema], progress=False
        ... )
        >>> ema.count
        3
        >>> averaged = torch.nn.Linear(2, 1)
        >>> averaged.load_state_dict(ema.averaged_state(net))
        <All keys matched successfully>
    """

    band = Band.OBSERVE
    state_names = ("shadow", "count")

    def __init__(
        self,
        decay: float = 0.999,
        *,
        every: Every | None = None,
        warmup: bool = False,
        use_at_end: bool = False,
        band: Band | None = None,
    ) -> None:
        super().__init__(band=band)
        if not 0.0 <= decay < 1.0:
            raise ArgumentError(
                f"EMAHandler(decay=...) must be a number from 0 to below 1; received {decay!r}."
            )
        if every is not None and check_every(every, "EMAHandler(every=...)").unit != "steps":
            raise ArgumentError(f"EMAHandler(every=...) must be in steps; received {every!r}.")
        if self.band >= Band.PERSIST:
            raise ArgumentError(
                "EMAHandler(band=...) must come before Band.PERSIST, since a checkpoint would hold "
                f"the average in place of the weights; received {self.band!r}."
            )
        self.decay = decay
        self.every = every
        self.warmup = warmup
        self.use_at_end = use_at_end
        self.count = 0
        self.shadow: dict[str, torch.Tensor] = {}
        self._clock: Clock | None = None
        self._same: _Pairs = ([], [])
        self._half: _Pairs = ([], [])
        self._shown_in: TrainStats | None = None
        self._weights: list[torch.Tensor] = []

    def train_begin(self, stats: TrainStats) -> None:
        """Starts from the net's weights; a resumed run goes on with its average."""
        self._claim(stats)
        live = _averaged_parameters(stats.net)
        start = live
        if stats.samples == 0 or not self.shadow:
            self.count = 0
        else:
            _check_match(self.shadow, live)
            start = self.shadow
        self.shadow = {
            name: start[name].detach().to(p.device, _wide(p.dtype), copy=True)
            for name, p in live.items()
        }
        pairs = [(self.shadow[name], p) for name, p in live.items()]
        self._same = _columns([(s, p) for s, p in pairs if s.dtype == p.dtype])
        self._half = _columns([(s, p) for s, p in pairs if s.dtype != p.dtype])
        self._clock = None if self.every is None else self.every.clock(stats)

    @torch.no_grad()
    def batch_end(self, stats: TrainStats) -> None:
        """Updates the average after an optimizer step."""
        if stats.error is not None or not stats.stepped:
            return
        if self._clock is not None and not self._clock.due(stats):
            return
        decay = self.decay
        if self.warmup:
            decay = min(decay, (1 + self.count) / (10 + self.count))
        shadow, live = self._same
        if shadow:
            torch._foreach_lerp_(shadow, live, 1 - decay)
        shadow, live = self._half
        if shadow:
            # lerp takes one precision only.
            torch._foreach_mul_(shadow, decay)
            torch._foreach_add_(shadow, live, alpha=1 - decay)
        self.count += 1

    @torch.no_grad()
    def validation_begin(self, stats: TrainStats) -> None:
        """Puts the average into the net."""
        # Inside a validation that shows it already, a second swap would lose the weights.
        if not self.shadow or self._shown_in is not None:
            return
        self._claim(stats)
        live = _averaged_parameters(stats.net)
        _check_match(self.shadow, live)
        self._weights = [p.detach().clone() for p in live.values()]
        self._shown_in = stats
        self._show(live)

    @torch.no_grad()
    def validation_end(self, stats: TrainStats) -> None:
        """Puts the weights back, also with an error on its way."""
        if self._shown_in is stats:
            live = _averaged_parameters(stats.net)
            _copy(list(live.values()), self._weights)
            self._shown_in, self._weights = None, []

    @torch.no_grad()
    def train_end(self, stats: TrainStats) -> None:
        """Leaves the average in the net if asked to, and lets the net go."""
        self.validation_end(stats)
        if self.use_at_end and stats.error is None and self.shadow:
            self._show(_averaged_parameters(stats.net))
        self._same = self._half = ([], [])
        self._clock = None
        stats.scratch.pop(self, None)

    def validated_weights(self) -> dict[str, torch.Tensor]:
        """The average, which validation sees."""
        return self.shadow

    @torch.no_grad()
    def averaged_state(self, net: torch.nn.Module) -> dict[str, Any]:
        """The net's state with the average in place of its weights, as copies.

        Args:
            net: The net that was trained.

        Returns:
            A state dict for a net of the same class; buffers are copies of the net's own.

        Raises:
            DataError: The net is not like the one that was trained.
        """
        live = _averaged_parameters(net)
        _check_match(self.shadow, live)
        state: dict[str, Any] = copy.deepcopy(net.state_dict())
        # The other names of a shared parameter share its copy too.
        for name in live:
            state[name].copy_(self.shadow[name])
        return state

    def _claim(self, stats: TrainStats) -> None:
        others = [h for h in stats.scratch if isinstance(h, EMAHandler) and h is not self]
        if others:
            raise HandlerError(
                "handlers must hold one EMAHandler at most, since a validation can show one "
                f"average only; received {others[0]!r} and {self!r}. Remove one."
            )
        stats.scratch[self] = None

    def _show(self, live: dict[str, torch.Tensor]) -> None:
        _copy(list(live.values()), [self.shadow[name] for name in live])


def _columns(pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> _Pairs:
    return own_parts([s for s, _ in pairs]), own_parts([p for _, p in pairs])


def _copy(targets: list[torch.Tensor], sources: list[torch.Tensor]) -> None:
    torch._foreach_copy_(own_parts(targets), own_parts(sources))


def _averaged_parameters(net: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Parameters that have an average: no integers; those that are shared, once."""
    return {
        name: p for name, p in net.named_parameters() if p.is_floating_point() or p.is_complex()
    }


def _wide(dtype: torch.dtype) -> torch.dtype:
    """The precision to average in; in half precision a small step would be rounded away."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def _check_match(shadow: dict[str, torch.Tensor], live: dict[str, torch.Tensor]) -> None:
    ours = {name: tuple(t.shape) for name, t in shadow.items()}
    theirs = {name: tuple(p.shape) for name, p in live.items()}
    if ours != theirs:
        odd = sorted(name for name, _ in ours.items() ^ theirs.items())
        raise DataError(
            "EMAHandler: the average must have the names and shapes of the net's parameters; "
            f"they differ in {odd[:5]}. Use the handler with the net that it was trained with."
        )
