"""What a reservoir did: how often samples were drawn, how old they were, how long it waited."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class ReservoirReport:
    """Numbers of a reservoir since its workers were started; `print` shows them.

    Attributes:
        capacity: Samples that can be drawn at a time.
        max_reuse: How often one may be drawn.
        batches: How many were drawn.
        samples: Samples of all of them.
        fresh: Different samples that workers made for them.
        reuse_counts: How many of those that are gone were drawn 0, 1, 2, ... times.
        age_counts: How many draws met a sample of 0, 1 to 2, 3 to 6, 7 to 14, ... batches.
        stalls: Batches that had to wait for workers.
        stall_seconds: How long they waited.
        start_seconds: How long the first batch waited.
        fill: Samples that can be drawn at present.
        dropped: Samples that could not be made and were left out.
        restarts: Workers that died and were replaced.
    """

    capacity: int
    max_reuse: int
    batches: int = 0
    samples: int = 0
    fresh: int = 0
    reuse_counts: list[int] = field(default_factory=list)
    age_counts: list[int] = field(default_factory=list)
    stalls: int = 0
    stall_seconds: float = 0.0
    start_seconds: float = 0.0
    fill: int = 0
    dropped: int = 0
    restarts: int = 0

    @property
    def reuse(self) -> float:
        """How often a sample was drawn on average, those that may be drawn again included."""
        return self.samples / self.fresh if self.fresh else 0.0

    def __str__(self) -> str:
        reuse = ", ".join(f"{n}x: {count}" for n, count in enumerate(self.reuse_counts) if count)
        ages = ", ".join(
            f"{2**n - 1} to {2 ** (n + 1) - 2}: {count}"
            for n, count in enumerate(self.age_counts)
            if count
        )
        return "\n".join(
            (
                f"drawn     {self.samples} samples in {self.batches} batches, {self.fresh} fresh",
                f"reuse     {self.reuse:.2f} on average, {self.max_reuse} at most; {reuse}",
                f"age       in batches, {ages}",
                f"waited    {self.stall_seconds:.2f} s in {self.stalls} batches, and "
                f"{self.start_seconds:.2f} s at the start",
                f"filled    {self.fill} of {self.capacity}",
                f"failed    {self.dropped} samples left out, {self.restarts} workers replaced",
            )
        )
