"""ResNet-18 for 32x32 images (He et al. 2016, arXiv 1512.03385) in the grammar of the RCM paper (arXiv 2202.12435).

A 3x3 stem without pooling, four stages of two basic blocks with widths w, 2w, 4w, 8w; digit *i* of ``strides`` is the
stride of stage *i*.
"""

from torch import nn

from submissions.architectures.parts import Network, check
from submissions.architectures.slim_resnet import BasicBlock


def build(
    *,
    strides: str = "1222",
    pooling: str = "avg",
    upsample: int = 1,
    upsample_mode: str = "nearest",
    classes: int = 10,
    width: int = 64,
) -> Network:
    """Build the network; ``upsample`` is the factor by which the normalised input grows.

    Raises ``ValueError`` for strides other than four digits of 1 or 2, or an unknown pooling or upsampling.
    """
    check(strides=strides, digits=4, pooling=pooling, upsample=upsample, upsample_mode=upsample_mode)
    layers: list[nn.Module] = [nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    channels = width
    for depth, digit in enumerate(strides):
        target = width * 2**depth
        layers += [BasicBlock(channels, target, int(digit)), BasicBlock(target, target, 1)]
        channels = target
    head = nn.Linear(channels, classes)
    return Network(nn.Sequential(*layers), head, pooling=pooling, upsample=upsample, upsample_mode=upsample_mode)
