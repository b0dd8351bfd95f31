"""The step of each training recipe a second time, from the papers: plain loops, own draws, own projection.

A formula takes a throw-away network in training mode, images ``x`` (N, 3, H, W) in [0, 1] and labels ``y`` (N,), and
returns the loss whose gradient in the network's parameters the recipe must follow. The weight-perturbing ones leave
the network at the weights where that gradient is taken. Attacks see BatchNorm's running statistics. Nothing here comes
from ``submissions``.
"""

import copy
from collections.abc import Callable
from fractions import Fraction

import torch
from torch import Tensor, nn


class Tiny(nn.Module):
    """A smooth network in float64 with BatchNorm, whose running statistics are far from those of a batch."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3, 2, bias=False), nn.BatchNorm2d(4)
        self.linear = nn.Linear(4 * 4, classes)
        self.double()
        with torch.no_grad():
            self.norm.weight.uniform_(0.7, 1.3)
            self.norm.bias.uniform_(-0.3, 0.3)
            self.norm.running_mean.uniform_(-0.3, 0.3)
            self.norm.running_var.uniform_(0.1, 0.3)

    def forward(self, x: Tensor) -> Tensor:
        return 3 * self.linear(torch.tanh(self.norm(self.conv(x))).flatten(1))


def tiny(seed: int = 0) -> tuple[Tiny, Tensor, Tensor]:
    """A network in training mode with six images, of which many pixels lie on the border of the box, and labels.

    Every other image has the network's own answer for a label, the others the next class.
    """
    torch.manual_seed(seed)
    network = Tiny().train()
    x = (1.2 * torch.rand(6, 3, 5, 5, dtype=torch.float64) - 0.1).clamp(0, 1)
    answers = copy.deepcopy(network)(x).argmax(1)
    return network, x, (answers + torch.tensor([0, 1, 0, 1, 0, 1])) % 5


def probability(logits: Tensor) -> Tensor:
    powers = logits.exp()
    return powers / powers.sum(1, keepdim=True)


def surprise(logits: Tensor, y: Tensor) -> Tensor:
    """-log p_y of each image (N,)."""
    return -torch.stack([row[label].log() for row, label in zip(probability(logits), y, strict=True)])


def relative_entropy(p: Tensor, q: Tensor) -> Tensor:
    """KL(p || q) of each pair of rows of probabilities (N,)."""
    return torch.stack([sum(a * (a / b).log() for a, b in zip(*rows, strict=True)) for rows in zip(p, q, strict=True)])


def uniform(x: Tensor, eps: float, draw: torch.Generator) -> Tensor:
    """A point of the ball of ``eps`` around each image, not yet inside the box."""
    return x + eps * (2 * torch.rand(x.shape, generator=draw) - 1)


def normal(x: Tensor, draw: torch.Generator) -> Tensor:
    """The image and a thousandth of standard normal noise, inside the box."""
    return boxed(x + torch.randn(x.shape, generator=draw) / 1000)


def boxed(x: Tensor) -> Tensor:
    return x.where(x > 0, torch.zeros_like(x)).where(x < 1, torch.ones_like(x))


def slope(network: nn.Module, place: Tensor, height: Callable[[Tensor], Tensor], *, create_graph: bool) -> Tensor:
    """Gradient of ``height(logits)``, summed over the images, at the images ``place``."""
    place = place.detach().clone().requires_grad_()
    (found,) = torch.autograd.grad(height(network(place)).sum(), place, create_graph=create_graph)
    return found


def climbed(
    network: nn.Module,
    x: Tensor,
    place: Tensor,
    height: Callable[[Tensor], Tensor],
    eps: float,
    step: float,
    steps: int,
) -> Tensor:
    """Where ``steps`` signed steps up ``height`` lead to, each ended inside the ball around ``x`` and the box."""
    low, high = boxed(x - eps), boxed(x + eps)
    network.eval()
    for _ in range(steps):
        place = place + step * slope(network, place, height, create_graph=False).sign()
        place = place.where(place > low, low).where(place < high, high)
    network.train()
    return place


def pgd(
    network: nn.Module, x: Tensor, y: Tensor, place: Tensor, eps: float, step: float | str, steps: int = 1
) -> Tensor:
    return climbed(network, x, place, lambda logits: surprise(logits, y), eps, float(Fraction(step)), steps)


def natural(network, x, y, eps, draw):
    return surprise(network(x), y).mean()


def uniform_noise(network, x, y, eps, draw):
    return surprise(network(boxed(uniform(x, eps, draw))), y).mean()


def fgsm_at(network, x, y, eps, draw):
    """Clean and perturbed images are one batch for BatchNorm."""
    x_adv = pgd(network, x, y, x, eps, eps)
    return surprise(network(torch.cat([x, x_adv])), torch.cat([y, y])).sum() / (2 * len(x))


def fgsm_rs(network, x, y, eps, draw, stretch=1.25):
    """``stretch``: length of the step in units of ``eps``; 1 is JARN-AT1's."""
    x_adv = pgd(network, x, y, boxed(uniform(x, eps, draw)), eps, stretch * eps)
    return surprise(network(x_adv), y).mean()


def pgd_at(network, x, y, eps, draw, steps=10, step_size="2/255"):
    x_adv = pgd(network, x, y, boxed(uniform(x, eps, draw)), eps, step_size, steps)
    return surprise(network(x_adv), y).mean()


def grad_align(network, x, y, eps, draw, weight=0.2):
    """The gradient at the image serves attack and penalty: taken in training mode, and the attack a constant."""
    here, there = (
        slope(network, place, lambda logits: surprise(logits, y), create_graph=True)
        for place in (x, uniform(x, eps, draw))
    )
    cosines = [(a * b).sum() / (a.square().sum() * b.square().sum()).sqrt() for a, b in zip(here, there, strict=True)]
    x_adv = boxed(x + eps * here.detach().sign())
    return surprise(network(x_adv), y).mean() + weight * (1 - sum(cosines) / len(x))


def alp(network, x, y, eps, draw, weight=0.5, reduction="mean", steps=10, step_size="2/255"):
    x_adv = pgd(network, x, y, boxed(uniform(x, eps, draw)), eps, step_size, steps)
    logits, logits_adv = network(x), network(x_adv)
    apart = sum((a - b) ** 2 for a, b in zip(logits.flatten(), logits_adv.flatten(), strict=True))
    count = {"mean": logits.numel(), "sum": len(x)}[reduction]
    return surprise(logits, y).mean() + surprise(logits_adv, y).mean() + weight * apart / count


def from_own_answer(network, x, eps, draw, steps, step_size):
    """TRADES' inner problem: the divergence grows as the answer at ``x`` becomes less likely."""
    answer = probability(network.eval()(x)).detach()
    return climbed(
        network, x, normal(x, draw), lambda logits: -(answer * probability(logits).log()).sum(1), eps,
        float(Fraction(step_size)), steps,
    )  # fmt: skip


def trades_objective(network, x, x_adv, y, beta):
    logits, logits_adv = network(x), network(x_adv)
    apart = relative_entropy(probability(logits), probability(logits_adv))
    return (surprise(logits, y) + beta * apart).mean()


def trades(network, x, y, eps, draw, beta=6.0, steps=10, step_size="0.007"):
    x_adv = from_own_answer(network, x, eps, draw, steps, step_size)
    return trades_objective(network, x, x_adv, y, beta)


def mart(network, x, y, eps, draw, weight=5.0, steps=10, step_size="0.007"):
    x_adv = pgd(network, x, y, normal(x, draw), eps, step_size, steps)
    total = 0.0
    for p, q, label in zip(probability(network(x)), probability(network(x_adv)), y.tolist(), strict=True):
        other = max(value for k, value in enumerate(q) if k != label)
        boosted = -q[label].log() - (1.0001 - other).log()
        total = total + boosted + weight * relative_entropy(p[None], q[None])[0] * (1.0000001 - p[label])
    return total / len(x)


def double_backprop(network, x, y, eps, draw, weight=1.0):
    point = x.clone().requires_grad_()
    values = surprise(network(point), y)
    (found,) = torch.autograd.grad(values.sum(), point, create_graph=True)
    return sum(value + weight * (row**2).sum() for value, row in zip(values, found, strict=True)) / len(x)


def at_awp(network, x, y, eps, draw, gamma=0.01, steps=10, step_size="2/255"):
    x_adv = pgd(network, x, y, boxed(uniform(x, eps, draw)), eps, step_size, steps)
    return at_the_worst_weights(network, lambda net: surprise(net(x_adv), y).mean(), gamma)


def trades_awp(network, x, y, eps, draw, beta=6.0, gamma=0.005, steps=10, step_size="2/255"):
    x_adv = from_own_answer(network, x, eps, draw, steps, step_size)
    return at_the_worst_weights(network, lambda net: trades_objective(net, x, x_adv, y, beta), gamma)


def at_the_worst_weights(network: nn.Module, value: Callable[[nn.Module], Tensor], gamma: float) -> Tensor:
    """``value`` where one proxy step up it points, ``gamma`` times each tensor's norm away; vectors stay."""
    proxy = copy.deepcopy(network)
    value(proxy).backward()
    with torch.no_grad():
        for weight, moved in zip(network.parameters(), proxy.parameters(), strict=True):
            if weight.ndim > 1:
                way = (moved + 0.01 * moved.grad) - weight
                weight.add_(gamma * weight.square().sum().sqrt() / way.square().sum().sqrt() * way)
    return value(network)
