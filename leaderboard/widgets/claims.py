"""What the card claims beside what was measured here."""

from typing import Any

from harness.errors import UserError
from harness.metrics import Accuracy
from harness.records import ThreatModel
from leaderboard.board import Board, Row
from leaderboard.cells import Cell
from leaderboard.recipes import plain
from leaderboard.shown import percent, show_accuracy
from leaderboard.widgets.base import Widget

AUTOATTACK = {"aa", "auto-attack", "autoattack", "autoattack-standard", "standard-autoattack"}
"""How claimants spell it."""


def _share(value: object) -> float | None:
    """A claimed share of one; None for anything else."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if number and 0 <= value <= 1 else None  # type: ignore[operator, arg-type]


def _threat(claim: dict[str, Any]) -> ThreatModel | None:
    try:
        return ThreatModel.parse(str(claim["norm"]), str(claim["eps"]))
    except (UserError, KeyError):
        return None


def _measured(row: Row, attack: str) -> Cell | None:
    """The cell that answers a claim made with ``attack``; AutoAttack in any spelling."""
    name = attack.casefold().replace(" ", "-")
    return row.robust.get(f"{'autoattack' if name in AUTOATTACK else name}@{row.threat}")


def _verdict(claimed: float, found: Accuracy) -> str:
    points = f"{100 * (found.value - claimed):+.1f} points".replace("-", "−")
    inside = found.low <= claimed <= found.high
    return f"{points}, the claim lies {'inside' if inside else 'outside'} the interval"


def _line(row: Row, what: str, value: object, by: str, cell: Cell | None, why: str) -> dict[str, Any]:
    claimed = _share(value)
    shown = show_accuracy(cell) if cell else None
    verdict = _verdict(claimed, cell.accuracy) if cell and cell.accuracy and claimed is not None else why
    text = plain(value) if claimed is None else percent(claimed, row.entry.n)
    return {"what": what, "claimed": text, "by": by, "measured": shown, "verdict": verdict}


def build(board: Board, row: Row) -> dict[str, Any] | None:
    """One line per claimed accuracy; None when the card claims nothing."""
    listed = row.card.get("claims")
    claims = [item for item in listed if isinstance(item, dict)] if isinstance(listed, list | tuple) else []
    lines: list[dict[str, Any]] = []
    for claim in claims:
        by = str(claim.get("attack") or "")
        threat = _threat(claim)
        here = threat == row.threat
        if claim.get("natural_accuracy") is not None:
            lines.append(_line(row, "natural accuracy", claim["natural_accuracy"], "", row.natural, "no number here"))
        if claim.get("robust_accuracy") is not None:
            what = f"robust accuracy, {threat.norm} {threat.eps}" if threat else "robust accuracy"
            cell = _measured(row, by) if here else None
            why = "no number for this attack here" if here else "another threat model than this board's"
            lines.append(_line(row, what, claim["robust_accuracy"], by, cell, why))
    return {"lines": lines} if lines else None


WIDGET = Widget("claims", "Claimed and measured", build)
