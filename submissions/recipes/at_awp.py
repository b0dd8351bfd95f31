"""AT-AWP: PGD adversarial training at adversarially perturbed weights (Wu et al. 2020, arXiv 2004.05884)."""

from fractions import Fraction

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from submissions.recipes.awp import WeightPerturbed
from submissions.recipes.config import Config
from submissions.recipes.method import Batch
from submissions.recipes.perturb import ascend, uniform_start


class Recipe(WeightPerturbed):
    """``steps`` of PGD of length ``step_size``; ``gamma`` and ``warmup`` as in ``WeightPerturbed``."""

    def __init__(
        self,
        model: nn.Module,
        optimiser: torch.optim.Optimizer,
        config: Config,
        *,
        gamma: float = 0.01,
        warmup: float = 0.0,
        steps: int = 10,
        step_size: str = "2/255",
    ) -> None:
        super().__init__(model, optimiser, config)
        self.gamma, self.warmup, self.steps, self.step_size = gamma, warmup, steps, float(Fraction(step_size))

    def attack(self, batch: Batch) -> Tensor:
        start = uniform_start(batch.x, eps=self.eps, generator=batch.generator)
        return ascend(self.model, batch.x, batch.y, start, eps=self.eps, step_size=self.step_size, steps=self.steps)

    def objective(self, batch: Batch, x_adv: Tensor) -> Tensor:
        return F.cross_entropy(self.model(x_adv), batch.y)
