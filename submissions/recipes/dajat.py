"""DAJAT: diverse augmentation-based joint adversarial training (Addepalli et al. 2022, arXiv 2210.15318).

Each image is seen as itself and as ``views`` AutoAugment pictures, which have BatchNorm layers of their own; all are
trained as in TRADES under a budget that grows to ``eps``, their clean predictions are drawn together by a
Jensen-Shannon term, and the published weights are a moving average with the image's own BatchNorm layers. Pooling is
the architecture's, so the map may have any size. The inner ascent starts from TRADES' small Gaussian noise.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from submissions.recipes.awp import WeightPerturbed
from submissions.recipes.config import Config
from submissions.recipes.data import augment
from submissions.recipes.layout import training_layout
from submissions.recipes.method import Batch
from submissions.recipes.norms import Average, TwinNorms
from submissions.recipes.perturb import ascend_from_clean, divergence, normal_start

NORM_BATCHES = 20
"""Batches that the averaged network's BatchNorm statistics are computed from."""


def jensen_shannon(logits: Sequence[Tensor]) -> Tensor:
    """Mean over images and views of KL(p_view || mean of the views' p), from logits (N, C) of each view."""
    log_p = torch.stack([F.log_softmax(item.to(torch.promote_types(item.dtype, torch.float32)), 1) for item in logits])
    p = log_p.exp()
    log_mean = p.mean(0).clamp_min(1e-12).log()
    return (p * (log_p - log_mean)).sum(2).mean()


def auto_augment(images: Tensor, *, generator: torch.Generator) -> Tensor:
    """CIFAR-10's AutoAugment policy (Cubuk et al. 2019, arXiv 1805.09501), then pad, crop and flip.

    ``images`` uint8 (N, 3, H, W); returns float in [0, 1]. The draws come from ``generator`` alone.
    """
    from torchvision.transforms import AutoAugment, AutoAugmentPolicy

    seed = int(torch.randint(0, 2**31, (), generator=generator))
    policy = AutoAugment(AutoAugmentPolicy.CIFAR10)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        views = torch.stack([policy(image) for image in images])
    return augment(views, generator=generator)


class Recipe(WeightPerturbed):
    """``beta`` weighs TRADES' divergence, ``joint`` the Jensen-Shannon term. ``steps`` ascents of half the budget, or
    of the whole one where there are no more than two.

    The weights are averaged with ``decay`` after the share ``average_from`` of the training; ``gamma`` and ``warmup``
    are those of ``WeightPerturbed``.
    """

    def __init__(
        self,
        model: nn.Module,
        optimiser: torch.optim.Optimizer,
        config: Config,
        *,
        views: int = 2,
        steps: int = 5,
        beta: float = 11.0,
        joint: float = 2.0,
        gamma: float = 0.005,
        warmup: float = 0.05,
        decay: float = 0.9996,
        average_from: float = 0.75,
    ) -> None:
        super().__init__(model, optimiser, config)
        self.views, self.steps, self.beta, self.joint = views, steps, beta, joint
        self.gamma, self.warmup, self.average_from = gamma, warmup, average_from
        self.average = Average(model, decay=decay)
        self.twin = TwinNorms(model)
        self.layout = training_layout(model, self.device)
        own = [tensor for tensor in self.twin.own().values() if isinstance(tensor, nn.Parameter)]
        if own and views:
            optimiser.add_param_group({"params": own, "weight_decay": 0.0})

    def seen(self, batch: Batch) -> list[tuple[nn.Module, Tensor]]:
        """Each view of the batch with the network that has its BatchNorm layers; the images themselves come first."""
        pairs: list[tuple[nn.Module, Tensor]] = [(self.model, batch.x)]
        for _ in range(self.views):
            view = auto_augment(batch.images, generator=batch.generator)
            pairs.append((self.twin, view.to(self.device, memory_format=self.layout)))
        return pairs

    def update(self, batch: Batch) -> float:
        eps = self.eps * batch.progress
        length = eps if self.steps <= 2 else eps / 2
        triples = []
        with self.autocast():
            for net, x in self.seen(batch):
                start = normal_start(x, generator=batch.generator)
                x_adv = ascend_from_clean(net, x, start, eps=eps, step_size=length, steps=self.steps)
                triples.append((net, x, x_adv))

        def objective() -> Tensor:
            with self.autocast():
                return self.joint_objective(triples, batch.y)

        def direction() -> Tensor:
            with self.autocast():
                return self.joint_objective(triples[:1], batch.y)

        value = self.descend_perturbed(batch, objective, direction)
        if batch.progress > self.average_from:
            self.average.update(self.model)
        return value

    def joint_objective(self, triples: Sequence[tuple[nn.Module, Tensor, Tensor]], y: Tensor) -> Tensor:
        """Mean over the views (network, x, x_adv) of TRADES' objective, plus the weighted Jensen-Shannon term."""
        value, clean = torch.zeros((), device=y.device), []
        for net, x, x_adv in triples:
            logits = net(x)
            clean.append(logits)
            value = value + F.cross_entropy(logits, y) + self.beta * divergence(logits, net(x_adv)).mean()
        value = value / len(triples)
        return value + self.joint * jensen_shannon(clean) if len(triples) > 1 else value

    def end_epoch(self, epochs: int, batches: Callable[[int], Tensor]) -> None:
        if self.average.updates:
            self.average.recompute_norms(batches(index) for index in range(NORM_BATCHES))

    def published(self) -> nn.Module:
        return self.average.model if self.average.updates else self.model

    def state_dict(self) -> dict[str, Any]:
        own = {name: tensor.detach().clone() for name, tensor in self.twin.own().items()}
        return {"twin": own, "average": self.average.model.state_dict(), "updates": self.average.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        with torch.no_grad():
            for name, tensor in self.twin.own().items():
                tensor.copy_(state["twin"][name])
        self.average.model.load_state_dict(state["average"])
        self.average.updates = state["updates"]
