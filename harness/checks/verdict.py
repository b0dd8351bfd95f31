"""From findings to one word about a submission, a corrected number, and flags on its columns. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.checks.case import Case, Column
from harness.checks.rules import Weight, claiming, headline, points, strength, weigh
from harness.checks.thresholds import Thresholds, load_thresholds
from harness.metrics import Accuracy
from harness.records import Finding

WORDS = ("verified", "verified-with-note", "suspect", "overestimated", "protocol", "attack-invalid", "unchecked")
FLAGS = ("true", "note", "suspect", "overestimated")


@dataclass(frozen=True)
class ColumnFlag:
    """What the evidence says of one attack's number."""

    key: str
    flag: str
    """``true``, ``note`` (a few examples, or a gap usual for such an attack), ``suspect`` or ``overestimated``."""
    claimed: float
    """Robust accuracy of the column, in [0, 1]."""
    corrected: float
    """The column less every example that something else broke."""
    witnesses: int
    checks: tuple[str, ...]
    """Checks whose findings name the column and did not pass."""
    sentence: str
    """Why it is flagged; empty when it is not."""


@dataclass(frozen=True)
class Verdict:
    """The outcome of the battery for one submission under one threat model."""

    word: str
    """One of ``WORDS``."""
    sentence: str
    """The reason in plain words."""
    claimed: float | None
    """Robust accuracy of the headline column, in [0, 1]; None without columns."""
    corrected: Accuracy
    """After every attack and every witness, with its 95 % interval."""
    headline: str
    """Task key of the strongest claim; empty without columns."""
    columns: tuple[ColumnFlag, ...]
    passed: int
    """Checks that ran and found nothing."""
    total: int
    """Checks that apply."""
    not_checked: tuple[str, ...]
    """Checks that could not run, each with its reason."""
    not_applicable: tuple[str, ...]
    """Checks that do not apply, each with its reason."""
    thresholds: str
    """Version of the thresholds."""
    deep: bool = False
    """Symptoms would have made it SUSPECT, but the suite ``deep`` found next to nothing behind them."""


def decide(case: Case, findings: Sequence[Finding], thresholds: Thresholds | None = None) -> Verdict:
    """Weigh the evidence: witnesses before protocol, protocol before existence, that before symptoms."""
    limits = thresholds or load_thresholds()
    top = headline(case)
    flags = tuple(_flag(case, column, findings, limits) for column in case.columns.values())
    word, sentence = _word(case, top, flags, findings, limits)
    deep = word == "suspect" and _cleared(case, top, flags, findings, limits)
    if deep:
        word, sentence = (
            "verified-with-note",
            f"{sentence} The suite deep, which attacks harder, found nothing behind it.",
        )
    judged = _by_check(findings)
    applicable = {check: verdicts for check, verdicts in judged.items() if verdicts != {"not-applicable"}}
    return Verdict(
        word=word,
        sentence=sentence,
        claimed=top.accuracy if top else None,
        corrected=case.corrected,
        headline=top.key if top else "",
        columns=flags,
        passed=sum(not verdicts & {"warn", "fail", "unknown"} for verdicts in applicable.values()),
        total=len(applicable),
        not_checked=_reasons(findings, "unknown"),
        not_applicable=_reasons(
            [finding for finding in findings if judged[finding.check] == {"not-applicable"}], "not-applicable"
        ),
        thresholds=limits.version,
        deep=deep,
    )


def _cleared(
    case: Case, top: Column | None, flags: Sequence[ColumnFlag], findings: Sequence[Finding], limits: Thresholds
) -> bool:
    """Whether the deep battery ran and broke too little to bear the symptoms out.

    A symptom about the images themselves, such as memory of them, is not for attacks to clear.
    """
    own = next((flag for flag in flags if top is not None and flag.key == top.key), None)
    if not case.deep or own is None or _reasons(findings, "unknown"):
        return False
    about = [item for item in findings if item.kind == "symptom" and _about(item, top, limits)]
    least = limits("verdict", "strong_warn")
    return not any("clean" in item.columns for item in about) and 100 * own.witnesses < least * case.n


def _by_check(findings: Sequence[Finding]) -> dict[str, set[str]]:
    judged: dict[str, set[str]] = {}
    for finding in findings:
        judged.setdefault(finding.check, set()).add(finding.verdict)
    return judged


def _reasons(findings: Sequence[Finding], verdict: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(f"{item.check}: {item.evidence}" for item in findings if item.verdict == verdict))


def _flag(case: Case, column: Column, findings: Sequence[Finding], limits: Thresholds) -> ColumnFlag:
    """What witnesses and symptoms say of one column."""
    weight = weigh(column, case.witnesses_against(column.key), case.n, limits)
    claims = bool(claiming(case, limits, [column]))
    named = [
        item for item in findings if column.key in item.columns and item.verdict in {"warn", "fail"} and _counts(item)
    ]
    strong = [item for item in named if item.verdict == "fail" and item.kind in {"symptom", "existence"}]
    weak = [item for item in named if item.verdict == "warn" and item.kind == "symptom"]
    noted = [item for item in named if item.verdict == "warn" and item.kind == "protocol"]
    flag, sentence = "true", ""
    if weight.word == "fail":
        flag = "overestimated"
        sentence = f"{weight.count} of {case.n} examples it calls robust are broken: {_arrow(column.accuracy, weight)}."
    elif claims and (strong or len({item.check for item in weak}) >= limits("verdict", "weak_symptoms")):
        flag, sentence = "suspect", (strong or weak)[0].evidence
    elif weight.word in {"note", "warn"} or noted or (claims and weak and strength(column) != "strong"):
        # One weak symptom is no word against a column that is the best of several losses and searches.
        flag = "note"
        sentence = [*weak, *noted][0].evidence if weak or noted else ""
        if weight.word in {"note", "warn"}:
            sentence = f"{weight.count} of {case.n} examples it calls robust are broken by something else."
    return ColumnFlag(
        column.key, flag, column.accuracy, column.accuracy - weight.share, weight.count,
        tuple(sorted({item.check for item in named})), sentence,
    )  # fmt: skip


def _counts(finding: Finding) -> bool:
    return finding.kind != "information"


def _arrow(claimed: float, weight: Weight) -> str:
    return f"{100 * claimed:.1f} -> {100 * (claimed - weight.share):.1f} %"


def _word(
    case: Case, top: Column | None, flags: Sequence[ColumnFlag], findings: Sequence[Finding], limits: Thresholds
) -> tuple[str, str]:
    """The gravest word that the evidence carries, and why."""
    own = next((flag for flag in flags if top is not None and flag.key == top.key), None)
    about = [item for item in findings if _about(item, top, limits)]
    missing = _reasons(findings, "unknown")
    grave = _grave(about, limits)
    if top is not None and own is not None and own.flag == "overestimated":
        return "overestimated", _overestimated(case, top, own, findings)
    if grave is not None:
        return grave
    if missing or top is None:
        return "unchecked", missing[0] if missing else "No attack has a complete record."
    notes = [f"{flag.key}: {flag.sentence}" for flag in flags if flag.flag != "true"]
    notes += [f"{item.title}: {item.evidence}" for item in about if item.kind != "symptom" or _whole(item)]
    if notes:
        return "verified-with-note", notes[0]
    if not claiming(case, limits, [top]):
        return "verified", f"It claims {top.accuracy:.1%} robust accuracy: there is nothing to overestimate."
    return "verified", f"No check found more than {top.key} did."


def _grave(about: Sequence[Finding], limits: Thresholds) -> tuple[str, str] | None:
    """What other evidence than witnesses makes of the row, if anything."""
    for kind, word in (("protocol", "protocol"), ("existence", "attack-invalid")):
        failed = [item for item in about if item.kind == kind and item.verdict == "fail"]
        if failed:
            more = " How far the number is off is unknown." if word == "attack-invalid" else ""
            return word, f"{failed[0].title}: {failed[0].evidence}{more}"
    strong = [item for item in about if item.kind == "symptom" and item.verdict == "fail"]
    weak = [item for item in about if item.kind == "symptom" and item.verdict == "warn"]
    if strong or len({item.check for item in weak}) >= limits("verdict", "weak_symptoms"):
        return "suspect", " ".join(f"{item.title}: {item.evidence}" for item in (strong or weak)[:2])
    return None


def _whole(finding: Finding) -> bool:
    """Whether a symptom speaks of the network or its accuracy on the images, not of an attack's column."""
    return not finding.columns or "clean" in finding.columns


def _about(finding: Finding, top: Column | None, limits: Thresholds) -> bool:
    """Whether a finding that did not pass speaks about the row, by its headline column or as a whole.

    Symptoms and existence count while that column claims something, those about the accuracy on the images always.
    Witnesses count in the flags of the columns.
    """
    if finding.verdict not in {"warn", "fail"} or finding.kind in {"information", "witness"}:
        return False
    if finding.kind == "protocol":
        return finding.verdict == "fail" or not finding.columns or top is None or top.key in finding.columns
    if "clean" in finding.columns:
        return True
    if top is None or top.accuracy < limits("verdict", "claim"):
        return False
    return not finding.columns or top.key in finding.columns


def _overestimated(case: Case, top: Column, own: ColumnFlag, findings: Sequence[Finding]) -> str:
    """The number, and who found most of what lowers it."""
    text = (
        f"{top.key} calls {top.accuracy:.1%} robust; {own.witnesses} of {case.n} examples are not "
        f"({points(own.witnesses / case.n)})."
    )
    found = [
        item for item in findings if item.kind == "witness" and "witnesses" in item.metrics and item.verdict == "fail"
    ]
    found = [item for item in found if top.key in item.columns]
    if not found:
        return text
    most = max(found, key=lambda item: item.metrics["witnesses"])
    return f"{text} {most.title}: {most.evidence}"
