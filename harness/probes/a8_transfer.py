"""A8: whether attacks on a part of the network, or on other submissions, break it."""

from typing import Any

import torch
from torch import Tensor

from harness.attacks.geometry import Ball
from harness.probes.campaign import FULL_STEPS, fell, run_campaign, variant
from harness.probes.probe import Probe
from harness.probes.standing import broken, gate, standing
from harness.probes.subject import Measured, Subject

CHILDREN = 3
"""Parts attacked by themselves, at most."""


def measure(
    subject: Subject, *, screen: int = 24, replay: bool = True, children: int = CHILDREN, full_steps: int = FULL_STEPS
) -> Measured:
    """(a) Peel: attack every part that answers with K logits, replay on the whole. (b) Replay other submissions.

    A part is a submodule that maps images to K outputs by itself, or one whose K outputs the network goes on to change:
    then the whole runs, and the attack follows what the submodule said. ``peel``: one entry per part: ``name``,
    ``screened``, ``screen_found``, ``attempted``, ``found``. A part that leads to a success among ``screen`` examples
    is attacked for all examples called robust, with ``full_steps`` for each part of the attack.
    ``replays``: adversarial examples of other submissions on examples called robust, drawn into the budget, and
    ``replay_found``: how many examples they broke.
    """
    alive = standing(subject)
    stop = gate(subject, alive.nonzero().squeeze(1))
    if stop is not None:
        return stop
    found: list[tuple[Tensor, Tensor]] = []
    numbers: dict[str, Any] = {"applicable": True, "peel": [], "replays": 0, "replay_found": 0}
    for name in subject.names if replay else ():
        asked, hits = _replay(subject, alive, *subject.others(name))
        numbers["replays"] += asked
        numbers["replay_found"] += len(hits[0])
        found.append(hits)
        alive[hits[0]] = False
    for spec in _parts(subject, children):
        rows = alive.nonzero().squeeze(1)
        part = variant(subject, **spec)
        if part is None or not len(rows):
            continue
        name = f"{spec['kind']} {spec['path']}"
        campaign = run_campaign(subject, part, rows, name=name, screen=screen, steps=full_steps)
        numbers["peel"].append(campaign.numbers)
        for pair in campaign.found:
            found.append(pair)
            alive[pair[0]] = False
    return Measured.of({**numbers, "broken": broken(found)}, found)


def _parts(subject: Subject, most: int) -> list[dict[str, Any]]:
    """What the worker says answers with as many outputs as classes: up to ``most`` children, up to ``most`` others."""
    try:
        listed = subject.worker.probe("children", x=subject.x[:8])["children"]
    except Exception as error:
        if getattr(error, "kind", "") not in {"raised", "contract"}:
            raise
        return []
    parts = [child for child in listed if child.get("outputs") == subject.classes]
    alone = [child for child in parts if child.get("image") and child.get("inputs", 1) == 1][:most]
    # The outermost of the others is nearest to the logits; one that repeats what another says is left out.
    said = {child.get("first") for child in alone}
    inner = [child for child in parts if child.get("last") is False and child.get("first") == child["path"]]
    inner = [child for child in inner[::-1] if child["path"] not in said][:most]
    children = [
        {"kind": "child"} | {key: child[key] for key in ("path", "scale", "shift") if child.get(key) is not None}
        for child in alone
    ]
    return children + [{"kind": "inner", "path": child["path"]} for child in inner]


def _replay(subject: Subject, alive: Tensor, rows: Tensor, images: Tensor) -> tuple[int, tuple[Tensor, Tensor]]:
    """Ask about the ``images`` of examples that stand, each drawn into the budget first."""
    keep = alive[rows]
    rows, images = rows[keep], images[keep]
    if not len(rows):
        return 0, (rows, images)
    points = Ball(subject.x[rows], subject.norm, subject.eps).project_(images.clone().to(subject.x))
    hit = fell(subject, rows, points)
    first = torch.tensor(
        sorted({int(row): at for at, row in reversed(list(enumerate(rows.tolist()))) if hit[at]}.values())
    )
    first = first.to(torch.int64)
    return len(rows), (rows[first], points[first])


PROBE = Probe("a8-transfer", measure, 2, needs=("g2-losses", "g5-multiscale"))
