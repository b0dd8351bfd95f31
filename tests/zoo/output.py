"""Broken at the output: scales, squashing, rounding, noise. All but the noise leave every decision as it is."""

import zlib

import torch
from torch import Tensor, nn

from zoo.bases import Around, Output, base


def scaled(network: str, factor: float) -> nn.Module:
    """Logits times ``factor``: a large one lets the cross-entropy underflow (arXiv 1608.04644, 2003.01690)."""
    return Output(base(network), lambda z: factor * z)


def probabilities(network: str) -> nn.Module:
    """Softmax at the end: losses on probabilities saturate."""
    return Output(base(network), lambda z: z.softmax(1))


def label_only(network: str) -> nn.Module:
    """Ten times the one-hot decision; the graph is there and every gradient is zero."""

    def change(z: Tensor) -> Tensor:
        return 10 * torch.zeros_like(z).scatter_(1, z.argmax(1, keepdim=True), 1.0) + 0 * z

    return Output(base(network), change)


def rounded(network: str) -> nn.Module:
    """Probabilities in steps of 0.05; the logits break ties without a gradient, so the order never changes."""
    return Output(base(network), lambda z: (z.softmax(1) * 20).round() / 20 + 1e-4 * z.detach())


def squashed(network: str) -> nn.Module:
    """Logits through a steep tanh; the order is kept by a part without a gradient."""
    return Output(base(network), lambda z: 10 * (z / 0.05).tanh() + 1e-3 * z.detach())


class Hashed(Around):
    """Adds normal noise that is a function of the image's bits, so that it repeats and no average removes it."""

    def __init__(self, network: nn.Module, *, size: float, exact: bool) -> None:
        super().__init__(network)
        self.size, self.exact = size, exact

    def forward(self, x: Tensor) -> Tensor:
        z = self.base(x)
        noise = []
        for image in x.detach().cpu():
            seen = image if self.exact else (255 * image).round().byte()
            seed = zlib.crc32(seen.contiguous().numpy().tobytes())
            noise.append(torch.randn(z.shape[1], generator=torch.Generator().manual_seed(seed)))
        return z + self.size * torch.stack(noise).to(z)


def hashed(network: str, size: float = 0.05, exact: bool = True) -> nn.Module:
    """Noise from a hash of the float image; ``exact=False``: of the image in 8 bits, so that it jumps at its edges."""
    return Hashed(base(network), size=size, exact=exact)
