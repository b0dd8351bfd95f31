"""G3: whether gradients keep their direction, next to the image and along an attack."""

import torch
from torch import Tensor

from harness.attacks.geometry import Ball, ascent
from harness.probes.climbing import climb, cosine, mean, sensitivity
from harness.probes.probe import Probe
from harness.probes.standing import gate, sample
from harness.probes.subject import Measured, Subject


def measure(subject: Subject, *, examples: int = 96, steps: int = 20) -> Measured:
    """Three mean cosines on clean-correct images, all with the cross-entropy as in the papers.

    ``c1``: gradients at the image and at a random point of the budget (arXiv 2007.02617, figure 4). ``c2``: FGSM's
    perturbation and that of PGD with ``steps`` (Gomes et al.). ``c3``: PGD's first step and each later one. ``zero``:
    share of images whose gradient is all zeros and counts as cosine 0. Deep: ``examples=256``.
    """
    rows = sample(subject, subject.correct, examples)
    stop = gate(subject, rows)
    if stop is not None:
        return stop
    x, y, size = subject.x[rows], subject.y[rows], subject.batch_size
    ball = Ball(x, subject.norm, subject.eps)
    _, here = sensitivity(subject.model, x, y, "ce", size)
    near = ball.sample(subject.generators("g3-coherence", rows))
    _, there = sensitivity(subject.model, near, y, "ce", size)
    first = ascent(here, subject.norm)
    single = ball.project_(x + subject.eps * first) - x
    along: list[Tensor] = []

    def watch(step: int, climbing: Tensor, _points: Tensor, grad: Tensor) -> None:
        if step:
            along.append(cosine(ascent(grad, subject.norm), first[climbing]))

    path = climb(subject.model, x, y, eps=subject.eps, norm=subject.norm, steps=steps, loss="ce", stay=True,
                 watch=watch, batch_size=size)  # fmt: skip
    return Measured(
        {
            "applicable": True, "examples": len(rows), "c1": mean(cosine(here, there)),
            "c2": mean(cosine(single, path.last - x)), "c3": mean(torch.cat(along)) if along else None,
            "zero": float((here.flatten(1) == 0).all(1).float().mean()),
        }
    )  # fmt: skip


PROBE = Probe("g3-coherence", measure, 1)
