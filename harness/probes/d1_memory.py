"""D1: whether the network knows these images by heart: changes that no classifier should mind."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.attacks.asking import ask
from harness.attacks.losses import misclassified
from harness.probes.climbing import climb
from harness.probes.probe import Probe
from harness.probes.standing import claim, share
from harness.probes.subject import Measured, Subject

CLAIM = 0.10
"""Robust accuracy from which on the attack on mirrored images is worth its cost."""
TEST_SET = 10_000
"""Images of the test set of each of the board's data sets."""


def measure(subject: Subject, *, examples: int = 1000, attacked_examples: int = 64, steps: int = 10) -> Measured:
    """Correct images out of ``examples`` before (``right``) and after a change no human sees the point of.

    ``lsb``: random -1, 0 or +1 in 1/255; ``jitter``: 1e-6, of which ``jitter_flips`` counts every changed class;
    ``flip``: mirrored; ``shift``: moved by one pixel, edges reflected. Each with images ``lost`` and ``won``.
    ``attacked``: how many of the clean-correct images withstand a short ascent of the margin, as they are and mirrored.
    ``tables``: buffers, attributes and containers as long as the run's images or the test set.
    """
    rows = subject.pick(torch.ones(len(subject.x), dtype=torch.bool), examples)
    x, y, clean = subject.x[rows], subject.y[rows], subject.clean[rows]
    generator = torch.Generator().manual_seed(subject.seed)
    noise = torch.randint(-1, 2, x.shape, generator=generator).float() / 255
    jitter = torch.rand(x.shape, generator=generator).sub(0.5).sign() * 1e-6
    changed = {
        "lsb": (x + noise).clamp(0, 1), "jitter": (x + jitter).clamp(0, 1), "flip": x.flip(3), "shift": _shifted(x),
    }  # fmt: skip
    numbers: dict[str, Any] = {"examples": len(x), "right": int((clean == y).sum())}
    for name, images in changed.items():
        logits = ask(subject.model, images, subject.batch_size)
        right = ~misclassified(logits, y)
        numbers[name] = {
            "right": int(right.sum()), "lost": int(((clean == y) & ~right).sum()),
            "won": int(((clean != y) & right).sum()),
        }  # fmt: skip
        if name == "jitter":
            numbers["jitter_flips"] = int(misclassified(logits, clean.clamp_min(0)).logical_and(clean >= 0).sum())
    numbers["attacked"] = (
        _attacked(subject, share(subject, attacked_examples, 16), steps) if claim(subject) >= CLAIM else None
    )
    sizes = sorted({len(subject.x), TEST_SET} - set(range(500)))
    numbers["tables"] = subject.worker.probe("tables", sizes=sizes)["tables"]
    return Measured(numbers)


def _shifted(x: Tensor) -> Tensor:
    """Every row one pixel to the right; an image of one column stays."""
    return F.pad(x, (1, 0, 0, 0), mode="reflect")[..., : x.shape[3]] if x.shape[3] > 1 else x


def _attacked(subject: Subject, count: int, steps: int) -> dict[str, int]:
    """Images withstanding the attack among the same ones that are right both as they are and mirrored."""
    rows = subject.pick(subject.correct, 2 * count)
    mirrored = subject.x[rows].flip(3)
    if not len(rows):
        return {"examples": 0, "as_is": 0, "mirrored": 0}
    rows = rows[~misclassified(ask(subject.model, mirrored, subject.batch_size), subject.y[rows])][:count]
    left = {}
    for name, images in (("as_is", subject.x[rows]), ("mirrored", subject.x[rows].flip(3))):
        path = climb(subject.model, images, subject.y[rows], eps=subject.eps, norm=subject.norm, steps=steps,
                     batch_size=subject.batch_size)  # fmt: skip
        left[name] = int((~path.fooled).sum())
    return {"examples": len(rows), **left}


PROBE = Probe("d1-memory", measure, 1)
