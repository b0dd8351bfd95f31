"""Friendly adversarial training (Zhang et al. 2020, arXiv 2002.11242): PGD that stops soon after it succeeds."""

from collections.abc import Sequence
from fractions import Fraction

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from submissions.recipes.config import Config
from submissions.recipes.method import Batch, Method
from submissions.recipes.perturb import attackable, folded, uniform_start


def early_stopped(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    start: Tensor,
    *,
    eps: float,
    step_size: float,
    steps: int,
    tau: int,
    omega: float,
    generator: torch.Generator,
) -> Tensor:
    """At most ``steps`` steps of PGD from ``start``, each image by itself.

    An image that is misclassified takes ``tau`` steps more, counted while it stays misclassified, and then rests
    where it is. A step is ``step_size`` times the gradient's sign, and ``omega`` times Gaussian noise beside it (as in
    the authors' code), projected.
    """
    x_adv, left = start.clone(), torch.full_like(y, tau)
    moving = torch.ones_like(y, dtype=torch.bool)
    with attackable(model):
        network = folded(model, x)
        for _ in range(steps):
            place = x_adv[moving].requires_grad_(True)
            logits = network(place)
            wrong = logits.argmax(1) != y[moving]
            (gradient,) = torch.autograd.grad(F.cross_entropy(logits, y[moving], reduction="sum"), place)
            going = ~wrong | (left[moving] > 0)
            left[moving] -= wrong.long()
            index = moving.nonzero().squeeze(1)[going]
            moving = torch.zeros_like(moving)
            moving[index] = True
            noise = torch.randn(x.shape, generator=generator).to(x.device)[index]
            moved = place.detach()[going] + step_size * gradient[going].sign() + omega * noise
            x_adv[index] = (x[index] + (moved - x[index]).clamp(-eps, eps)).clamp(0, 1)
            if not len(index):
                break
    return x_adv.detach()


class Recipe(Method):
    """``tau`` grows by one at each of the shares ``growth`` of the training; the other settings as above."""

    def __init__(
        self,
        model: nn.Module,
        optimiser: torch.optim.Optimizer,
        config: Config,
        *,
        steps: int = 10,
        step_size: str = "0.007",
        omega: float = 0.001,
        growth: Sequence[float] = (5 / 12, 3 / 4),
    ) -> None:
        super().__init__(model, optimiser, config)
        self.steps, self.step_size, self.omega, self.growth = steps, float(Fraction(step_size)), omega, growth

    def tau(self, batch: Batch) -> int:
        """Steps after the first success, at this point of the training."""
        return sum(batch.progress > share for share in self.growth)

    def update(self, batch: Batch) -> float:
        start = uniform_start(batch.x, eps=self.eps, generator=batch.generator)
        with self.autocast():
            x_adv = early_stopped(
                self.model, batch.x, batch.y, start, eps=self.eps, step_size=self.step_size, steps=self.steps,
                tau=self.tau(batch), omega=self.omega, generator=batch.generator,
            )  # fmt: skip
            value = F.cross_entropy(self.model(x_adv), batch.y)
        return self.descend(value)
