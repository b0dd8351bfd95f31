"""Auto-PGD: gradient ascent that sets its own step sizes, on one loss or towards many classes at once."""

import math
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn

from harness.attacks.apgd_steps import begin
from harness.attacks.asking import Loss, ask, ask_gradient, reveal
from harness.attacks.geometry import Ball
from harness.attacks.inputs import (
    check_batch,
    check_choice,
    check_count,
    check_labels,
    check_norm,
    check_positive,
    check_switch,
)
from harness.attacks.losses import cross_entropy, difference, dlr, dlr_targeted, margin
from harness.attacks.randomness import ExampleGenerators

NORMS = ("Linf", "L2", "L1")
LOSSES: dict[str, Callable[..., Tensor]] = {"ce": cross_entropy, "dlr": dlr, "margin": margin}
TARGETED: dict[str, Callable[..., Tensor]] = {"dlr": dlr_targeted, "margin": difference}

Generator = ExampleGenerators | torch.Generator | None

NARROWING = ((1 / 8, 1 / 3), (2 / 5, 0.0))
"""After the one part of all moves the other part of an example's climbs goes on, one at least."""

_PIXELS = 2**23
"""Values of the images that climb at the same time; about ten tensors of that size are alive. Nothing else hangs on
it: what no longer fits is attacked afterwards."""


def apgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    norm: str = "Linf",
    steps: int = 100,
    restarts: int = 1,
    loss: str = "ce",
    eot: int = 1,
    generator: Generator = None,
    batch_size: int | None = None,
) -> Tensor:
    """Auto-PGD (Croce and Hein 2020, arXiv 2003.01690; in L1 Croce and Hein 2021, arXiv 2103.01208).

    ``x`` is float (N, C, H, W) in [0, 1], ``y`` int64 (N,), ``model`` maps images to logits (N, K); the answer has
    the shape and dtype of ``x`` and lies within ``eps`` of it in ``norm``. ``loss`` is ``ce``, ``dlr`` or ``margin``;
    with two classes ``dlr`` is the margin. Each of the ``restarts`` starts from a random point and attacks the
    survivors. In L1 the budget is three times ``eps`` for the first 30 % of the steps and twice for the next 30 %.

    Every iterate is tested (in L1 those of the last budget), the start and the last one included. The first
    misclassified one is returned and its example leaves; an example that survives gets its iterate of highest loss.
    An image that is misclassified itself comes back as it is. ``batch_size`` cuts the questions to the model (None:
    all rows at once); outcomes depend neither on it nor on the other rows.

    For a model that draws at random ``eot`` passes stand for one: their losses and gradients are averaged, and so are
    their softmax outputs, whose largest entry is the prediction. Raises ``UserError`` for arguments out of range.
    """
    _check("apgd", x, y, eps, norm, batch_size, steps=steps, restarts=restarts, eot=eot)
    chosen = _loss("apgd", loss, LOSSES)
    x_adv = x.detach().clone(memory_format=torch.contiguous_format)
    if not len(x):
        return x_adv
    judge, images = _Judge(model, eot, batch_size), x_adv.clone()
    rows = _right("apgd", judge, judge.predict(images), images, y)
    best = x_adv.new_full((len(x),), -torch.inf)
    generators = ExampleGenerators.of(generator, len(x))
    for _ in range(restarts):
        fallen = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        for part in _parts(rows, images[0].numel()):
            labels = y[part]
            points, values, fell = _search(
                judge, _on(chosen, labels), images[part], labels, generators.select(part), 1, eps, norm, steps
            )
            better = fell | (values > best[part])
            x_adv[part[better]], best[part[better]], fallen[part] = points[better], values[better], fell
        rows = rows[~fallen[rows]]
    return x_adv


def apgd_t(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    norm: str = "Linf",
    steps: int = 100,
    targets: int = 9,
    loss: str = "dlr",
    narrow: bool = False,
    eot: int = 1,
    generator: Generator = None,
    batch_size: int | None = None,
) -> Tensor:
    """Auto-PGD towards the ``targets`` (at most K - 1) classes that are likeliest at ``x`` besides ``y``.

    As ``apgd``, with one climb for each pair of an example and a target, all in lockstep: an example leaves with the
    first of its climbs that is misclassified, as whatever class, and with the likelier target among several. One that
    survives gets the iterate of highest loss over all targets. ``loss`` is the targeted ``dlr``, which is the
    difference of the two logits with fewer than four classes, or ``margin``, which is that difference always.

    With ``narrow`` the climbs of an example compete: after an eighth of the moves the third of them with the highest
    loss so far goes on, after two fifths the best alone (successive halving, Jamieson and Talwalkar 2016, arXiv
    1502.07943, with other numbers). A hundred steps then cost what twenty-eight do towards nine targets.
    """
    _check("apgd-t", x, y, eps, norm, batch_size, steps=steps, targets=targets, eot=eot)
    check_switch("apgd-t", narrow=narrow)
    chosen = _loss("apgd-t", loss, TARGETED)
    x_adv = x.detach().clone(memory_format=torch.contiguous_format)
    if not len(x):
        return x_adv
    judge, images = _Judge(model, eot, batch_size), x_adv.clone()
    logits = judge.predict(images)
    rows = _right("apgd-t", judge, logits, images, y)
    others = logits.scatter(1, y[:, None], -torch.inf).sort(dim=1, descending=True, stable=True).indices[:, :-1]
    copies = min(targets, others.shape[1])
    generators = ExampleGenerators.of(generator, len(x))
    for part in _parts(rows, copies * images[0].numel()):
        losses = _on(chosen, y[part].repeat_interleave(copies), others[part, :copies].flatten())
        x_adv[part], _, _ = _search(
            judge, losses, images[part], y[part], generators.select(part), copies, eps, norm, steps, narrow=narrow
        )
    return x_adv


apgd_ce = partial(apgd, loss="ce")
apgd_dlr = partial(apgd, loss="dlr")


def _search(
    judge: "_Judge",
    loss: Loss,
    x: Tensor,
    y: Tensor,
    generators: ExampleGenerators,
    copies: int,
    eps: float,
    norm: str,
    steps: int,
    *,
    narrow: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Climb ``copies`` times from every image (R, C, H, W), all at the same time; ``loss`` knows the climbs by number.

    Returns for every image the first misclassified iterate or else the one of highest loss, (R, C, H, W), the highest
    loss (R,), inf where one was misclassified, and whether one was, bool (R,). With ``narrow`` ever fewer go on.
    """
    numbers = torch.arange(len(x) * copies, device=x.device)
    answer, values = x.clone(), x.new_full((len(x),), torch.inf)
    fell = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    start: Tensor | None = None
    rungs, done = narrowing(steps, copies) if narrow else {}, 0
    for budget, moves, judged in _budgets(norm, eps, steps):
        ball = Ball(x[numbers // copies], norm, budget)
        climb = begin(ball, ball.sample(generators, copies) if start is None else ball.project_(start), moves)
        for move in range(moves + 1):
            climbing = numbers[climb.rows]
            logits, losses, grad = judge.ask(climb.point, _of(loss, climbing), gradient=move < moves)
            climb.note(losses, grad)
            whose = climbing // copies
            fooled = judge.reveal(climb.point, logits, y[whose]).nonzero().squeeze(1) if judged else whose[:0]
            if len(fooled):
                # Climbs are in order, so the first of an image is the one towards its likeliest target.
                first = whose[fooled].diff(prepend=whose.new_full((1,), -1)) > 0
                answer[whose[fooled[first]]] = climb.point[fooled[first]]
                fell[whose[fooled]] = True
                climb = climb.select(~fell[whose])
            if move == moves or not len(climb.rows):
                break
            if done in rungs:
                climb = climb.select(_highest(climb.value, len(climb.rows) // int((~fell).sum()), rungs[done]))
            climb.move()
            done += 1
        start, numbers = climb.best, numbers[climb.rows]
    left = (~fell).nonzero().squeeze(1)
    if len(left):
        going = len(numbers) // len(left)
        values[left], towards = climb.value.view(-1, going).max(1)
        answer[left] = climb.best[torch.arange(len(left), device=x.device) * going + towards]
    return answer, values, fell


def narrowing(steps: int, copies: int) -> dict[int, int]:
    """How many of ``copies`` climbs go on after some of the ``steps``, by the number of moves made."""
    return {max(1, int(part * steps)): max(1, math.ceil(copies * left)) for part, left in NARROWING}


def _highest(values: Tensor, each: int, most: int) -> Tensor:
    """Which of the ``values`` (N,), ``each`` of them of one image after the other, are its ``most`` highest, (N,)."""
    table = values.view(-1, each)
    order = table.sort(dim=1, descending=True, stable=True).indices[:, :most]
    return torch.zeros_like(table, dtype=torch.bool).scatter_(1, order, True).view(-1)


def _budgets(norm: str, eps: float, steps: int) -> Iterator[tuple[float, int, bool]]:
    """Radius and number of moves of each stage, and whether its iterates are within ``eps``."""
    early = min(-(-3 * steps // 10), (steps - 1) // 2) if norm == "L1" else 0
    if early:
        yield 3 * eps, early, False
        yield 2 * eps, early, False
    yield eps, steps - 2 * early, True


class _Exact(nn.Module):
    """The full-precision logits of a model as the mean softmax output of ``eot`` passes."""

    def __init__(self, exact: Callable[[Tensor], Tensor], eot: int) -> None:
        super().__init__()
        self._passes, self._eot = exact, eot

    def exact(self, x: Tensor) -> Tensor:
        """Probabilities (N, K) of images (N, C, H, W)."""
        return torch.stack([_probabilities(self._passes(x)) for _ in range(self._eot)]).mean(0)


class _Judge:
    """Asks a model, ``eot`` times for one answer."""

    def __init__(self, model: nn.Module, eot: int, batch_size: int | None) -> None:
        self._model, self._eot, self._batch_size = model, eot, batch_size
        exact = getattr(model, "exact", None)
        self._decides = model if eot == 1 or exact is None else _Exact(exact, eot)

    def predict(self, x: Tensor) -> Tensor:
        """Logits (N, K), or the mean softmax outputs of several passes; the largest is the prediction."""
        if self._eot == 1:
            return ask(self._model, x, self._batch_size)
        return torch.stack([_probabilities(ask(self._model, x, self._batch_size)) for _ in range(self._eot)]).mean(0)

    def reveal(self, x: Tensor, logits: Tensor, y: Tensor) -> Tensor:
        """Whether each row is really misclassified, bool (N,)."""
        return reveal(self._decides, x, logits, y, self._batch_size)

    def ask(self, x: Tensor, loss: Loss, *, gradient: bool) -> tuple[Tensor, Tensor, Tensor | None]:
        """What ``predict`` returns, the losses (N,) and, where wanted, their gradients (N, C, H, W)."""
        if self._eot == 1:
            return self._once(x, loss, gradient)
        passes = [self._once(x, loss, gradient) for _ in range(self._eot)]
        logits = torch.stack([_probabilities(logits) for logits, _, _ in passes]).mean(0)
        losses = torch.stack([losses for _, losses, _ in passes]).mean(0)
        gradients = [grad for _, _, grad in passes if grad is not None]
        return logits, losses, torch.stack(gradients).mean(0) if gradients else None

    def _once(self, x: Tensor, loss: Loss, gradient: bool) -> tuple[Tensor, Tensor, Tensor | None]:
        if gradient:
            return ask_gradient(self._model, x, loss, self._batch_size)
        logits = ask(self._model, x, self._batch_size)
        return logits, loss(logits, torch.arange(len(x), device=x.device)), None


def _probabilities(logits: Tensor) -> Tensor:
    """Softmax, not a number wherever a logit of the row is not finite."""
    wide = _wide(logits)
    return wide.softmax(1) + 0 * wide


def _wide(logits: Tensor) -> Tensor:
    """Half-precision logits in float32: a loss is a difference of close numbers."""
    return logits.float() if logits.dtype in {torch.float16, torch.bfloat16} else logits


def _on(loss: Callable[..., Tensor], *known: Tensor) -> Loss:
    """``loss`` of rows by their number, each with what is known of it (labels, targets; int64)."""
    return lambda logits, rows: loss(_wide(logits), *(values[rows] for values in known))


def _of(loss: Loss, rows: Tensor) -> Loss:
    """``loss`` when only ``rows`` are left: it is asked by position among them."""
    return lambda logits, positions: loss(logits, rows[positions])


def _right(attack: str, judge: _Judge, logits: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Numbers of the rows that are classified as ``y``, int64; ``UserError`` when a label has no logit."""
    check_labels(attack, logits, y)
    return (~judge.reveal(x, logits, y)).nonzero().squeeze(1)


def _parts(rows: Tensor, pixels: int) -> tuple[Tensor, ...]:
    """``rows`` in as many parts as memory needs when each has ``pixels`` values."""
    return torch.split(rows, max(1, _PIXELS // pixels)) if len(rows) else ()


def _loss(attack: str, name: str, losses: dict[str, Callable[..., Tensor]]) -> Callable[..., Tensor]:
    check_choice(attack, losses, loss=name)
    return losses[name]


def _check(attack: str, x: Tensor, y: Tensor, eps: float, norm: str, batch_size: int | None, **counts: int) -> None:
    check_batch(attack, x, y)
    check_norm(attack, norm, NORMS)
    check_positive(attack, eps=eps)
    check_count(attack, **counts)
    if batch_size is not None:
        check_count(attack, batch_size=batch_size)
