"""Steps of FAB in Linf and L2 on a processor, by ``fab_steps.c``, which is compiled when the package is installed.

What one row needs stays in the core's cache there, where torch's operations go over all rows in turn.
"""

import importlib
from typing import Any

import torch
from torch import Tensor

from harness.attacks.geometry import finite

compiled: Any
"""The function of ``_fab_steps.pyi``; None where there was no C compiler when this was installed."""
try:
    compiled = importlib.import_module("harness.attacks._fab_steps")
except ImportError:
    compiled = None


def known(points: Tensor, norm: str) -> bool:
    """Whether ``advanced`` takes such points."""
    return (
        compiled is not None
        and norm in {"Linf", "L2"}
        and points.device.type == "cpu"
        and points.dtype is torch.float32
        and points.shape[1] < 1 << 31
    )


def advanced(
    points: Tensor, x: Tensor, rows: Tensor, gradient: Tensor, lead: Tensor, fooled: Tensor, *, norm: str,
    alpha_max: float, eta: float, beta: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The next iterates (P, d) after ``points``, and which of them go on, bool (P,).

    ``x`` (N, d) are the images and ``rows`` int64 (P,) whose search is whose; ``gradient`` (P, d) is that of ``lead``
    (P,), and ``fooled`` bool (P,) says which points are misclassified. All but ``rows`` and ``fooled`` are float32. A
    search whose linearised boundary cannot be seen goes on until it is back at its image.
    """
    made, keep = torch.empty_like(points), torch.empty_like(fooled)
    points, x, rows, gradient, lead, fooled = (
        value.contiguous() for value in (points, x, rows, gradient, lead, fooled)
    )
    while not compiled.advance(
        points.data_ptr(), x.data_ptr(), gradient.data_ptr(), lead.data_ptr(), rows.data_ptr(), fooled.data_ptr(),
        (len(points), points.shape[1]), norm == "Linf", alpha_max, eta, beta, made.data_ptr(), keep.data_ptr(),
    ):  # fmt: skip
        gradient = finite(gradient)
    return made, keep
