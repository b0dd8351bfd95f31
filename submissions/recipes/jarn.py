"""JARN: Jacobian adversarially regularised networks (Chan et al. 2020, arXiv 1912.10185).

Phase 1 is training on uniform noise. In phase 2 the gradient J of the true class's probability with respect to the
image goes through an adaptor and is shown, beside the image, to a discriminator; the classifier and the adaptor are
rewarded when the two cannot be told apart. As in the released code the classifier and the adaptor move first, from
one graph, and then, every few steps, the discriminator, all at one learning rate. Unlike there, the discriminator sees
the Jacobian from before the classifier's step, and attacks and evaluation use BatchNorm's running statistics.

A discriminator that always wins rewards nobody: its cross-entropy stands in every epoch's row (ln 2 = 0.69 when it
guesses), and phase 2 belongs to the end of the learning rate's schedule, as in the released code.
"""

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from submissions.architectures.jarn_resnet import SLOPE, standardise
from submissions.recipes.config import Config
from submissions.recipes.method import Batch, Method, sgd
from submissions.recipes.perturb import uniform_start

FAKE, REAL = 0, 1
"""The discriminator's two classes: adapted Jacobians and images."""


class Adaptor(nn.Module):
    """From a Jacobian to the image domain: standardise, one 1x1 convolution, tanh; output in (-1, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv2d(3, 3, 1)

    def forward(self, jacobian: Tensor) -> Tensor:
        return torch.tanh(self.mix(standardise(jacobian)))


class Discriminator(nn.Module):
    """Strided 4x4 convolutions of ``base`` times 1, 2, 4 ... channels, then two logits (adapted Jacobian, image)."""

    def __init__(self, base: int, layers: int) -> None:
        super().__init__()
        widths = [3] + [base * 2**depth for depth in range(layers)]
        blocks = [
            nn.Sequential(nn.Conv2d(a, b, 4, 2, 1), nn.BatchNorm2d(b), nn.LeakyReLU(SLOPE)) for a, b in pairwise(widths)
        ]
        self.features = nn.Sequential(*blocks)
        self.linear = nn.Linear(widths[-1] * (32 >> layers) ** 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.linear(torch.flatten(self.features(standardise(x)), 1))
        return logits


def told_apart(discriminator: nn.Module, fake: Tensor, real: Tensor) -> Tensor:
    """Cross-entropy of the discriminator on ``fake`` and ``real`` in one batch, so BatchNorm sees both."""
    labels = torch.tensor([FAKE, REAL], device=fake.device).repeat_interleave(len(fake))
    return F.cross_entropy(discriminator(torch.cat([fake, real])), labels)


class Recipe(Method):
    """``weight``: lambda of the adversarial term; ``begin``: share of the training before phase 2; ``every``: steps of
    the classifier, from there on, per step of the discriminator, which has ``layers`` convolutions and ``base`` first
    channels.
    """

    def __init__(
        self,
        model: nn.Module,
        optimiser: torch.optim.Optimizer,
        config: Config,
        *,
        weight: float = 1.0,
        begin: float = 0.875,
        every: int = 5,
        base: int = 8,
        layers: int = 4,
    ) -> None:
        super().__init__(model, optimiser, config)
        self.weight, self.begin, self.every = weight, begin, every
        self.adaptor = Adaptor().to(self.device)
        self.discriminator = Discriminator(base, layers).to(self.device)
        self.optimisers = [
            sgd(net, lr=config.lr, weight_decay=config.weight_decay) for net in (self.adaptor, self.discriminator)
        ]
        self.steps = 0
        self.apart: list[float] = []

    def inputs(self, batch: Batch) -> Tensor:
        """The images the classifier is trained on: moved by uniform noise."""
        return uniform_start(batch.x, eps=self.eps, generator=batch.generator)

    def update(self, batch: Batch) -> float:
        x = self.inputs(batch)
        if batch.progress <= self.begin:
            with self.autocast():
                value = F.cross_entropy(self.model(x), batch.y)
            return self.descend(value)
        return self._regularised(x, batch)

    def _regularised(self, x: Tensor, batch: Batch) -> float:
        x = x.requires_grad_(True)
        with self.autocast():
            logits = self.model(x)
            value = F.cross_entropy(logits, batch.y)
        fake, real = self.adaptor(self.jacobian(logits, x, batch.y)), standardise(x.detach())
        apart = told_apart(self.discriminator, fake, real)
        self.apart.append(float(apart.detach()))
        self._fool(value, apart)
        self.steps += 1
        if self.steps % self.every == 0:
            self.optimisers[1].zero_grad(set_to_none=True)
            told_apart(self.discriminator, fake.detach(), real).backward()  # type: ignore[no-untyped-call]
            self._step(self.optimisers[1])
        return float(value.detach())

    def _fool(self, value: Tensor, apart: Tensor) -> None:
        """Move the classifier down ``value`` - weight ``apart`` and the adaptor down -``apart``, from one graph.

        The two gradients are taken apart: with a weight of 0 the first is phase 1's, bit for bit.
        """
        theta, psi = list(self.model.parameters()), list(self.adaptor.parameters())
        plain = torch.autograd.grad(value, theta, retain_graph=True)
        found = torch.autograd.grad(apart, [*theta, *psi])
        for parameter, down, up in zip(theta, plain, found, strict=False):
            parameter.grad = down.sub(up, alpha=self.weight)
        for parameter, up in zip(psi, found[len(theta) :], strict=True):
            parameter.grad = -up
        self.optimiser.step()
        self._step(self.optimisers[0])

    def _step(self, optimiser: torch.optim.Optimizer) -> None:
        """One step at the classifier's learning rate."""
        for group in optimiser.param_groups:
            group["lr"] = self.optimiser.param_groups[0]["lr"]
        optimiser.step()

    def figures(self) -> dict[str, float]:
        """``discriminator_loss``: its mean cross-entropy since the last call, in phase 2."""
        seen, self.apart = self.apart, []
        return {"discriminator_loss": round(sum(seen) / len(seen), 4)} if seen else {}

    @staticmethod
    def jacobian(logits: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """Gradient of each image's true-class probability with respect to the image, itself differentiable."""
        chosen = logits.float().softmax(1).gather(1, y[:, None]).sum()
        (gradient,) = torch.autograd.grad(chosen, x, create_graph=True)
        return gradient.float()

    def _parts(self) -> tuple[Any, ...]:
        return self.adaptor, self.discriminator, *self.optimisers

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps} | {str(index): part.state_dict() for index, part in enumerate(self._parts())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps = state["steps"]
        for index, part in enumerate(self._parts()):
            part.load_state_dict(state[str(index)])
