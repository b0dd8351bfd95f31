"""A second set of BatchNorm layers for a network, and weights averaged over the training."""

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.func import functional_call


class TwinNorms(nn.Module):
    """The network with BatchNorm scales, shifts and statistics of its own; every other tensor is the network's.

    For views of the images whose statistics differ from those of the images themselves. ``own`` are the parameters
    that the network does not have.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.keys: dict[str, str] = {}
        for place, module in model.named_modules():
            if isinstance(module, nn.BatchNorm2d):
                for name, tensor in module.state_dict(keep_vars=True).items():
                    self._add(f"{place}.{name}", tensor)

    def _add(self, name: str, tensor: Tensor) -> None:
        key = self.keys[name] = name.replace(".", "/")
        if isinstance(tensor, nn.Parameter):
            self.register_parameter(key, nn.Parameter(tensor.detach().clone()))
        else:
            self.register_buffer(key, tensor.clone())

    def own(self) -> dict[str, Tensor]:
        """The second set, by the names of the first."""
        return {name: getattr(self, key) for name, key in self.keys.items()}

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = functional_call(self.model, self.own(), (x,))
        return logits


class Average:
    """An exponential moving average of a network's parameters, in a copy of the network."""

    def __init__(self, model: nn.Module, *, decay: float) -> None:
        self.model, self.decay, self.updates = copy.deepcopy(model).requires_grad_(False), decay, 0

    def update(self, model: nn.Module) -> None:
        """Move towards ``model``; the first call takes it over as it is."""
        decay = self.decay if self.updates else 0.0
        self.updates += 1
        with torch.no_grad():
            for mean, value in zip(self.model.parameters(), model.parameters(), strict=True):
                mean.lerp_(value, 1 - decay)

    def recompute_norms(self, batches: Iterable[Tensor]) -> None:
        """BatchNorm statistics of the averaged weights, as plain means over ``batches``: averages of them would lag."""
        norms = [module for module in self.model.modules() if isinstance(module, nn.BatchNorm2d)]
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None
        self.model.train()
        with torch.no_grad():
            for x in batches:
                self.model(x)
        self.model.eval()
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
