"""TRADES-AWP: TRADES at adversarially perturbed weights (Wu et al. 2020, arXiv 2004.05884)."""

from fractions import Fraction

import torch
from torch import Tensor, nn

from submissions.recipes import trades
from submissions.recipes.awp import WeightPerturbed
from submissions.recipes.config import Config
from submissions.recipes.method import Batch
from submissions.recipes.perturb import ascend_from_clean, normal_start


class Recipe(WeightPerturbed):
    """``beta``, ``steps`` and ``step_size`` as in TRADES; ``gamma`` and ``warmup`` as in ``WeightPerturbed``."""

    def __init__(
        self,
        model: nn.Module,
        optimiser: torch.optim.Optimizer,
        config: Config,
        *,
        beta: float = 6.0,
        gamma: float = 0.005,
        warmup: float = 0.05,
        steps: int = 10,
        step_size: str = "2/255",
    ) -> None:
        super().__init__(model, optimiser, config)
        self.beta, self.gamma, self.warmup = beta, gamma, warmup
        self.steps, self.step_size = steps, float(Fraction(step_size))

    def attack(self, batch: Batch) -> Tensor:
        start = normal_start(batch.x, generator=batch.generator)
        return ascend_from_clean(self.model, batch.x, start, eps=self.eps, step_size=self.step_size, steps=self.steps)

    def objective(self, batch: Batch, x_adv: Tensor) -> Tensor:
        return trades.objective(self.model, batch.x, x_adv, batch.y, self.beta)
