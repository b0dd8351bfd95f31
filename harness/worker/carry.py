"""One value, another gradient: the tool behind every straight-through replacement."""

from typing import Any

import torch
from torch import Tensor


class Carry(torch.autograd.Function):
    """The first argument's value; the gradient goes to the second alone."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, carrier: Tensor) -> Tensor:  # noqa: ANN401
        """Pass ``value`` on."""
        return value.detach().clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:  # noqa: ANN401
        """The gradient as it comes."""
        return None, grads[0]


def carry(value: Tensor, carrier: Tensor) -> Tensor:
    """``value``, bit by bit, whose gradient is that of ``carrier``; both of one shape after broadcasting ``carrier``.

    The straight-through estimator (arXiv 1308.3432) as BPDA uses it (arXiv 1802.00420).
    """
    with torch._C.DisableTorchFunction():
        if not carrier.requires_grad:
            return value.detach()
        if carrier.shape != value.shape:
            carrier = carrier.expand(value.shape)
        result: Tensor = Carry.apply(value, carrier.to(value.dtype))
        return result


def moves(value: object) -> bool:
    """Whether ``value`` is a tensor with a gradient, whatever a mode says about it."""
    with torch._C.DisableTorchFunction():
        return isinstance(value, Tensor) and value.requires_grad
