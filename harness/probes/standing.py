"""Which examples a probe looks at, and when it need not look at all."""

from __future__ import annotations

import torch
from torch import Tensor

from harness.probes.subject import Measured, Subject

CLAIM = 0.10
"""Robust accuracy below which nothing is claimed: an undefended network looks masked and overestimates nothing."""


def claim(subject: Subject) -> float:
    """The largest robust accuracy in [0, 1] that a column gives the subject; 0 without columns."""
    return max((float(column.float().mean()) for column in subject.columns.values()), default=0.0)


def gate(subject: Subject, rows: Tensor) -> Measured | None:
    """The answer of a probe that has nothing to look at, or None when it has.

    Numbers say ``applicable`` (bool), ``reason`` when it is not, and ``claim``.
    """
    claimed = claim(subject)
    if claimed < CLAIM:
        return Measured({"applicable": False, "claim": claimed, "reason": f"no column claims {CLAIM:.0%} or more"})
    if not len(rows):
        return Measured(
            {"applicable": False, "claim": claimed, "reason": "no example is called robust by every column"}
        )
    return None


def sample(subject: Subject, wanted: Tensor, count: int) -> Tensor:
    """Up to ``count`` positions where ``wanted`` (bool (n,)), and at most a fifth of the run's images but for 12."""
    return subject.pick(wanted, share(subject, count, 12, 5))


def share(subject: Subject, count: int, least: int, part: int = 4) -> int:
    """``count``, and at most one in ``part`` of the run's images but for ``least``.

    So the battery's cost stays a small share of the attacks' on short runs too.
    """
    return min(count, max(least, len(subject.x) // part))


def standing(subject: Subject) -> Tensor:
    """Bool (n,): called robust by every column, and by the probes that ran before (their ``broken`` positions)."""
    alive = subject.robust.clone()
    for numbers in subject.measured.values():
        broken = numbers.get("broken")
        if isinstance(broken, list) and broken:
            alive[torch.tensor(broken, dtype=torch.int64)] = False
    return alive


def pairs_of(rows: Tensor, fooled: Tensor, x_adv: Tensor) -> tuple[Tensor, Tensor]:
    """The rows that fell, with their images, as ``Measured.of`` takes them."""
    return rows[fooled], x_adv[fooled]


def broken(found: list[tuple[Tensor, Tensor]]) -> list[int]:
    """Positions that have at least one claimed example, sorted."""
    return sorted({int(row) for rows, _ in found for row in rows})


def untrusted(subject: Subject) -> bool:
    """Whether the probes before found gradients that lead nowhere or astray, so that other attacks must decide.

    Dead: more than 1 % of the margin's gradients are zeros. Astray: along the gradient's own sign, at a quarter of the
    budget, the loss changes by less than a fifth or more than five times what the gradient says, or the other way.
    """
    losses, scales = subject.measured.get("g2-losses", {}), subject.measured.get("g5-multiscale", {})
    if float(losses.get("margin_zero") or 0.0) > 0.01:
        return True
    if "beta_sign" not in scales:
        return False
    slope = scales["beta_sign"].get("eps/4")
    return slope is None or not 0.2 <= slope <= 5.0


def repaired(subject: Subject) -> bool:
    """Whether a mitigation that ran before led a full attack to successes: then gradients have had their say."""
    campaigns = [
        subject.measured.get(name, {}).get("campaign") for name in ("g2-losses", "g5-multiscale", "a4-convergence")
    ]
    campaigns += subject.measured.get("a8-transfer", {}).get("peel", [])
    campaigns += subject.measured.get("a9-bpda", {}).get("forms", [])
    return any(entry and entry["attempted"] and entry["found"] for entry in campaigns)
