"""The ways of training that are compared, and what each is held against."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from _engine_fits import engine_of, fit
from _engine_loops import Train, careful, graphed, textbook
from _engine_workloads import Workload


@dataclass(frozen=True)
class Variant:
    """A way of training."""

    train: Train
    what: str
    reference: str | None = None
    """Whose weights it should end with, to the last bit."""
    has_bar: bool = False


def variants(workload: Workload, *, compiled: bool) -> dict[str, Variant]:
    """All variants for a workload.

    Args:
        workload: What is trained.
        compiled: Whether those are among them that compile, which takes a minute.
    """
    hand = {
        "B0": Variant(textbook, "textbook: DataLoader, default Adam, .item() in each step", "B1"),
        "B1": Variant(careful, "careful: batches by index_select, fused Adam, sums on the device"),
        "B1 + val": Variant(
            partial(careful, validate=True),
            "B1 with a validation each epoch and a schedule stepped in each step",
        ),
    }
    if compiled:
        wrapped = partial(careful, compiled=True)
        hand["B2"] = Variant(wrapped, "B1 with torch.compile(net)", "B1")
    if workload.device == "cuda" and not workload.streamed:
        hand["B3"] = Variant(
            graphed, "an expert's CUDA graph of the whole step, data on the device", "B1"
        )
    return hand | _fits(_tiers(workload, compiled=compiled))


def _tiers(workload: Workload, *, compiled: bool) -> list[str]:
    faster = "replay" if workload.device == "cpu" else "graph"
    named = ["eager", "auto", faster, *(["compile"] if compiled else [])]
    return [tier for tier in named if engine_of(tier) is not None]


def _fits(tiers: list[str]) -> dict[str, Variant]:
    bare = {
        f"fit {tier}": Variant(
            partial(fit, tier=tier), f"fit(engine={tier!r}), metrics=['accuracy'] only", "B1"
        )
        for tier in tiers
    }
    everything = {
        f"fit {tier}, all": Variant(
            partial(fit, tier=tier, everything=True),
            f"fit(engine={tier!r}) with all handlers on",
            "B1 + val",
            has_bar=True,
        )
        for tier in tiers
    }
    return bare | everything


def cold_variants() -> dict[str, Variant]:
    """Those that train for few steps in a process of their own, and know how few they are."""
    fits = {
        name: Variant(partial(entry.train, announced=True), entry.what)
        for name, entry in _fits(["eager", "auto"]).items()
    }
    return {
        "B0": Variant(textbook, "textbook"),
        "B1": Variant(careful, "careful"),
        "B1 + val": Variant(partial(careful, validate=True), "B1 with validation and schedule"),
    } | fits


BASELINES = ("B0", "B1", "B1 + val", "B2", "B3")


def against(name: str, names: list[str]) -> list[str]:
    """The baselines that a variant is held against, of those that are there.

    Bare variants do not validate, so they are not compared with a loop that does.
    """
    others = [b for b in BASELINES if b in names and b != name]
    return others if name.endswith(", all") else [b for b in others if b != "B1 + val"]
