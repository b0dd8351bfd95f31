"""From the attack that ``harness bench`` is asked for to what is run, as the suites have it."""

from __future__ import annotations

from typing import Any

from harness import suites
from harness.attacks import find_attack
from harness.errors import UserError
from harness.records import ThreatModel

CASCADES = {"autoattack": "standard", "fast": "fast"}
"""Cascades, each on the survivors of the member before, and the suites that hold them."""
Members = tuple[tuple[str, dict[str, Any]], ...]
"""Attacks and their parameters, in the order they run."""


def parse_attack(text: str, threat: ThreatModel) -> tuple[str, Members]:
    """From ``autoattack``, ``fast``, ``pgd-40`` or a member's name to a family and what to run under ``threat``.

    Raises ``UserError`` for an unknown attack and for one that is not there in this norm.
    """
    if text in CASCADES:
        return "autoattack", _cascade(text, threat)
    known = {"fgsm": {}, "pgd": {"steps": 40}, "deepfool": {"steps": 50}, "apgd-dlr": {}}
    known |= dict(_cascade("autoattack", threat))
    name, _, steps = text.rpartition("-")
    given = {"steps": int(steps)} if name in known and "steps" in known[name] and steps.isdigit() else {}
    name = name if given else text
    if name not in known or 0 in given.values():
        raise UserError(f"--attack: expected autoattack, fast, pgd-STEPS or one of {', '.join(known)}, got {text!r}")
    norms = find_attack(name).norms
    if threat.norm not in norms:
        raise UserError(f"--threat: {name}: expected one of {', '.join(norms)}, got {threat.norm!r}")
    return name, ((name, known[name] | given),)


def _cascade(name: str, threat: ThreatModel) -> Members:
    """The members of a cascade as its suite has them."""
    tasks = suites.expand(suites.load(CASCADES[name]), (threat,), implementation=lambda _name, _norm: "")
    return tuple((task.attack, task.params) for task in tasks if task.cascade == name)
