"""A10: whether an attack finds an adversarial example that is there by construction."""

import torch
from torch import Tensor, nn

from harness.attacks.apgd import apgd
from harness.attacks.asking import ask
from harness.attacks.geometry import Ball, ascent
from harness.attacks.pgd import pgd
from harness.probes.campaign import variant
from harness.probes.probe import Probe
from harness.probes.standing import gate, share
from harness.probes.subject import Measured, Subject


class Readouts(nn.Module):
    """A network's features followed by a linear classifier of two classes, one for each of some images."""

    def __init__(self, features: nn.Module, x: Tensor, weights: Tensor, offsets: Tensor) -> None:
        """``weights`` (m, d), ``offsets`` (m,) in float64: class 1 near ``x[i]`` where features . weights[i] +
        offsets[i] is above 0. A question belongs to the nearest image: budgets are smaller than what lies between.
        """
        super().__init__()
        self.__dict__["features"] = features
        self._x, self._weights, self._offsets = x, weights, offsets
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, 2)."""
        owners = torch.cdist(x.detach().flatten(1), self._x.flatten(1)).argmin(1)
        scores = (self.__dict__["features"](x).double() * self._weights[owners]).sum(1) + self._offsets[owners]
        return torch.stack([-scores, scores], 1).float()


def measure(
    subject: Subject, *, examples: int = 16, interior: int = 128, held_out: int = 50, steps: int = 100,
    closeness: float = 0.99,
) -> Measured:  # fmt: skip
    """The active binarisation test (Zimmermann et al. 2022, arXiv 2206.13991) with a ridge discriminant as readout.

    For each image: features of ``interior`` points within 0.95 of the budget and of one corner of it; the linear
    classifier that tells the corner from the points, its threshold moved to ``closeness`` of the way from the highest
    interior score to the corner's. An adversarial example exists, the corner. PGD and then Auto-PGD on the margin must
    find one. ``attacked``: images where the construction held; ``setup_failed``: where it did not; ``found``: attacks
    that succeeded; ``random``: mean share of ``held_out`` random points in the budget that are adversarial already, so
    that the test is too easy. Deep: ``examples=128, interior=999, held_out=200``.
    """
    rows = subject.pick(subject.correct, share(subject, examples, 8, 8))
    stop = gate(subject, rows)
    if stop is not None:
        return stop
    features = variant(subject, kind="features")
    if features is None:
        return Measured({"applicable": False, "reason": "the network does not end in a linear layer"})
    known = [_readout(subject, features, row[None], interior, closeness) for row in rows]
    x, corners = subject.x[rows], torch.cat([corner for _, _, corner in known])
    readouts = Readouts(features, x, torch.stack([w for w, _, _ in known]), torch.stack([b for _, b, _ in known]))
    # In float32, in another batch, the construction must hold as it does on paper.
    holds = (ask(readouts, x, subject.batch_size).argmax(1) == 0) & (
        ask(readouts, corners, subject.batch_size).argmax(1) == 1
    )
    rows, x = rows[holds], x[holds]
    numbers = {"applicable": True, "examples": len(holds), "attacked": len(rows), "setup_failed": int((~holds).sum())}
    if not len(rows):
        return Measured({**numbers, "found": 0, "random": None})
    ball = Ball(x.repeat_interleave(held_out, 0), subject.norm, subject.eps)
    points = ball.sample(subject.generators("a10-held-out", rows), held_out)
    chance = float(ask(readouts, points, subject.batch_size).argmax(1).float().mean())
    return Measured({**numbers, "found": _attacked(subject, readouts, x, rows, steps), "random": chance})


def _readout(
    subject: Subject, features: nn.Module, row: Tensor, interior: int, closeness: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Weights (d,) and offset () of one image's classifier, and the corner (1, C, H, W) it tells from the interior."""
    x, draws = subject.x[row], subject.generators("a10-binarisation", row)
    inner = Ball(x.expand(interior, -1, -1, -1), subject.norm, 0.95 * subject.eps).sample(draws, interior)
    way = ascent(draws.normal(x.shape[1:]).to(x), subject.norm)
    corner = Ball(x, subject.norm, subject.eps).project_(x + subject.eps * way)
    known = ask(features, torch.cat([x, inner, corner]), subject.batch_size).double()
    inside, outside = known[:-1], known[-1]
    centre = inside.mean(0)
    spread = (inside - centre).T @ (inside - centre) / len(inside)
    ridge = 1e-3 * spread.diagonal().mean() + 1e-12
    weight = torch.linalg.solve(spread + ridge * torch.eye(len(spread), dtype=torch.float64), outside - centre)
    scores = (known - centre) @ weight
    highest, target = scores[:-1].max(), scores[-1]
    # The gap between the two is 10 long; without one nothing is class 1.
    gap = target - highest
    scale = torch.where(gap > 1e-6 * target.abs(), 10 / gap.clamp_min(1e-300), 0.0)
    offset = torch.where(scale > 0, -scale * (centre @ weight + highest + closeness * gap), -1.0)
    return weight * scale, offset, corner


def _attacked(subject: Subject, readouts: Readouts, x: Tensor, rows: Tensor, steps: int) -> int:
    """How many images an attack takes to class 1."""
    budget = {"eps": subject.eps, "norm": subject.norm, "steps": steps, "batch_size": subject.batch_size}
    zeros = torch.zeros(len(rows), dtype=torch.int64)
    first = pgd(readouts, x, zeros, loss="margin", step_size=subject.eps / 10,
                generator=subject.generators("a10-pgd", rows), **budget)  # type: ignore[arg-type]  # fmt: skip
    left = (ask(readouts, first, subject.batch_size).argmax(1) == 0).nonzero().squeeze(1)
    if not len(left):
        return len(rows)
    again = apgd(readouts, x[left], zeros[left], loss="margin",
                 generator=subject.generators("a10-apgd", rows[left]), **budget)  # type: ignore[arg-type]  # fmt: skip
    return len(rows) - int((ask(readouts, again, subject.batch_size).argmax(1) == 0).sum())


PROBE = Probe("a10-binarisation", measure, 1)
