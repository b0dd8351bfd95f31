"""A plain Python function as a network."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from harness.worker.entries.state import LoadError


class Function(nn.Module):
    """Asks ``function(x, **kwargs)`` for logits; an array or a list becomes a tensor without a gradient."""

    def __init__(self, function: Callable[..., object], kwargs: Mapping[str, Any]) -> None:
        super().__init__()
        self.function, self.kwargs = function, dict(kwargs)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, K) of images (N, C, H, W)."""
        logits = self.function(x, **self.kwargs)
        if isinstance(logits, nn.Module):
            raise LoadError(
                "contract", "entry: a callable returned a network, expected logits: write it without 'callable:'"
            )
        if isinstance(logits, Tensor):
            return logits
        return torch.as_tensor(logits, dtype=torch.float32, device=x.device)
