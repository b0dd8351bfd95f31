"""Rules that several checks share: what a column claims, and what witnesses weigh. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.checks.case import Case, Column
from harness.checks.thresholds import Thresholds
from harness.records import Finding

SINGLE = ("fgsm",)
ITERATIVE = ("pgd", "apgd-ce", "apgd", "deepfool", "mifgsm", "nes", "random")
GRADIENT = (*SINGLE, "pgd", "apgd-ce", "apgd", "deepfool")
"""Attacks that follow the gradient of one loss."""
WORDS = ("pass", "note", "warn", "fail")


def strength(column: Column) -> str:
    """``single`` step, ``iterative`` on one loss, or ``strong``: what the column's number is held against."""
    if column.attack in SINGLE:
        return "single"
    return "iterative" if column.attack in ITERATIVE else "strong"


def headline(case: Case) -> Column | None:
    """The strongest claim: the AutoAttack column when there is one, else the lowest column; None without columns."""
    whole = [column for column in case.columns.values() if column.attack.startswith("autoattack")]
    others = list(case.columns.values())
    return min(whole or others, key=lambda column: (column.accuracy, column.key), default=None)


def claiming(case: Case, limits: Thresholds, columns: Sequence[Column] | None = None) -> list[Column]:
    """The columns that claim enough robust accuracy for a symptom to mean anything."""
    chosen = case.columns.values() if columns is None else columns
    return [column for column in chosen if column.accuracy >= limits("verdict", "claim")]


@dataclass(frozen=True)
class Weight:
    """How many examples a column calls robust that are not, and what follows."""

    count: int
    share: float
    """``count`` over all examples, in [0, 1]."""
    word: str
    """``pass``, ``note`` (some), ``warn`` or ``fail``."""
    threshold: str


def weigh(column: Column, count: int, n: int, limits: Thresholds) -> Weight:
    """Hold ``count`` false claims of ``n`` examples against what attacks of the column's strength leave on honest nets.

    Strong columns: rule W of the thresholds' ``verdict`` table. Weaker ones have wider limits and the same counts.
    """
    share, kind = count / n, strength(column)
    warn, fail = limits("verdict", f"{kind}_warn") / 100, limits("verdict", f"{kind}_fail") / 100
    word = "note" if count and kind == "strong" else "pass"
    text = limits.text("verdict", f"{kind}_warn")

    def reached(limit: float) -> bool:
        return share >= limit if kind == "strong" else share > limit + 1e-9

    if count >= limits("verdict", "witnesses_warn") and reached(warn):
        word = "warn"
    if count >= limits("verdict", "witnesses_fail") and reached(fail):
        word, text = "fail", limits.text("verdict", f"{kind}_fail")
    return Weight(count, share, word, text)


def not_applicable(check: str, title: str, kind: str, why: str) -> list[Finding]:
    """One finding that says why there is nothing to judge."""
    return [Finding(check, title, kind, "not-applicable", evidence=f"Not applicable: {why}.")]


def keys(columns: Sequence[Column]) -> tuple[str, ...]:
    """Their task keys, sorted."""
    return tuple(sorted(column.key for column in columns))


def points(share: float) -> str:
    """A share as percentage points, e.g. ``4.2 pp``."""
    return f"{100 * share:.1f} pp"


def witnessed(case: Case, probe: str) -> int:
    """Examples called robust by every column against which ``probe`` has a verified witness."""
    hits = case.witnessed.get(probe, ())
    return sum(hit and stands for hit, stands in zip(hits, case.survivors, strict=False))


def by_witness(case: Case, limits: Thresholds, check: str, title: str, probe: str, means: str) -> list[Finding]:
    """Rule W on what one probe found beyond every column, held against the headline column.

    ``means`` says in a few words by what the examples fell, e.g. ``random draws``.
    """
    numbers, top = case.measured[probe], headline(case)
    if not numbers.get("applicable", True) or top is None:
        return not_applicable(
            check, title, "witness", str(numbers.get("reason", "no attack column to hold it against"))
        )
    count = witnessed(case, probe)
    weight = weigh(top, count, case.n, limits)
    hit = [column for column in case.columns.values() if _falsified(case, column, probe)]
    evidence = f"{means[:1].upper()}{means[1:]} broke none of the examples called robust."
    if count:
        evidence = (
            f"{means[:1].upper()}{means[1:]} broke {count} of {sum(case.survivors)} examples that every column calls "
            f"robust ({points(weight.share)} of {case.n})."
        )
    verdict = {"pass": "pass", "note": "pass"}.get(weight.word, weight.word)
    return [
        Finding(
            check, title, "witness", verdict, columns=keys(hit) if count else (),
            metrics={"witnesses": float(count), "gap_pp": 100 * weight.share}, threshold=weight.threshold,
            evidence=evidence,
        )
    ]  # fmt: skip


def _falsified(case: Case, column: Column, probe: str) -> bool:
    hits = case.witnessed.get(probe, ())
    return any(hit and claim for hit, claim in zip(hits, column.robust, strict=False))
