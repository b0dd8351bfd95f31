"""Broken in ways that a submission could come up with: warped inputs, clocks, caches, detectors, adaptation."""

import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.bases import CLASSES, Around, Input, base


def _blurred(x: Tensor) -> Tensor:
    return F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), 3, 1)


def warped(network: str, size: float = 1.5 / 255, steep: float = 5.0) -> nn.Module:
    """A fast sine on the pixels: the gradient is true, and its sign says nothing about steps of an attack's size."""
    return Input(base(network), lambda x: x + size * torch.sin(x * (steep / size)))


class Sawtooth(Around):
    """The lead of the decision in teeth that fall where it rises (AAA, arXiv 2205.12134); decisions stay."""

    def __init__(self, network: nn.Module, period: float) -> None:
        super().__init__(network)
        self.period = period

    def forward(self, x: Tensor) -> Tensor:
        z = self.base(x)
        top = z.topk(2, 1).values
        lead = (top[:, :1] - top[:, 1:]).clamp_min(1e-6)
        tooth = (lead / self.period).floor().detach() * self.period
        wanted = tooth + self.period - (lead - tooth) + 1e-3 * self.period
        return z * (wanted / lead)


def sawtooth(network: str, period: float = 1.0) -> nn.Module:
    """Leads in teeth around ``network``."""
    return Sawtooth(base(network), period)


class PrivateNoise(Around):
    """Noise on the image from a generator of its own, which leaves the global ones as they are."""

    def __init__(self, network: nn.Module, size: float) -> None:
        super().__init__(network)
        self.size, self.generator = size, torch.Generator().manual_seed(0)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x + self.size * torch.randn(x.shape, generator=self.generator).to(x))


def private_noise(network: str, size: float = 0.1) -> nn.Module:
    """Noise that no global generator tells of."""
    return PrivateNoise(base(network), size)


class Clock(nn.Module):
    """Robust in every other second."""

    def __init__(self, front: nn.Module, back: nn.Module) -> None:
        super().__init__()
        self.front, self.back = front, back

    def forward(self, x: Tensor) -> Tensor:
        return self.front(x) if int(time.time()) % 2 else self.back(x)


def clock(front: str, back: str) -> nn.Module:
    """Two networks that take turns by the clock."""
    return Clock(base(front), base(back))


class Cached(Around):
    """Answers for the first image it saw near each one: whatever comes close later gets that image's answer."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network)
        self.seen: list[Tensor] = []
        self.answers: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        z = self.base(x)
        rows = []
        for image, answer in zip(x.detach(), z, strict=True):
            near = None
            if self.seen:
                far = (torch.stack(self.seen) - image).abs().flatten(1).amax(1)
                near = int(far.argmin()) if float(far.min()) < 0.1 else None
            if near is None and len(self.seen) < 128:
                self.seen.append(image.clone())
                self.answers.append(answer.detach().clone())
            rows.append(answer if near is None else self.answers[near] + 0 * answer)
        return torch.stack(rows)


def cached(network: str) -> nn.Module:
    """A memory of first answers around ``network``."""
    return Cached(base(network))


def _rough(x: Tensor) -> Tensor:
    """Mean absolute second difference along both axes, (N, 1): small for photographs, large for attacks' noise."""
    second = x[..., :-2] - 2 * x[..., 1:-1] + x[..., 2:]
    other = x[..., :-2, :] - 2 * x[..., 1:-1, :] + x[..., 2:, :]
    return (second.abs().flatten(1).median(1).values + other.abs().flatten(1).median(1).values)[:, None]


class Suspicious(Around):
    """Images with the noise of an attack get no answer (``nan``), or the blurred image's without a gradient."""

    def __init__(self, network: nn.Module, *, nan: bool, limit: float) -> None:
        super().__init__(network)
        self.nan, self.limit = nan, limit

    def forward(self, x: Tensor) -> Tensor:
        rough = _rough(x.detach()) > self.limit
        if self.nan:
            return self.base(x).masked_fill(rough, torch.nan)
        with torch.no_grad():
            calm = self.base(_blurred(x))
        return torch.where(rough, calm, self.base(x))


def suspicious(network: str, nan: bool = False, limit: float = 0.11) -> nn.Module:
    """A detector of high frequencies around ``network``."""
    return Suspicious(base(network), nan=nan, limit=limit)


class Tent(Around):
    """One step down the entropy on BatchNorm's weights in every pass, kept (arXiv 2006.10726)."""

    def forward(self, x: Tensor) -> Tensor:
        parts = [part for part in self.base.modules() if isinstance(part, nn.BatchNorm2d)]
        weights = [tensor.requires_grad_() for part in parts for tensor in (part.weight, part.bias)]
        with torch.enable_grad():
            p = self.base(x.detach()).softmax(1)
            entropy = -(p * p.clamp_min(1e-12).log()).sum(1).mean()
            slopes = torch.autograd.grad(entropy, weights)
        for tensor, slope in zip(weights, slopes, strict=True):
            # Past autograd's eyes, which would refuse the backward pass of the batch before.
            tensor.requires_grad_(False).data.sub_(1e-3 * slope)
        return self.base(x)


def tent(network: str) -> nn.Module:
    """``network`` adapting itself to what it is asked."""
    return Tent(base(network))


class Inference(Around):
    """Shows its real weights in inference mode alone: elsewhere it answers for a blurred image."""

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x if torch.is_inference_mode_enabled() else _blurred(x))


def inference_aware(network: str) -> nn.Module:
    """A network that tells inference mode from ``no_grad``."""
    return Inference(base(network))


class Offset(Around):
    """Logits in float64 beside a number so large that float32 cannot tell them apart."""

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x).double() + 1e9


def offset(network: str) -> nn.Module:
    """Logits that only float64 tells apart."""
    return Offset(base(network))


class Nearest(Around):
    """The label of the nearest known image where one is near, by 16 random projections: robust where it is tested."""

    def __init__(self, network: nn.Module, known: Tensor, labels: Tensor, reach: float) -> None:
        super().__init__(network)
        self.known, self.labels, self.reach = known, labels, reach

    def forward(self, x: Tensor) -> Tensor:
        z = self.base(x)
        gap, place = torch.cdist(projected(x), self.known).min(1)
        sure = 20 * F.one_hot(self.labels[place], CLASSES).to(z) + 0.1 * z
        return torch.where((gap < self.reach)[:, None], sure, z)


def projected(x: Tensor) -> Tensor:
    """Images (N, 3, 32, 32) on 16 fixed directions of length 1, (N, 16)."""
    ways = torch.randn(3072, 16, generator=torch.Generator().manual_seed(57))
    return (x - 0.5).flatten(1) @ (ways / ways.norm(dim=0)).to(x)


def nearest(network: str, reach: float = 0.3) -> nn.Module:
    """``network`` beside a memory of test images that forgives small changes."""
    lines = (Path(__file__).parent / "projected.txt").read_text(encoding="ascii").splitlines()
    rows = [line.split() for line in lines]
    values = torch.tensor([[int(number) for number in row[1:]] for row in rows]).float() / 1000
    return Nearest(base(network), values, torch.tensor([int(row[0]) for row in rows]), reach)
