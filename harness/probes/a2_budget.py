"""A2: whether robust accuracy falls as the budget grows."""

from harness.probes.climbing import climb
from harness.probes.probe import Probe
from harness.probes.standing import broken, gate, pairs_of, sample, standing
from harness.probes.subject import Measured, Subject


def measure(
    subject: Subject, *, examples: int = 96, steps: int = 20, multiples: tuple[float, ...] = (0.5, 1, 2, 4, 8)
) -> Measured:
    """PGD of ``steps`` on the margin, from the image, on clean-correct images at ``multiples`` of the budget.

    Every budget attacks all images afresh. ``accuracy``: by multiple; ``violations``: share of images that fall at one
    budget and not at a larger one; ``ratio``: robust accuracy at twice the budget over that at the budget (None when
    nothing is left there). What falls within the budget is claimed. Deep: ``examples=256``.
    """
    rows = sample(subject, subject.correct, examples)
    stop = gate(subject, rows)
    if stop is not None:
        return stop
    x, y = subject.x[rows], subject.y[rows]
    alive = standing(subject)[rows]
    left, found = {}, []
    for multiple in sorted(multiples):
        result = climb(subject.model, x, y, eps=multiple * subject.eps, norm=subject.norm, steps=steps,
                       batch_size=subject.batch_size)  # fmt: skip
        left[multiple] = ~result.fooled
        if multiple <= 1:
            found.append(pairs_of(rows, result.fooled & alive, result.x_adv))
    budgets = sorted(left)
    violated = left[budgets[0]] & False
    for small, large in ((a, b) for a in budgets for b in budgets if a < b):
        violated |= ~left[small] & left[large]
    accuracy = {f"{multiple:g}": float(value.float().mean()) for multiple, value in left.items()}
    at = accuracy.get("1")
    return Measured.of(
        {
            "applicable": True, "examples": len(rows), "accuracy": accuracy,
            "violations": float(violated.float().mean()),
            "ratio": accuracy["2"] / at if at and "2" in accuracy else None, "broken": broken(found),
        },
        found,
    )  # fmt: skip


PROBE = Probe("a2-budget", measure, 1)
