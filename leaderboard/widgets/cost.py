"""What the network costs, and on what it was measured."""

from typing import Any

from harness.records import Timing
from leaderboard.board import Board, Row
from leaderboard.columns import COST
from leaderboard.hardware import describe, machines
from leaderboard.shown import significant
from leaderboard.widgets.base import Widget


def _speed(timing: Timing) -> str:
    low, high = significant(timing.low), significant(timing.high)
    return f"quartiles {low} to {high} over {timing.repeats} repeats"


def build(board: Board, row: Row) -> dict[str, Any] | None:
    """Figures with their spread, hardware, threads, dtype and batch size; None when nobody asked for the cost."""
    if row.cost is None:
        return None
    found = row.cost.footprint
    if found is None:
        return {"figures": [], "state": row.cost.state.value, "detail": row.cost.detail}
    notes = {"throughput-forward": _speed(found.forward), "throughput-forward-backward": _speed(found.forward_backward)}
    environment = row.cost.environments[0]
    return {
        "figures": [
            {
                "meaning": column.meaning,
                "value": column.show(row).main,
                "unit": column.unit,
                "note": notes.get(column.key, ""),
            }
            for column in COST
        ],
        "conditions": [
            ("Hardware", environment.hardware or "unknown"),
            ("Device", environment.device),
            ("Processor threads", str(environment.threads)),
            ("Data type", environment.dtype or "unknown"),
            ("Batch size", ", ".join(str(size) for size in row.cost.batch_sizes)),
            ("Optimisations", ", ".join(environment.optimisations) or "none"),
        ],
        "alone": len(machines(board.rows)) < 2,
        "machine": describe(row),
    }


WIDGET = Widget("cost", "Cost", build)
