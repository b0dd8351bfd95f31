"""An attack that sees predicted classes alone: RayS."""

import torch
from torch import Tensor, nn

from harness.attacks.asking import ask, reveal
from harness.attacks.geometry import per_image
from harness.attacks.inputs import check_batch, check_count, check_labels, check_norm, check_positive
from harness.attacks.randomness import ExampleGenerators

NORMS = ("Linf",)


def rays(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    norm: str = "Linf",
    queries: int = 400,
    generator: ExampleGenerators | torch.Generator | None = None,
    batch_size: int | None = None,
) -> Tensor:
    """Ray Searching (Chen and Gu 2020, arXiv 2006.12792): the sign direction with the nearest decision boundary.

    ``x`` is float (N, C, H, W) in [0, 1], ``y`` int64 (N,); of the logits (N, K) only the predicted class is used. The
    direction starts as all ones; ever smaller blocks of it are flipped, and a flip stays when the boundary along the
    new direction is nearer, which one question at the best radius so far decides and a binary search then measures.
    Each example spends at most ``queries`` questions. The answer lies within ``eps``: misclassified when a boundary
    was found there, else ``x`` itself. ``generator`` is not used: the search is deterministic. Raises ``UserError``
    for arguments out of range.
    """
    check_batch("rays", x, y)
    check_norm("rays", norm, NORMS)
    check_positive("rays", eps=eps)
    check_count("rays", queries=queries)
    x_adv = x.detach().clone()
    if not len(x):
        return x_adv
    logits = ask(model, x_adv, batch_size)
    check_labels("rays", logits, y)
    rows = (~reveal(model, x_adv, logits, y, batch_size)).nonzero().squeeze(1)
    search = _Search(model, x_adv[rows], y[rows], eps, queries, batch_size)
    if len(rows):
        search.run()
        fell = search.radius <= eps
        x_adv[rows[fell]] = search.at(search.radius, search.signs)[fell]
    return x_adv


class _Search:
    """The state of all examples' searches, in lockstep; those that are done ask no more."""

    def __init__(
        self, model: nn.Module, x: Tensor, y: Tensor, eps: float, queries: int, batch_size: int | None
    ) -> None:  # fmt: skip
        self._model, self.x, self._y, self._eps, self._queries, self._batch_size = model, x, y, eps, queries, batch_size
        self.signs = torch.ones_like(x).flatten(1)
        self.radius = x.new_full((len(x),), 1.0 + eps)
        """Radius at which the best direction is known to be misclassified; above 1 when none is."""
        self._spent = torch.zeros(len(x), dtype=torch.int64)

    def at(self, radius: Tensor, signs: Tensor) -> Tensor:
        """Points (N, C, H, W) at ``radius`` (N,) along ``signs`` (N, D), in the box."""
        return (self.x + per_image(radius, self.x) * signs.view_as(self.x)).clamp_(0, 1)

    def _wrong(self, radius: Tensor, signs: Tensor, asked: Tensor) -> Tensor:
        """Whether the points of the rows ``asked`` are misclassified, bool (N,); the other rows are not."""
        wrong = torch.zeros_like(asked)
        rows = asked.nonzero().squeeze(1)
        if len(rows):
            points = (self.x[rows] + per_image(radius[rows], self.x) * signs[rows].view_as(self.x[rows])).clamp_(0, 1)
            logits = ask(self._model, points, self._batch_size)
            wrong[rows] = reveal(self._model, points, logits, self._y[rows], self._batch_size)
            self._spent[rows] += 1
        return wrong

    def _open(self) -> Tensor:
        return (self._spent < self._queries) & (self.radius > self._eps)

    def run(self) -> None:
        """Flip blocks until every example is within the budget or out of questions."""
        size = self.signs.shape[1]
        self._try(self.signs)
        level, block = 0, 0
        while bool(self._open().any()):
            width = -(-size // 2**level)
            signs = self.signs.clone()
            signs[:, block * width : (block + 1) * width] *= -1
            self._try(signs)
            block += 1
            if block * width >= size:
                level, block = (level + 1 if width > 1 else 0), 0

    def _try(self, signs: Tensor) -> None:
        """Take ``signs`` over where the boundary along them is nearer than the best so far."""
        asked = self._open()
        bound = self.radius.clamp_max(1.0)
        better = self._wrong(bound, signs, asked)
        if not bool(better.any()):
            return
        self.signs[better] = signs[better]
        # Where the point at the budget itself is misclassified there is nothing left to measure.
        limit = torch.full_like(bound, self._eps)
        direct = self._wrong(limit, self.signs, better)
        self.radius[better] = bound[better]
        self.radius[direct] = self._eps
        low, searching = limit.clone(), better & ~direct
        while True:
            searching = searching & (self.radius - low > self._eps / 8) & (self._spent < self._queries)
            if not bool(searching.any()):
                return
            middle = (low + self.radius) / 2
            wrong = self._wrong(middle, self.signs, searching)
            self.radius = torch.where(wrong, middle, self.radius)
            low = torch.where(searching & ~wrong, middle, low)
