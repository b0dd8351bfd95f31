"""I1: what the gradient of the decision looks like, and how well it agrees with the image. Information, no verdict."""

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.attacks.asking import ask, ask_gradient
from harness.probes.climbing import cosine, mean, median, sensitivity
from harness.probes.pictures import png
from harness.probes.probe import Probe
from harness.probes.subject import Measured, Subject


def measure(subject: Subject, *, examples: int = 96, pictures: int = 8) -> Measured:
    """Alignment of the Jacobian with the image (Etmann et al. 2019, arXiv 1905.04172), and saliency maps.

    ``alignment``: median of |<x, g>| / |g|_2 over clean-correct images, g the gradient of the margin of the two top
    logits; ``cosine``: median |cosine| of x and g. ``saliency``: for ``pictures`` images of different classes where
    there are, ``position``, ``label`` and ``png``: the loss gradient as JARN shows it (arXiv 1912.10185): clipped at
    three standard deviations, zero in mid grey.
    """
    rows = subject.pick(subject.correct, examples)
    if not len(rows):
        return Measured({"applicable": False, "reason": "no image is classified rightly"})
    x = subject.x[rows]
    second = ask(subject.model, x, subject.batch_size).topk(2, 1).indices

    def lead(logits: Tensor, at: Tensor) -> Tensor:
        return logits.gather(1, second[at]).diff(dim=1).squeeze(1)

    _, _, grad = ask_gradient(subject.model, x, lead, subject.batch_size)
    grad = grad.nan_to_num(0.0, 0.0, 0.0)
    length = torch.linalg.vector_norm(grad.flatten(1), dim=1)
    inner = (x * grad).flatten(1).sum(1).abs()
    shown = _different(subject, rows, pictures)
    _, saliency = sensitivity(subject.model, subject.x[shown], subject.y[shown], "ce", subject.batch_size)
    return Measured(
        {
            "applicable": True, "examples": len(rows), "pictures_of": "d cross-entropy / d x",
            "alignment": median(torch.where(length > 0, inner / length.clamp_min(1e-30), torch.nan)),
            "cosine": median(cosine(x, grad).abs()), "roughness": mean(_roughness(grad)),
            "saliency": [
                {"position": int(row), "label": int(subject.y[row]), "png": png(_grey(one))}
                for row, one in zip(shown, saliency, strict=True)
            ],
        }
    )  # fmt: skip


def _different(subject: Subject, rows: Tensor, count: int) -> Tensor:
    """Up to ``count`` of ``rows``, the first of every label, then the others."""
    seen: dict[int, int] = {}
    for row in rows.tolist():
        seen.setdefault(int(subject.y[row]), row)
    first = list(seen.values())
    rest = [row for row in rows.tolist() if row not in first]
    return torch.tensor((first + rest)[:count], dtype=torch.int64)


def _grey(grad: Tensor) -> Tensor:
    """A gradient (C, H, W) as an image in [0, 1]."""
    limit = 3 * grad.std(correction=0)
    return (grad / (2 * limit.clamp_min(1e-30)) + 0.5).clamp(0, 1)


def _roughness(grad: Tensor) -> Tensor:
    """Share of a gradient's energy that a 3x3 mean takes away, (N,): near 8/9 for noise, near 0 for smooth maps."""
    smooth = F.avg_pool2d(grad, 3, 1, 1, count_include_pad=False)
    energy = grad.flatten(1).square().sum(1)
    return torch.where(energy > 0, 1 - smooth.flatten(1).square().sum(1) / energy.clamp_min(1e-30), torch.nan)


PROBE = Probe("i1-jacobian", measure, 1, reads_attacks=False)
