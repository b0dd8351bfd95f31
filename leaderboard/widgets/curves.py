"""How the network answers, drawn from the probes' raw numbers: budget, loss, small steps, and its Jacobian."""

import base64
import binascii
from collections.abc import Mapping
from typing import Any

from leaderboard.board import Board, Row
from leaderboard.charts import Point, Series, chart, usable
from leaderboard.shown import significant
from leaderboard.surfaces import surfaces
from leaderboard.widgets.base import Widget

PNG = b"\x89PNG\r\n\x1a\n"
WIDEST = 4.0
"""Largest budget of the chart, in units of the headline's: what happens below it is what a reader looks for."""
PICTURES = 8
"""Pictures shown, at most."""
PICTURE_BYTES = 64 * 1024

Numbers = Mapping[str, Any]


def _one(value: object) -> float | None:
    return usable([value])[0]


def _curve(numbers: object, scale: float) -> list[Point]:
    """``{"0.5": 0.75}`` as points in order of x; the values in percent."""
    if not isinstance(numbers, Mapping):
        return []
    found: list[Point] = []
    for key, value in numbers.items():
        try:
            at = float(key)
        except (TypeError, ValueError):
            continue
        share = _one(value)
        found.append((at * scale, None if share is None else 100 * share))
    return sorted(found)


def whole_curve(row: Row) -> list[Point]:
    """Share of the rightly classified images, in percent, that stand at each budget of the run's curve; empty for none.

    Counted over all images from the distance of what the attack returned; records of before schema 3 hold none in L1.
    """
    if row.curve is None or row.curve.outcomes is None or not any(row.curve.outcomes.correct):
        return []
    right = sum(row.curve.outcomes.correct)
    parts = (part for part in map(float, row.curve.task.params.get("fractions", ())) if part <= WIDEST)
    return [(part, 100 * sum(row.withstands(part)) / right) for part in parts]


def budget(row: Row, measured: Mapping[str, Numbers]) -> dict[str, Any] | None:
    """Accuracy against the budget: the run's curve over all images, or the probe's over some, and FGSM's below it."""
    curve, probed = whole_curve(row), measured.get("a2-budget", {})
    name, images = "Auto-PGD", "all"
    if not curve:
        curve, name, images = (
            _curve(probed.get("accuracy"), 1),
            "PGD on the margin",
            str(probed.get("examples", "some")),
        )
    fgsm = _curve(measured.get("a3-single-step", {}).get("accuracy"), 0.1)
    lines = [
        Series(label, [(0.0, 100.0), *points], marks=True)
        for label, points in ((f"{name}, {images} images", curve), ("FGSM", fgsm))
        if points
    ]
    told = ", ".join(f"{value:.0f} % at {at:g} ε" for at, value in curve if value is not None)
    return chart(
        "budget",
        "Accuracy against the budget",
        lines,
        x=f"budget, multiples of ε = {row.threat.eps} ({row.threat.norm})",
        y="still right, %",
        says=f"Share of {images} rightly classified images that stay right as the budget grows. {name} leaves {told}."
        " On an honest network it falls to zero; FGSM that rises again is a mark of catastrophic overfitting.",
        y_limits=(0.0, 100.0),
        guides=[(1.0, "ε")],
    )


def landscape(row: Row, numbers: Numbers) -> dict[str, Any] | None:
    """Loss along the adversarial direction and a random orthogonal one: median and quartiles."""
    at = usable(numbers.get("offsets"))
    profile = numbers.get("profile")
    if not isinstance(profile, Mapping) or None in at:
        return None
    lines = []
    for key, name in (("adversarial", "adversarial direction"), ("orthogonal", "random orthogonal direction")):
        curves = profile.get(key)
        if not isinstance(curves, Mapping):
            continue
        low, middle, high = (
            [(x, y) for x, y in zip(at, usable(curves.get(part)), strict=False) if x is not None]
            for part in ("low", "median", "high")
        )
        lines.append(Series(name, middle, low, high))
    return chart(
        "landscape",
        "Loss around the images",
        lines,
        x=f"step, multiples of ε = {row.threat.eps} ({row.threat.norm})",
        y="cross-entropy",
        says=f"Median cross-entropy of {numbers.get('examples')} images, with its quartiles as a band, as they move "
        "along the gradient’s direction and along a random one at a right angle to it. On an honest network it rises "
        "steadily one way and stays flat the other; bumps, cliffs or a dip beside zero hint at masked gradients.",
        guides=[(-1.0, "−ε"), (1.0, "ε")],
    )


def continuity(numbers: Numbers) -> dict[str, Any] | None:
    """Change of the logits against the size of a small random step, both logarithmic."""
    steps, change = usable(numbers.get("h")), usable(numbers.get("q"))
    points = [(h, q) for h, q in zip(steps, change, strict=False) if h is not None]
    known = [(h, q) for h, q in points if q is not None and q > 0]
    if len(known) < 2:
        return None
    last_h, last_q = known[-1]
    slope = _one(numbers.get("slope"))
    exponent = "unknown" if slope is None else f"{slope:.2f}"
    return chart(
        "continuity",
        "Small steps",
        [
            Series("this network", points, marks=True),
            Series("in proportion (slope 1)", [(h, last_q * h / last_h) for h, _ in known]),
        ],
        x="step h of random signs, pixels in [0, 1]",
        y="change of the logits, L2",
        says=f"Median change of the logits for steps from {known[0][0]:.1g} to {last_h:.1g}; exponent {exponent} on "
        "[1e−4, 1e−2]. A smooth network has 1; a flat line is noise, and missing points are steps that change nothing, "
        "the mark of rounding.",
        log=True,
    )


def pictures(numbers: Numbers, names: tuple[str, ...]) -> list[dict[str, str]]:
    """The Jacobian images that a probe stored, each only when it is a small PNG."""
    found = []
    listed = numbers.get("saliency")
    for item in (listed if isinstance(listed, list) else [])[:PICTURES]:
        try:
            text = str(item["png"])
            content = base64.b64decode(text, validate=True)
            position, mark = int(item["position"]), int(item["label"])
        except (KeyError, TypeError, ValueError, binascii.Error):
            continue
        if content.startswith(PNG) and len(content) <= PICTURE_BYTES:
            name = names[mark] if 0 <= mark < len(names) else f"class {mark}"
            found.append({"source": f"data:image/png;base64,{text}", "name": name, "position": str(position)})
    return found


def build(board: Board, row: Row) -> dict[str, Any] | None:
    """Charts and pictures as far as their probes have run; None without any."""
    if row.judgement is None:
        return None
    measured = {
        name: numbers for name, numbers in row.judgement.case.measured.items() if numbers.get("applicable", True)
    }
    jacobian = measured.get("i1-jacobian", {})
    drawn = [
        budget(row, measured),
        landscape(row, measured.get("i2-landscape", {})),
        continuity(measured.get("c7-continuity", {})),
    ]
    alignment = _one(jacobian.get("alignment"))
    shown = {
        "charts": [item for item in drawn if item],
        "pictures": pictures(jacobian, board.class_names),
        "surfaces": surfaces(measured.get("i2-landscape", {}), board.class_names),
        "alignment": "" if alignment is None else significant(alignment),
    }
    return shown if shown["charts"] or shown["pictures"] or shown["surfaces"] else None


WIDGET = Widget("curves", "Behaviour", build)
