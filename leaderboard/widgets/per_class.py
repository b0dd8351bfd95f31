"""Natural and worst-case accuracy of every class."""

from typing import Any

from leaderboard.board import Board, Row
from leaderboard.shown import interval, percent
from leaderboard.widgets.base import Widget


def build(board: Board, row: Row) -> dict[str, Any] | None:
    """One line per label that occurs; None when there is neither accuracy."""
    natural, worst = row.per_class(row.natural), row.per_class(row.worst)
    labels = sorted(natural | worst)
    if not labels:
        return None
    names = row.entry.class_names
    lines: list[dict[str, Any]] = []
    for label in labels:
        line: dict[str, Any] = {"name": names[label] if 0 <= label < len(names) else f"class {label}"}
        for kind, found in (("natural", natural.get(label)), ("worst", worst.get(label))):
            line[kind] = found
            line[f"{kind}_text"] = percent(found.value, found.n) if found else ""
            line[f"{kind}_interval"] = interval(found) if found else ""
            line["n"] = found.n if found else line.get("n", 0)
        lines.append(line)
    return {"lines": lines, "has_worst": bool(worst), "has_natural": bool(natural)}


WIDGET = Widget("per_class", "Accuracy by class", build)
