"""A3: what shorter steps along FGSM's own direction show."""

import torch

from harness.attacks.asking import ask
from harness.attacks.geometry import Ball, ascent
from harness.attacks.losses import misclassified
from harness.probes.climbing import sensitivity
from harness.probes.probe import Probe
from harness.probes.standing import broken, gate, pairs_of, standing
from harness.probes.subject import Measured, Subject


def measure(subject: Subject, *, examples: int = 256, fractions: int = 10) -> Measured:
    """FGSM's step at k / ``fractions`` of the budget, k = 1 ... ``fractions``, on clean-correct images.

    ``accuracy``: by k; ``distorted``: share of images that are misclassified on the way and right again at the full
    step, the mark of catastrophic overfitting (Kim et al. 2020, arXiv 2010.01799). Misclassified points are claimed.
    """
    rows = subject.pick(subject.correct, examples)
    stop = gate(subject, rows)
    if stop is not None:
        return stop
    x, y = subject.x[rows], subject.y[rows]
    _, grad = sensitivity(subject.model, x, y, "ce", subject.batch_size)
    ball, way = Ball(x, subject.norm, subject.eps), ascent(grad, subject.norm)
    accuracy, found = {}, []
    alive, on_the_way = standing(subject)[rows], torch.zeros(len(rows), dtype=torch.bool)
    for k in range(1, fractions + 1):
        points = ball.project_(x + k / fractions * subject.eps * way)
        wrong = misclassified(ask(subject.model, points, subject.batch_size), y)
        found.append(pairs_of(rows, wrong & alive, points))
        accuracy[str(k)] = float((~wrong).float().mean())
        if k < fractions:
            on_the_way |= wrong
    distorted = float((on_the_way & ~wrong).float().mean())
    return Measured.of(
        {
            "applicable": True,
            "examples": len(rows),
            "accuracy": accuracy,
            "distorted": distorted,
            "broken": broken(found),
        },
        found,
    )


PROBE = Probe("a3-single-step", measure, 1)
