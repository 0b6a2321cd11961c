"""A figure: what was measured, and what it is held to."""

from __future__ import annotations

import os
import statistics
from collections.abc import Sequence

from msgspec import Struct


class Row(Struct, frozen=True):
    """measured: quantity → value, in the unit that the name says. bounds: quantity → (least, most), None for neither.
    note: why nothing was measured, or what must be known to read it."""

    name: str
    measured: dict[str, float]
    bounds: dict[str, tuple[float | None, float | None]] = {}
    note: str = ""

    def is_met(self) -> bool | None:
        """None: nothing was measured, or it is held to nothing."""
        if not self.measured or not self.bounds:
            return None
        return all(
            (least is None or self.measured[quantity] >= least) and (most is None or self.measured[quantity] <= most)
            for quantity, (least, most) in self.bounds.items()
        )

    def shown(self) -> str:
        values = "  ".join(f"{quantity} {_number(value)}" for quantity, value in self.measured.items())
        held = ", ".join(
            f"{quantity} {f'at least {_number(least)}' if least is not None else ''}"
            f"{f'at most {_number(most)}' if most is not None else ''}"
            for quantity, (least, most) in self.bounds.items()
        )
        met = {True: "  reached", False: "  NOT REACHED", None: ""}[self.is_met()]
        return f"{self.name:<58}{values}{f'  [{held}]' if held else ''}{met}{f'  ({self.note})' if self.note else ''}"


def at_most(quantity: str, bound: float) -> dict[str, tuple[float | None, float | None]]:
    return {quantity: (None, bound)}


def at_least(quantity: str, bound: float) -> dict[str, tuple[float | None, float | None]]:
    return {quantity: (bound, None)}


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "max": max(values), "count": float(len(values))}


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that at least so many percent do not exceed."""
    return sorted(values)[min(len(values) - 1, int(len(values) * percent / 100))]


def load() -> str:
    one, five, _ = os.getloadavg()
    return f"load {one:.1f} now, {five:.1f} over five minutes"


def _number(value: float) -> str:
    if value == int(value) and abs(value) >= 1:
        return f"{value:,.0f}"
    return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.3g}"
