"""How attacks ask the model: all rows of a shard at once, cut into batches only here, so that memory stays bounded."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from harness.attacks.losses import input_gradient, misclassified
from harness.errors import UserError

Loss = Callable[[Tensor, Tensor], Tensor]
"""From logits (n, K) of some rows and their positions int64 (n,) among all rows asked about, to their losses (n,)."""


def batches(n: int, batch_size: int | None) -> list[slice]:
    """``range(n)`` cut into slices of ``batch_size`` (None: one slice); no rows give no slices."""
    step = batch_size or max(1, n)
    return [slice(start, min(start + step, n)) for start in range(0, n, step)]


def answer(model: nn.Module, x: Tensor) -> Tensor:
    """Logits of ``x`` (N, C, H, W) in the images' precision, whatever the network's; differentiable.

    ``UserError`` unless the network returns a floating-point tensor; its shape is looked at by ``check_labels``.
    """
    logits: object = model(x)
    if not isinstance(logits, Tensor) or not logits.is_floating_point():
        got = type(logits).__name__
        if isinstance(logits, Tensor):
            got = f"{tuple(logits.shape)} of {str(logits.dtype).removeprefix('torch.')}"
        raise UserError(f"model: expected float logits ({len(x)}, K), got {got}")
    return logits.to(x.dtype)


def ask(model: nn.Module, x: Tensor, batch_size: int | None = None) -> Tensor:
    """Logits (N, K) of images (N, C, H, W), without a graph; N is at least 1."""
    with torch.no_grad():
        return _joined([answer(model, x[part]) for part in batches(len(x), batch_size)])


WIDER = 4
"""Images near known ones take a part of the memory of others: so many times as many are asked about at once."""


class Nearby:
    """Asks about images that differ from some points in a few pixels, which a model may answer faster for that.

    A model that does has a method ``near``; the answers are those of ``ask`` up to rounding.
    """

    def __init__(self, model: nn.Module, batch_size: int | None, *, local: bool) -> None:
        """Without ``local`` the images differ in many pixels, and the model is asked as always."""
        self._model, self._batch_size = model, batch_size
        self._near: Callable[[Tensor, list[int], list[int], Tensor], Tensor] | None = None
        if local:
            self._near = getattr(model, "near", None)
        self._placed: dict[int, Tensor] = {}

    def place(self, numbers: Sequence[int], points: Tensor) -> None:
        """The points with these numbers are now ``points`` (n, C, H, W)."""
        if self._near is not None:
            self._placed.update(zip(numbers, points, strict=True))

    def ask(self, x: Tensor, numbers: Sequence[int]) -> Tensor:
        """Logits (N, K) of images (N, C, H, W), each near the point of that number; N is at least 1."""
        if self._near is None:
            return ask(self._model, x, self._batch_size)
        found = []
        parts = math.ceil(len(x) / (WIDER * (self._batch_size or len(x))))
        # Parts of one size: a few rows left over would cost as much as many.
        for part in batches(len(x), math.ceil(len(x) / parts)):
            placed = list(self._placed)
            images = torch.stack(list(self._placed.values())) if placed else x[:0]
            found.append(self._near(x[part], list(numbers[part]), placed, images).to(x.dtype))
            self._placed.clear()
        return _joined(found)

    def reveal(self, x: Tensor, logits: Tensor, y: Tensor) -> Tensor:
        """Whether each row is really misclassified, bool (N,), as the function ``reveal`` says.

        Rows that ``logits`` (N, K), from ``ask``, say it of are asked about again as always.
        """
        if self._near is None or getattr(self._model, "exact", None) is not None:
            return reveal(self._model, x, logits, y, self._batch_size)
        fooled = misclassified(logits, y)
        rows = fooled.nonzero().squeeze(1)
        if len(rows):
            fooled[rows] = misclassified(ask(self._model, x[rows], self._batch_size), y[rows])
        return fooled


def ask_gradient(
    model: nn.Module,
    x: Tensor,
    loss: Loss,
    batch_size: int | None = None,
    *,
    wanted: Tensor | None = None,
    leave: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (N, K), losses (N,) and the gradient (N, C, H, W) of every row's own loss; N is at least 1.

    ``wanted`` (bool (N,)) spares the backward pass of the other rows; what stands in their place has no meaning.
    ``leave`` (labels int64 (N,)) spares it for rows that turn out not to be classified as their label.
    """
    logits, losses, gradients = [], [], []
    for part in batches(len(x), batch_size):
        leaf = x[part].detach().requires_grad_()
        rows = torch.arange(part.start, part.stop, device=x.device)
        with torch.enable_grad():
            found = answer(model, leaf)
            values = loss(found, rows)
        chosen = None if wanted is None else wanted[part]
        if leave is not None and getattr(model, "exact", None) is None:
            staying = ~misclassified(found.detach(), leave[part])
            chosen = staying if chosen is None else chosen & staying
        if chosen is not None and not bool(chosen.any()):
            gradients.append(torch.zeros_like(leaf))
        else:
            gradients.append(input_gradient(values, leaf, wanted=chosen))
        logits.append(found.detach())
        losses.append(values.detach())
    return _joined(logits), _joined(losses), _joined(gradients)


def _joined(parts: list[Tensor]) -> Tensor:
    """``parts`` one after the other; a single one is not copied."""
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def reveal(model: nn.Module, x: Tensor, logits: Tensor, y: Tensor, batch_size: int | None = None) -> Tensor:
    """Whether each row is really misclassified, bool (N,): ``logits`` (N, K) decide, unless they are approximate.

    A model that answers in reduced precision has a method ``exact`` from images to full-precision logits; rows whose
    approximate logits say "misclassified" are asked about again there. A logit that is not finite is misclassified.
    """
    fooled = misclassified(logits, y)
    rows = fooled.nonzero().squeeze(1)
    if len(rows) and getattr(model, "exact", None) is not None:
        fooled[rows] = confirm(model, x[rows], y[rows], batch_size)
    return fooled


def confirm(model: nn.Module, x: Tensor, y: Tensor, batch_size: int | None = None) -> Tensor:
    """Which of the images ``x``, misclassified by ``model``'s logits, really are, bool (N,): all where these are exact.

    Asks as ``reveal`` does; for attacks that need certainty about some of their misclassified points only.
    """
    exact = getattr(model, "exact", None)
    if exact is None or not len(x):
        return torch.ones(len(x), dtype=torch.bool, device=x.device)
    with torch.no_grad():
        return misclassified(_joined([exact(x[part]) for part in batches(len(x), batch_size)]), y)
