"""I2: the loss around images, along the gradient's sign and across it, as in JARN's figure. Information, no verdict."""

from typing import Any

import torch
from torch import Tensor

from harness.attacks.asking import ask
from harness.attacks.geometry import ascent, per_image
from harness.attacks.losses import LOSSES
from harness.probes.climbing import median, sensitivity
from harness.probes.probe import Probe
from harness.probes.standing import share
from harness.probes.subject import Measured, Subject

DIGITS = 4


def measure(
    subject: Subject, *, examples: int = 32, points: int = 17, images: int = 3, grid: int = 11, reach: float = 2.0
) -> Measured:
    """Cross-entropy at x + a d1 + b d2, a and b from -``reach`` to ``reach`` budgets, points clipped to [0, 1].

    d1 is the ascent direction of the budget (Linf: the gradient's sign), d2 a random one of the same kind with its
    part along d1 taken off and d1's length (arXiv 1912.10185, figure 3). ``profile``: the quartiles over ``examples``
    clean-correct images along ``adversarial`` and ``orthogonal`` at the ``offsets`` (budgets); ``surfaces``: for
    ``images``, ``position``, ``label`` and rows (a) of the loss by column (b). ``bend``: the median over images of the
    largest distance of the adversarial profile within the budget from its best line, over the profile's range.
    Deep: ``examples=256, images=8, grid=21``.
    """
    rows = subject.pick(subject.correct, share(subject, examples, 12, 8))
    if not len(rows):
        return Measured({"applicable": False, "reason": "no image is classified rightly"})
    along, across = _directions(subject, rows)
    offsets = torch.linspace(-reach, reach, points)
    profile: dict[str, Any] = {}
    curves = {}
    for name, way in (("adversarial", along), ("orthogonal", across)):
        curves[name] = torch.stack([_loss(subject, rows, float(at) * way) for at in offsets])
        profile[name] = _quartiles(curves[name])
    few = torch.arange(min(images, len(rows)))
    steps = torch.linspace(-reach, reach, grid)
    surface = torch.stack(
        [torch.stack([_loss(subject, rows[few], a * along[few] + b * across[few]) for b in steps]) for a in steps]
    )
    near = offsets.abs() <= 1
    return Measured(
        {
            "applicable": True, "examples": len(rows), "eps": subject.eps, "norm": subject.norm, "clipped": True,
            "offsets": _plain(offsets), "profile": profile,
            "bend": median(_bend(offsets[near], curves["adversarial"][near])), "grid_offsets": _plain(steps),
            "surfaces": [
                {"position": int(rows[at]), "label": int(subject.y[rows[at]]),
                 "loss": [_plain(line) for line in surface[:, :, at]]}
                for at in few.tolist()
            ],
        }
    )  # fmt: skip


def _directions(subject: Subject, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Two directions of one budget's length, orthogonal to each other, (N, C, H, W)."""
    x, y = subject.x[rows], subject.y[rows]
    _, grad = sensitivity(subject.model, x, y, "ce", subject.batch_size)
    along = ascent(grad, subject.norm)
    draw = ascent(subject.generators("i2-landscape", rows).normal(x.shape[1:]).to(x), subject.norm)
    size = along.flatten(1).square().sum(1)
    part = (draw * along).flatten(1).sum(1) / size.clamp_min(1e-30)
    across = draw - per_image(part, x) * along
    length = across.flatten(1).square().sum(1)
    wanted = torch.where(size > 0, size, draw.flatten(1).square().sum(1))
    across = across * per_image((wanted / length.clamp_min(1e-30)).sqrt(), x)
    return subject.eps * along, subject.eps * across


def _loss(subject: Subject, rows: Tensor, step: Tensor) -> Tensor:
    logits = ask(subject.model, (subject.x[rows] + step).clamp(0, 1), subject.batch_size)
    return LOSSES["ce"](logits, subject.y[rows])


def _quartiles(curves: Tensor) -> dict[str, list[float | None]]:
    """From losses (points, N) to three curves."""
    low, middle, high = curves.double().quantile(torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64), dim=1)
    return {"low": _plain(low), "median": _plain(middle), "high": _plain(high)}


def _plain(values: Tensor) -> list[float | None]:
    return [round(float(value), DIGITS) if bool(torch.isfinite(value)) else None for value in values]


def _bend(offsets: Tensor, curves: Tensor) -> Tensor:
    """Largest distance from the least squares line, over the range, of every column of ``curves`` (points, N)."""
    design = torch.stack([torch.ones_like(offsets), offsets], 1).double()
    known = curves.isfinite().all(0)
    curves = torch.where(known, curves, 0.0).double()
    line = design @ torch.linalg.lstsq(design, curves).solution
    span = torch.where(known, curves.amax(0) - curves.amin(0), 0.0)
    return torch.where(span > 0, (curves - line).abs().amax(0) / span.clamp_min(1e-30), torch.nan)


PROBE = Probe("i2-landscape", measure, 1)
