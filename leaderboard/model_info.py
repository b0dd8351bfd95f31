"""Our results in the format of RobustBench's ``model_info`` files."""

import json
import re
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from harness import store
from harness.metrics import Accuracy
from leaderboard.board import Board, Row
from leaderboard.comparison import CORRUPTIONS, our_corruptions, ours, robustbench_id


def _percent(found: Accuracy | None) -> str | None:
    return None if found is None else f"{100 * found.value:.2f}"


def model_info(board: Board, row: Row) -> dict[str, Any]:
    """One row with the keys and types of RobustBench's ``model_info``: percentages are text with two digits.

    What is not known is null; ``external`` is the lowest figure we know, where it is below AutoAttack's.
    ``number_of_examples`` and ``checkpoint_sha256`` are ours: without the number of images the figure means little.
    """
    card, found = row.card, ours(board, row)
    best = found["best-known"]
    training = card.get("training_data")
    venue, year = str(card.get("venue") or ""), str(card.get("year") or "")
    claim: dict[str, Any] = next((item for item in card.get("claims") or () if _same_threat(item, board)), {})
    return {
        "link": card.get("paper"),
        "name": card.get("title") or row.id,
        "authors": ", ".join(card.get("authors") or ()),
        "additional_data": None if training is None else training != "none",
        "number_forward_passes": card.get("forward_passes", 1),
        "dataset": board.dataset,
        "venue": venue if not year or year in venue else f"{venue} {year}".strip(),
        "architecture": card.get("architecture"),
        "eps": board.threat.eps,
        "clean_acc": _percent(found["natural"]),
        "reported": f"{100 * claim['robust_accuracy']:.2f}" if claim else None,
        "autoattack_acc": _percent(found["autoattack"]),
        "external": _percent(best) if _lower(best, found["autoattack"]) else None,
        "unreliable": None,
        "number_of_examples": board.n,
        "checkpoint_sha256": row.entry.candidate.checkpoint or None,
    }


def _same_threat(claim: dict[str, Any], board: Board) -> bool:
    try:
        same = Fraction(str(claim["eps"])) == Fraction(board.threat.eps)
    except (KeyError, ValueError, ZeroDivisionError):
        return False
    return same and claim.get("norm") == board.threat.norm and isinstance(claim.get("robust_accuracy"), float)


def _lower(first: Accuracy | None, second: Accuracy | None) -> bool:
    return first is not None and second is not None and first.value < second.value


def corruption_info(board: Board, row: Row) -> dict[str, Any] | None:
    """The same for RobustBench's board of corruptions; None without figures on the published archive."""
    found = our_corruptions(row)
    if not any(item.official for item in row.entry.corruptions.values()):
        return None
    general = model_info(board, row)
    left_out = ("eps", "reported", "autoattack_acc", "external", "unreliable")
    kept = {key: value for key, value in general.items() if key not in left_out}
    return {
        **kept,
        "clean_acc": _percent(found["natural"]),
        "eps": None,
        "reported": None,
        "corruptions_acc": _percent(found["corruptions"]),
        "unreliable": None,
    }


def _file_name(name: str) -> str:
    """``name`` without what could leave its folder."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", name).lstrip(".") or "_"


def files(boards: Sequence[Board]) -> dict[str, dict[str, Any]]:
    """One table by the path of its file in RobustBench's repository: ``model_info/DATASET/NORM/ID.json``.

    Rows of one submission at several eps or on several numbers of images would share a path: the eps, or ``-n`` and the
    number, are then part of the name.
    """
    rows = [(board, row) for board in boards for row in board.rows]
    taken: dict[tuple[str, ...], set[tuple[str, int]]] = {}
    for board, row in rows:
        taken.setdefault((board.dataset, board.threat.norm, row.id), set()).add((board.threat.eps, board.n))
        taken.setdefault((board.dataset, CORRUPTIONS, row.id), set()).add(("", board.n))
    found: dict[str, dict[str, Any]] = {}
    for board, row in rows:
        name = _file_name(robustbench_id(row.card) or row.id)
        tables = ((board.threat.norm, model_info(board, row)), (CORRUPTIONS, corruption_info(board, row)))
        for part, info in tables:
            several = taken[board.dataset, part, row.id]
            own = f"-eps{board.threat.eps.replace('/', '_')}" if len({eps for eps, _ in several}) > 1 else ""
            own += f"-n{board.n}" if len({n for _, n in several}) > 1 else ""
            if info is not None:
                found[f"model_info/{_file_name(board.dataset)}/{part}/{name}{own}.json"] = info
    return found


def _text(table: object) -> str:
    return json.dumps(table, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def to_robustbench(boards: Sequence[Board]) -> str:
    """``files`` as one JSON object."""
    return _text(files(boards))


def write_files(boards: Sequence[Board], folder: Path) -> int:
    """Write ``files`` below ``folder`` and say how many; ``ResultsError`` when the disk refuses."""
    found = files(boards)
    for name, table in found.items():
        store.write_bytes(folder / name, _text(table).encode())
    return len(found)
