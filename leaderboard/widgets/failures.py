"""Everything that has no number, and why."""

from typing import Any

from leaderboard.board import Board, Row
from leaderboard.cells import State
from leaderboard.widgets.base import Widget


def build(board: Board, row: Row) -> dict[str, Any] | None:
    """The incomplete tasks of this board, each with its shards that failed; None when all is complete."""
    items = [item for item in row.entry.evidence.values() if item.task.threat in {None, row.threat}]
    missing = [item for item in items if item.state is not State.NUMBER]
    other = [key for key in board.tasks if key not in row.robust]
    if not missing and not other:
        return None
    return {
        "tasks": [
            {
                "key": item.task.key,
                "state": item.state.value,
                "text": item.text,
                "detail": item.detail,
                "problems": [
                    {"span": f"{problem.start}–{problem.stop - 1}", "kind": problem.kind, "message": problem.message}
                    for problem in item.problems
                ],
            }
            for item in missing
        ],
        "not_asked": other,
    }


WIDGET = Widget("failures", "Without a number", build)
