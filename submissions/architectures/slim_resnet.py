"""Slim residual network in the grammar of the RCM paper (arXiv 2202.12435): a stride string and a pooling.

One stem convolution, four stages of one basic block each, widths w, 2w, 4w, 8w; digit *i* of ``strides`` is the
stride of stage *i*, so ``1222`` ends in a 4x4 map and ``1122`` in an 8x8 map before the global pooling. The input may
be upsampled after normalisation, the paper's other way to a larger map.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR10_STD = (0.2471, 0.2435, 0.2616)


class Normalise(nn.Module):
    """Subtract a mean and divide by a standard deviation per channel; input float (N, 3, H, W) in [0, 1]."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float] = CIFAR10_MEAN, std: Sequence[float] = CIFAR10_STD) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


class BasicBlock(nn.Module):
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
        h = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(h)) + self.shortcut(x))


class SlimResNet(nn.Module):
    """The network; see the module's text for its grammar."""

    def __init__(self, width: int, strides: str, pooling: str, upsample: int, upsample_mode: str, classes: int) -> None:
        super().__init__()
        self.normalise = Normalise()
        self.upsample: nn.Module = nn.Identity()
        if upsample > 1:
            self.upsample = nn.Upsample(scale_factor=upsample, mode=upsample_mode)
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        stages: list[nn.Module] = []
        channels = width
        for depth, digit in enumerate(strides):
            stages.append(BasicBlock(channels, width * 2**depth, int(digit)))
            channels = width * 2**depth
        self.stages = nn.Sequential(*stages)
        self.pool: nn.Module = nn.AdaptiveAvgPool2d(1) if pooling == "avg" else nn.AdaptiveMaxPool2d(1)
        self.linear = nn.Linear(channels, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.pool(self.stages(self.stem(self.upsample(self.normalise(x)))))
        logits: Tensor = self.linear(features.flatten(1))
        return logits


def build(
    *,
    width: int = 12,
    strides: str = "1222",
    pooling: str = "avg",
    upsample: int = 1,
    upsample_mode: str = "nearest",
    classes: int = 10,
) -> SlimResNet:
    """Build the network from float images (N, 3, 32, 32) in [0, 1] to logits (N, classes).

    ``upsample`` is the factor by which height and width grow before the first convolution. Raises ``ValueError`` when
    ``strides`` is not four digits of 1 or 2, ``pooling`` neither avg nor max, ``upsample`` below 1, or
    ``upsample_mode`` neither nearest nor bilinear.
    """
    if len(strides) != 4 or set(strides) - {"1", "2"}:
        raise ValueError(f"strides: expected four digits of 1 or 2, got {strides!r}")
    if pooling not in {"avg", "max"}:
        raise ValueError(f"pooling: expected 'avg' or 'max', got {pooling!r}")
    if upsample < 1:
        raise ValueError(f"upsample: expected 1 or more, got {upsample!r}")
    if upsample_mode not in {"nearest", "bilinear"}:
        raise ValueError(f"upsample_mode: expected 'nearest' or 'bilinear', got {upsample_mode!r}")
    return SlimResNet(width, strides, pooling, upsample, upsample_mode, classes)
