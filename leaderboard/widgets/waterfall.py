"""How many examples each member of a cascade leaves standing."""

from typing import Any

from leaderboard.board import Board, Row, name_of
from leaderboard.cells import Cell
from leaderboard.shown import percent
from leaderboard.widgets.base import Widget


def _stages(row: Row, keys: tuple[str, ...]) -> list[dict[str, Any]]:
    cells: list[tuple[str, Cell]] = [("clean", row.natural), *((name_of(key), row.robust[key]) for key in keys)]
    stages: list[dict[str, Any]] = []
    before: int | None = None
    for label, cell in cells:
        stage: dict[str, Any] = {"label": label, "state": cell.state.value, "detail": cell.detail, "accuracy": None}
        if cell.accuracy:
            left = sum(cell.flags)
            stage |= {
                "accuracy": cell.accuracy,
                "left": left,
                "percent": percent(cell.accuracy.value, cell.accuracy.n),
                "start": (left if before is None else before) / cell.accuracy.n,
                "broken": None if before is None else before - left,
            }
            before = left
        stages.append(stage)
    return stages


def build(board: Board, row: Row) -> dict[str, Any] | None:
    """One waterfall per cascade under this threat model; None without a cascade."""
    cascades = [(name, keys) for (name, threat), keys in row.entry.cascades.items() if threat == row.threat]
    if not cascades:
        return None
    return {"cascades": [{"name": name, "stages": _stages(row, keys)} for name, keys in sorted(cascades)]}


WIDGET = Widget("waterfall", "Cascade", build)
