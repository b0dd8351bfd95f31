"""Broken at the input: quantisation, JPEG, thermometer code, random geometry, noise, purification."""

import io

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.bases import Around, Input, base


def quantised(network: str, levels: int = 8) -> nn.Module:
    """Feature squeezing (arXiv 1704.01155): rounds down to multiples of ``1 / levels``."""
    return Input(base(network), lambda x: (levels * x).floor() / levels)


class Jpeg(Around):
    """A round trip through Pillow's JPEG (arXiv 1711.00117)."""

    def __init__(self, network: nn.Module, quality: int) -> None:
        super().__init__(network)
        self.quality = quality

    def forward(self, x: Tensor) -> Tensor:
        import numpy as np
        from PIL import Image

        images = (255 * x.detach()).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        decoded = []
        for image in images:
            file = io.BytesIO()
            Image.fromarray(image).save(file, "JPEG", quality=self.quality)
            decoded.append(np.asarray(Image.open(file)))
        return self.base(torch.from_numpy(np.stack(decoded)).permute(0, 3, 1, 2).to(x) / 255)


def jpeg(network: str, quality: int = 50) -> nn.Module:
    """JPEG in front of ``network``."""
    return Jpeg(base(network), quality)


class Thermometer(Around):
    """Thermometer code (Buckman et al., ICLR 2018): ``levels`` comparisons per channel feed a wider first layer.

    The first layer weighs the comparisons of a channel equally and goes over into the base's, so no training is needed.
    """

    def __init__(self, network: nn.Module, levels: int) -> None:
        super().__init__(network)
        self.levels = levels
        self.first = nn.Conv2d(3 * levels, 3, 1, bias=False)
        weight = torch.zeros(3, 3 * levels, 1, 1)
        for channel in range(3):
            weight[channel, channel * levels : (channel + 1) * levels] = 1 / levels
        self.first.weight.data.copy_(weight)

    def forward(self, x: Tensor) -> Tensor:
        steps = torch.arange(self.levels, device=x.device).add(0.5).div(self.levels).view(1, 1, -1, 1, 1)
        code = (x[:, :, None] > steps).to(x.dtype).flatten(1, 2)
        return self.base(self.first(code))


def thermometer(network: str, levels: int = 16) -> nn.Module:
    """Thermometer code in front of ``network``."""
    return Thermometer(base(network), levels)


class Resized(Around):
    """Random size and place in a frame (arXiv 1711.01991), drawn once per batch."""

    def forward(self, x: Tensor) -> Tensor:
        size = int(torch.randint(28, 37, ()))
        top, left = (int(torch.randint(0, 37 - size, ())) for _ in range(2))
        x = F.interpolate(x, size=(size, size), mode="bilinear", align_corners=False)
        return self.base(F.pad(x, (left, 36 - size - left, top, 36 - size - top)))


def resized(network: str) -> nn.Module:
    """Random resizing and padding in front of ``network``."""
    return Resized(base(network))


def noisy(network: str, size: float = 0.1) -> nn.Module:
    """Normal noise on the image in every pass (arXiv 1712.00673)."""
    return Input(base(network), lambda x: x + size * torch.randn_like(x))


def _median(x: Tensor) -> Tensor:
    """Median over 3x3 pixels of (N, C, H, W), edges reflected."""
    patches = F.unfold(F.pad(x, (1, 1, 1, 1), mode="reflect"), 3).view(len(x), x.shape[1], 9, -1)
    return patches.median(2).values.view_as(x)


class Purified(Around):
    """Half a median filter that is run without gradients, as purifiers often are."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = 0.5 * x + 0.5 * _median(x)
        return self.base(x)


def purified(network: str) -> nn.Module:
    """A purifier without gradients in front of ``network``."""
    return Purified(base(network))
