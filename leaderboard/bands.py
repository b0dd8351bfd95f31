"""Where a number stands among the zoo's models: a short line with the honest ones' band and the broken ones' marks."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from leaderboard.shown import judged

SIZES = frozenset({"examples", "images", "checked", "distinct", "width", "entries", "witnesses"})
"""Numbers that say how much was looked at, not what was seen."""
LEFT, RIGHT = 2.0, 98.0
"""Ends of the line in its view box of 100 units."""
FAR = 50.0
"""Linear lines reach this many times as far as the honest band is wide, or its values are large; what lies beyond is
drawn at the end."""


def line(matrix: Mapping[str, Any] | None, check: str, name: str, value: float) -> dict[str, Any] | None:
    """The plain data of one line; None where the zoo says nothing about such a number.

    A number is drawn when at least half of the broken models that ``check`` caught lie outside the honest band, and
    it is not just what all honest models have.
    """
    band = (matrix or {}).get("bands", {}).get(check, {}).get(name)
    if name in SIZES or not isinstance(band, Mapping) or not math.isfinite(value):
        return None
    low, high = band["honest"]
    broken = [float(item) for item in band["broken"]]
    outside = [item for item in broken if not low <= item <= high]
    if not outside or 2 * len(outside) < len(broken) or low == value == high:
        return None
    ends = [*outside, low, high, value]
    log = min(ends) > 0 and max(ends) > 100 * min(ends)
    if not log:
        reach = FAR * max(high - low, abs(low), abs(high), 1e-6)
        ends = [min(max(item, low - reach), high + reach) for item in ends]
    first, last = min(ends), max(ends)
    place = _places(first, last, log)
    marks = sorted({round(place(min(max(item, first), last)), 1) for item in outside})
    here = place(min(max(value, first), last))
    honest = judged(low) if low == high else f"{judged(low)} to {judged(high)}"
    return {
        "start": round(place(low), 1),
        "width": round(max(place(high) - place(low), 1.5), 1),
        "marks": marks,
        "here": round(here, 1),
        "inside": low <= value <= high,
        "says": f"{judged(value)} here; {honest} on honest models of the zoo; broken ones that {check} caught: "
        f"{_range(outside)}",
    }


def _places(first: float, last: float, log: bool) -> Callable[[float], float]:
    """From values to the view box."""
    scale = math.log if log else float
    start, span = scale(first), scale(last) - scale(first) or 1.0

    def place(value: float) -> float:
        return LEFT + (RIGHT - LEFT) * (scale(value) - start) / span

    return place


def _range(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    return judged(low) if low == high else f"{judged(low)} to {judged(high)}"
