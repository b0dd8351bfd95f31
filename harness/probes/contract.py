"""What the contract probes share: distances between logits, a recorder of an attack's queries, precise copies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from harness.attacks.asking import ask
from harness.probes.climbing import climb
from harness.probes.subject import Subject

CLOSE = 1e-3
"""Lead of the predicted class, relative to the largest logit, below which another class is no mismatch."""
AGREEMENT = 5e-2
"""Largest relative difference of the logits of a network in half precision and of its float64 copy."""


def plain(value: Tensor | float) -> float | None:
    """A number for a record; None when it is not finite."""
    number = float(value)
    return number if number - number == 0 else None


def difference(reference: Tensor, other: Tensor, close: float = CLOSE) -> tuple[float | None, int]:
    """Largest |difference| relative to the largest |logit| of each row, and rows that change class beyond ``close``.

    Both (N, K). None when a logit is finite in one and not in the other.
    """
    if not len(reference):
        return 0.0, 0
    finite = reference.isfinite().all(1)
    if not torch.equal(finite, other.isfinite().all(1)):
        return None, int((finite != other.isfinite().all(1)).sum())
    reference, other = reference[finite], other[finite]
    if not len(reference):
        return 0.0, 0
    size = reference.abs().amax(1).clamp_min(1e-30)
    top = reference.topk(2, 1).values
    clear = (top[:, 0] - top[:, 1]) > close * size
    changed = (reference.argmax(1) != other.argmax(1)) & clear
    return float(((reference - other).abs().amax(1) / size).max()), int(changed.sum())


def compared(reference: Tensor, answer: Callable[[], Tensor]) -> dict[str, Any]:
    """``{"difference", "mismatches"}`` of an answer, or ``{"error"}`` when the network refuses to give one."""
    try:
        other = answer()
    except Exception as error:
        if refusal(error) is None:
            raise
        return {"error": str(error)}
    gap, changed = difference(reference, other)
    return {"difference": gap, "mismatches": changed}


def refusal(error: Exception) -> str | None:
    """Its text when it is the network's own refusal of one question, None when the process is gone or it is a bug."""
    return str(error) if getattr(error, "kind", "") in {"raised", "contract"} else None


class Recorder(nn.Module):
    """Passes every question on, and keeps a random sample of the images asked about with what was answered."""

    def __init__(self, model: nn.Module, *, size: int, seed: int) -> None:
        super().__init__()
        self._model, self._size = [model], size
        self._generator = torch.Generator().manual_seed(seed)
        self._images: list[Tensor] = []
        self._logits: list[Tensor] = []
        self.asked = 0
        """Images asked about."""
        self.nonfinite = 0
        """Images answered with a logit that is not finite."""

    def forward(self, x: Tensor) -> Tensor:
        """The model's logits."""
        logits: Tensor = self._model[0](x)
        self.nonfinite += int((~logits.detach().isfinite().all(1)).sum())
        for image, row in zip(x.detach(), logits.detach(), strict=True):
            self.asked += 1
            if len(self._images) < self._size:
                self._images.append(image.clone())
                self._logits.append(row.clone())
                continue
            place = int(torch.randint(self.asked, (1,), generator=self._generator))
            if place < self._size:
                self._images[place], self._logits[place] = image.clone(), row.clone()
        return logits

    def sample(self) -> tuple[Tensor, Tensor]:
        """Images (m, C, H, W) and logits (m, K), in a random order."""
        order = torch.randperm(len(self._images), generator=self._generator)
        return torch.stack(self._images)[order], torch.stack(self._logits)[order]


def budget(subject: Subject) -> tuple[str, float]:
    """Norm and budget of the run, or Linf 8/255 where the run has none."""
    return (subject.norm, subject.eps) if subject.eps > 0 else ("Linf", 8 / 255)


def attacked(subject: Subject, model: nn.Module, count: int, steps: int) -> None:
    """Let ``model`` go through a short projected ascent of the margin on ``count`` images; nothing is kept of it."""
    rows = subject.pick(subject.clean >= 0, count)
    norm, eps = budget(subject)
    if len(rows):
        climb(
            model, subject.x[rows], subject.clean[rows], eps=eps, norm=norm, steps=steps, stay=True,
            batch_size=subject.batch_size,
        )  # fmt: skip


def is_half(logits: Tensor) -> bool:
    """Whether every logit is a number of half precision."""
    kept = logits[logits.isfinite()]
    if not len(kept) or bool((kept == kept.round()).all()):
        return False
    return any(torch.equal(kept, kept.to(dtype).float()) for dtype in (torch.bfloat16, torch.float16))


def precise(subject: Subject, x: Tensor) -> tuple[nn.Module, str]:
    """A network fit for small steps, and how it counts: ``float32``, ``float64`` or ``half``.

    A network that counts in half precision is replaced by its float64 copy where that gives the same answers.
    """
    logits = ask(subject.model, x, subject.batch_size)
    half = is_half(logits)
    if not half:
        try:
            half = bool(subject.worker.probe("trace", x=x[:16]).get("half"))
        except Exception as error:
            if refusal(error) is None:
                raise
    if not half:
        return subject.model, "float32"
    try:
        copy = subject.variant(kind="dtype", dtype="float64")
        other = ask(copy, x, subject.batch_size)
    except Exception as error:
        if refusal(error) is None:
            raise
        return subject.model, "half"
    gap, changed = difference(logits, other, AGREEMENT)
    return (copy, "float64") if gap is not None and gap <= AGREEMENT and not changed else (subject.model, "half")
