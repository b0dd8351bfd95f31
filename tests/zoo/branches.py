"""Part of the image goes around autograd, or rounding is passed straight through."""

import torch
from torch import Tensor, nn

from zoo.bases import Around, base


class CutOff(Around):
    """The mean over the channels makes a round trip through numpy: the gradient lacks all of brightness."""

    def forward(self, x: Tensor) -> Tensor:
        grey = torch.from_numpy(x.detach().numpy().mean(1, keepdims=True))
        return self.base(x - x.mean(1, keepdim=True) + grey)


class Detached(Around):
    """The same by ``detach``, so that it can be traced."""

    def forward(self, x: Tensor) -> Tensor:
        grey = x.mean(1, keepdim=True)
        return self.base(x - grey + grey.detach())


class Rounded(Around):
    """Images in 8 bits; the gradient is the one behind the rounding."""

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x + ((x * 255).round() / 255 - x).detach())


def cut_off(network: str) -> nn.Module:
    """``CutOff`` around ``network``."""
    return CutOff(base(network))


def traced(network: str) -> nn.Module:
    """A TorchScript trace of ``Detached`` around ``network``, without Python frames."""
    return torch.jit.trace(Detached(base(network)), torch.zeros(2, 3, 32, 32), check_trace=False)


def rounded(network: str) -> nn.Module:
    """``Rounded`` around ``network``."""
    return Rounded(base(network))
