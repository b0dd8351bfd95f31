"""The headline figures: natural, AutoAttack and worst-case accuracy, rank, verdict."""

from typing import Any

from leaderboard.board import Board, Row
from leaderboard.shown import show_accuracy
from leaderboard.widgets.base import Widget


def build(board: Board, row: Row) -> dict[str, Any]:
    """Figures, and the row's place on the board in words."""
    figures = [("Natural accuracy", row.natural)]
    if f"autoattack@{row.threat}" in row.robust:
        figures.append(("AutoAttack accuracy", row.robust[f"autoattack@{row.threat}"]))
    figures.append(("Worst-case accuracy", row.worst))
    ranked = sum(item.rank is not None for item in board.rows)
    place = f"not ranked: {row.reason}"
    if row.rank is not None:
        place = f"rank {row.rank} of {ranked}" + (", shared with statistically tied rows" if row.tied else "")
    return {
        "figures": [(label, show_accuracy(cell), cell.accuracy) for label, cell in figures],
        "place": place,
        "verdict": row.verdict,
    }


WIDGET = Widget("summary", "Summary", build)
