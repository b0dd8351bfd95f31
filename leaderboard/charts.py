"""Line charts as plain data for an inline SVG: scales, ticks and paths. No script, no library."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

WIDTH, HEIGHT = 420, 260
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 12, 44
"""Margins of the plot in the units of the view box."""

Point = tuple[float, float | None]
"""x, and y or None where nothing was measured."""


@dataclass(frozen=True)
class Series:
    """One line of a chart."""

    name: str
    points: Sequence[Point]
    low: Sequence[Point] = ()
    """Lower edge of a band around the line; empty for none."""
    high: Sequence[Point] = ()
    """Upper edge of the same band, at the same x."""
    marks: bool = False
    """Draw a mark at every point."""


def usable(values: object) -> list[float | None]:
    """A list from a record as numbers; anything that is not a finite number becomes None."""

    def one(value: object) -> float | None:
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        return float(value) if number else None  # type: ignore[arg-type]

    return [one(value) for value in values] if isinstance(values, list | tuple) else []


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers from ``low`` to ``high``, about ``count`` of them."""
    if not high > low:
        return [low]
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(place * step, 12) for place in range(first, math.floor(high / step + 1e-9) + 1)]


def decades(low: float, high: float) -> list[float]:
    """Powers of ten from the one at or below ``low`` to the one at or above ``high``, at most about six."""
    first, last = math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9)
    last = max(last, first + 1)
    every = max(1, math.ceil((last - first) / 6))
    return [10.0**power for power in range(first, last + every, every)]


def label(value: float, *, log: bool = False) -> str:
    """A tick's text."""
    if log:
        return f"1e{round(math.log10(value))}".replace("-", "−")
    return f"{value:.6g}".replace("-", "−")


@dataclass(frozen=True)
class _Axis:
    low: float
    high: float
    log: bool
    start: float
    """Place of ``low`` in the view box."""
    stop: float
    marks: tuple[float, ...]

    def at(self, value: float) -> float:
        warp: Callable[[float], float] = math.log10 if self.log else float
        share = (warp(value) - warp(self.low)) / ((warp(self.high) - warp(self.low)) or 1.0)
        return self.start + share * (self.stop - self.start)


def _axis(values: Sequence[float], log: bool, start: float, stop: float, limits: tuple[float, float] | None) -> _Axis:
    low, high = limits or (min(values), max(values))
    if log:
        marks = decades(low, high)
        return _Axis(marks[0], marks[-1], True, start, stop, tuple(marks))
    if high <= low:
        low, high = low - 0.5, high + 0.5
    marks = ticks(low, high)
    step = marks[1] - marks[0] if len(marks) > 1 else high - low
    if limits is None:
        low, high = min(low, step * math.floor(low / step + 1e-9)), max(high, step * math.ceil(high / step - 1e-9))
        marks = ticks(low, high)
    return _Axis(low, high, False, start, stop, tuple(marks))


def _path(points: Sequence[Point], x: _Axis, y: _Axis) -> str:
    """A path that breaks off where a value is missing."""
    words, pen = [], "M"
    for at, value in points:
        if value is None:
            pen = "M"
            continue
        words.append(f"{pen}{x.at(at):.1f} {y.at(value):.1f}")
        pen = "L"
    return "".join(words)


def _band(series: Series, x: _Axis, y: _Axis) -> str:
    pairs = [
        (at, low, high)
        for (at, low), (_, high) in zip(series.low, series.high, strict=False)
        if low is not None and high is not None
    ]
    if len(pairs) < 2:
        return ""
    up = [f"{x.at(at):.1f} {y.at(high):.1f}" for at, _, high in pairs]
    down = [f"{x.at(at):.1f} {y.at(low):.1f}" for at, low, _ in reversed(pairs)]
    return f"M{'L'.join([*up, *down])}Z"


def chart(
    name: str, title: str, series: Sequence[Series], *, x: str, y: str, says: str, log: bool = False,
    y_limits: tuple[float, float] | None = None, guides: Sequence[tuple[float, str]] = (),
) -> dict[str, Any] | None:  # fmt: skip
    """Everything a template needs to draw ``series``; None when no line has two points.

    ``x`` and ``y`` name the axes, ``says`` tells a reader who does not see the chart what it shows, ``guides`` are
    vertical lines with a label. With ``log`` both axes are logarithmic and values of zero or less are left out.
    """
    if log:
        series = [Series(one.name, _positive(one.points), marks=one.marks) for one in series]
    whole = [point for one in series for line in (one.points, one.low, one.high) for point in line]
    seen = [(at, value) for at, value in whole if value is not None]
    if not any(sum(value is not None for _, value in one.points) >= 2 for one in series):
        return None
    wide = [at for at, _ in seen]
    across = _axis(wide, log, LEFT, WIDTH - RIGHT, None if log else (min(wide), max(wide)))
    up = _axis([value for _, value in seen], log, HEIGHT - BOTTOM, TOP, y_limits)
    lines = [
        {
            "name": one.name,
            "css": f"s{place}",
            "path": _path(one.points, across, up),
            "band": _band(one, across, up),
            "marks": [(f"{across.at(at):.1f}", f"{up.at(value):.1f}") for at, value in one.points if value is not None]
            if one.marks
            else [],
        }
        for place, one in enumerate(series)
    ]
    return {
        "name": name, "title": title, "says": says, "x": x, "y": y, "width": WIDTH, "height": HEIGHT, "left": LEFT,
        "right": WIDTH - RIGHT, "top": TOP, "bottom": HEIGHT - BOTTOM, "lines": lines,
        "x_ticks": [(f"{across.at(mark):.1f}", label(mark, log=log)) for mark in across.marks],
        "y_ticks": [(f"{up.at(mark):.1f}", label(mark, log=log)) for mark in up.marks],
        "guides": [(f"{across.at(at):.1f}", text) for at, text in guides if across.low <= at <= across.high],
        "table": _table(series),
    }  # fmt: skip


def _positive(points: Sequence[Point]) -> list[Point]:
    return [(at, value if value is not None and value > 0 else None) for at, value in points if at > 0]


def _table(series: Sequence[Series]) -> dict[str, Any]:
    """The same numbers as rows, for those who do not see the lines."""
    columns = [dict(one.points) for one in series]
    places = sorted({at for column in columns for at in column})

    def text(value: float | None) -> str:
        return "–" if value is None else f"{value:.4g}".replace("-", "−")

    return {
        "heads": [one.name for one in series],
        "rows": [(text(at), [text(column.get(at)) for column in columns]) for at in places],
    }
