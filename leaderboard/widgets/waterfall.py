"""How many images each member of a cascade leaves standing, and what other evidence takes from the headline's claim."""

from collections.abc import Sequence
from typing import Any

from harness.checks import CHECKS
from harness.judging import Judgement
from harness.metrics import proportion
from leaderboard.board import Board, Row, name_of
from leaderboard.cells import Cell
from leaderboard.shown import percent
from leaderboard.widgets.base import Widget


def _stage(label: str, left: int, before: int | None, n: int) -> dict[str, Any]:
    accuracy = proportion(left, n)
    return {
        "label": label,
        "accuracy": accuracy,
        "left": left,
        "percent": percent(accuracy.value, n),
        "start": (left if before is None else before) / n,
        "broken": None if before is None else before - left,
    }


def _stages(row: Row, keys: tuple[str, ...]) -> list[dict[str, Any]]:
    cells: list[tuple[str, Cell]] = [("clean", row.natural), *((name_of(key), row.robust[key]) for key in keys)]
    stages: list[dict[str, Any]] = []
    before: int | None = None
    for label, cell in cells:
        if not cell.accuracy:
            stages.append({"label": label, "state": cell.state.value, "detail": cell.detail, "accuracy": None})
            continue
        left = sum(cell.flags)
        stages.append(_stage(label, left, before, cell.accuracy.n))
        before = left
    return stages


def _checks_of(probe: str) -> str:
    """``A8 Transfer``: the check that reads a probe, for a label."""
    found = [CHECKS.get(name) for name in CHECKS.names() if CHECKS.get(name).probe == probe]
    return f"{found[0].id} {found[0].title}" if found else f"{probe} curve"


def correction(judgement: Judgement) -> list[dict[str, Any]]:
    """From the headline's claim to the best known number: each column and each probe takes what is still standing.

    Empty without a headline. Sources that take nothing are left out; the last stage is the corrected number.
    """
    case, top = judgement.case, judgement.verdict.headline
    if top not in case.columns:
        return []
    alive = list(case.columns[top].robust)
    stages = [_stage(f"claimed by {name_of(top)}", sum(alive), None, case.n)]

    def take(label: str, stands: Sequence[bool]) -> None:
        nonlocal alive
        before = sum(alive)
        alive = [now and also for now, also in zip(alive, stands, strict=True)]
        if sum(alive) < before:
            stages.append(_stage(label, sum(alive), before, case.n))

    for key, column in case.columns.items():
        take(name_of(key), column.robust)
    for probe, hits in case.witnessed.items():
        take(_checks_of(probe), [not hit for hit in hits])
    stages.append(_stage("best known", sum(alive), sum(alive), case.n) | {"broken": None})
    return stages


def build(board: Board, row: Row) -> dict[str, Any] | None:
    """One waterfall per cascade under this threat model, and one of the correction; None without any."""
    cascades = [(name, keys) for (name, threat), keys in row.entry.cascades.items() if threat == row.threat]
    corrected = correction(row.judgement) if row.judgement else []
    if not cascades and not corrected:
        return None
    return {
        "cascades": [{"name": name, "stages": _stages(row, keys)} for name, keys in sorted(cascades)],
        "correction": corrected,
        "untouched": len(corrected) == 2,
    }


WIDGET = Widget("waterfall", "What takes what", build)
