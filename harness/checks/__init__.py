"""Judges over records and probe numbers: pure functions, so new thresholds judge old records. No torch."""

from harness.checks import adequacy, contract, derivatives, gradients, integrity, provenance, transfer
from harness.checks.case import Case, Column
from harness.checks.check import Check
from harness.checks.thresholds import Thresholds, load_thresholds
from harness.records import Finding
from harness.registry import Registry

__all__ = ["CHECKS", "Case", "Check", "Column", "Thresholds", "judge", "load_thresholds"]

CHECKS: Registry[Check] = Registry("check")

_ROOMS = (
    contract.CHECKS_CONTRACT, provenance.CHECKS_PROVENANCE, derivatives.CHECKS_DERIVATIVES, gradients.CHECKS_,
    adequacy.CHECKS_, transfer.CHECKS_, integrity.CHECKS_INTEGRITY,
)  # fmt: skip
for _room in _ROOMS:
    for _check in _room:
        CHECKS.add(_check.id, _check)

CHECKS.freeze()


def judge(case: Case, thresholds: Thresholds | None = None) -> list[Finding]:
    """Every check's findings on one submission; a check whose probe has no numbers is ``unknown``, never a pass."""
    limits = thresholds or load_thresholds()
    findings: list[Finding] = []
    for name in CHECKS.names():
        check = CHECKS.get(name)
        if check.probe and check.probe not in case.measured:
            why = case.absent.get(check.probe, "it was not run")
            findings.append(Finding(check.id, check.title, check.kind, "unknown", evidence=f"Not checked: {why}."))
            continue
        try:
            findings.extend(check.judge(case, limits))
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            # Numbers of another version of the probe: that check is open, the others are not.
            why = f"its probe's numbers could not be read ({type(error).__name__}: {error}); run the battery again"
            findings.append(Finding(check.id, check.title, check.kind, "unknown", evidence=f"Not checked: {why}."))
    return findings
