"""How fast each corruption is drawn, beside the ``imagecorruptions`` package on the same images where it is installed.

Run with ``pytest tests/benchmarks --benchmark-only``; microseconds per image and ratios are in the report's
``extra_info``. The package's own constants are those for ImageNet, which cost it more in some corruptions (long
streaks) and less in others (JPEG of low quality): both are timed as they come. Some of its functions need older
versions of NumPy and scikit-image than ours and are then left out.
"""

import time

import numpy as np
import pytest

from harness import datasets
from harness.corruptions import CORRUPTIONS, EXTRA_CORRUPTIONS, SEVERITIES, corrupt

COPIES = 10
MOST = 3000e-6
"""Seconds per image that no corruption may take, on any machine this is run on."""


def seconds(work, n):
    """Best of three, per image."""
    best = float("inf")
    for _ in range(3):
        began = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - began)
    return best / n


@pytest.mark.parametrize("name", (*CORRUPTIONS, *EXTRA_CORRUPTIONS))
def test_time_per_image(benchmark, name) -> None:
    images = np.tile(np.asarray(datasets.load("cifar10-sample").images), (COPIES, 1, 1, 1))
    indices = range(len(images))
    corrupt(images[:32], name, 5, indices=range(32))
    own = [
        seconds(lambda level=level: corrupt(images, name, level, indices=indices), len(images)) for level in SEVERITIES
    ]
    benchmark.extra_info["microseconds_per_image"] = [round(value * 1e6, 1) for value in own]
    benchmark.pedantic(lambda: corrupt(images, name, 3, indices=indices), rounds=3)
    assert max(own) < MOST
    try:
        from imagecorruptions import corrupt as other

        other(images[0], corruption_name=name, severity=3)
    except (ImportError, TypeError, AttributeError):
        return
    theirs = [
        seconds(
            lambda level=level: [other(image, corruption_name=name, severity=level) for image in images], len(images)
        )
        for level in SEVERITIES
    ]
    benchmark.extra_info["imagecorruptions"] = [round(value * 1e6, 1) for value in theirs]
    benchmark.extra_info["times_faster"] = round(sum(theirs) / sum(own), 2)
