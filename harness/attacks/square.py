"""The Square Attack: random search over square windows, for models that only answer."""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from harness.attacks.asking import Nearby, ask, reveal
from harness.attacks.inputs import check_batch, check_count, check_labels, check_norm, check_positive, check_switch
from harness.attacks.losses import margin
from harness.attacks.randomness import ExampleGenerators
from harness.attacks.square_moves import MOVES, Moves
from harness.attacks.square_shapes import sides
from harness.attacks.square_tray import Rows, Tray, tensor
from harness.errors import UserError

NORMS = tuple(MOVES)


def square(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    norm: str = "Linf",
    queries: int = 5000,
    p_init: float = 0.8,
    rescale_schedule: bool = False,
    restarts: int = 1,
    generator: ExampleGenerators | torch.Generator | None = None,
    batch_size: int | None = None,
) -> Tensor:
    """Square Attack (Andriushchenko et al. 2020, arXiv 1912.00049), untargeted, on the margin loss.

    ``x`` is float (N, C, H, W) in [0, 1], ``y`` int64 (N,), ``model`` maps images to logits (N, K) and is asked for
    no gradient. The answer has the shape and dtype of ``x`` and lies within ``eps`` of it in ``norm`` (``Linf``,
    ``L2``, or ``L1`` as in arXiv 2103.01208). Each of the ``restarts`` decides about at most ``queries`` points per
    example, the random start included; all rows are asked about once before. The next few points of an example are
    asked about at once, those after one that is kept in vain: a tenth more questions (a quarter for few rows, up to two
    fifths in the first hundred) in fewer and larger batches, whose answers decide what they would one at a time.

    The first window covers the part ``p_init`` of the image; it shrinks by query number as in AutoAttack, so that
    fewer queries are the beginning of a longer run, or with ``rescale_schedule`` by the part of the queries spent.
    Windows may lie anywhere in the image, its last row and column included. In L2 every second move is one of ours
    (see ``square_moves.L2Moves``).

    The first misclassified point is returned and its example leaves; an example that survives gets its point of
    highest loss, ``x`` itself among them. An image that is misclassified itself comes back as it is. Every example
    has random numbers of its own, so neither ``batch_size`` (None: all rows at once), which only cuts the questions
    to the model, nor the other examples change its outcome. Raises ``UserError`` for arguments out of range.
    """
    _check(x, y, eps, norm, queries, p_init, restarts, batch_size)
    check_switch("square", rescale_schedule=rescale_schedule)
    x = x.detach()
    x_adv = x.clone()
    if not len(x):
        return x_adv
    logits = ask(model, x, batch_size)
    check_labels("square", logits, y)
    best = _losses(logits, y)
    rows = (~reveal(model, x, logits, y, batch_size)).nonzero().squeeze(1)
    generators = ExampleGenerators.of(generator, len(x))
    plan = sides(queries - 1, x.shape[2], x.shape[3], norm, p_init, rescale=rescale_schedule)
    for _ in range(restarts):
        if not len(rows):
            break
        moves = MOVES[norm](x[rows], eps)
        points, values, fooled = _search(model, moves, x[rows], y[rows], generators.select(rows), plan, batch_size)
        better = fooled | (values > best[rows])
        x_adv[rows[better]] = points[better]
        best[rows[better]] = values[better]
        rows = rows[~fooled]
    return x_adv


def _search(
    model: nn.Module,
    moves: Moves,
    x: Tensor,
    y: Tensor,
    generators: ExampleGenerators,
    plan: list[int],
    batch_size: int | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """A random start and one move per side in ``plan``: best points, their losses, and whether they are misclassified.

    A move is kept if it raises the loss. Rows that are done leave, so the ones that are left cost less.
    """
    points, values = torch.empty_like(x), x.new_full((len(x),), -math.inf)
    fooled = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    rows = torch.arange(len(x), device=x.device)
    highest = values.cpu().numpy().copy()
    shape = (-1, *x.shape[1:])
    moves.start(generators)
    nearby = Nearby(model, batch_size, local=moves.local)
    names = np.arange(len(x))
    tray = Tray(moves, plan, x.shape[1:], x.device, len(x))
    who, asked = names, moves.best.clone()
    nearby.place(names.tolist(), moves.best.view(shape))
    while len(who):
        images, labels = asked.view(shape), y[tensor(who, x.device)]
        logits = nearby.ask(images, names[who].tolist())
        gone = nearby.reveal(images, logits, labels).cpu().numpy()
        losses = _losses(logits, labels).cpu().numpy()
        first = _first_better(moves, who, asked, gone | (losses > highest[who]))
        winners = np.flatnonzero(first < len(who))
        if len(winners):
            chosen = first[winners]
            moves.take(tensor(winners, x.device), asked[tensor(chosen, x.device)])
            highest[winners] = losses[chosen]
            nearby.place(names[winners].tolist(), images[tensor(chosen, x.device)])
        tray.decide(first)
        if len(winners) and gone[chosen].any():
            out = tensor(winners[gone[chosen]], x.device)
            left, kept = rows[out], torch.ones_like(rows, dtype=torch.bool)
            kept[out] = False
            points[left], fooled[left] = moves.best[out].view(shape), True
            values[left] = torch.from_numpy(highest).to(x.device)[out]
            stay = kept.nonzero().squeeze(1)
            rows, y, highest = rows[stay], y[stay], highest[stay.cpu().numpy()]
            names = names[stay.cpu().numpy()]
            moves.keep(stay)
            tray.keep(stay)
        who, asked = tray.propose(generators.select(rows))
    points[rows], values[rows] = moves.best.view(shape), torch.from_numpy(highest).to(x.device)
    return points, values, fooled


def _first_better(moves: Moves, who: Rows, asked: Tensor, better: NDArray[np.bool_]) -> Rows:
    """Position of the first candidate of every row that is ``better`` and in the ball; ``len(who)`` where none is."""
    first = np.full(len(moves.best), len(who))
    taken = np.flatnonzero(better)
    if len(taken):
        at = tensor(taken, asked.device)
        taken = taken[moves.within(tensor(who[taken], asked.device), asked[at]).cpu().numpy()]
        np.minimum.at(first, who[taken], taken)
    return first


def _losses(logits: Tensor, y: Tensor) -> Tensor:
    """The margin of every row, (N,); one that is not finite counts as the lowest, so that any other is better."""
    losses = margin(logits, y)
    return torch.where(losses.isfinite(), losses, -math.inf)


def _check(
    x: Tensor, y: Tensor, eps: float, norm: str, queries: int, p_init: float, restarts: int, batch_size: int | None
) -> None:
    """``UserError`` for arguments out of range."""
    check_batch("square", x, y)
    check_norm("square", norm, NORMS)
    check_positive("square", eps=eps, p_init=p_init)
    if p_init > 1:
        raise UserError(f"square: p_init: expected a part of the image, at most 1, got {p_init!r}")
    check_count("square", queries=queries, restarts=restarts)
    if batch_size is not None:
        check_count("square", batch_size=batch_size)
