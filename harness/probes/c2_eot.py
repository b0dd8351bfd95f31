"""The mitigation of C2: attacks on a network that draws at random follow its mean, and are scored by it."""

from typing import Any

import torch
from torch import Tensor

from harness.attacks.apgd import apgd
from harness.attacks.asking import ask
from harness.attacks.losses import misclassified
from harness.probes.climbing import cosine, sensitivity
from harness.probes.probe import Probe
from harness.probes.standing import broken, gate, standing
from harness.probes.subject import Measured, Subject

Pairs = list[tuple[Tensor, Tensor]]


def measure(
    subject: Subject, *, ladder: tuple[int, ...] = (1, 5, 20), rungs: int = 32, rung_steps: int = 20, steps: int = 50,
    again: int = 10,
) -> Measured:  # fmt: skip
    """Expectation over transformation (arXiv 1707.07397), if answers or gradients differ when asked twice.

    ``stochastic``: some logit of 16 images differs between two passes by more than 1e-4 of the largest; ``noisy``: the
    margin's gradients do. Then ``rungs`` examples called robust meet Auto-PGD on the margin with each number of passes
    in ``ladder``: ``ladder`` holds the accuracy left, each point scored by the mean over ``again`` fresh passes. The
    shortest rung within one point of the best goes on: Auto-PGD with ``steps`` on the cross-entropy and the DLR loss
    for all examples that stand (AutoAttack ``rand``: 100 steps, 20 passes; that is the deep setting). ``expected`` is
    the mean accuracy of those examples under their worst point. An example is claimed when most passes misclassify it.
    """
    alive = standing(subject)
    stop = gate(subject, alive.nonzero().squeeze(1))
    if stop is not None:
        return stop
    stochastic, noisy = _differs(subject)
    numbers: dict[str, Any] = {"applicable": stochastic or noisy, "stochastic": stochastic, "noisy": noisy}
    if not (stochastic or noisy):
        return Measured({**numbers, "reason": "answers and gradients repeat"})
    found: Pairs = []
    few, scores = subject.pick(alive, rungs), {}
    for eot in ladder:
        x_adv = _attack(subject, few, "margin", eot, rung_steps)
        scores[eot] = float(_right(subject, few, x_adv, again, found).mean())
    chosen = min(eot for eot in ladder if scores[eot] <= min(scores.values()) + 0.01)
    numbers |= {"examples": len(few), "ladder": {str(eot): score for eot, score in scores.items()}, "eot": chosen}
    rows = alive.nonzero().squeeze(1)
    worst = torch.ones(len(rows))
    for loss in ("ce", "dlr"):
        left = (worst >= 0.5).nonzero().squeeze(1)
        if len(left):
            x_adv = _attack(subject, rows[left], loss, chosen, steps)
            worst[left] = torch.minimum(worst[left], _right(subject, rows[left], x_adv, again, found))
    numbers |= {"attempted": len(rows), "expected": float(worst.mean()), "broken": broken(found)}
    return Measured.of(numbers, found)


def _differs(subject: Subject) -> tuple[bool, bool]:
    x, y = subject.x[:16], subject.y[:16]
    first, grad = sensitivity(subject.model, x, y, "margin", subject.batch_size)
    second, again = sensitivity(subject.model, x, y, "margin", subject.batch_size)
    size = first.abs().max().clamp_min(1e-30)
    stochastic = not bool((first - second).abs().max() <= 1e-4 * size)
    same = (cosine(grad, again) > 0.999) | ((grad == again).flatten(1).all(1))
    return stochastic, not bool(same.all())


def _attack(subject: Subject, rows: Tensor, loss: str, eot: int, steps: int) -> Tensor:
    return apgd(
        subject.model, subject.x[rows], subject.y[rows], eps=subject.eps, norm=subject.norm, steps=steps, loss=loss,
        eot=eot, generator=subject.generators(f"c2-eot/{loss}/{eot}", rows), batch_size=subject.batch_size,
    )  # fmt: skip


def _right(subject: Subject, rows: Tensor, x_adv: Tensor, again: int, found: Pairs) -> Tensor:
    """Share of ``again`` fresh passes that classify each point rightly, (m,); those below a half join ``found``."""
    wrong = [misclassified(ask(subject.model, x_adv, subject.batch_size), subject.y[rows]) for _ in range(again)]
    right = 1 - torch.stack(wrong).float().mean(0)
    found.append((rows[right < 0.5], x_adv[right < 0.5]))
    return right


PROBE = Probe("c2-eot", measure, 1)
