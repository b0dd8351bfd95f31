"""VGG-16 with BatchNorm (Simonyan & Zisserman 2015, arXiv 1409.1556) in the RCM paper's grammar (arXiv 2202.12435).

Five groups of convolutions; digit *i* of ``strides`` says what follows group *i*: 2 a max-pooling that halves the
map, 1 nothing.
"""

from itertools import pairwise

from torch import nn

from submissions.architectures.parts import Network, check

GROUPS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
"""Output channels of the convolutions."""


def build(
    *,
    strides: str = "11222",
    pooling: str = "avg",
    upsample: int = 1,
    upsample_mode: str = "nearest",
    classes: int = 10,
    dropout: float = 0.5,
) -> Network:
    """Build the network; ``pooling`` is the global one after the last group.

    Raises ``ValueError`` for strides other than five digits of 1 or 2, or an unknown pooling or upsampling.
    """
    check(strides=strides, digits=5, pooling=pooling, upsample=upsample, upsample_mode=upsample_mode)
    layers: list[nn.Module] = []
    channels = 3
    for group, digit in zip(GROUPS, strides, strict=True):
        for source, target in pairwise((channels, *group)):
            layers += [nn.Conv2d(source, target, 3, 1, 1), nn.BatchNorm2d(target), nn.ReLU()]
        channels = group[-1]
        layers += [nn.MaxPool2d(2, 2)] if digit == "2" else []
    head: list[nn.Module] = []
    for source, target in ((512, 256), (256, 256)):
        head += [nn.Linear(source, target), nn.ReLU(), nn.Dropout(dropout)]
    head.append(nn.Linear(256, classes))
    return Network(
        nn.Sequential(*layers),
        nn.Sequential(*head),
        pooling=pooling,
        upsample=upsample,
        upsample_mode=upsample_mode,
    )
