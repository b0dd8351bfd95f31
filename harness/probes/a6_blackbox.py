"""A6: whether attacks without gradients break what attacks with gradients could not."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from harness.attacks.label_only import NORMS as LABEL_NORMS
from harness.attacks.label_only import rays
from harness.attacks.nes import NORMS as NES_NORMS
from harness.attacks.nes import nes
from harness.attacks.square import square
from harness.probes.campaign import fell
from harness.probes.probe import Probe
from harness.probes.standing import broken, gate, repaired, share, standing, untrusted
from harness.probes.subject import Measured, Subject

Pairs = list[tuple[Tensor, Tensor]]
Run = Callable[..., Tensor]
Plan = tuple[int, dict[str, int], dict[str, int], int]
"""Examples of the small run, parameters of the small and of the large run, successes from which on it is run."""


def measure(
    subject: Subject, *, square_examples: int = 16, square_queries: int = 500, nes_examples: int = 8,
    nes_steps: int = 10, nes_queries: int = 32, label_examples: int = 8, label_queries: int = 250,
    full_square: int = 5000, full_label: int = 1500, escalate: int = 2,
) -> Measured:  # fmt: skip
    """Square (unless the run has a Square column), NES and the label-only RayS on examples called robust.

    A kind that breaks ``escalate`` or more of its few goes over all examples that still stand, with ``full_square`` and
    ``full_label`` queries; so does every kind but NES while gradients are not to be trusted (``standing.untrusted``)
    and no mitigation has led an attack past what is wrong with them.
    Numbers per kind: ``examples``, ``found``, ``queries``, and ``attempted`` and ``all_found`` of the large run. Deep:
    ``square_examples=1000, square_queries=10000, nes_examples=64, nes_steps=50, nes_queries=256, label_examples=64,
    label_queries=5000``.
    """
    alive = standing(subject)
    stop = gate(subject, alive.nonzero().squeeze(1))
    if stop is not None:
        return stop
    found: Pairs = []
    numbers: dict[str, Any] = {"applicable": True, "untrusted": untrusted(subject)}
    kinds: list[tuple[str, Run, int, dict[str, int], dict[str, int]]] = []
    if not any(key.split("@")[0] in {"square", "autoattack"} for key in subject.columns):
        kinds.append(("square", square, square_examples, {"queries": square_queries}, {"queries": full_square}))
    if subject.norm in NES_NORMS:
        small = {"steps": nes_steps, "queries": nes_queries}
        kinds.append(("nes", nes, nes_examples, small, {}))
    if subject.norm in LABEL_NORMS:
        kinds.append(("label-only", rays, label_examples, {"queries": label_queries}, {"queries": full_label}))
    for name, attack, count, light, full in kinds:
        few = share(subject, count, 4, 16) if name != "square" else share(subject, count, 8, 8)
        numbers[name] = _kind(subject, name, attack, alive, found, (few, light, full, escalate))
    return Measured.of({**numbers, "broken": broken(found)}, found)


def _kind(subject: Subject, name: str, attack: Run, alive: Tensor, found: Pairs, plan: Plan) -> dict[str, Any]:
    """One kind of attack on a few examples, and on all that stand when it pays."""
    count, light, full, escalate = plan
    rows = subject.pick(_left(alive, found), count)
    hits = _attack(subject, name, attack, rows, light)
    found.append(hits)
    numbers: dict[str, Any] = {"examples": len(rows), "found": len(hits[0]), **light}
    forced = untrusted(subject) and not repaired(subject) and name != "nes"
    pays = len(hits[0]) >= escalate or forced
    if full and pays:
        rest = _left(alive, found).nonzero().squeeze(1)
        more = _attack(subject, f"{name}-all", attack, rest, full)
        found.append(more)
        numbers |= {"attempted": len(rest), "all_found": len(more[0])}
    return numbers


def _left(alive: Tensor, found: Pairs) -> Tensor:
    left = alive.clone()
    for rows, _ in found:
        left[rows] = False
    return left


def _attack(subject: Subject, name: str, attack: Run, rows: Tensor, params: dict[str, int]) -> tuple[Tensor, Tensor]:
    x_adv = attack(
        subject.model, subject.x[rows], subject.y[rows], eps=subject.eps, norm=subject.norm,
        generator=subject.generators(f"a6-{name}", rows), batch_size=subject.batch_size, **params,
    )  # fmt: skip
    hit = fell(subject, rows, x_adv)
    return rows[hit], x_adv[hit]


PROBE = Probe("a6-blackbox", measure, 1, needs=("g2-losses", "g5-multiscale", "a8-transfer", "a9-bpda"))
