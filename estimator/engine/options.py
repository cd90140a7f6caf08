"""`Engine`: how steps are computed, as the user says it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from estimator.engine.cause import Cause
from estimator.handlers.base import ArgumentError, ArgumentTypeError, nearest
from estimator.notices import notice


class EngineError(ArgumentError):
    """A tier was asked for that cannot compute this step."""


@dataclass(frozen=True)
class Engine:
    """How steps are computed.

    Args:
        tier: "auto" replays a step where that is proven to give the same bits, is faster, and
            the run is long enough to pay for it. "eager" is the plain loop. "replay" asks for it
            by name: it is used from the first step that can be written down, whatever the clock.
            "graph" asks for the same on CUDA, where "auto" climbs to it.
            "compile" turns the step into machine code, which takes tens of seconds and a C++
            compiler; "auto" does so only with `verify="close"`, in a run that saves three times
            that.
        data: Where data in memory is kept for a run on an accelerator: "auto" on the device if it
            fits into 40 % of the memory that is free there, "device" as long as it fits at all,
            "host" never. On the CPU all three are the same.
        verify: What a faster tier must give to be used: "equal" bits, or "close" values. None is
            "equal" for the replayed tier and "close" for others: the compiled one rounds in
            another order (values to a thousandth), and on CUDA eager steps do not repeat every
            bit themselves (to 1e-5). A CUDA graph with "equal" bits freezes learning rates and is
            made anew when one changes; with "close" Adam, AdamW and SGD are fused and read their
            rate on the device, as a float32.
        on_fallback: What happens where a step stays eager, or data on the host: "warn" says why
            in one line, "error" raises if the tier, or `data="device"`, was asked for, "silent"
            keeps it for the report.

    Raises:
        ArgumentError: An unknown value.

    Example:
        >>> Engine("replay", on_fallback="error")
        Engine(tier='replay', data='auto', verify=None, on_fallback='error')
    """

    tier: Literal["auto", "eager", "replay", "graph", "compile"] = "auto"
    data: Literal["auto", "host", "device"] = "auto"
    verify: Literal["equal", "close"] | None = None
    on_fallback: Literal["warn", "error", "silent"] = "warn"

    def __post_init__(self) -> None:
        for name, known in _KNOWN.items():
            value = getattr(self, name)
            if value not in known:
                raise ArgumentError(
                    f"Engine({name}=...) must be one of {', '.join(map(repr, known))}; received "
                    f"{value!r}. {nearest(str(value), list(map(str, known)))}"
                )

    def fall_back(self, cause: Cause) -> None:
        """Says why a step stays eager, or data on the host.

        Raises:
            EngineError: What is not to be had was asked for, with `on_fallback="error"`.
        """
        of_data = cause.code == "E115"
        asked = self.data == "device" if of_data else self.by_name
        if self.on_fallback == "error" and asked:
            raise EngineError(f"fit(engine={self!r}): {cause}")
        if self.on_fallback == "warn":
            stays = "Data is streamed from the host" if of_data else "Steps are computed eagerly"
            notice(f"{stays}. {cause}", show=False)

    @property
    def by_name(self) -> bool:
        """Whether a faster tier was asked for by its name."""
        return self.tier in ("replay", "graph", "compile")

    @property
    def exact(self) -> bool:
        """Whether programs must give equal bits."""
        return (self.verify or ("close" if self.tier == "compile" else "equal")) == "equal"

    @property
    def climbs(self) -> tuple[str, ...]:
        """The tiers that are tried, one after the other."""
        if self.by_name:
            return (self.tier,)
        return ("replay",) if self.exact else ("replay", "compile")


_KNOWN = {
    "tier": ("auto", "eager", "replay", "graph", "compile"),
    "data": ("auto", "host", "device"),
    "verify": ("equal", "close", None),
    "on_fallback": ("warn", "error", "silent"),
}


def check_engine_argument(engine: object) -> Engine:
    """Returns the engine that `fit` was given.

    Raises:
        ArgumentTypeError: It is neither an `Engine` nor the name of a tier.
    """
    if isinstance(engine, str):
        return Engine(engine)  # type: ignore[arg-type]  # it checks the name
    if not isinstance(engine, Engine):
        raise ArgumentTypeError(
            f"fit(engine=...) must be 'auto', 'eager', 'replay' or an Engine; received {engine!r}."
        )
    return engine
