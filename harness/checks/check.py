"""What a registered check is; a file of its own, so that the checks can name it and the registry can name them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from harness.checks.case import Case
from harness.checks.thresholds import Thresholds
from harness.records import Finding


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
