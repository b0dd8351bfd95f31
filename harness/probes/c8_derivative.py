"""C8: whether what autograd calls the gradient is the derivative, by forward mode and by differences."""

from typing import Any

import torch
from torch import Tensor, nn

from harness.attacks.asking import ask, ask_gradient
from harness.attacks.losses import margin
from harness.probes.climbing import mean, median
from harness.probes.contract import precise, refusal
from harness.probes.probe import Probe
from harness.probes.standing import share
from harness.probes.subject import Measured, Subject

LENGTHS = (1e-3, 1e-2, 1e-1)
"""L2 lengths of a central difference's half step."""
LARGE = (1.0, 4.0)
"""Longer ones, along random signs and the gradient's, that reach over the steps of a quantised network."""
NOISE = 2.4e-6
"""Rounding of a difference of two logits, relative to the largest logit: 20 units in the last place of a float32."""


def measure(subject: Subject, *, examples: int = 64) -> Measured:
    """The margin at images, differentiated in three ways.

    ``jvp``: median of |<u, Jv> - <J'u, v>| over the larger of the two, forward against reverse mode for random u and v;
    None where forward mode is not available (``jvp_error`` when the network refuses). ``steps``: for each direction
    (gradient, its signs, random signs) and half step, of the central difference FD and its prediction AD from the
    backward pass: ``ratio`` median FD/AD, ``error`` median |FD/AD - 1|, ``opposite`` share of opposite signs, ``still``
    share with no FD where AD predicts one. ``dead``: share of images with an all-zero gradient; ``silent``: share that
    is dead while some FD is not 0. ``counts``: see ``contract.precise``.
    """
    rows = subject.pick(subject.clean >= 0, share(subject, examples, 32))
    if not len(rows):
        return Measured({"examples": 0})
    x, labels = subject.x[rows], subject.clean[rows]
    model, counts = precise(subject, x)
    logits, _, gradient = ask_gradient(model, x, lambda z, at: -margin(z, labels[at]), subject.batch_size)
    gradient = gradient.nan_to_num(0.0, 0.0, 0.0)
    floor = NOISE * logits.abs().amax(1).double()
    dead = gradient.flatten(1).eq(0).all(1)
    signs = torch.rand(x.shape, generator=torch.Generator().manual_seed(subject.seed)).sub(0.5).sign()
    numbers: dict[str, Any] = {"examples": len(x), "dead": float(dead.float().mean()), "counts": counts}
    felt = torch.zeros(len(x), dtype=torch.bool)
    steps: dict[str, dict[str, Any]] = {}
    for name, direction in {"gradient": gradient, "sign": gradient.sign(), "random": signs}.items():
        for length in LENGTHS if name == "gradient" else LENGTHS + LARGE:
            change, predicted = _difference(subject, model, x, labels, gradient, direction, length)
            steps[f"{name}@{length:g}"] = _compare(change, predicted, floor, ~dead)
            if name == "random":
                felt |= change.abs() > floor
    numbers |= {"steps": steps, "silent": float((dead & felt).float().mean())}
    return Measured(numbers | _forward_mode(subject, model, x, logits.shape[1], signs))


def _difference(
    subject: Subject, model: nn.Module, x: Tensor, labels: Tensor, gradient: Tensor, direction: Tensor, length: float
) -> tuple[Tensor, Tensor]:
    """Central difference of the margin and its prediction, both for the steps that float32 and the box leave."""
    unit = direction / direction.flatten(1).norm(dim=1).clamp_min(1e-30).view(-1, 1, 1, 1)
    ahead, behind = (x + length * unit).clamp(0, 1), (x - length * unit).clamp(0, 1)
    change = (
        margin(ask(model, behind, subject.batch_size).double(), labels)
        - margin(ask(model, ahead, subject.batch_size).double(), labels)
    )  # fmt: skip
    predicted = (gradient.double() * (ahead.double() - behind.double())).flatten(1).sum(1)
    return change, predicted


def _compare(change: Tensor, predicted: Tensor, floor: Tensor, alive: Tensor) -> dict[str, float | int | None]:
    clear = alive & (predicted.abs() > 3 * floor)
    ratio = change[clear] / predicted[clear]
    still = change[clear].abs() <= floor[clear]
    seen = clear & (change.abs() > 3 * floor)
    return {
        "compared": int(clear.sum()), "ratio": median(ratio), "error": median((ratio - 1).abs()),
        "opposite": mean((change[seen] * predicted[seen] < 0).float()), "still": mean(still.float()),
    }  # fmt: skip


def _forward_mode(subject: Subject, model: nn.Module, x: Tensor, classes: int, signs: Tensor) -> dict[str, Any]:
    weights = torch.randn((len(x), classes), generator=torch.Generator().manual_seed(subject.seed))
    try:
        ahead = subject.worker.jvp(x, signs, variant=getattr(model, "number", 0))
        _, _, back = ask_gradient(model, x, lambda z, at: (z * weights[at]).sum(1), subject.batch_size)
    except Exception as error:
        if refusal(error) is None:
            raise
        return {"jvp": None, "jvp_error": str(error)}
    if ahead is None:
        return {"jvp": None, "jvp_error": "forward mode is not available for one of its operations"}
    left = (ahead.double() * weights.double()).sum(1)
    right = (back.double().nan_to_num() * signs.double()).flatten(1).sum(1)
    larger = torch.maximum(left.abs(), right.abs())
    gap = torch.where(larger > 0, (left - right).abs() / larger.clamp_min(1e-300), 0.0)
    return {"jvp": median(gap)}


PROBE = Probe("c8-derivative", measure, 1, reads_attacks=False)
