"""What the networks share: the argument checks, the way in (normalise, upsample) and the way out (global pooling)."""

from torch import Tensor, nn

from submissions.architectures.slim_resnet import Normalise


def check(*, strides: str, digits: int, pooling: str, upsample: int, upsample_mode: str, allowed: str = "12") -> None:
    """Raise ``ValueError`` for an argument that no network of ours can be built with."""
    if len(strides) != digits or set(strides) - set(allowed):
        raise ValueError(f"strides: expected {digits} digits, each one of {', '.join(allowed)}, got {strides!r}")
    if pooling not in {"avg", "max"}:
        raise ValueError(f"pooling: expected 'avg' or 'max', got {pooling!r}")
    if upsample < 1:
        raise ValueError(f"upsample: expected 1 or more, got {upsample!r}")
    if upsample_mode not in {"nearest", "bilinear"}:
        raise ValueError(f"upsample_mode: expected 'nearest' or 'bilinear', got {upsample_mode!r}")


def entrance(upsample: int, upsample_mode: str) -> nn.Sequential:
    """Normalisation by CIFAR-10's statistics, then upsampling by a factor where it is above 1."""
    layers: list[nn.Module] = [Normalise()]
    if upsample > 1:
        layers.append(nn.Upsample(scale_factor=upsample, mode=upsample_mode))
    return nn.Sequential(*layers)


def global_pool(pooling: str) -> nn.Module:
    """From (N, C, H, W) to (N, C, 1, 1): the average or the maximum of each map."""
    return nn.AdaptiveAvgPool2d(1) if pooling == "avg" else nn.AdaptiveMaxPool2d(1)


def initialise(model: nn.Module) -> None:
    """He initialisation of every convolution by its fan-out; other layers keep PyTorch's."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


class Network(nn.Module):
    """Entrance, features, global pooling, head: from images (N, 3, 32, 32) in [0, 1] to logits (N, classes)."""

    def __init__(
        self, features: nn.Module, head: nn.Module, *, pooling: str, upsample: int, upsample_mode: str
    ) -> None:
        super().__init__()
        self.entrance = entrance(upsample, upsample_mode)
        self.features = features
        self.pool = global_pool(pooling)
        self.head = head
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.pool(self.features(self.entrance(x))).flatten(1))
        return logits
