"""Adversarial weight perturbation (Wu et al. 2020, arXiv 2004.05884): descend at the worst of the nearby weights."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from submissions.recipes.config import Config
from submissions.recipes.method import Batch, Method


@contextmanager
def perturbed(model: nn.Module, objective: Callable[[], Tensor], *, gamma: float) -> Iterator[None]:
    """Inside the block the weights are moved up ``objective()``; after it they are what they were, bit for bit.

    Each weight tensor of two or more dimensions moves along its gradient by ``gamma`` times its own L2 norm; vectors
    stay. The buffers, BatchNorm's statistics among them, do not see the evaluation that finds the direction.
    """
    weights = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    gradients = torch.autograd.grad(objective(), weights)
    saved = [weight.detach().clone() for weight in weights]
    with torch.no_grad():
        for buffer, before in buffers:
            buffer.copy_(before)
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.add_(gradient, alpha=gamma * float(weight.norm() / gradient.norm().clamp_min(1e-20)))
    try:
        yield
    finally:
        with torch.no_grad():
            for weight, before in zip(weights, saved, strict=True):
                weight.copy_(before)


class WeightPerturbed(Method):
    """A recipe whose gradient is taken at perturbed weights; subclasses give the attack and the objective."""

    gamma: float
    """Size of the perturbation relative to each tensor's norm; 0: none."""
    warmup: float
    """Share of the training before the weights are perturbed."""

    def __init__(self, model: nn.Module, optimiser: torch.optim.Optimizer, config: Config) -> None:
        super().__init__(model, optimiser, config)
        self.gamma, self.warmup = 0.0, 0.0

    def attack(self, batch: Batch) -> Tensor:
        """The perturbed images (N, 3, H, W) of the batch."""
        raise NotImplementedError

    def objective(self, batch: Batch, x_adv: Tensor) -> Tensor:
        """The loss at the present weights, a scalar."""
        raise NotImplementedError

    def update(self, batch: Batch) -> float:
        with self.autocast():
            x_adv = self.attack(batch)

        def objective() -> Tensor:
            with self.autocast():
                return self.objective(batch, x_adv)

        return self.descend_perturbed(batch, objective)

    def descend_perturbed(
        self, batch: Batch, objective: Callable[[], Tensor], direction: Callable[[], Tensor] | None = None
    ) -> float:
        """One step of the optimiser along the gradient at the perturbed weights; returns the loss there.

        The weights are moved up ``direction``, or up the objective itself.
        """
        if self.gamma == 0 or batch.progress <= self.warmup:
            return self.descend(objective())
        self.optimiser.zero_grad(set_to_none=True)
        with perturbed(self.model, direction or objective, gamma=self.gamma):
            value = objective()
            value.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        return float(value.detach())
