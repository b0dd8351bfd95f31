"""The sortable table of one board."""

from collections.abc import Callable
from typing import Any

from leaderboard.board import Board, Row
from leaderboard.columns import columns, groups
from leaderboard.evidence import Evidence
from leaderboard.hardware import letter, machines
from leaderboard.links import page_path, safe_url
from leaderboard.validity import SIGN_MEANINGS

SECTIONS: tuple[tuple[str, str, Callable[[Row], bool]], ...] = (
    ("ranked", "", lambda row: row.rank is not None),
    (
        "unranked",
        "Not ranked: incomplete, not comparable with the rows above, or without a working attack",
        lambda row: row.rank is None and row.verdict != "protocol",
    ),
    (
        "protocol",
        "Outside the protocol: these networks break a rule that every attack takes for granted, so their figures do "
        "not compare with those above",
        lambda row: row.rank is None and row.verdict == "protocol",
    ),
)
"""Parts of a table: name, heading, and the rows that belong there."""


def byline(card: dict[str, Any]) -> str:
    """Venue and year, as far as the card gives them."""
    return " ".join(str(card[name]) for name in ("venue", "year") if card.get(name))


def _search_text(row: Row) -> str:
    card = row.card
    authors = card.get("authors") or ()
    names = [authors] if isinstance(authors, str) else list(authors)
    parts = [row.id, *(card.get(name) for name in ("title", "paper", "venue", "year", "defence")), *names, row.verdict]
    return " ".join(str(part) for part in parts if part).casefold()


def notes(board: Board) -> list[str]:
    """What a reader must know before comparing rows."""
    found: list[str] = []
    if board.n < board.full:
        found.append(
            f"Measured on the first {board.n:,} of {board.full:,} images; not comparable with boards of another n."
        )
    found += [
        f"{key}: the rows were measured with {len(tasks)} different recipes; see the columns below."
        for key, tasks in board.tasks.items()
        if len(tasks) > 1
    ]
    asked: list[Evidence] = [item for row in board.rows for item in row.entry.evidence.values()]
    if dirty := sorted(
        {row.id for row in board.rows if any(e.dirty for i in row.attacks.values() for e in i.environments)}
    ):
        found.append(f"Measured from a checkout with uncommitted changes: {', '.join(dirty)}.")
    if changed := sum(item.mismatches for item in asked):
        found.append(f"{changed} predictions changed when they were asked again in another batch layout.")
    return found


def build(board: Board) -> dict[str, Any]:
    """Columns, groups, rows and notes of the table."""
    found = columns(board)
    hardware = machines(board.rows)

    def line(row: Row) -> dict[str, Any]:
        return {
            "row": row,
            "href": page_path(board.slug, row.id),
            "title": str(row.card.get("title") or row.id),
            "byline": byline(row.card),
            "paper": safe_url(row.card.get("paper")),
            "search": _search_text(row),
            "cells": [(column, column.show(row)) for column in found],
        }

    lines = [line(row) for row in board.rows]
    signs = {shown.sign for item in lines for _, shown in item["cells"]}
    return {
        "board": board,
        "columns": found,
        "groups": groups(found),
        "first_of_group": {next(c.key for c in found if c.group == name) for name, _, _ in groups(found)},
        "last_headline": [column.key for column in found if column.group == "headline"][-1],
        "sections": [
            (name, title, chosen)
            for name, title, holds in SECTIONS
            if (chosen := [item for item in lines if holds(item["row"])])
        ],
        "signs": [(sign, SIGN_MEANINGS[sign]) for sign in SIGN_MEANINGS if sign in signs],
        "notes": notes(board),
        "machines": [(letter(place) if len(hardware) > 1 else "", text) for place, text in enumerate(hardware)],
    }
