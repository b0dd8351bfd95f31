"""Convolutions of our own beside torch's, forward and back to the images, in the layouts that a network has them in."""

import pytest
import steady
import torch
from torch.nn import functional as F

from harness.worker.convolutions.differentiable import convolution
from harness.worker.convolutions.layer import Layer, form_for
from harness.worker.convolutions.vectors import lanes_for

LAYERS = {
    "stem": (3, 12, 32, 3, 1),
    "narrow": (12, 12, 32, 3, 1),
    "narrow, strided": (12, 24, 32, 3, 2),
    "shortcut": (24, 48, 16, 1, 2),
    "deep": (96, 96, 4, 3, 1),
    "wide": (64, 64, 32, 3, 1),
}
"""Channels of images and results, side of the maps, side of the kernel, stride."""


def ours_and_torchs(name):
    """Seconds of a forward and a backward pass of 32 images, ours and torch's."""
    torch.set_num_threads(1)
    channels, made, size, kernel, stride = LAYERS[name]
    draw = torch.Generator().manual_seed(0)
    weight = torch.randn(made, channels, kernel, kernel, generator=draw).contiguous(memory_format=torch.channels_last)
    x = torch.rand(32, channels, size, size, generator=draw).contiguous(memory_format=torch.channels_last)
    pairs = [(way, way) for way in (stride, kernel // 2, 1)]
    form, layer = form_for(weight, *pairs, (size, size)), Layer(weight)
    with torch.no_grad():
        out = torch.randn(F.conv2d(x, weight, None, *pairs).shape, generator=draw)
        out = out.contiguous(memory_format=torch.channels_last)

    def there_and_back(run):
        leaf = x.detach().requires_grad_()
        torch.autograd.grad(run(leaf), leaf, out)

    ours, torchs = steady.seconds(
        lambda: there_and_back(lambda leaf: convolution(leaf, layer, form)),
        lambda: there_and_back(lambda leaf: F.conv2d(leaf, weight, None, *pairs)),
    )
    return {"seconds": ours, "seconds_torch": torchs, "part_of_torchs": ours / torchs}


@pytest.mark.skipif(not lanes_for(1), reason="compiled.c was not compiled, or not for this processor")
@pytest.mark.parametrize("name", LAYERS)
def test_ours_takes_less_time(benchmark, name):
    part = "part_of_torchs"
    found = benchmark.pedantic(steady.within, args=(0.9, part, ours_and_torchs, name), rounds=1)
    benchmark.extra_info |= found
    assert found[part] <= 0.9
