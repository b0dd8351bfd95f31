"""C6: which operations lie between an image and its logits."""

from typing import Any

from harness.probes.contract import refusal
from harness.probes.probe import Probe
from harness.probes.subject import Measured, Subject


def measure(subject: Subject, *, examples: int = 16) -> Measured:
    """One watched forward pass; see ``harness.worker.trace`` for the numbers; ``error`` when it cannot be watched."""
    try:
        numbers: dict[str, Any] = subject.worker.probe("trace", x=subject.x[:examples])
    except Exception as error:
        if refusal(error) is None:
            raise
        return Measured({"error": str(error)})
    return Measured(numbers)


PROBE = Probe("c6-provenance", measure, 1, reads_attacks=False)
