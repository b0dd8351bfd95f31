"""A7: whether chance breaks what attacks could not."""

import torch
from torch import Tensor

from harness.attacks.asking import ask
from harness.attacks.geometry import Ball, ascent, per_image
from harness.attacks.losses import misclassified
from harness.attacks.randomness import ExampleGenerators
from harness.probes.probe import Probe
from harness.probes.standing import broken, gate, pairs_of, sample, standing
from harness.probes.subject import Measured, Subject

KINDS = ("uniform", "corner", "normal", "colour")


def measure(subject: Subject, *, examples: int = 64, draws: int = 80) -> Measured:
    """``draws`` random perturbations of every kind together on examples called robust (arXiv 1802.00420, 1902.06705).

    Kinds in turn: uniform in the budget, its corners, normal noise, one colour for the whole image. ``found``: how many
    of ``examples`` fell, and ``by_kind``. Deep: ``examples=100, draws=10000``.
    """
    rows = sample(subject, standing(subject), examples)
    stop = gate(subject, rows)
    if stop is not None:
        return stop
    generators, found = subject.generators("a7-random", rows), []
    left, by_kind = torch.ones(len(rows), dtype=torch.bool), dict.fromkeys(KINDS, 0)
    for draw in range(draws):
        at = left.nonzero().squeeze(1)
        if not len(at):
            break
        kind = KINDS[draw % len(KINDS)]
        points = _draw(kind, Ball(subject.x[rows[at]], subject.norm, subject.eps), generators.select(at))
        wrong = misclassified(ask(subject.model, points, subject.batch_size), subject.y[rows[at]])
        found.append(pairs_of(rows[at], wrong, points))
        by_kind[kind] += int(wrong.sum())
        left[at[wrong]] = False
    return Measured.of(
        {"applicable": True, "examples": len(rows), "draws": draws, "found": int((~left).sum()), "by_kind": by_kind,
         "broken": broken(found)}, found
    )  # fmt: skip


def _draw(kind: str, ball: Ball, generators: ExampleGenerators) -> Tensor:
    x = ball.x
    if kind == "uniform":
        return ball.sample(generators)
    if kind == "corner":
        step = ascent(generators.uniform(x.shape[1:]).to(x) - 0.5, "Linf")
    elif kind == "normal":
        step = generators.normal(x.shape[1:]).to(x)
    else:
        step = (generators.uniform((x.shape[1], 1, 1)).to(x) * 2 - 1).expand_as(x)
    if ball.norm == "Linf":
        return ball.project_(x + ball.eps * step)
    order = 2 if ball.norm == "L2" else 1
    length = torch.linalg.vector_norm(step.flatten(1), ord=order, dim=1).clamp_min(1e-12)
    return ball.project_(x + per_image(ball.eps / length, x) * step)


PROBE = Probe("a7-random", measure, 1)
