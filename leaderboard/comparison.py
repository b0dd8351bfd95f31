"""Our results beside those that RobustBench published. Pure pandas, no torch.

Boards are compared only at the very same eps: 0.031 is not 8/255; corruptions only on the images of the archive.
"""

import csv
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
CORRUPTIONS = "corruptions"
"""Name of RobustBench's board without a budget."""
COMPARED = {"natural": "clean", "autoattack": "autoattack", "best-known": "best_known", "corruptions": "corruptions"}
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


def board_of(card: dict[str, Any], norm: str) -> str:
    """The board of RobustBench that a card is about: the one its kwargs name, else that of ``norm``."""
    kwargs = card.get("kwargs")
    named = kwargs.get("board") if isinstance(kwargs, dict) else None
    return str(named) if named else norm


def at_eps(item: Published, eps: str) -> bool:
    """Whether an entry was published for exactly this budget."""
    return item.eps is not None and Fraction(item.eps) == Fraction(eps)


def _entries(dataset: str, board: str, card: dict[str, Any]) -> list[Published]:
    name = robustbench_id(card)
    return [item for item in published() if (item.id, item.dataset, item.board) == (name, dataset, board)]


def counterpart(board: Board, row: Row) -> Published | None:
    """What RobustBench published for the same model, data set, norm and eps; None when there is no such entry."""
    norm = board.threat.norm
    if board_of(row.card, norm) != norm:
        return None
    return next((item for item in _entries(board.dataset, norm, row.card) if at_eps(item, board.threat.eps)), None)


def corruption_counterpart(board: Board, row: Row) -> Published | None:
    """The entry of the same model on RobustBench's corruption board; None when there is none."""
    if board_of(row.card, board.threat.norm) != CORRUPTIONS:
        return None
    return next(iter(_entries(board.dataset, CORRUPTIONS, row.card)), None)


def ours(board: Board, row: Row) -> dict[str, Accuracy | None]:
    """Our figures that RobustBench has a column for, by their name here."""
    # Best known: right after every attack and every verified find of the checks.
    attacked = row.robust.get(f"autoattack@{board.threat}")
    cells = {"natural": row.natural, "autoattack": attacked, "best-known": row.standing}
    return {name: cell.accuracy if cell else None for name, cell in cells.items()}


def our_corruptions(row: Row) -> dict[str, Accuracy | None]:
    """Natural accuracy and the mean over corruptions, on the images of the published archive alone."""
    official = next((item for item in row.entry.corruptions.values() if item.official), None)
    return {"natural": row.natural.accuracy, "corruptions": official.mean.accuracy if official else None}


def theirs(item: Published, quantity: str) -> float | None:
    """The published share beside one of ours; the best known attack is AutoAttack unless another is named."""
    column = COMPARED[quantity]
    value = item.figures[column]
    return item.figures["autoattack"] if value is None and column == "best_known" else value


COLUMNS = (
    "dataset", "norm", "eps", "submission", "robustbench_id", "quantity", "ours", "low", "high", "n", "published",
    "difference", "within_interval", "same_images",
)  # fmt: skip
"""Columns of ``compare``."""


def within(found: Accuracy | None, value: float | None) -> bool | None:
    """Whether a published share lies in our 95 % interval; None without either."""
    return None if found is None or value is None else found.low <= value <= found.high


def _lines(board: Board, row: Row, item: Published, figures: dict[str, Accuracy | None]) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    for quantity, found in figures.items():
        value = theirs(item, quantity)
        if value is None:
            continue
        lines.append({
            "dataset": board.dataset, "norm": item.board, "eps": board.threat.eps if item.eps else None,
            "submission": row.id, "robustbench_id": item.id, "quantity": quantity,
            "ours": found.value if found else None, "low": found.low if found else None,
            "high": found.high if found else None, "n": board.n, "published": value,
            "difference": found.value - value if found else None, "within_interval": within(found, value),
            "same_images": board.n == PUBLISHED_N,
        })  # fmt: skip
    return lines


def compare(boards: Sequence[Board]) -> pd.DataFrame:
    """A line for each accuracy that RobustBench has published too: ``COLUMNS``.

    Accuracies and the ``difference`` (ours minus theirs) are shares. ``within_interval`` says whether the published
    value lies in our 95 % interval, NA where we have no number; ``same_images`` whether both are over all 10,000 test
    images, without which a difference beyond the interval may be the sample's. Submissions that RobustBench does not
    have, or has at another eps, are left out. ``norm`` is ``corruptions``, without eps, on RobustBench's third board.
    """
    lines: list[dict[str, Any]] = []
    told: set[tuple[str, int, str]] = set()
    for board in boards:
        for row in board.rows:
            if item := counterpart(board, row):
                lines += _lines(board, row, item, ours(board, row))
            place = (board.dataset, board.n, row.id)
            if place not in told and (item := corruption_counterpart(board, row)):
                told.add(place)
                lines += _lines(board, row, item, our_corruptions(row))
    table = pd.DataFrame(lines, columns=list(COLUMNS))
    floats = dict.fromkeys(("ours", "low", "high", "published", "difference"), "float64")
    return table.astype({**floats, "within_interval": "boolean", "same_images": "boolean", "n": "Int64"})
