"""Our results beside those that RobustBench published, and ours in its own format. Pure pandas, no torch.

Boards are compared only at the very same eps: 0.031 is not 8/255.
"""

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from harness.errors import ResultsError
from harness.metrics import Accuracy
from leaderboard.board import Board, Row

FILE = Path(__file__).parent / "robustbench.csv"
SOURCE = "RobustBench model_info, March 2025 (github.com/RobustBench/robustbench, commit 78fcc9e)"
"""Where the published figures come from, for whoever shows them."""
PUBLISHED_N = 10_000
"""Test images that the published figures are measured on."""
FIGURES = ("clean", "reported", "autoattack", "best_known", "corruptions", "mce")
"""Columns of the file that hold percentages."""
COMPARED = {"natural": "clean", "autoattack": "autoattack", "worst-case": "best_known"}
"""Our accuracy, and the published column that it stands beside."""


@dataclass(frozen=True)
class Published:
    """One entry of RobustBench; accuracies as shares in [0, 1], None where unknown."""

    dataset: str
    board: str
    """``Linf``, ``L2`` or ``corruptions``."""
    id: str
    eps: str | None
    """Exact, as published; None on the corruption boards."""
    facts: dict[str, str]
    """Title, authors, paper, venue, year, architecture, training_data, licence, forward_passes; empty where unknown."""
    figures: dict[str, float | None]
    """By column: ``FIGURES``."""
    unreliable: bool | None
    """RobustBench's flag of its AutoAttack figure; None: it says nothing."""


def _published(row: dict[str, str]) -> Published:
    facts = ("title", "authors", "paper", "venue", "year", "architecture", "training_data", "licence", "forward_passes")
    return Published(
        dataset=row["dataset"],
        board=row["threat_model"],
        id=row["id"],
        eps=row["eps"] or None,
        facts={name: row[name] for name in facts},
        figures={name: float(Decimal(row[name]) / 100) if row[name] else None for name in FIGURES},
        unreliable={"true": True, "false": False}.get(row["unreliable"]),
    )


@cache
def published() -> tuple[Published, ...]:
    """Every entry of the file. ``ResultsError`` when it cannot be read."""
    try:
        with open(FILE, encoding="utf-8", newline="") as file:
            return tuple(map(_published, csv.DictReader(line for line in file if not line.startswith("#"))))
    except (OSError, KeyError, ValueError) as error:
        raise ResultsError(f"{FILE}: expected RobustBench's published figures, got an error: {error}") from None


def robustbench_id(card: dict[str, Any]) -> str | None:
    """RobustBench's id of a submission whose entry is ``robustbench:NAME``; None for any other."""
    kind, _, name = str(card.get("entry", "")).partition(":")
    return name if kind == "robustbench" and name else None


def counterpart(board: Board, row: Row) -> Published | None:
    """What RobustBench published for the same model, data set, norm and eps; None when there is no such entry."""
    name = robustbench_id(row.card)
    for item in published():
        same = item.id == name and item.dataset == board.dataset and item.board == board.threat.norm
        if same and item.eps is not None and Fraction(item.eps) == Fraction(board.threat.eps):
            return item
    return None


def _ours(board: Board, row: Row) -> dict[str, Accuracy | None]:
    robust = {name: row.robust.get(f"{name}@{board.threat}") for name in ("autoattack", "worst-case")}
    cells = {"natural": row.natural, **robust}
    return {name: cell.accuracy if cell else None for name, cell in cells.items()}


def _theirs(item: Published, ours: str) -> float | None:
    """The published share beside one of ours; the best known attack is AutoAttack unless another is named."""
    column = COMPARED[ours]
    value = item.figures[column]
    return item.figures["autoattack"] if value is None and column == "best_known" else value


COLUMNS = (
    "dataset", "norm", "eps", "submission", "robustbench_id", "quantity", "ours", "low", "high", "n", "published",
    "difference", "within_interval", "same_images",
)  # fmt: skip
"""Columns of ``compare``."""


def compare(boards: Sequence[Board]) -> pd.DataFrame:
    """A line for each accuracy that RobustBench has published too: ``COLUMNS``.

    Accuracies and the ``difference`` (ours minus theirs) are shares. ``within_interval`` says whether the published
    value lies in our 95 % interval, NA where we have no number; ``same_images`` whether both are over all 10,000 test
    images, without which a difference beyond the interval may be the sample's. Submissions that RobustBench does not
    have, or has at another eps, are left out.
    """
    lines: list[dict[str, Any]] = []
    for board in boards:
        for row in board.rows:
            item = counterpart(board, row)
            for quantity, found in _ours(board, row).items() if item else ():
                assert item is not None
                theirs = _theirs(item, quantity)
                if theirs is None:
                    continue
                lines.append({
                    "dataset": board.dataset, "norm": board.threat.norm, "eps": board.threat.eps,
                    "submission": row.id, "robustbench_id": item.id, "quantity": quantity,
                    "ours": found.value if found else None, "low": found.low if found else None,
                    "high": found.high if found else None, "n": board.n, "published": theirs,
                    "difference": found.value - theirs if found else None,
                    "within_interval": found.low <= theirs <= found.high if found else None,
                    "same_images": board.n == PUBLISHED_N,
                })  # fmt: skip
    table = pd.DataFrame(lines, columns=list(COLUMNS))
    floats = dict.fromkeys(("ours", "low", "high", "published", "difference"), "float64")
    return table.astype({**floats, "within_interval": "boolean", "same_images": "boolean", "n": "Int64"})


def _percent(found: Accuracy | None) -> str | None:
    return None if found is None else f"{100 * found.value:.2f}"


def model_info(board: Board, row: Row) -> dict[str, Any]:
    """One row with the keys and types of RobustBench's ``model_info``: percentages are text with two digits.

    What is not known is null. ``number_of_examples`` and ``checkpoint_sha256`` are ours: without the
    number of images the figure means little.
    """
    card, ours = row.card, _ours(board, row)
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
        "clean_acc": _percent(ours["natural"]),
        "reported": f"{100 * claim['robust_accuracy']:.2f}" if claim else None,
        "autoattack_acc": _percent(ours["autoattack"]),
        "external": _percent(ours["worst-case"]) if _lower(ours["worst-case"], ours["autoattack"]) else None,
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


def to_robustbench(boards: Sequence[Board]) -> str:
    """One table by the path of its file in RobustBench's repository, ``model_info/DATASET/NORM/ID.json``, as JSON.

    Rows of one submission at several eps or on several numbers of images would share a path: the eps, or ``-n`` and the
    number, are then part of the name.
    """
    found: dict[str, dict[str, Any]] = {}
    rows = [(board, row) for board in boards for row in board.rows]
    taken: dict[tuple[str, ...], set[tuple[str, int]]] = {}
    for board, row in rows:
        taken.setdefault((board.dataset, board.threat.norm, row.id), set()).add((board.threat.eps, board.n))
    for board, row in rows:
        several = taken[board.dataset, board.threat.norm, row.id]
        name = robustbench_id(row.card) or row.id
        if len({eps for eps, _ in several}) > 1:
            name += f"-eps{board.threat.eps.replace('/', '_')}"
        if len({n for _, n in several}) > 1:
            name += f"-n{board.n}"
        found[f"model_info/{board.dataset}/{board.threat.norm}/{name}.json"] = model_info(board, row)
    return json.dumps(found, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
