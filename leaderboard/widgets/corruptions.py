"""Accuracy under every corruption at every severity, as a table whose shades repeat what its figures say."""

from typing import Any

from leaderboard.board import Board, Row
from leaderboard.corruptions import CORRUPTIONS, KINDS, SEVERITIES, Benchmark
from leaderboard.shown import Shown, percent, sentence, show_accuracy
from leaderboard.widgets.base import Widget

HELD_OUT = "held out"


def _kind(name: str) -> str:
    return next((kind for kind, names in KINDS.items() if name in names), HELD_OUT)


def _lines(item: Benchmark) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    for name in item.names:
        row = item.cells[name]
        cells: list[Shown | None] = [
            show_accuracy(row[severity]) if severity in row else None for severity in SEVERITIES
        ]
        before = lines[-1]["kind"] if lines else ""
        kind = _kind(name)
        lines.append({
            "kind": kind, "first": kind != before, "name": name, "averaged": name in CORRUPTIONS, "cells": cells,
            "mean": show_accuracy(item.row_mean(name)),
        })  # fmt: skip
    return lines


def _facts(item: Benchmark, n: int) -> list[tuple[str, str]]:
    facts = [("Mean corruption accuracy", sentence(item.mean.accuracy) if item.mean.accuracy else item.mean.label)]
    if item.error is not None:
        facts.append(("Mean corruption error", sentence(item.error)))
    if item.relative is not None and item.natural is not None:
        share = f"{100 * item.relative:.1f} % of the natural accuracy, {percent(item.natural, n)} %"
        facts.append(("Relative robustness", share))
    return facts


def build(board: Board, row: Row) -> dict[str, Any] | None:
    """A table for each source of corrupted images; None without any."""
    found = row.entry.corruptions
    if not found:
        return None
    return {
        "severities": SEVERITIES,
        "held_out": HELD_OUT,
        "benchmarks": [
            {
                "source": item.source,
                "official": item.official,
                "by": ", ".join(item.implementations),
                "facts": _facts(item, row.entry.n),
                "lines": _lines(item),
            }
            for item in found.values()
        ],
    }


WIDGET = Widget("corruptions", "Corruptions", build)
