"""G1: whether there are gradients at all, for which loss, and how small."""

from typing import Any

import torch
from torch import Tensor

from harness.attacks.geometry import Ball
from harness.attacks.losses import cross_entropy, dlr, margin
from harness.probes.probe import Probe
from harness.probes.standing import gate
from harness.probes.subject import Measured, Subject

LOSSES = {"ce": cross_entropy, "margin": margin, "dlr": dlr}
TINY = 1e-12
"""Length below which the guards of attack code (APGD's among them) take over from the gradient."""


def measure(subject: Subject, *, examples: int = 128) -> Measured:
    """Gradients at clean-correct images and at a random point of each one's budget.

    By loss (``ce``, ``margin``, ``dlr``): ``zero`` share of all-zero gradients, ``entries`` mean share of zero entries
    in the others, ``tiny`` share of gradients shorter than 1e-12. ``saturated``: share of points with a cross-entropy
    of exactly 0.
    """
    rows = subject.pick(subject.correct, examples)
    stop = gate(subject, rows)
    if stop is not None:
        return stop
    x, y = subject.x[rows], subject.y[rows]
    near = Ball(x, subject.norm, subject.eps).sample(subject.generators("g1-gradients", rows))
    points, labels = torch.cat([x, near]), torch.cat([y, y])
    zero: dict[str, list[Tensor]] = {name: [] for name in LOSSES}
    entries: dict[str, list[Tensor]] = {name: [] for name in LOSSES}
    tiny: dict[str, list[Tensor]] = {name: [] for name in LOSSES}
    saturated: list[Tensor] = []
    for at in torch.arange(len(points)).split(subject.batch_size):  # type: ignore[no-untyped-call]
        leaf = points[at].clone().requires_grad_()
        with torch.enable_grad():
            logits = subject.model(leaf)
            values = {name: loss(logits, labels[at]) for name, loss in LOSSES.items()}
        saturated.append(values["ce"].detach() == 0)
        for name, loss in values.items():
            gradient = _gradient(loss, leaf).flatten(1)
            none = gradient.eq(0).all(1)
            zero[name].append(none)
            entries[name].append(gradient[~none].eq(0).float().mean(1))
            tiny[name].append(gradient.double().norm(dim=1) < TINY)
    numbers: dict[str, Any] = {"applicable": True, "points": len(points), "saturated": _share(saturated)}
    for name, parts in (("zero", zero), ("entries", entries), ("tiny", tiny)):
        numbers[name] = {loss: _share(shares) for loss, shares in parts.items()}
    return Measured(numbers)


def _gradient(loss: Tensor, leaf: Tensor) -> Tensor:
    if not loss.requires_grad:
        return torch.zeros_like(leaf)
    (gradient,) = torch.autograd.grad(loss.sum(), leaf, retain_graph=True, allow_unused=True)
    return torch.zeros_like(leaf) if gradient is None else gradient


def _share(parts: list[Tensor]) -> float:
    values = torch.cat(parts).float()
    return float(values.mean()) if len(values) else 0.0


PROBE = Probe("g1-gradients", measure, 1)
