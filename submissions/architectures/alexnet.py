"""AlexNet for 32x32 images (Krizhevsky et al. 2012) in the grammar of the RCM paper (arXiv 2202.12435), no BatchNorm.

The digits of ``strides`` are those of the first convolution and of the three 2x2 max-poolings, which stay in place,
overlapping, when their stride is 1.
"""

from torch import nn

from submissions.architectures.parts import Network, check


def build(
    *,
    strides: str = "1122",
    pooling: str = "avg",
    upsample: int = 1,
    upsample_mode: str = "nearest",
    classes: int = 10,
    dropout: float = 0.5,
) -> Network:
    """Build the network; ``pooling`` is the global one after the last max-pooling.

    Raises ``ValueError`` for strides other than four digits of 1 or 2, or an unknown pooling or upsampling.
    """
    check(strides=strides, digits=4, pooling=pooling, upsample=upsample, upsample_mode=upsample_mode)
    first, second, third, fourth = (int(digit) for digit in strides)
    layers: list[nn.Module] = [
        nn.Conv2d(3, 64, 5, first, 2), nn.ReLU(), nn.MaxPool2d(2, second),
        nn.Conv2d(64, 192, 5, 1, 2), nn.ReLU(), nn.MaxPool2d(2, third),
        nn.Conv2d(192, 384, 3, 1, 1), nn.ReLU(),
        nn.Conv2d(384, 256, 3, 1, 1), nn.ReLU(),
        nn.Conv2d(256, 256, 3, 1, 1), nn.ReLU(), nn.MaxPool2d(2, fourth),
    ]  # fmt: skip
    head = nn.Sequential(
        nn.Dropout(dropout), nn.Linear(256, 512), nn.ReLU(),
        nn.Dropout(dropout), nn.Linear(512, 512), nn.ReLU(),
        nn.Linear(512, classes),
    )  # fmt: skip
    return Network(nn.Sequential(*layers), head, pooling=pooling, upsample=upsample, upsample_mode=upsample_mode)
