"""Every accuracy of a submission, with interval, n, recipe and what it took."""

import math
import statistics
from typing import Any

from leaderboard.board import Board, Row, name_of
from leaderboard.cells import Cell
from leaderboard.evidence import Evidence
from leaderboard.recipes import meaning, recipe
from leaderboard.shown import Shown, seconds, show_accuracy, significant
from leaderboard.widgets.base import Widget

MINIMUM_NORM = {"deepfool"}
"""Attacks whose distance is a result of its own."""


def median_distance(item: Evidence, norm: str) -> str:
    """Median distance over the images that are right to begin with; one without an adversarial counts as infinite."""
    values = None if item.outcomes is None else item.outcomes.distances.get(norm)
    if item.outcomes is None or values is None:
        return ""
    found = [value for value, correct in zip(values, item.outcomes.correct, strict=True) if correct]
    if not found:
        return ""
    middle = statistics.median_low(found)
    if math.isinf(middle):
        return f"median {norm} distance: none found for most images"
    return f"median {norm} distance {significant(middle * 255)}/255" if norm == "Linf" else (
        f"median {norm} distance {significant(middle)}"
    )  # fmt: skip


def _line(label: str, what: str, how: str, robust: Cell, consistency: Cell | None, notes: list[str]) -> dict[str, Any]:
    shown: Shown | None = show_accuracy(consistency) if consistency else None
    return {
        "label": label,
        "meaning": what,
        "recipe": how,
        "robust": show_accuracy(robust),
        "accuracy": robust.accuracy,
        "consistency": shown,
        "notes": notes,
    }


def _notes(item: Evidence, row: Row) -> list[str]:
    notes: list[str] = []
    if item.outcomes:
        attempted = sum(item.outcomes.attempted)
        if attempted < row.entry.n:
            notes.append(f"{attempted:,} of {row.entry.n:,} images attempted")
        if attempted:
            passes = (
                f"{significant(item.forwards / attempted)} forward, {significant(item.backwards / attempted)} backward"
            )
            notes.append(f"{passes} passes per attempted image")
    if item.seconds:
        notes.append(seconds(item.seconds))
    if item.task.attack in MINIMUM_NORM and (text := median_distance(item, row.threat.norm)):
        notes.append(text)
    if item.mismatches:
        plural = "" if item.mismatches == 1 else "s"
        notes.append(f"{item.mismatches} prediction{plural} changed when asked again in another batch layout")
    return notes


def build(board: Board, row: Row) -> dict[str, Any]:
    """One line per accuracy, clean first, derived ones last."""
    clean = row.clean
    lines = [
        _line(
            "clean",
            "Natural accuracy: the images as they are",
            recipe(clean.task) if clean else "",
            row.natural,
            None,
            [note for note in _notes(clean, row) if "passes" not in note] if clean else [],
        )
    ]
    for key in board.robust_keys:
        cell = row.robust.get(key)
        item = row.attacks.get(key)
        if cell is None:
            continue
        if item is None:
            what = {
                "autoattack": "Right after all four members of AutoAttack",
                "worst-case": "Right after every attack on this board",
            }[name_of(key)]
            lines.append(_line(name_of(key), what, "", cell, None, []))
        else:
            after = ", cumulative over its cascade" if item.task.cascade else ""
            how = recipe(item.task)
            lines.append(
                _line(name_of(key), meaning(item.task) + after, how, cell, row.consistency.get(key), _notes(item, row))
            )
    if row.judgement is not None:
        what = "Right after every attack and every adversarial example that the validity checks found"
        lines.append(_line("best known", what, "", row.corrected, None, []))
    return {"lines": lines}


WIDGET = Widget("accuracies", "Accuracies", build)
