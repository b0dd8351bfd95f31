"""Tell CIFAR test examples by their hashes, so that a data set's name does not depend on the file it came in."""

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

KNOWN = ("cifar10", "cifar100")


def example_digest(image: NDArray[np.uint8], label: int) -> str:
    """16 hexadecimal digits of the sha256 of an image's bytes (H, W, C) and its label as a little-endian int64."""
    return hashlib.sha256(np.ascontiguousarray(image).tobytes() + int(label).to_bytes(8, "little")).hexdigest()[:16]


def known_digests(name: str) -> list[str]:
    """Digests of the first examples of a test split, in order."""
    return Path(__file__).with_name(f"{name}-test.hex").read_text(encoding="ascii").split()


def recognise(images: NDArray[np.uint8], labels: NDArray[np.int64]) -> str | None:
    """The data set whose test split begins with all of these examples; None when there is none among those known."""
    if images.shape[1:] != (32, 32, 3):
        return None
    for name in KNOWN:
        digests = known_digests(name)
        if len(labels) <= len(digests) and all(
            example_digest(image, int(label)) == digest
            for image, label, digest in zip(images, labels, digests, strict=False)
        ):
            return name
    return None
