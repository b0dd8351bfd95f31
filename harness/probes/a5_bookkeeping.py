"""A5: whether stored adversarial examples hold, and attacks return what they find."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from harness.attacks.asking import ask
from harness.attacks.fgsm import fgsm
from harness.attacks.losses import misclassified
from harness.attacks.pgd import pgd
from harness.probes.probe import Probe
from harness.probes.standing import broken, gate, sample
from harness.probes.subject import Measured, Subject

ORDER = {"Linf": float("inf"), "L2": 2.0, "L1": 1.0}


class Recorder(nn.Module):
    """Passes questions on, and keeps the first misclassified one within the budget for every image."""

    def __init__(self, network: nn.Module, x: Tensor, y: Tensor, norm: str, eps: float) -> None:
        super().__init__()
        self.__dict__["network"] = network
        self._x, self._y, self._norm, self._eps = x, y, norm, eps
        self.hits: dict[int, Tensor] = {}
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, K)."""
        logits: Tensor = self.__dict__["network"](x)
        points = x.detach()
        # The image a question belongs to: the nearest one, as perturbations are smaller than what lies between images.
        owners = torch.cdist(points.flatten(1), self._x.flatten(1)).argmin(1)
        wrong = misclassified(logits.detach(), self._y[owners]) & inside(
            points - self._x[owners], self._norm, self._eps
        )
        for row in wrong.nonzero().squeeze(1).tolist():
            self.hits.setdefault(int(owners[row]), points[row].clone())
        return logits


def inside(delta: Tensor, norm: str, eps: float) -> Tensor:
    """Whether every row of ``delta`` lies in the budget up to the rounding of float32, bool (N,)."""
    length: Tensor = torch.linalg.vector_norm(delta.flatten(1).double(), ord=ORDER[norm], dim=1)
    limit = eps + 1e-6 if norm == "Linf" else eps * (1 + 1e-5)
    return length <= limit


def measure(subject: Subject, *, examples: int = 32, steps: int = 5, stored: int = 2000) -> Measured:
    """Every stored adversarial example again, and FGSM and a short PGD under a recorder.

    ``attacks``, by task key: ``checked`` images, ``not_finite`` or out of the box (``outside_box``), ``outside`` the
    budget although the column counts them as broken, ``replayed`` and ``fooling`` among those inside, ``fooling_8bit``
    after rounding to 8 bits, ``unreturned``: misclassified and inside although the column calls them robust.
    ``silent``: images of ``examples`` for which an attack asked about a misclassified point and returned another.
    """
    stop = gate(subject, subject.correct.nonzero().squeeze(1))
    if stop is not None:
        return stop
    attacks: dict[str, Any] = {}
    found: list[tuple[Tensor, Tensor]] = []
    for key, (rows, images) in subject.fallen.items():
        if not len(rows):
            continue
        attacks[key], hits = _again(subject, key, rows[:stored], images[:stored])
        found.append(hits)
    silent, hits = _silent(subject, sample(subject, subject.correct, examples), steps)
    found.append(hits)
    alive = subject.robust
    found = [(rows[alive[rows]], images[alive[rows]]) for rows, images in found]
    return Measured.of(
        {"applicable": True, "attacks": attacks, "silent_examples": min(examples, int(subject.correct.sum())),
         "silent": silent, "broken": broken(found)}, found
    )  # fmt: skip


def _again(subject: Subject, key: str, rows: Tensor, images: Tensor) -> tuple[dict[str, int], tuple[Tensor, Tensor]]:
    finite = images.flatten(1).isfinite().all(1)
    boxed = finite & (images.flatten(1).amin(1) >= 0) & (images.flatten(1).amax(1) <= 1)
    near = boxed & inside(images - subject.x[rows], subject.norm, subject.eps)
    wrong = torch.zeros_like(near)
    rounded = torch.zeros_like(near)
    asked = boxed.nonzero().squeeze(1)
    if len(asked):
        labels = subject.y[rows[asked]]
        wrong[asked] = misclassified(ask(subject.model, images[asked], subject.batch_size), labels)
        bits = (images[asked] * 255).round() / 255
        rounded[asked] = misclassified(ask(subject.model, bits, subject.batch_size), labels)
    column = subject.columns.get(key)
    standing_here = column[rows] if column is not None else torch.zeros_like(near)
    counted = subject.correct[rows] & ~standing_here
    minimum = "deepfool" in key or "fab" in key
    unreturned = near & wrong & standing_here
    return {
        "checked": len(rows), "not_finite": int((~finite).sum()), "outside_box": int((finite & ~boxed).sum()),
        "outside": 0 if minimum else int((counted & ~near).sum()), "replayed": int((near & counted).sum()),
        "fooling": int((near & counted & wrong).sum()), "fooling_8bit": int((near & counted & rounded).sum()),
        "unreturned": int(unreturned.sum()),
    }, (rows[unreturned], images[unreturned])  # fmt: skip


def _silent(subject: Subject, rows: Tensor, steps: int) -> tuple[int, tuple[Tensor, Tensor]]:
    """How many images an attack met misclassified and did not return so, and those points."""
    x, y = subject.x[rows], subject.y[rows]
    lost: dict[int, Tensor] = {}
    for attack in (fgsm, partial(pgd, steps=steps)):
        recorder = Recorder(subject.model, x, y, subject.norm, subject.eps)
        draws = subject.generators("a5-bookkeeping", rows)
        returned = attack(recorder, x, y, eps=subject.eps, norm=subject.norm, generator=draws)
        wrong = misclassified(ask(subject.model, returned, subject.batch_size), y)
        lost |= {row: point for row, point in recorder.hits.items() if not bool(wrong[row])}
    if not lost:
        return 0, (rows[:0], subject.x[:0])
    return len(lost), (rows[torch.tensor(sorted(lost))], torch.stack([lost[row] for row in sorted(lost)]))


PROBE = Probe("a5-bookkeeping", measure, 1)
