"""The zoo's matrix, as ``harness zoo`` wrote it, made ready for its page: models by checks, and what they add up to."""

import json
from collections import Counter
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
GRAVITY = {
    "fail": "fail", "warn": "warning", "unknown": "not checked", "silent": "silent", "not-applicable": "not applicable",
}  # fmt: skip
"""What a check can say of a model, gravest first, in words."""
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


def _cell(check: str, outcomes: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """One place of the matrix: the gravest thing the check said of the model, and with how many seeds it fired."""
    said = []
    for outcome in outcomes:
        state = outcome["checks"].get(check, "not checked")
        word = {"silent": "silent", "not checked": "unknown", "not applicable": "not-applicable"}.get(state)
        said.append(word or outcome["grades"].get(check, "warn"))
    gravest = next(word for word in GRAVITY if word in said)
    fired = sum(word in {"fail", "warn"} for word in said)
    some = f" with {fired} of {len(said)} seeds" if 0 < fired < len(said) else ""
    return {"word": gravest, "text": f"{GRAVITY[gravest]}{some}", "check": check, "some": str(fired) if some else ""}


def _span(values: Sequence[float | None]) -> str:
    """``50.0``, or ``45.0–50.0`` where the seeds differ."""
    shown = list(dict.fromkeys(_percent(value) for value in sorted(v for v in values if v is not None)))
    return "–" if not shown else shown[0] if len(shown) == 1 else f"{shown[0]}–{shown[-1]}"


def _verdicts(outcomes: Sequence[Mapping[str, Any]], name: str) -> list[dict[str, str]]:
    """The distinct verdicts with how many seeds ended so, gravest last as in ``WORDS``."""
    count = Counter(outcome.get(name, "") for outcome in outcomes)
    words = sorted(count, key=lambda word: WORDS.index(word) if word in WORDS else len(WORDS))
    several = len(words) > 1
    return [
        {"word": word, "text": TITLES.get(word, word) + (f" ×{count[word]}" if several else ""),
         "says": next(outcome["sentence"] for outcome in outcomes if outcome.get(name, "") == word)}
        for word in words if word
    ]  # fmt: skip


def _row(rows: Sequence[Mapping[str, Any]], checks: Sequence[str]) -> dict[str, Any]:
    """One model with all its seeds."""
    first, several = rows[0], len(rows) > 1
    outcomes = [row["outcome"] for row in rows if row["outcome"] is not None]
    far = [row["distance"] for row in rows if row.get("distance") is not None]
    verdicts, unpeeled = _verdicts(outcomes, "verdict"), _verdicts(outcomes, "unpeeled")
    flags = dict.fromkeys(
        f"{key.partition('@')[0]} {flag}" for outcome in outcomes for key, flag in outcome.get("flags", {}).items()
    )
    return {
        "id": first["id"],
        "title": first["title"],
        "spec": first.get("spec", ""),
        "base": first.get("base", ""),
        "truth": TRUTHS.get(first["truth"], first["truth"]),
        "deviations": [
            f"seed {row['seed']}: {text}" if several else text for row in rows for text in row["deviations"]
        ],
        "verdicts": verdicts,
        "unpeeled": [item["text"] for item in unpeeled] if unpeeled and unpeeled != verdicts else [],
        "claimed": _span([outcome["claimed"] for outcome in outcomes]),
        "corrected": _span([outcome["corrected"] for outcome in outcomes]),
        "moved": any(o["claimed"] is not None and o["corrected"] < o["claimed"] - 1e-9 for o in outcomes),
        "distance": f"{100 * max(far):.1f} pp" if far else "",
        "cells": [_cell(check, outcomes) for check in checks] if outcomes else [],
        "flags": ", ".join(flags),
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
        models: dict[str, list[Mapping[str, Any]]] = {}
        for row in data["rows"]:
            models.setdefault(row["id"], []).append(row)
        rows = [(found[0]["kind"], _row(found, checks)) for found in models.values()]
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
