"""Pre-activation ResNet-18 (He et al. 2016, arXiv 1603.05027) in the grammar of the RCM paper (arXiv 2202.12435)."""

from torch import Tensor, nn
from torch.nn import functional as F

from submissions.architectures.parts import Network, check


class PreActBlock(nn.Module):
    """BatchNorm, ReLU, 3x3 convolution, twice; where the shape changes a 1x1 convolution of the activated input."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, 1, 1, bias=False)
        self.shortcut: nn.Module | None = None
        if stride != 1 or channels_in != channels_out:
            self.shortcut = nn.Conv2d(channels_in, channels_out, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.bn1(x))
        side: Tensor = x if self.shortcut is None else self.shortcut(h)
        moved: Tensor = self.conv2(F.relu(self.bn2(self.conv1(h))))
        return moved + side


def build(
    *,
    strides: str = "1222",
    pooling: str = "avg",
    upsample: int = 1,
    upsample_mode: str = "nearest",
    classes: int = 10,
    width: int = 64,
) -> Network:
    """Build the network; arguments and ``ValueError`` as in ``resnet18.build``."""
    check(strides=strides, digits=4, pooling=pooling, upsample=upsample, upsample_mode=upsample_mode)
    layers: list[nn.Module] = [nn.Conv2d(3, width, 3, 1, 1, bias=False)]
    channels = width
    for depth, digit in enumerate(strides):
        target = width * 2**depth
        layers += [PreActBlock(channels, target, int(digit)), PreActBlock(target, target, 1)]
        channels = target
    layers += [nn.BatchNorm2d(channels), nn.ReLU()]
    head = nn.Linear(channels, classes)
    return Network(nn.Sequential(*layers), head, pooling=pooling, upsample=upsample, upsample_mode=upsample_mode)
