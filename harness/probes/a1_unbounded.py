"""A1: whether PGD reaches every image once it may change anything."""

from harness.probes.climbing import climb
from harness.probes.probe import Probe
from harness.probes.standing import gate, sample, standing
from harness.probes.subject import Measured, Subject


def measure(subject: Subject, *, examples: int = 96, steps: int = 100) -> Measured:
    """PGD on the margin in the whole box, from the image itself, with steps of a fiftieth of it (ART's SecurityCurve).

    No random start: a random image is misclassified by most networks, whatever their gradients. In L2 and L1 the
    budget is the box's diagonal in that norm. ``left`` of ``examples`` called robust still stand. These are not
    witnesses, they lie outside the budget. Deep: ``examples=128``.
    """
    rows = sample(subject, standing(subject), examples)
    stop = gate(subject, rows)
    if stop is not None:
        return stop
    pixels = subject.x[0].numel()
    eps = {"Linf": 1.0, "L2": pixels**0.5, "L1": float(pixels)}[subject.norm]
    result = climb(subject.model, subject.x[rows], subject.y[rows], eps=eps, norm=subject.norm, steps=steps,
                   step_size=eps / 50, batch_size=subject.batch_size)  # fmt: skip
    left = int((~result.fooled).sum())
    return Measured({"applicable": True, "examples": len(rows), "left": left, "accuracy": left / len(rows)})


PROBE = Probe("a1-unbounded", measure, 1)
