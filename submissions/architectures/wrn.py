"""Wide residual network (Zagoruyko & Komodakis 2016, arXiv 1605.07146), the layout robust training papers use."""

from torch import nn

from submissions.architectures.parts import Network, check
from submissions.architectures.preact_resnet18 import PreActBlock


def build(
    *,
    strides: str = "122",
    pooling: str = "avg",
    upsample: int = 1,
    upsample_mode: str = "nearest",
    classes: int = 10,
    depth: int = 34,
    width: int = 10,
) -> Network:
    """Build WRN-``depth``-``width``: three stages of (depth - 4) / 6 pre-activation blocks, 16, 32, 64 times ``width``.

    Raises ``ValueError`` for strides other than three digits of 1 or 2, a depth that is not 4 more than a multiple of
    6, or an unknown pooling or upsampling.
    """
    check(strides=strides, digits=3, pooling=pooling, upsample=upsample, upsample_mode=upsample_mode)
    if depth < 10 or depth % 6 != 4:
        raise ValueError(f"depth: expected 10, 16, 22, 28, 34 ..., got {depth!r}")
    layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, 1, 1, bias=False)]
    channels = 16
    for stage, digit in enumerate(strides):
        target = 16 * width * 2**stage
        for index in range((depth - 4) // 6):
            layers.append(PreActBlock(channels, target, int(digit) if index == 0 else 1))
            channels = target
    layers += [nn.BatchNorm2d(channels), nn.ReLU()]
    head = nn.Linear(channels, classes)
    return Network(nn.Sequential(*layers), head, pooling=pooling, upsample=upsample, upsample_mode=upsample_mode)
