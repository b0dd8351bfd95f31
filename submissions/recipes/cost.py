"""What a step of training costs, counted and not timed."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


class Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the floating-point operations of convolutions and matrix products inside its block; changes nothing."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total: int = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        result = func(*args, **(kwargs or {}))
        if func._overloadpacket in flop_registry:
            self.total += flop_registry[func._overloadpacket](*args, **(kwargs or {}), out_val=result)
        return result


def forward_operations(model: nn.Module, x: torch.Tensor) -> int:
    """Operations of one prediction of the first image of ``x`` (N, 3, H, W)."""
    training = model.training
    model.eval()
    with Operations() as counter, torch.no_grad():
        model(x[:1])
    model.train(training)
    total: int = counter.total
    return total


def cost(history: Sequence[dict[str, float]]) -> dict[str, float]:
    """Epochs, seconds of training (validation left out), mean forward-equivalents per image and epoch."""
    passes = [row["forward_equivalents"] for row in history if "forward_equivalents" in row]
    return {
        "epochs": len(history),
        "seconds": round(sum(row["seconds"] for row in history), 1),
        "forward_equivalents": round(sum(passes) / len(passes), 2) if passes else 0.0,
    }
