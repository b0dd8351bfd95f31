"""The headline figures: natural, AutoAttack, worst-case and best known accuracy, rank, verdict."""

from typing import Any

from leaderboard.board import Board, Row
from leaderboard.columns import show_corrected
from leaderboard.shown import show_accuracy
from leaderboard.widgets.base import Widget


def build(board: Board, row: Row) -> dict[str, Any]:
    """Figures, and the row's place on the board in words."""
    figures = [("Natural accuracy", row.natural)]
    if f"autoattack@{row.threat}" in row.robust:
        figures.append(("AutoAttack accuracy", row.robust[f"autoattack@{row.threat}"]))
    figures.append(("Worst-case accuracy", row.worst))
    shown = [(label, show_accuracy(cell), cell.accuracy) for label, cell in figures]
    if row.judgement is not None:
        shown.append(("Best known (corrected)", show_corrected(row), row.corrected.accuracy))
    ranked = sum(item.rank is not None for item in board.rows)
    place = f"not ranked: {row.reason}"
    if row.rank is not None:
        place = f"rank {row.rank} of {ranked}" + (", shared with statistically tied rows" if row.tied else "")
    return {
        "figures": shown,
        "place": place,
    }


WIDGET = Widget("summary", "Summary", build)
