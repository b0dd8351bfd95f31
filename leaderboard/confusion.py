"""The zoo's matrix, as ``harness zoo`` wrote it, made ready for its page: models by checks, and what they add up to."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.checks.verdict import WORDS
from harness.errors import ResultsError
from leaderboard.validity import TITLES, check_order

KINDS = {
    "broken": "Broken: a claim that is not true, so every verdict but VERIFIED is right",
    "harmless": "Harmless: tries to cheat and finds nothing to cheat with",
    "honest": "Honest: unusual, but true; VERIFIED is right",
}
"""Kinds of models and the headings of their parts."""
TRUTHS = {"base": "as its base", "zero": "0", "unknown": "unknown"}
FINE = ("verified", "verified-with-note")


def read_matrix(path: Path) -> dict[str, Any] | None:
    """The plain data of a zoo run, or None without a file. ``ResultsError`` when it is not such a file."""
    if not path.is_file():
        return None
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ResultsError(f"{path}: expected the matrix of `harness zoo`, got an error: {error}") from None
    wanted = ("checks", "rows", "summary", "thresholds", "only_by")
    if not isinstance(data, dict) or any(name not in data for name in wanted) or not isinstance(data["rows"], list):
        raise ResultsError(f"{path}: expected the matrix of `harness zoo` with {', '.join(wanted)}; run it again")
    return data


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def _cell(check: str, outcome: Mapping[str, Any]) -> dict[str, str]:
    """One place of the matrix: what the check said of the model."""
    state = outcome["checks"].get(check, "not checked")
    grade = outcome["grades"].get(check, "warn") if state == "fired" else ""
    word = {"silent": "silent", "not checked": "unknown", "not applicable": "not-applicable"}.get(state, grade)
    text = {"warn": "warning", "fail": "fail"}.get(grade, state)
    return {"word": word, "text": text, "check": check}


def _row(row: Mapping[str, Any], checks: Sequence[str]) -> dict[str, Any]:
    outcome = row["outcome"]
    found: dict[str, Any] = {
        "id": row["id"], "title": row["title"], "spec": row.get("spec", ""), "base": row.get("base", ""),
        "seed": row["seed"], "truth": TRUTHS.get(row["truth"], row["truth"]), "deviations": row["deviations"],
        "identical": row.get("decision_identical", False), "distance": "", "outcome": None,
    }  # fmt: skip
    if outcome is None:
        return found
    word, unpeeled = outcome["verdict"], outcome.get("unpeeled", "")
    known = row.get("distance")
    return found | {
        "outcome": outcome,
        "n": outcome["n"],
        "word": word,
        "verdict": TITLES.get(word, word),
        "place": WORDS.index(word) if word in WORDS else len(WORDS),
        "unpeeled": TITLES.get(unpeeled, unpeeled) if unpeeled not in {"", word} else "",
        "natural": _percent(outcome["natural"]),
        "claimed": _percent(outcome["claimed"]),
        "corrected": _percent(outcome["corrected"]),
        "moved": outcome["claimed"] is not None and outcome["corrected"] < outcome["claimed"] - 1e-9,
        "distance": "" if known is None else f"{100 * known:.1f} pp",
        "cells": [_cell(check, outcome) for check in checks],
        "flags": ", ".join(f"{key.partition('@')[0]} {flag}" for key, flag in outcome.get("flags", {}).items()),
    }


def _figure(count: int, of: int, label: str) -> dict[str, Any]:
    return {"count": count, "of": of, "label": label}


def _figures(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = data["rows"]

    def count(kind: str, words: Sequence[str]) -> tuple[int, int]:
        mine = [row for row in rows if row["kind"] == kind]
        return sum(bool(row["outcome"]) and row["outcome"]["verdict"] in words for row in mine), len(mine)

    caught = [word for word in WORDS if word not in {"verified", "unchecked"}]
    exact = data.get("decision_identical", {})
    figures = [
        _figure(*count("broken", caught), "broken models that do not end as VERIFIED"),
        _figure(*count("honest", FINE), "honest models that end as VERIFIED, with or without a note"),
    ]
    if exact:
        figures.append(
            _figure(exact["within_an_image"], exact["of"], "wrappers that change no decision, corrected to the truth")
        )
    matched = sum(not row["deviations"] for row in rows)
    return [*figures, _figure(matched, len(rows), "rows that came out as expected beforehand")]


def page_data(data: Mapping[str, Any]) -> dict[str, Any]:
    """What the template of the zoo's page shows. ``ResultsError`` when a row lacks a field."""
    try:
        checks = sorted(data["checks"], key=check_order)
        rows = [(row["kind"], _row(row, checks)) for row in data["rows"]]
        figures = _figures(data)
    except (KeyError, TypeError, AttributeError) as error:
        raise ResultsError(f"matrix of the zoo: a row lacks {error}; run `harness zoo` again") from None
    parts = [
        {"kind": kind, "title": title, "rows": [row for own, row in rows if own == kind]}
        for kind, title in KINDS.items()
    ]
    return {
        "checks": checks,
        "parts": [part for part in parts if part["rows"]],
        "figures": figures,
        "summary": data["summary"],
        "thresholds": data["thresholds"],
        "dataset": str(data.get("dataset") or ""),
        "seeds": len({row["seed"] for row in data["rows"]}),
        "images": sorted({row["outcome"]["n"] for row in data["rows"] if row["outcome"]}),
    }
