"""Judges over records and probe numbers: pure functions, so new thresholds judge old records. No torch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from harness.checks.case import Case, Column
from harness.checks.thresholds import Thresholds, load_thresholds
from harness.records import Finding
from harness.registry import Registry

__all__ = ["CHECKS", "Case", "Check", "Column", "Thresholds", "judge", "load_thresholds"]


@dataclass(frozen=True)
class Check:
    """A registered check."""

    id: str
    """``C1`` and the like."""
    title: str
    kind: str
    """Class of the evidence, as in ``Finding``."""
    probe: str
    """Name of the probe it reads; empty when the columns are enough."""
    judge: Callable[[Case, Thresholds], Sequence[Finding]]
    """At least one finding; it may take for granted that the probe has run."""
    source: str
    """Where the idea comes from: paper, arXiv id, or ``ours``."""
    measures: str
    """What it measures, one sentence, for the page and the documentation."""
    false_positives: str = ""
    """Honest networks it is known to flag, one sentence."""


CHECKS: Registry[Check] = Registry("check")


def judge(case: Case, thresholds: Thresholds | None = None) -> list[Finding]:
    """Every check's findings on one submission; a check whose probe has no numbers is ``unknown``, never a pass."""
    limits = thresholds or load_thresholds()
    findings: list[Finding] = []
    for name in CHECKS.names():
        check = CHECKS.get(name)
        if check.probe and check.probe not in case.measured:
            why = case.absent.get(check.probe, "it was not run")
            findings.append(Finding(check.id, check.title, check.kind, "unknown", evidence=f"Not checked: {why}."))
        else:
            findings.extend(check.judge(case, limits))
    return findings
