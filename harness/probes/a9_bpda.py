"""A9: automatic BPDA, whether gradients that pass through what stops them break it."""

from typing import Any

from torch import Tensor, nn

from harness.attacks.asking import ask
from harness.probes.campaign import FULL_STEPS, Logarithm, run_campaign, variant
from harness.probes.probe import Probe
from harness.probes.standing import broken, gate, share, standing, untrusted
from harness.probes.subject import Measured, Subject

LEVELS = (1, 2, 3)


def measure(
    subject: Subject, *, screen: int = 16, levels: tuple[int, ...] = LEVELS, full_steps: int = FULL_STEPS
) -> Measured:
    """Auto-PGD through straight-through forms of the network (levels 1 to 3), its logarithm and its float64 form.

    Each form first meets ``screen`` examples that stand; one success sends it over all of them with AutoAttack's
    white-box members (``full_steps`` each), the network itself deciding every time. While gradients are not to be
    trusted a form goes over all at once. The logarithm is tried when outputs are probabilities. ``forms``: one entry
    per form, as in ``a8``.
    Deep: ``screen=128``.
    """
    alive = standing(subject)
    stop = gate(subject, alive.nonzero().squeeze(1))
    if stop is not None:
        return stop
    found: list[tuple[Tensor, Tensor]] = []
    forms: list[dict[str, Any]] = []
    for name, model in _forms(subject, levels):
        rows = alive.nonzero().squeeze(1)
        if not len(rows):
            break
        campaign = run_campaign(subject, model, rows, name=name, screen=share(subject, screen, 8, 8), steps=full_steps)
        forms.append(campaign.numbers)
        for pair in campaign.found:
            found.append(pair)
            alive[pair[0]] = False
    return Measured.of(
        {"applicable": True, "forms": forms, "untrusted": untrusted(subject), "broken": broken(found)}, found
    )


def _forms(subject: Subject, levels: tuple[int, ...]) -> list[tuple[str, nn.Module]]:
    forms: list[tuple[str, nn.Module]] = []
    if _probabilities(subject):
        double = variant(subject, kind="dtype", dtype="float64")
        forms += [("logarithm", Logarithm(subject.model))] + ([("logarithm64", Logarithm(double))] if double else [])
    for level in levels:
        model = variant(subject, kind="straight_through", level=level)
        if model is not None:
            forms.append((f"straight-through {level}", model))
    return forms


def _probabilities(subject: Subject) -> bool:
    """Whether outputs are between 0 and 1 and add up to 1, up to what rounding leaves."""
    outputs = ask(subject.model, subject.x[:32])
    inside = bool(((outputs >= -1e-5) & (outputs <= 1 + 1e-5)).all())
    return inside and bool(((outputs.sum(1) - 1).abs() < 1e-4).all())


PROBE = Probe("a9-bpda", measure, 2, needs=("g2-losses", "g5-multiscale", "a8-transfer"))
