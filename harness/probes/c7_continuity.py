"""C7: how a small step in the image shows in the logits: in proportion, not at all, or as noise."""

import math

import torch
from torch import Tensor, nn

from harness.attacks.asking import ask
from harness.probes.climbing import median
from harness.probes.contract import plain, precise
from harness.probes.probe import Probe
from harness.probes.standing import share
from harness.probes.subject import Measured, Subject

STEPS = tuple(10 ** (-5 + exponent * (math.log10(3e-2) + 5) / 8) for exponent in range(9))
"""Nine step sizes from 1e-5 to 3e-2, evenly spaced in their logarithm."""
FIT = (0.9e-4, 1.1e-2)
"""Step sizes that the exponent is fitted on."""


HALVINGS = 18
"""How often the way between two images is halved: about 1e-5 of it is left."""
JUMP = 0.1
"""Share of the change from one image to another that counts as a jump when it is left there."""


def measure(subject: Subject, *, examples: int = 64, pairs: int = 32) -> Measured:
    """Median L2 change ``q`` of the logits over images at pixel steps ``h`` of random signs, and the share ``zero`` of
    images whose logits do not change by a single bit.

    ``slope``: of log q over log h on [1e-4, 1e-2], 1 for a smooth network; ``zero_small``: ``zero`` at the step next to
    1e-4; ``small``: q at the smallest step, relative to the logits' length; ``flat``: q at the smallest step over q at
    the third; ``bin``: the smallest step that moves half of the images; ``counts``: see ``contract.precise``.
    ``jumps``: on the way from an image to another one, always following the half over which the logits change more, the
    share of the whole change that is left in the end (``median`` over ``pairs``); ``jumping``: share of pairs where
    more than 0.1 is left. A continuous network leaves next to nothing.
    """
    x = subject.x[subject.pick(torch.ones(len(subject.x), dtype=torch.bool), share(subject, examples, 32))]
    model, counts = precise(subject, x)
    signs = torch.rand(x.shape, generator=torch.Generator().manual_seed(subject.seed)).sub(0.5).sign()
    # Steps that would leave the box go the other way: clipping would look like quantisation.
    signs = torch.where((x + 0.031 * signs > 1) | (x + 0.031 * signs < 0), -signs, signs)
    reference = ask(model, x, subject.batch_size)
    q: list[float | None] = []
    zero: list[float] = []
    for h in STEPS:
        change = (ask(model, x + h * signs, subject.batch_size) - reference).double()
        q.append(median(change.norm(dim=1)))
        zero.append(float(change.eq(0).all(1).float().mean()))
    near = min(range(len(STEPS)), key=lambda at: abs(math.log(STEPS[at] / 1e-4)))
    length = median(reference.double().norm(dim=1)) or 0.0
    moved = [h for h, share in zip(STEPS, zero, strict=True) if share < 0.5]
    return Measured(
        {
            "h": list(STEPS), "q": q, "zero": zero, "slope": _slope(q), "zero_small": zero[near],
            "small": plain(q[0] / length) if q[0] is not None and length else None,
            "flat": plain(q[0] / q[2]) if q[0] is not None and q[2] else None,
            "bin": moved[0] if moved else None, "counts": counts, "classes_seen": len(set(subject.clean.tolist())),
            **_jumps(model, x[: share(subject, pairs, 12)], subject.batch_size),
        }
    )  # fmt: skip


def _jumps(model: nn.Module, x: Tensor, batch_size: int) -> dict[str, object]:
    """``jumps`` and ``jumping`` over pairs of neighbours in ``x`` (n, C, H, W)."""
    low, high = x, x.roll(1, 0)
    at_low, at_high = ask(model, low, batch_size).double(), ask(model, high, batch_size).double()
    whole = (at_high - at_low).norm(dim=1)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        at = ask(model, middle, batch_size).double()
        left = (at - at_low).norm(dim=1) > (at - at_high).norm(dim=1)
        rows, images = left[:, None], left.view(-1, 1, 1, 1)
        low, high = torch.where(images, low, middle), torch.where(images, middle, high)
        at_low, at_high = torch.where(rows, at_low, at), torch.where(rows, at, at_high)
    known = whole.isfinite() & (whole > 0)
    rest = (at_high - at_low).norm(dim=1)[known] / whole[known]
    jumping = float((rest > JUMP).float().mean()) if len(rest) else 0.0
    return {"jumps": {"pairs": len(rest), "median": median(rest)}, "jumping": jumping}


def _slope(q: list[float | None]) -> float | None:
    """Least-squares slope of log q over log h; None without two changes."""
    points = [(math.log(h), math.log(change)) for h, change in zip(STEPS, q, strict=True)
              if change and FIT[0] <= h <= FIT[1]]  # fmt: skip
    if len(points) < 2:
        return None
    at = torch.tensor(points, dtype=torch.float64)
    centred: Tensor = at - at.mean(0)
    return float((centred[:, 0] * centred[:, 1]).sum() / centred[:, 0].square().sum())


PROBE = Probe("c7-continuity", measure, 2, reads_attacks=False)
