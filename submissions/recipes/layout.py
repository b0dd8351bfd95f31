"""The memory layout a network is trained in: the faster one, where the processor's gradients are right in it."""

import torch
from torch import nn

BLOCK = 16 if "AVX512" in torch.backends.cpu.get_cpu_capability() else 8
"""Input channels that a convolution handles at once on this processor."""


def training_layout(model: nn.Module, device: torch.device) -> torch.memory_format:
    """``torch.channels_last``, or ``torch.contiguous_format`` where that would destroy memory on a processor.

    There the weights' gradient of a 1x1 convolution with a stride and fewer than ``BLOCK`` input channels writes
    beyond its workspace in channels_last, which ends the process or gives wrong gradients (oneDNN issue 6035). Only
    training asks for gradients of weights; evaluation never does.
    """

    def unsafe(layer: nn.Module) -> bool:
        return (
            isinstance(layer, nn.Conv2d)
            and set(layer.kernel_size) == {1}
            and set(layer.stride) != {1}
            and layer.in_channels // layer.groups < BLOCK
        )

    broken = device.type == "cpu" and any(map(unsafe, model.modules()))
    return torch.contiguous_format if broken else torch.channels_last
