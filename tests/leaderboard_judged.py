"""Boards whose validity battery said what a test wants: the evidence is chosen, the verdict follows from it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from harness.checks import Case, Column
from harness.checks.verdict import decide
from harness.judging import Judgement
from harness.records import Finding, ThreatModel
from leaderboard import tables
from leaderboard.board import Board, make_row
from leaderboard.entries import Entry

PASS = Finding("G3", "Coherence of gradients", "symptom", "pass", (), {"c1": 0.97}, "c1 fail 0.5 (a paper)", "Fine.")
MEASURED: dict[str, dict[str, Any]] = {
    "a2-budget": {"applicable": True, "examples": 16, "accuracy": {"0.5": 0.75, "1": 0.5, "2": 0.125, "8": 0.0}},
    "a3-single-step": {"applicable": True, "examples": 17, "accuracy": {"1": 0.9, "5": 0.8, "10": 0.7}},
    "c7-continuity": {"h": [1e-5, 1e-4, 1e-3, 1e-2], "q": [2e-5, 2e-4, None, 2e-2], "slope": 1.0},
    "i1-jacobian": {"alignment": 1.17, "saliency": []},
    "i2-landscape": {
        "examples": 17, "offsets": [-2.0, 0.0, 2.0],
        "profile": {
            "adversarial": {"low": [0.1, 0.2, 0.9], "median": [0.2, 0.4, 1.5], "high": [0.3, 0.6, None]},
            "orthogonal": {"low": [0.3, 0.3, 0.3], "median": [0.4, 0.4, 0.4], "high": [0.5, 0.5, 0.5]},
        },
    },
}  # fmt: skip
"""Raw numbers of the probes that the page draws."""


def finding(check: str, kind: str, verdict: str, *columns: str, says: str = "Seen.", **metrics: float) -> Finding:
    return Finding(check, f"Title of {check}", kind, verdict, columns, dict(metrics), "limit 0.5 (a paper)", says)


def judged(
    entry: Entry,
    threat: ThreatModel,
    findings: Sequence[Finding] = (PASS,),
    *,
    witnessed: Mapping[str, Sequence[bool]] | None = None,
    measured: Mapping[str, Mapping[str, Any]] | None = None,
) -> Entry:
    """``entry`` with a judgement made of ``findings``; ``witnessed`` by probe: it broke this image."""
    row = make_row(replace(entry, judged={}), threat)
    alone = {key: item.task.attack for key, item in row.attacks.items() if not item.task.cascade}
    whole = {key: "autoattack" for key in row.robust if key.startswith("autoattack@")}
    case = Case(
        n=entry.n, classes=10, norm=threat.norm, eps=threat.value, correct=row.natural.flags,
        columns={key: Column(key, attack, row.robust[key].flags) for key, attack in {**alone, **whole}.items()},
        measured=MEASURED if measured is None else measured,
        witnessed={name: tuple(hits) for name, hits in (witnessed or {}).items()},
    )  # fmt: skip
    return replace(entry, judged={threat: Judgement(case, tuple(findings), decide(case, findings))})


def with_judgements(board: Board, made: Mapping[str, Entry]) -> Board:
    """``board`` with some entries replaced, ranked anew."""
    return tables._board([made.get(row.id, row.entry) for row in board.rows], board.threat)


def entry_of(board: Board, name: str) -> Entry:
    return next(row.entry for row in board.rows if row.id == name)
