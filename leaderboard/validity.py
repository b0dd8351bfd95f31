"""What the validity battery says of a row, in the words, marks and plain data of the board."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from harness.checks import CHECKS, judge, load_thresholds
from harness.checks.verdict import WORDS, ColumnFlag, Verdict, decide
from harness.judging import Judgement, judge_candidate, read_case, threats_of
from harness.records import Candidate, Finding, Manifest, Task, ThreatModel

TITLES = {
    "verified": "VERIFIED",
    "verified-with-note": "VERIFIED with note",
    "suspect": "SUSPECT",
    "overestimated": "OVERESTIMATED",
    "protocol": "PROTOCOL",
    "attack-invalid": "ATTACK-INVALID",
    "unchecked": "UNCHECKED",
}
"""How the board writes each verdict."""
MEANINGS = {
    "verified": "Every check that applies ran, and none found more than the attacks did.",
    "verified-with-note": "As verified; a column or a symptom asks for a second look, and the page says which.",
    "suspect": "Symptoms of gradient masking, without a proof so far. The number may be too high.",
    "overestimated": "Adversarial examples were found, and verified, against images the headline column calls robust. "
    "The number is replaced.",
    "protocol": "The network breaks a rule that attacks take for granted, e.g. it answers at random. "
    "It stands in a section of its own.",
    "attack-invalid": "An attack failed where success is certain, so its number says nothing about the network. "
    "How low the true one is, is unknown.",
    "unchecked": "No battery ran, or part of it could not. It is not a pass.",
}
"""What each verdict means, for the page that explains them."""
PROTOCOL = {
    "C1": "no logits",
    "C2": "stochastic",
    "C3": "caller-dependent",
    "C4": "batch-coupled",
    "C5": "stateful",
    "C6": "optimises or cuts its graph",
    "C7": "input-dependent noise",
    "C8": "wrong gradient",
    "A5": "examples do not hold",
}
"""The rule that a check found broken, in a word or two."""
SIGNS = {"overestimated": "▼", "suspect": "?", "note": "n"}
"""Superscript of a cell by its column's flag."""
COLLAPSED = "CO"
"""Superscript of a single-step column after catastrophic overfitting (Kim et al. 2020, arXiv 2010.01799)."""
SIGN_MEANINGS = {
    "▼": "overestimated: verified adversarial examples exist against images that this column calls robust",
    COLLAPSED: "catastrophic overfitting: images stand at FGSM’s full step and fall to a shorter one, so FGSM’s number "
    "says nothing about robustness",
    "?": "suspect: symptoms of gradient masking concern this column, without a proof so far",
    "n": "note: a few images, or a gap that is usual for such an attack; the submission’s page says which",
}
"""What each superscript means, in the order of a legend."""
GRAVITY = ("information", "symptom", "existence", "protocol", "witness")


FINDINGS = {
    "pass": "pass",
    "warn": "warning",
    "fail": "fail",
    "unknown": "not checked",
    "not-applicable": "not applicable",
}
"""How a finding's verdict is written."""


@dataclass(frozen=True)
class Badge:
    """A verdict as the board shows it: a word and its numbers; the shape and the colour follow from the word."""

    word: str
    """One of the seven verdicts."""
    text: str
    """E.g. ``VERIFIED 22/25`` or ``OVERESTIMATED −11.1 pp``."""
    says: str
    """One sentence: why."""

    @property
    def place(self) -> int:
        """Position among the verdicts, to sort by: verified first, unchecked last."""
        return WORDS.index(self.word) if self.word in WORDS else len(WORDS)


def judge_all(
    root: Path, manifest: Manifest, candidate: Candidate, tasks: Iterable[Task]
) -> dict[ThreatModel, Judgement]:
    """The judgement of one submission under each of its threat models; none without probes or clean predictions."""
    distinct: dict[tuple[str, str], Task] = {}
    for task in tasks:
        distinct.setdefault((task.key, task.cascade), task)
    whole = replace(candidate, tasks=tuple(distinct.values()))
    found = {threat: _judge(root, manifest, whole, threat) for threat in threats_of(whole)}
    return {threat: judgement for threat, judgement in found.items() if judgement is not None}


def _judge(root: Path, manifest: Manifest, candidate: Candidate, threat: ThreatModel) -> Judgement | None:
    """As ``judge_candidate``; numbers that the checks cannot read leave the row unchecked, not the page unbuilt."""
    try:
        return judge_candidate(root, manifest, candidate, threat)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        case = read_case(root, manifest, candidate, threat)
        if case is None:
            return None
        told = " ".join(str(error).split())
        why = f"the probes' records do not fit these checks ({type(error).__name__}: {told}); run the battery again"
        absent = {CHECKS.get(name).probe: why for name in CHECKS.names()}
        bare = replace(case, measured={}, witnessed={}, absent=absent)
        findings = judge(bare)
        return Judgement(bare, tuple(findings), decide(bare, findings))


def pp(share: float) -> str:
    """A difference of two shares in percentage points: ``−11.1 pp``."""
    return f"{100 * share:+.1f} pp".replace("-", "−").replace("+0.0", "0.0")


def badge(judgement: Judgement | None) -> Badge:
    """The badge of a row; ``UNCHECKED`` without a judgement."""
    if judgement is None:
        return Badge("unchecked", TITLES["unchecked"], "No run of this submission asked for the validity battery.")
    verdict = judgement.verdict
    title = "VERIFIED (deep)" if verdict.deep else TITLES.get(verdict.word, verdict.word.upper())
    more = {
        "verified": lambda: f" {verdict.passed}/{verdict.total}",
        "verified-with-note": lambda: f" {verdict.passed}/{verdict.total}",
        "suspect": lambda: f" {len(symptoms(judgement))}",
        "overestimated": lambda: f" {pp(verdict.corrected.value - (verdict.claimed or 0.0))}",
        "protocol": lambda: f": {protocol_reason(judgement.findings)}",
    }.get(verdict.word, lambda: "")()
    return Badge(verdict.word, title + more, verdict.sentence)


def symptoms(judgement: Judgement) -> tuple[str, ...]:
    """Checks with a symptom about the headline column or the whole row, sorted."""
    top = judgement.verdict.headline
    return tuple(
        sorted(
            {
                item.check
                for item in judgement.findings
                if item.kind == "symptom"
                and item.verdict in {"warn", "fail"}
                and (not item.columns or top in item.columns)
            }
        )
    )


def protocol_reason(findings: Sequence[Finding]) -> str:
    """The first broken rule in a word or two; empty when none is."""
    first = next((item for item in findings if item.kind == "protocol" and item.verdict == "fail"), None)
    return PROTOCOL.get(first.check, first.title.lower()) if first else ""


def flags_of(
    judgement: Judgement | None, cascades: Mapping[tuple[str, ThreatModel], Sequence[str]], shown: Iterable[str]
) -> dict[str, ColumnFlag]:
    """Flags that are not ``true`` by task key; that of a cascade without a column of its own marks its last member."""
    if judgement is None:
        return {}
    columns = set(shown)
    found = {flag.key: flag for flag in judgement.verdict.columns if flag.flag != "true"}
    for (name, threat), members in cascades.items():
        key = f"{name}@{threat}"
        if key in found and key not in columns and members:
            flag = found.pop(key)
            found.setdefault(members[-1], flag)
    return found


def sign_of(flag: ColumnFlag, findings: Iterable[Finding]) -> str:
    """The superscript of a flagged cell; a collapsed single-step column has one of its own."""
    limit = load_thresholds()("A3", "distorted_fail")
    collapsed = any(
        item.check == "A3" and flag.key in item.columns and item.metrics.get("distorted", 0.0) > limit
        for item in findings
    )
    return COLLAPSED if collapsed else SIGNS.get(flag.flag, "")


def findings_object(judgement: Judgement | None) -> list[dict[str, Any]]:
    """Every finding as plain data for the exports; a metric that is not finite becomes None."""
    if judgement is None:
        return []
    found = []
    for item in sorted(judgement.findings, key=lambda item: check_order(item.check)):
        plain = asdict(item)
        plain["columns"] = list(item.columns)
        plain["metrics"] = {
            name: float(value) if math.isfinite(value) else None for name, value in sorted(item.metrics.items())
        }
        found.append(plain)
    return found


def by_check(findings: Sequence[Finding]) -> dict[str, list[Finding]]:
    """Findings by check, in the order the checks are told: contract, gradients, adequacy, integrity, information."""
    groups: dict[str, list[Finding]] = {}
    for item in sorted(findings, key=lambda item: check_order(item.check)):
        groups.setdefault(item.check, []).append(item)
    return groups


def check_order(name: str) -> tuple[int, int, str]:
    """Sort key of a check's name: ``C2-EOT`` after ``C2``, ``A10`` after ``A9``."""
    letters, digits = name[:1], "".join(char for char in name[1:].partition("-")[0] if char.isdigit())
    place = "CGADI".find(letters)
    return (place if place >= 0 else 9, int(digits or 0), name)


def gravest(findings: Sequence[Finding]) -> Finding:
    """The finding of one check that speaks for it: the worst verdict, of equal ones the strongest evidence."""
    order = ("not-applicable", "pass", "unknown", "warn", "fail")
    return max(findings, key=lambda item: (order.index(item.verdict), GRAVITY.index(item.kind)))


def claimed_of(verdict: Verdict) -> float | None:
    """What a verdict replaces: the claim when it is overestimated or its attack is invalid, else None."""
    return verdict.claimed if verdict.word in {"overestimated", "attack-invalid"} else None
