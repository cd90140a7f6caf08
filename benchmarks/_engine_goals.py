"""What the suite is to show, and whether it does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

EVERYTHING, EAGER = "fit auto, all", "fit eager, all"


@dataclass(frozen=True)
class Goal:
    """A number that a variant is to reach.

    Attributes:
        name: What the suite calls it.
        workload: Where it is measured.
        limit: The least ratio for `against`, else the most of `measure`.
        against: The baseline whose time is divided by the variant's.
        measure: "syncs_per_step" or "host_us" where it is no ratio.
        variant: Who is to reach it.
    """

    name: str
    workload: str
    limit: float
    against: str | None = "B1"
    measure: str | None = None
    variant: str = EVERYTHING

    @property
    def id(self) -> str:
        """Its name and its baseline, as in "C1 vs B1"; the key of its reason."""
        return f"{self.name} vs {self.against}" if self.measure is None else self.name

    def judge(self, workloads: dict[str, Any], clock: str) -> dict[str, Any] | None:
        """The goal with what was measured, or None where nothing was.

        Args:
            workloads: By their names, as in the JSON.
            clock: "cpu" or "wall": by which is judged.
        """
        variant = workloads.get(self.workload, {}).get("variants", {}).get(self.variant)
        if variant is None:
            return None
        told = {"id": self.id, "workload": self.workload, "variant": self.variant}
        told |= {"against": self.against if self.measure is None else None, "limit": self.limit}
        if self.measure is not None:
            value = variant[self.measure]
            if value is None:
                return None
            return told | {"measure": self.measure, "value": value, "met": value <= self.limit}
        held = variant["ratios"].get(self.against)
        if held is None:
            return None
        fair = variant["ratios"].get("B1 + val")
        value = held["epochs"][clock]["median"]
        return told | {
            "measure": "ratio",
            "value": value,
            "spread": held["epochs"][clock],
            "steps_alone": held["steps"][clock]["median"],
            "with_validation": fair["epochs"][clock]["median"] if fair else None,
            "met": value >= self.limit,
        }


def _ratios(limits: dict[str, float], against: str) -> list[Goal]:
    return [Goal(name, name, limit, against) for name, limit in limits.items()]


GOALS = (
    *_ratios({"C1": 2.5, "C2": 1.6, "C3": 2.4, "C4": 1.05, "C5": 1.7, "C6": 1.0, "C7": 1.0}, "B1"),
    Goal("C8", "C2", 1.1, variant=EAGER),
    Goal("C10", "C10", 1.0),
    *_ratios({"C1": 6.0, "C2": 2.8, "C3": 5.0}, "B0"),
    *_ratios(
        {"G1": 8.0, "G2": 8.0, "G3": 3.0, "G4": 3.0, "G5": 1.02, "G6": 0.995, "G7": 1.3}, "B1"
    ),
    *_ratios(dict.fromkeys(("G1", "G2", "G3", "G4", "G5", "G6"), 0.99), "B3"),
    # A guard that reads its finding every 100 steps is not a step that waits.
    *(
        Goal(f"G8 {name}", name, 0.02, measure="syncs_per_step")
        for name in ("G1", "G2", "G3", "G4", "G5", "G6")
    ),
    Goal("G9", "G1", 20.0, measure="host_us"),
)


def judged(workloads: list[dict[str, Any]], clock: str) -> list[dict[str, Any]]:
    """All goals for which something was measured."""
    by_name = {workload["id"]: workload for workload in workloads}
    found = (goal.judge(by_name, clock) for goal in GOALS)
    return [goal for goal in found if goal is not None]
