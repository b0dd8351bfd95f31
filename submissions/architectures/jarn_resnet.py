"""The slim residual network as JARN wants its classifier (Chan et al. 2020, arXiv 1912.10185).

The grammar is that of ``slim_resnet``; the activations are LeakyReLU of slope 0.1, and every image is standardised
by itself, to zero mean and unit L2 norm, instead of by the statistics of the data set.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SLOPE = 0.1
"""Slope of the activations left of zero."""


def standardise(x: Tensor) -> Tensor:
    """Each image of (N, C, H, W) to mean 0 and L2 norm 1; a constant image becomes 0."""
    centred = x - x.mean(dim=(1, 2, 3), keepdim=True)
    return centred / (centred.square().sum(dim=(1, 2, 3), keepdim=True) + 1e-16).sqrt()


class Block(nn.Module):
    """Two 3x3 convolutions with BatchNorm and a shortcut, a 1x1 convolution where the shape changes."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, stride, bias=False), nn.BatchNorm2d(channels_out)
            )

    def forward(self, x: Tensor) -> Tensor:
        h = F.leaky_relu(self.bn1(self.conv1(x)), SLOPE)
        return F.leaky_relu(self.bn2(self.conv2(h)) + self.shortcut(x), SLOPE)


class JarnResNet(nn.Module):
    """The network; see the module's text."""

    def __init__(self, width: int, strides: str, pooling: str, upsample: int, upsample_mode: str, classes: int) -> None:
        super().__init__()
        self.upsample: nn.Module = nn.Identity()
        if upsample > 1:
            self.upsample = nn.Upsample(scale_factor=upsample, mode=upsample_mode)
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.LeakyReLU(SLOPE))
        widths = [width] + [width * 2**depth for depth in range(4)]
        self.stages = nn.Sequential(*(Block(widths[i], widths[i + 1], int(strides[i])) for i in range(4)))
        self.pool: nn.Module = nn.AdaptiveAvgPool2d(1) if pooling == "avg" else nn.AdaptiveMaxPool2d(1)
        self.linear = nn.Linear(widths[-1], classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, SLOPE, mode="fan_out", nonlinearity="leaky_relu")

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.pool(self.stages(self.stem(self.upsample(standardise(x)))))
        logits: Tensor = self.linear(torch.flatten(features, 1))
        return logits


def build(
    *,
    width: int = 12,
    strides: str = "1222",
    pooling: str = "avg",
    upsample: int = 1,
    upsample_mode: str = "nearest",
    classes: int = 10,
) -> JarnResNet:
    """Build the network from float images (N, 3, 32, 32) in [0, 1] to logits (N, classes).

    Arguments and the ``ValueError`` for a wrong one are those of ``slim_resnet.build``.
    """
    if len(strides) != 4 or set(strides) - {"1", "2"}:
        raise ValueError(f"strides: expected four digits of 1 or 2, got {strides!r}")
    if pooling not in {"avg", "max"}:
        raise ValueError(f"pooling: expected 'avg' or 'max', got {pooling!r}")
    if upsample < 1:
        raise ValueError(f"upsample: expected 1 or more, got {upsample!r}")
    if upsample_mode not in {"nearest", "bilinear"}:
        raise ValueError(f"upsample_mode: expected 'nearest' or 'bilinear', got {upsample_mode!r}")
    return JarnResNet(width, strides, pooling, upsample, upsample_mode, classes)
