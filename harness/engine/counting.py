"""Per-example counts of forward and backward passes, taken from outside the attack."""

import torch
from torch import Tensor

COMPARED = 384
"""Pixel values by which a row is matched to its image, about; more would cost a short attack a tenth of its time."""


class Ledger:
    """Attributes every row an attack asks about to one of the examples it was given.

    Every row belongs to the nearest original image in L2, which is the right one as long as perturbations are smaller
    than half the distance between two images. A call with a row for each example, each that near to its own, is taken
    in order without looking further (an attack may have dropped finished examples, or stacked several candidates of
    others). Of equal images the one in the row's own place is meant, else the first. Large images are compared at
    evenly spread pixels.
    """

    def __init__(self, x: Tensor) -> None:
        self._stride = max(1, x[0].numel() // COMPARED) if len(x) else 1
        self._x = x.detach().flatten(1)[:, :: self._stride].contiguous()
        self._rows = torch.arange(len(x))
        apart = torch.cdist(self._x, self._x).fill_diagonal_(torch.inf)
        self._reach = apart.amin(1) / 2 if len(x) else self._x.new_zeros(0)
        self.forwards = torch.zeros(len(x), dtype=torch.int64)
        self.backwards = torch.zeros(len(x), dtype=torch.int64)

    def _match(self, queries: Tensor) -> Tensor:
        if not len(queries):
            return self._rows[:0]
        seen = queries.detach().flatten(1)[:, :: self._stride].to(self._x.dtype)
        whole = len(seen) == len(self._rows)
        if whole:
            own = torch.linalg.vector_norm(seen - self._x, dim=1)
            if bool((own < self._reach).all()):
                return self._rows
        distances = torch.cdist(seen, self._x)
        nearest = distances.argmin(1)
        if whole:
            mine = distances.diagonal() <= distances.gather(1, nearest[:, None]).squeeze(1)
            nearest = torch.where(mine, self._rows, nearest)
        return nearest

    def forward(self, queries: Tensor) -> None:
        """Count one forward pass of every row of ``queries`` (M, C, H, W)."""
        self.forwards += torch.bincount(self._match(queries), minlength=len(self._rows))

    def backward(self, queries: Tensor) -> None:
        """Count one backward pass of every row of ``queries`` (M, C, H, W)."""
        self.backwards += torch.bincount(self._match(queries), minlength=len(self._rows))
