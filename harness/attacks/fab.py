"""FAB: the closest point across a decision boundary, by projections onto its linearisation inside the box."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from functools import partial

import torch
from torch import Tensor, nn

from harness.attacks.asking import ask, ask_gradient, batches, confirm, reveal
from harness.attacks.boundary import likeliest, nearest_boundary
from harness.attacks.fab_steps import advanced, known
from harness.attacks.geometry import finite
from harness.attacks.hyperplane import NORMS, project
from harness.attacks.inputs import (
    check_batch,
    check_batch_size,
    check_count,
    check_labels,
    check_norm,
    check_positive,
    check_switch,
)
from harness.attacks.losses import misclassified
from harness.attacks.randomness import ExampleGenerators
from harness.errors import UserError

_POOL = 2**23
"""Pixels of all pairs that are searched at the same time: bounds the memory, whatever the number of images."""
_BLOCK = 3 * 2**13
"""Pixels of the pairs that take a step together on a CPU: few enough to stay in its cache, which makes the steps three
times as fast. Changes no outcome."""
_LEAST = 1e-8
"""Distances to a hyperplane count as at least this, so that their ratio is defined."""


@dataclass(frozen=True)
class _Rule:
    """How a step is made."""

    norm: str
    alpha_max: float
    eta: float
    beta: float


@dataclass(frozen=True)
class _Pairs:
    """Searches in progress, one for each pair of an image and a class to reach; P of them."""

    rows: Tensor
    """Position of the image, int64 (P,)."""
    targets: Tensor
    """The class to reach, int64 (P,); of untargeted searches the likeliest, which they do not keep to."""
    ages: Tensor
    """Steps made, int64 (P,)."""
    points: Tensor
    """Where the model is asked next, (P, d)."""

    def select(self, keep: Tensor) -> _Pairs:
        return _Pairs(self.rows[keep], self.targets[keep], self.ages[keep], self.points[keep])

    def join(self, other: _Pairs) -> _Pairs:
        return _Pairs(
            torch.cat([self.rows, other.rows]), torch.cat([self.targets, other.targets]),
            torch.cat([self.ages, other.ages]), torch.cat([self.points, other.points]),
        )  # fmt: skip


def fab_t(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    norm: str = "Linf",
    steps: int = 100,
    targets: int = 9,
    restarts: int = 1,
    alpha_max: float = 0.1,
    eta: float = 1.05,
    beta: float = 0.9,
    generator: ExampleGenerators | torch.Generator | None = None,
    batch_size: int | None = None,
    minimum: bool = False,
) -> Tensor:
    """Targeted FAB (Croce and Hein 2020, arXiv 1907.02044; targets as in AutoAttack, arXiv 2003.01690).

    ``x`` is float (N, C, H, W) in [0, 1], ``y`` int64 (N,), ``model`` maps images to logits (N, K), ``norm`` is Linf,
    L2 or L1. For each of the ``targets`` (at most K - 1) likeliest other classes at ``x`` the boundary between it and
    ``y`` is linearised, the iterate and ``x`` are projected onto it inside the box, and a mean of both, each overshot
    by ``eta`` and ``x``'s weighing at most ``alpha_max``, is the next iterate. One that is misclassified draws back to
    ``beta`` times its distance. The first run starts at ``x``, the other ``restarts`` at random within ``eps / 2``.

    The model is asked for one forward and one backward pass for each step: the pass that tells whether an iterate
    is misclassified also gives the hyperplane of the next step, for a misclassified iterate too, where the paper asks
    again at the point it drew back to. ``batch_size`` limits how many images a pass holds and changes nothing else.

    Returns, in the shape and dtype of ``x``, the first iterate that is misclassified within ``eps``, its image being
    done with then, and ``x`` itself where there is none. With ``minimum`` all steps are made and the closest
    misclassified iterate is returned, however far it is; ``eps`` only scales the random starts. An image that is
    misclassified itself comes back as it is. Raises ``UserError`` for arguments out of range.
    """
    check_count("fab-t", targets=targets)
    return _fab(
        "fab-t", model, x, y, eps, norm, steps, restarts, _Rule(norm, alpha_max, eta, beta), generator, batch_size,
        minimum, targets,
    )  # fmt: skip


def fab(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    norm: str = "Linf",
    steps: int = 100,
    restarts: int = 1,
    alpha_max: float = 0.1,
    eta: float = 1.05,
    beta: float = 0.9,
    generator: ExampleGenerators | torch.Generator | None = None,
    batch_size: int | None = None,
    minimum: bool = False,
) -> Tensor:
    """Untargeted FAB, of AutoAttack "plus": every step goes to the nearest of all K - 1 linearised boundaries.

    All else is as in ``fab_t``; a step costs one forward and K - 1 backward passes.
    """
    return _fab(
        "fab", model, x, y, eps, norm, steps, restarts, _Rule(norm, alpha_max, eta, beta), generator, batch_size,
        minimum, None,
    )  # fmt: skip


def _fab(
    name: str,
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    eps: float,
    norm: str,
    steps: int,
    restarts: int,
    rule: _Rule,
    generator: ExampleGenerators | torch.Generator | None,
    batch_size: int | None,
    minimum: bool,
    targets: int | None,
) -> Tensor:
    check_batch(name, x, y)
    check_norm(name, norm, NORMS)
    check_positive(name, eps=eps, alpha_max=rule.alpha_max, eta=rule.eta, beta=rule.beta)
    check_count(name, steps=steps, restarts=restarts)
    check_switch(name, minimum=minimum)
    check_batch_size(name, batch_size)
    for parameter, value in {"alpha_max": rule.alpha_max, "beta": rule.beta}.items():
        if value > 1:
            raise UserError(f"{name}: {parameter}: expected at most 1, got {value!r}")
    x_adv = x.detach().clone(memory_format=torch.contiguous_format)
    if not len(x):
        return x_adv
    logits = ask(model, x_adv, batch_size)
    check_labels(name, logits, y)
    rows = (~reveal(model, x_adv, logits, y, batch_size)).nonzero().squeeze(1)
    search = _Search(model, x_adv, y, logits, targets, rule, eps, batch_size)
    generators = ExampleGenerators.of(generator, len(x))
    for restart in range(restarts):
        search.run(rows, steps, generators if restart else None, stop_within=None if minimum else eps)
        if not minimum:
            rows = rows[search.nearest[rows].isinf()]
    return search.best.view_as(x_adv)


class _Search:
    """The closest misclassified points found so far, and what it takes to look for closer ones."""

    def __init__(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        logits: Tensor,
        targets: int | None,
        rule: _Rule,
        eps: float,
        batch_size: int | None,
    ) -> None:
        self.model, self.y, self.rule, self.eps, self.batch_size = model, y, rule, eps, batch_size
        others = likeliest(logits, y, targets or logits.shape[1] - 1)
        self.others = others if targets is None else None
        """The classes around each image, for an untargeted search."""
        self.targets = others[:, :1] if targets is None else others
        self.shape, self.x = x.shape[1:], x.flatten(1)
        self.best = self.x.clone()
        self.nearest = x.new_full((len(x),), math.inf)

    def run(self, rows: Tensor, steps: int, generators: ExampleGenerators | None, stop_within: float | None) -> None:
        """Search for all pairs of ``rows`` and their targets; random starts if there are ``generators``.

        Images enter in turn as others are done, with all their targets, which then walk side by side. With
        ``stop_within`` only a point that close counts, and an image that has one is done.
        """
        width = self.targets.shape[1]
        room = max(_POOL // max(1, self.x.shape[1]), self.batch_size or 0, width)
        pairs, waiting = self._start(rows[:0], None), rows
        while len(pairs.rows) or len(waiting):
            entering = (room - len(pairs.rows)) // width
            if len(waiting) and entering:
                pairs, waiting = pairs.join(self._start(waiting[:entering], generators)), waiting[entering:]
            going = pairs.ages < steps
            lead, gradient, fooled = self._look(pairs, going)
            found = self._keep_closest(pairs, fooled, stop_within)
            if stop_within is not None:
                going = going & ~found[pairs.rows]
            gradient = gradient.flatten(1)
            if not bool(going.all()):
                pairs, gradient, lead, fooled = pairs.select(going), gradient[going], lead[going], fooled[going]
            pairs = self._advance(pairs, gradient, lead, fooled)

    def _look(self, pairs: _Pairs, going: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Lead (P,) of the class to reach, its gradient (P, C, H, W), who is misclassified; slopes for ``going``.

        Of a targeted search the model's own logits say who is: half of all iterates lie across the boundary, and only
        those that would be kept need certainty.
        """
        images, y = pairs.points.view(-1, *self.shape), self.y[pairs.rows]
        if self.others is not None:
            seen = nearest_boundary(
                self.model, images, y, self.others[pairs.rows], self.rule.norm, self.batch_size, wanted=going
            )
            return seen.lead, seen.gradient, seen.fooled
        loss = partial(_lead, y=y, targets=pairs.targets)
        logits, lead, gradient = ask_gradient(self.model, images, loss, self.batch_size, wanted=going)
        return lead, gradient, misclassified(logits, y)

    def _start(self, rows: Tensor, generators: ExampleGenerators | None) -> _Pairs:
        """The pairs of ``rows``, at the images or at random points within half of ``eps``, or of ``nearest``."""
        width = self.targets.shape[1]
        points = self.x[rows][:, None].expand(-1, width, -1)
        if generators is not None and len(rows):
            radius = self.nearest[rows].clamp_max(self.eps) / 2
            noise = _unit_noise(generators.select(rows), (width, self.x.shape[1]), self.rule.norm).to(self.x)
            points = (points + radius[:, None, None] * noise).clamp_(0, 1)
        return _Pairs(
            rows.repeat_interleave(width),
            self.targets[rows].flatten(),
            torch.zeros(len(rows) * width, dtype=torch.int64, device=rows.device),
            points.reshape(-1, self.x.shape[1]),
        )

    def _keep_closest(self, pairs: _Pairs, fooled: Tensor, stop_within: float | None) -> Tensor:
        """Take over the fooled points that are closer than what there is; which images got one, bool (N,).

        Points that turn out not to be misclassified are taken out of ``fooled`` (P,).
        """
        found = torch.zeros_like(self.nearest, dtype=torch.bool)
        chosen = fooled.nonzero().squeeze(1)
        if not len(chosen):
            return found
        rows = pairs.rows[chosen]
        distance = _length(pairs.points[chosen] - self.x[rows], self.rule.norm)
        closer = distance < self.nearest[rows]
        if stop_within is not None:
            closer &= distance <= stop_within
        chosen, rows, distance = chosen[closer], rows[closer], distance[closer]
        really = confirm(self.model, pairs.points[chosen].view(-1, *self.shape), self.y[rows], self.batch_size)
        if not bool(really.all()):
            fooled[chosen[~really]] = False
            chosen, rows, distance = chosen[really], rows[really], distance[really]
        found[rows] = True
        self.nearest.scatter_reduce_(0, rows, distance, "amin")
        closest = distance == self.nearest[rows]
        # Pairs of one image stand in the order of their targets: of equally close points the likeliest class's counts.
        first = torch.full_like(self.y, len(pairs.rows))
        first.scatter_reduce_(0, rows[closest], chosen[closest], "amin")
        self.best[found] = pairs.points[first[found]]
        return found

    def _advance(self, pairs: _Pairs, gradient: Tensor, lead: Tensor, fooled: Tensor) -> _Pairs:
        """One step of every pair; pairs that would stand still from now on are left out."""
        if known(pairs.points, self.rule.norm):
            points, keep = advanced(pairs.points, self.x, pairs.rows, gradient, lead, fooled, **asdict(self.rule))
        else:
            points, keep = self._advanced(pairs, gradient, lead, fooled)
        pairs = _Pairs(pairs.rows, pairs.targets, pairs.ages + 1, points)
        return pairs if bool(keep.all()) else pairs.select(keep)

    def _advanced(self, pairs: _Pairs, gradient: Tensor, lead: Tensor, fooled: Tensor) -> tuple[Tensor, Tensor]:
        """The next iterates (P, d), and which of them go on, bool (P,)."""
        points, keep = torch.empty_like(pairs.points), torch.ones_like(fooled)
        block = max(1, _BLOCK // points.shape[1]) if points.device.type == "cpu" else len(points)
        for part in batches(len(points), block):
            x = self.x.index_select(0, pairs.rows[part])
            weight, offset, seen = _hyperplane(gradient[part], lead[part])
            points[part] = _step(pairs.points[part], x, weight, offset, fooled[part], self.rule)
            if not bool(seen.all()):
                # Where nothing is seen a step leads towards the image; at the image itself it is the last.
                keep[part] = seen | (points[part] != x).any(1)
        return points, keep


def _lead(logits: Tensor, rows: Tensor, *, y: Tensor, targets: Tensor) -> Tensor:
    """By how much each target's logit is above the label's, (n,); ``rows`` (n,) point into ``y`` and ``targets``."""
    both = logits.gather(1, torch.stack([targets[rows], y[rows]], 1))
    return both[:, 0] - both[:, 1]


def _hyperplane(gradient: Tensor, lead: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Where the linearised lead is 0: weight . delta = offset, and whether there is such a place.

    The weight (n, d) has 1 for its largest entry, the offset (n,) is minus the lead on that scale, the third is bool
    (n,); weight and offset are 0 where every gradient is 0 or where the lead is not finite.
    """
    largest = gradient.abs().amax(1)
    if not bool(largest.isfinite().all()):
        gradient = finite(gradient)
        largest = gradient.abs().amax(1)
    seen = (largest > 0) & lead.isfinite()
    scale = torch.where(seen, largest, math.inf)
    return gradient / scale[:, None], torch.where(seen, -lead, 0.0) / scale, seen


def _step(point: Tensor, x: Tensor, weight: Tensor, offset: Tensor, fooled: Tensor, rule: _Rule) -> Tensor:
    """The next iterate (n, d) after ``point``, where ``weight . delta = offset`` leads to the linearised boundary."""
    moved = point - x
    along = (weight * moved).sum(1)
    share = torch.where(fooled, rule.beta, 1.0).to(x)
    point = torch.addcmul(x, moved, share[:, None])
    both = torch.stack([point, x], 1)
    offsets = torch.stack([offset + (1 - share) * along, offset + along], 1)
    delta = project(both, weight, offsets, rule.norm)
    length = _length(delta, rule.norm).clamp_min_(_LEAST)
    alpha = (length[:, 0] / length.sum(1)).clamp_max_(rule.alpha_max)
    both.add_(delta, alpha=rule.eta)
    return torch.lerp(both[:, 0], both[:, 1], alpha[:, None]).clamp_(0, 1)


def _unit_noise(generators: ExampleGenerators, shape: tuple[int, int], norm: str) -> Tensor:
    """Random perturbations (N, *shape) of length 1 in L2 and L1, of at most 1 in Linf."""
    if norm == "Linf":
        return generators.uniform(shape).mul_(2).sub_(1)
    noise = generators.normal(shape)
    return noise.div_(_length(noise, norm)[..., None])


def _length(delta: Tensor, norm: str) -> Tensor:
    """Length of perturbations (..., d) in ``norm``, (...)."""
    if norm == "L2":
        length: Tensor = torch.linalg.vector_norm(delta, dim=-1)
        return length
    # Several times as fast on a CPU as torch.linalg.vector_norm with another order, in torch 2.15.
    sizes = delta.abs()
    return sizes.amax(-1) if norm == "Linf" else sizes.sum(-1)
