"""Per-example counts of forward and backward passes, taken from outside the attack."""

import torch
from torch import Tensor

COMPARED = 384
"""Pixel values by which a row is matched to its image, about; more would cost a short attack a tenth of its time."""


class Ledger:
    """Attributes every row an attack asks about to one of the examples it was given.

    A call with as many rows as there are examples is taken in order. Any other call (an attack that dropped
    finished examples, or stacked several candidates) is matched row by row to the nearest original image in L2,
    which is the right one as long as perturbations are smaller than the distance between two images. Large images are
    compared at evenly spread pixels.
    """

    def __init__(self, x: Tensor) -> None:
        self._stride = max(1, x[0].numel() // COMPARED) if len(x) else 1
        self._x = x.detach().flatten(1)[:, :: self._stride].contiguous()
        self._rows = torch.arange(len(x))
        self.forwards = torch.zeros(len(x), dtype=torch.int64)
        self.backwards = torch.zeros(len(x), dtype=torch.int64)

    def _match(self, queries: Tensor) -> Tensor:
        if len(queries) == len(self._rows):
            return self._rows
        if not len(queries):
            return self._rows[:0]
        seen = queries.detach().flatten(1)[:, :: self._stride].to(self._x.dtype)
        return torch.cdist(seen, self._x).argmin(1)

    def forward(self, queries: Tensor) -> None:
        """Count one forward pass of every row of ``queries`` (M, C, H, W)."""
        self.forwards += torch.bincount(self._match(queries), minlength=len(self._rows))

    def backward(self, queries: Tensor) -> None:
        """Count one backward pass of every row of ``queries`` (M, C, H, W)."""
        self.backwards += torch.bincount(self._match(queries), minlength=len(self._rows))
