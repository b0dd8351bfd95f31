"""The submission card, as its author wrote it."""

from typing import Any

from leaderboard.board import Board, Row
from leaderboard.links import safe_url
from leaderboard.recipes import plain
from leaderboard.widgets.base import Widget

FIRST = ("title", "id", "authors", "paper", "venue", "year", "licence", "notes")
"""Fields shown before the others."""


def _lines(value: object) -> list[dict[str, Any]]:
    """A field's value as lines of text, one per item of a list; addresses become links."""
    items = value if isinstance(value, list | tuple) else [value]
    return [{"text": plain(item), "href": safe_url(item)} for item in items]


def _empty(value: object) -> bool:
    return value is None or value in ("", [], {}, ())


def build(board: Board, row: Row) -> dict[str, Any]:
    """Every field that says something."""
    card = row.card
    names = [name for name in FIRST if name in card] + [name for name in card if name not in FIRST]
    return {
        "fields": [
            {"name": name.replace("_", " "), "lines": _lines(card[name])} for name in names if not _empty(card[name])
        ]
    }


WIDGET = Widget("card", "Submission card", build)
