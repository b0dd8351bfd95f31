"""A4: whether more steps and restarts still find something."""

from typing import Any

import torch
from torch import Tensor

from harness.attacks.geometry import Ball
from harness.probes.campaign import FULL_STEPS, run_campaign
from harness.probes.climbing import climb, mean, sensitivity
from harness.probes.probe import Probe
from harness.probes.standing import broken, gate, pairs_of, sample, share, standing
from harness.probes.subject import Measured, Subject


def measure(
    subject: Subject, *, examples: int = 48, steps: int = 80, restarts: int = 1, restart_steps: int = 20,
    escalate: int = 3, full_steps: int = FULL_STEPS,
) -> Measured:  # fmt: skip
    """PGD of ``steps`` from the image (steps of eps / 10), then ``restarts`` random ones, on examples called robust.

    ``found_short`` of ``examples`` fall within the first 20 steps, ``found_long`` with all, ``found_restarts`` only
    from another start. ``moving``: share whose best loss, scaled to its range, still grows by more than 0.05 in the
    last ten steps (arXiv 2106.09947, indicator 4). ``fosc``: mean first-order stationarity, eps |g|_1 - <x' - x, g>
    over eps |g|_1 (arXiv 2112.08304; 0 is converged), Linf alone. From ``escalate`` successes on, a full attack goes
    over all examples called robust. Deep: ``examples=128, restarts=5, restart_steps=100``.
    """
    rows = sample(subject, standing(subject), share(subject, examples, 8, 8))
    stop = gate(subject, rows)
    if stop is not None:
        return stop
    x, y, size = subject.x[rows], subject.y[rows], subject.batch_size
    common = {"eps": subject.eps, "norm": subject.norm, "batch_size": size}
    long = climb(subject.model, x, y, steps=steps, loss="ce", step_size=subject.eps / 10, stay=False, **common)  # type: ignore[arg-type]
    found = [pairs_of(rows, long.fooled, long.x_adv)]
    short = long.fooled & ~long.losses[min(21, steps) :].isfinite().any(0)
    left, draws, again = (~long.fooled).nonzero().squeeze(1), subject.generators("a4-convergence", rows), 0
    for _ in range(restarts):
        if not len(left):
            break
        ball = Ball(x[left], subject.norm, subject.eps)
        result = climb(subject.model, x[left], y[left], steps=restart_steps, loss="margin",
                       start=ball.sample(draws.select(left)), **common)  # type: ignore[arg-type]  # fmt: skip
        found.append(pairs_of(rows[left], result.fooled, result.x_adv))
        again += int(result.fooled.sum())
        left = left[~result.fooled]
    numbers: dict[str, Any] = {
        "applicable": True, "examples": len(rows), "steps": steps, "restarts": restarts,
        "found_short": int(short.sum()), "found_long": int(long.fooled.sum()), "found_restarts": again,
        "moving": _moving(long.losses[:, ~long.fooled]), "fosc": _fosc(subject, x, y, long.last, ~long.fooled),
    }  # fmt: skip
    if len(broken(found)) >= escalate:
        campaign = run_campaign(
            subject, subject.model, standing(subject).nonzero().squeeze(1), name="a4-full", steps=full_steps, force=True
        )
        found += campaign.found
        numbers["campaign"] = campaign.numbers
    return Measured.of({**numbers, "broken": broken(found)}, found)


def _moving(losses: Tensor) -> float | None:
    """From the losses (steps + 1, m) of examples that stand: the share still climbing over the last ten steps."""
    if not losses.shape[1] or len(losses) < 12:
        return None
    best = losses.cummax(0).values
    span = (best[-1] - best[0]).clamp_min(1e-12)
    return float((((best[-1] - best[-11]) / span > 0.05) & (best[-1] > best[0])).float().mean())


def _fosc(subject: Subject, x: Tensor, y: Tensor, point: Tensor, left: Tensor) -> float | None:
    if subject.norm != "Linf" or not bool(left.any()):
        return None
    _, grad = sensitivity(subject.model, point[left], y[left], "ce", subject.batch_size)
    # The largest inner product that the budget and the box leave room for.
    reach = torch.where(
        grad > 0, (x[left] + subject.eps).clamp_max(1) - x[left], x[left] - (x[left] - subject.eps).clamp_min(0)
    )
    most = (reach * grad.abs()).flatten(1).sum(1)
    here = ((point[left] - x[left]) * grad).flatten(1).sum(1)
    return mean(torch.where(most > 0, (most - here) / most.clamp_min(1e-30), torch.nan))


PROBE = Probe("a4-convergence", measure, 1)
