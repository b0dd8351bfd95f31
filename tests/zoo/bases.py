"""The trained networks that the zoo is built around: the bundled submissions, beside the ``submissions`` package."""

import hashlib
import tomllib
from collections.abc import Callable
from pathlib import Path

from safetensors.torch import load
from torch import Tensor, nn

import submissions
from submissions.architectures import slim_resnet

SHA256 = {
    "natural": "d7db8099c753136ca3ee73035c7b2f0d9b3f6b15649901690d806a383c803e54",
    "fgsm-rs-1222": "ba60a9974153d1797e9a6d657a0b78d924c3d0d0d3907441c02805084d864022",
    "fgsm-rs-1122": "d4b8c5c20f2313120bbaa6507b167158e4535c89f2d83bf498b5cb4a8b1e1a8b",
}
"""Weights by submission: part of this file, so that records of other weights become stale."""
CLASSES = 10


def base(name: str) -> slim_resnet.SlimResNet:
    """The bundled network ``name``, with its weights, frozen, in eval mode. ``ValueError`` when they are others."""
    folder = Path(submissions.__file__).parent / name
    card = tomllib.loads((folder / "submission.toml").read_text(encoding="utf-8"))
    content = (folder / card["checkpoint"]["file"]).read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != SHA256[name]:
        raise ValueError(f"{name}: expected weights with sha256 {SHA256[name]}, got {found}")
    network = slim_resnet.build(**card["kwargs"])
    network.load_state_dict(load(content), strict=True)
    return network.eval().requires_grad_(False)


class Around(nn.Module):
    """Something around a base network."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.base = network


class Output(Around):
    """A function of the logits."""

    def __init__(self, network: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__(network)
        self.change = change

    def forward(self, x: Tensor) -> Tensor:
        return self.change(self.base(x))


class Input(Around):
    """A function of the image."""

    def __init__(self, network: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__(network)
        self.change = change

    def forward(self, x: Tensor) -> Tensor:
        return self.base(self.change(x))


class After(nn.Module):
    """A layer and a function of its output."""

    def __init__(self, layer: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.layer, self.change = layer, change

    def forward(self, x: Tensor) -> Tensor:
        return self.change(self.layer(x))


def inside(network: slim_resnet.SlimResNet, change: Callable[[Tensor], Tensor]) -> slim_resnet.SlimResNet:
    """``network`` with ``change`` after the stem and after every stage, all of which end in a ReLU."""
    network.stem = nn.Sequential(After(network.stem, change))
    network.stages = nn.Sequential(*(After(stage, change) for stage in network.stages))
    return network
