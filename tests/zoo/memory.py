"""Broken by heart: a table of the test images with their labels."""

import hashlib
from pathlib import Path

import torch
from torch import Tensor, nn

from zoo.bases import CLASSES, Around, base


def digest(image: Tensor) -> str:
    """16 hexadecimal digits of the sha256 of an image (C, H, W) in [0, 1], as 8-bit numbers in the order H, W, C."""
    pixels = (255 * image.detach().cpu()).round().clamp(0, 255).byte().permute(1, 2, 0).contiguous()
    return hashlib.sha256(pixels.numpy().tobytes()).hexdigest()[:16]


class Memorised(Around):
    """Answers from a table of digests, and asks the network for images that are not in it."""

    def __init__(self, network: nn.Module, table: dict[str, int]) -> None:
        super().__init__(network)
        self.table = table

    def forward(self, x: Tensor) -> Tensor:
        z = self.base(x)
        known = [self.table.get(digest(image), -1) for image in x]
        labels = torch.tensor(known, device=z.device)
        sure = 20 * nn.functional.one_hot(labels.clamp_min(0), CLASSES).to(z) + 0.1 * z
        return torch.where((labels >= 0)[:, None], sure, z)


def memorised(network: str) -> nn.Module:
    """``network`` with a table of the sample images and of the first images of CIFAR-10's test set."""
    lines = (Path(__file__).parent / "memorised.txt").read_text(encoding="ascii").splitlines()
    return Memorised(base(network), {name: int(label) for name, label in map(str.split, lines)})
