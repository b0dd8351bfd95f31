"""What the validity battery says of a submission: verdict, flagged columns, every check, and what was not checked."""

import math
import shlex
from collections.abc import Sequence
from typing import Any

from harness.checks import CHECKS, load_thresholds
from harness.records import Finding
from leaderboard.board import Board, Row, name_of
from leaderboard.columns import show_corrected
from leaderboard.evidence import Evidence
from leaderboard.shown import judged, percent, seconds
from leaderboard.validity import FINDINGS, MEANINGS, by_check, gravest, sign_of
from leaderboard.widgets.base import Widget

GROUPS = {
    "C": "Contract: does the network answer as every attack takes for granted?",
    "G": "Gradients: are they of use to an attack?",
    "A": "Adequacy: were the attacks strong enough?",
    "D": "Integrity: does it know the test images?",
    "I": "Information: shown, never judged",
}
"""Groups of checks by the first letter of their names."""
EVIDENCE = {
    "witness": "witness: verified adversarial examples, a proof",
    "existence": "existence: an attack fails where success is certain",
    "protocol": "protocol: a rule is broken",
    "symptom": "symptom: a sign, never a proof",
    "information": "information",
}
"""Classes of evidence, in words."""


def metric(name: str, value: float) -> dict[str, Any]:
    """A judged number as a person reads it, beside itself: ``gap_pp`` 5.3125 as ``gap``, ``5.31 pp``."""
    points = name.endswith("_pp")
    label = name.removesuffix("_pp").replace("_", " ")
    if not math.isfinite(value):
        return {"name": name, "value": value, "label": label, "text": "not finite"}
    shown = f"{judged(value)} pp" if points else judged(value)
    return {"name": name, "value": value, "label": label, "text": shown}


def probe_of(row: Row, check: str) -> Evidence | None:
    """The records of the probe that a check reads, under the row's threat model; None when nobody asked for it."""
    name = CHECKS.get(check).probe if check in CHECKS.names() else ""
    items = [item for item in row.entry.evidence.values() if item.task.kind == "probe" and item.task.name == name]
    return next((item for item in items if item.task.threat in {None, row.threat}), None)


def _cost(item: Evidence | None) -> str:
    if item is None or not item.seconds:
        return ""
    return f"{seconds(item.seconds)}, {item.forwards:,} forward, {item.backwards:,} backward"


def _finding(item: Finding) -> dict[str, Any]:
    return {
        "verdict": item.verdict,
        "word": FINDINGS.get(item.verdict, item.verdict),
        "kind": EVIDENCE.get(item.kind, item.kind).partition(":")[0],
        "evidence": item.evidence,
        "metrics": [metric(name, value) for name, value in sorted(item.metrics.items())],
        "threshold": item.threshold,
        "columns": [name_of(key) for key in item.columns],
    }


def _check(row: Row, name: str, findings: Sequence[Finding]) -> dict[str, Any]:
    first = gravest(findings)
    known = CHECKS.get(name) if name in CHECKS.names() else None
    kinds = list(dict.fromkeys(item.kind for item in findings))
    return {
        "id": name,
        "title": known.title if known else first.title,
        "measures": known.measures if known else "",
        "kinds": [EVIDENCE.get(kind, kind) for kind in kinds],
        "verdict": first.verdict,
        "word": FINDINGS.get(first.verdict, first.verdict),
        "findings": [_finding(item) for item in findings],
        "cost": _cost(probe_of(row, name)),
    }


def _grouped(checks: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    found = [
        {"title": title, "checks": [item for item in checks if item["id"][:1] == letter]}
        for letter, title in GROUPS.items()
    ]
    rest = [item for item in checks if item["id"][:1] not in GROUPS]
    return [group for group in [*found, {"title": "Others", "checks": rest}] if group["checks"]]


def _flags(row: Row) -> list[dict[str, Any]]:
    if row.judgement is None:
        return []
    n, findings = row.entry.n, row.judgement.findings
    return [
        {
            "label": name_of(flag.key),
            "flag": flag.flag,
            "sign": sign_of(flag, findings),
            "claimed": percent(flag.claimed, n),
            "corrected": percent(flag.corrected, n),
            "witnesses": flag.witnesses,
            "checks": ", ".join(flag.checks),
            "sentence": flag.sentence,
        }
        for flag in row.judgement.verdict.columns
        if flag.flag != "true"
    ]


def _effort(row: Row) -> str:
    """What the probes took, beside what the attacks did."""

    def passes(items: Sequence[Evidence]) -> int:
        return sum(item.forwards + 2 * item.backwards for item in items)

    here = [item for item in row.entry.evidence.values() if item.task.threat in {None, row.threat}]
    probes = [item for item in here if item.task.kind == "probe" and item.seconds]
    attacks = [item for item in here if item.task.kind == "attack"]
    if not probes:
        return ""
    text = f"The checks took {seconds(sum(item.seconds for item in probes))} and {passes(probes):,} forward-equivalents"
    own = f" (a backward pass counts as two), beside {passes(attacks):,} of the attacks" if passes(attacks) else ""
    return f"{text}{own}."


def build(board: Board, row: Row) -> dict[str, Any]:
    """Verdict, flags and checks; without a battery the verdict is ``unchecked`` and says how to run one."""
    entry = row.entry
    command = ["harness", "check", entry.id, "--dataset", entry.dataset]
    command += ["--limit", str(entry.n)] if entry.n < entry.full else []
    judged = row.judgement
    checks = [_check(row, name, items) for name, items in by_check(judged.findings).items()] if judged else []
    fired = [item for item in checks if item["verdict"] in {"warn", "fail", "unknown"}]
    silent = [item for item in checks if item not in fired]
    verdict = judged.verdict if judged else None
    return {
        "judged": judged is not None,
        "meaning": MEANINGS.get(row.verdict, ""),
        "claimed": percent(verdict.claimed, entry.n) if verdict and verdict.claimed is not None else "",
        "headline": name_of(verdict.headline) if verdict and verdict.headline else "",
        "corrected": show_corrected(row),
        "passed": verdict.passed if verdict else 0,
        "total": verdict.total if verdict else 0,
        "flags": _flags(row),
        "checks": checks,
        "tables": [(name, _grouped(some), len(some)) for name, some in (("fired", fired), ("silent", silent)) if some],
        "not_checked": verdict.not_checked if verdict else (),
        "not_applicable": verdict.not_applicable if verdict else (),
        "thresholds": verdict.thresholds if verdict else load_thresholds().version,
        "effort": _effort(row),
        "check_command": shlex.join(command),
        "judge_command": shlex.join([*command, "--judge-only", "--verbose"]),
        "verify_command": shlex.join(["harness", "verify", entry.id]),
    }


WIDGET = Widget("validity", "Validity", build)
