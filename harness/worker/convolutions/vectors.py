"""Vectors of the processor, and the order in which kernels are laid out for them."""

import functools
import importlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

compiled: Any
"""The functions of ``_compiled.pyi``; None where there was no C compiler when this was installed."""
try:
    compiled = importlib.import_module("harness.worker.convolutions._compiled")
except ImportError:
    compiled = None

LANES = (16, 8, 4)
"""Floats in a vector of the processors that ``compiled.c`` is written for."""
COLOURS = 3
"""Channels of results, at most, for which ``compiled.c`` has a way of its own."""


@functools.cache
def lanes_for(channels: int) -> int:
    """Floats in the widest vector of this processor that so many channels fill, or in its narrowest; 0: it has none."""
    known = [lanes for lanes in LANES if compiled is not None and compiled.has(lanes)]
    return next((lanes for lanes in known if lanes <= channels), known[-1] if known else 0)


def filled(channels: int, lanes: int) -> int:
    """Channels in whole vectors."""
    return -(-channels // lanes) * lanes


def _panels(vectors: int) -> Iterator[int]:
    """How many vectors of results are computed together; ``WIDE`` of ``vectors.h`` knows it too."""
    while vectors:
        wide = 1 if vectors == 1 else 2 if vectors in {2, 4} else 3
        yield wide
        vectors -= wide


def _starts(channels: int, lanes: int) -> list[int]:
    """Where vectors of channels begin, the last one earlier so as to end with them."""
    return [min(start, channels - lanes) for start in range(0, channels, lanes)]


def by_colour(kernels: Tensor, lanes: int) -> Tensor:
    """Kernels (T, C, O) of few results for vectors of C, (floats,): by tap, then by vector, then by colour.

    What a vector shares with the one before counts there; absent colours are zeros.
    """
    channels, made = kernels.shape[1:]
    vectors = []
    for at, start in enumerate(_starts(channels, lanes)):
        vector = kernels[:, start : start + lanes].clone()
        vector[:, : at * lanes - start] = 0
        vectors.append(F.pad(vector.transpose(1, 2), (0, 0, 0, COLOURS - made)))
    return torch.stack(vectors, 1).reshape(-1)


def in_panels(kernels: Tensor, lanes: int, *, ends: bool) -> Tensor:
    """Kernels (P, T, C) as (P, floats): panel after panel of vectors of the last dimension.

    What does not fill the last vector is filled up with zeros; ``ends``: the last one begins earlier, if it can. Half a
    vector that is left comes twice then, in a panel with the one before it.
    """
    channels = kernels.shape[2]
    widths = []
    if ends and channels > lanes and 2 * (channels % lanes) == lanes:
        kernels = torch.cat([kernels, kernels[:, :, -lanes // 2 :]], 2)
        widths = [*_panels(channels // lanes - 1), 2]
    elif ends and channels >= lanes:
        kernels = torch.cat([kernels[:, :, start : start + lanes] for start in _starts(channels, lanes)], 2)
    else:
        kernels = F.pad(kernels, (0, filled(channels, lanes) - channels))
    widths = widths or list(_panels(kernels.shape[2] // lanes))
    panels = torch.split(kernels, [wide * lanes for wide in widths], 2)
    return torch.cat([panel.flatten(1) for panel in panels], 1)
