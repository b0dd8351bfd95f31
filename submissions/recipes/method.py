"""What a recipe is to the trainer: one update per batch, and a state that is saved and restored with the checkpoint.

A recipe without a state of its own is a module with a function
``loss(model, x, y, *, eps, generator, **settings) -> Tensor``; one that has a discriminator, averaged weights or a
schedule of its own is a module with a subclass of ``Method`` named ``Recipe``. ``settings`` of the configuration become
keyword arguments of either.
"""

import importlib
import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from submissions.recipes.config import Config, ConfigError


@dataclass(frozen=True)
class Batch:
    """The images of one step and where in the training it stands."""

    images: Tensor
    """As stored, before augmentation: uint8 (N, 3, H, W), on the CPU."""
    x: Tensor
    """Augmented, float (N, 3, H, W) in [0, 1], on the training's device."""
    y: Tensor
    """Labels int64 (N,), on the same device."""
    generator: torch.Generator
    """The epoch's stream of random numbers, on the CPU."""
    epoch: int
    """Whole epochs before this step."""
    step: int
    """Steps before this one, counted from the start of the training."""
    progress: float
    """Share of the training that is done after this step, in (0, 1]."""


def sgd(model: nn.Module, *, lr: float, weight_decay: float) -> torch.optim.SGD:
    """SGD with momentum 0.9; biases and BatchNorm's vectors are not decayed."""
    groups: list[dict[str, Any]] = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.SGD(groups, lr=lr, momentum=0.9)


class Method:
    """Base of the recipes with a state: subclasses say what ``update`` does and what must be saved."""

    def __init__(self, model: nn.Module, optimiser: torch.optim.Optimizer, config: Config) -> None:
        self.model, self.optimiser, self.config, self.eps = model, optimiser, config, config.eps_value
        self.device = next(model.parameters()).device

    def autocast(self) -> AbstractContextManager[Any]:
        """bfloat16 where the configuration asks for it."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.bf16)

    def descend(self, value: Tensor) -> float:
        """One step of the network's optimiser down ``value``; returns its figure."""
        self.optimiser.zero_grad(set_to_none=True)
        value.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        return float(value.detach())

    def update(self, batch: Batch) -> float:
        """Learn from one batch; returns the loss to report."""
        raise NotImplementedError

    def end_epoch(self, epochs: int, batches: Callable[[int], Tensor]) -> None:
        """Called after ``epochs`` whole epochs; ``batches(i)`` are augmented images, a fixed draw."""

    def figures(self) -> dict[str, float]:
        """What else an epoch's row should say; called once at the end of each."""
        return {}

    def published(self) -> nn.Module:
        """The network that is validated and published."""
        return self.model

    def state_dict(self) -> dict[str, Any]:
        """Everything beside the network and its optimiser that the next step depends on."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of ``state_dict``."""


class LossMethod(Method):
    """A recipe that is nothing but a loss."""

    def __init__(
        self, model: nn.Module, optimiser: torch.optim.Optimizer, config: Config, loss: Callable[..., Tensor]
    ) -> None:
        super().__init__(model, optimiser, config)
        self.loss = loss

    def update(self, batch: Batch) -> float:
        with self.autocast():
            value = self.loss(
                self.model, batch.x, batch.y, eps=self.eps, generator=batch.generator, **self.config.settings
            )
        return self.descend(value)


def _module(config: Config) -> ModuleType:
    try:
        module = importlib.import_module(f"submissions.recipes.{config.recipe}")
    except ModuleNotFoundError:
        module = None
    if module is None or not (hasattr(module, "loss") or issubclass(getattr(module, "Recipe", object), Method)):
        raise ConfigError(f"{config.id}: recipe: expected one of submissions.recipes, got {config.recipe!r}")
    return module


def check(config: Config) -> None:
    """Raise ``ConfigError`` when the recipe does not exist or does not know one of its settings."""
    module = _module(config)
    target = module.Recipe if hasattr(module, "Recipe") else module.loss
    given = {"model", "optimiser", "config", "x", "y", "eps", "generator", "self"}
    known = [name for name in inspect.signature(target).parameters if name not in given]
    for name in config.settings:
        if name not in known:
            raise ConfigError(
                f"{config.id}: settings: expected {', '.join(known) or 'none'} for {config.recipe}, got {name!r}"
            )


def method(model: nn.Module, optimiser: torch.optim.Optimizer, config: Config) -> Method:
    """The recipe of ``config`` for this network and optimiser; raises ``ConfigError`` when there is no such recipe."""
    check(config)
    module = _module(config)
    if hasattr(module, "Recipe"):
        recipe: Method = module.Recipe(model, optimiser, config, **config.settings)
        return recipe
    return LossMethod(model, optimiser, config, module.loss)
