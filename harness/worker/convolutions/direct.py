"""Convolutions as they are defined, of any kernel, stride, padding and dilation, and the way back to their images.

For each result there is a list of the pixels that it is made of, of the first of them in each row where they are
neighbours: these lie together. The way back falls into phases: with a stride of 2 a pixel in an even row and an odd
column meets other taps of the kernel than its neighbours.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from harness.worker.convolutions.vectors import COLOURS, by_colour, compiled, in_panels, lanes_for

PAIRS = 64 * 128
"""Up to as many pairs of channels torch is hardly ever faster, and in narrow layers up to four times slower."""
TAPS, STRIDE = 49, 4
"""Largest number of taps and largest stride."""


def listing_pays(weight: Tensor, stride: Sequence[int], size: Sequence[int], results: Sequence[int]) -> bool:
    """Whether kernels (O, C, kh, kw) from maps of ``size`` (H, W) to ``results`` are worth it; the same everywhere."""
    made, channels, down, across = weight.shape
    floats = max(size[0] * size[1], results[0] * results[1]) * max(made, channels)
    return made * channels <= PAIRS and down * across <= TAPS and max(stride) <= STRIDE and floats < 1 << 31


class _Line(NamedTuple):
    """Results along one dimension that meet the same taps."""

    places: Tensor
    """(n,): where they are."""
    taps: Tensor
    """(t,): places in the kernel."""
    sources: Tensor
    """(n, t): what they are made of; negative, or beyond the maps: zeros."""


def _lines(made: int, kernel: int, stride: int, padding: int, dilation: int, *, back: bool) -> Iterator[_Line]:
    """Of ``made`` results, a line for each phase."""
    taps = torch.arange(kernel)
    if not back:
        places = torch.arange(made)
        yield _Line(places, taps, places[:, None] * stride + taps * dilation - padding)
        return
    for phase in range(min(stride, made)):
        met = taps[(phase + padding - taps * dilation) % stride == 0]
        met = met.flip(0)
        places = torch.arange(phase, made, stride)
        yield _Line(places, met, (places[:, None] + padding - met * dilation) // stride)


class _Phase(NamedTuple):
    kernels: Tensor
    sources: Tensor
    """int32 (pixels, taps)."""
    shape: tuple[int, int, int]
    """Pixels, taps, and channels that lie together."""
    places: Tensor
    """int32 (pixels,)."""


def _together(columns: Sequence[_Line]) -> bool:
    """Whether the pixels that meet the taps of a row are neighbours."""
    return all(bool((line.sources.diff(dim=1) == 1).all()) for line in columns)


def _beside(columns: Sequence[_Line], width: int) -> tuple[int, int]:
    """By how many pixels the results' own reach beyond maps of ``width`` on either side."""
    met = [line.sources for line in columns if line.sources.numel()]
    return (
        max(0, -min((int(sources.min()) for sources in met), default=0)),
        max(0, max((int(sources.max()) for sources in met), default=0) - width + 1),
    )


class Listed:
    """Kernels and lists for maps of one size: of the layer, or of the way from its results back to its images."""

    def __init__(
        self, weight: Tensor, form: Sequence[Sequence[int]], size: Sequence[int], made: Sequence[int], *, back: bool
    ) -> None:
        """``form`` is stride, padding and dilation; maps of ``size`` (H, W) become maps of size ``made``."""
        weight = weight.detach() if back else weight.detach().transpose(0, 1)
        self.channels, self.made = weight.shape[:2]
        few = self.made <= COLOURS and self.channels >= lanes_for(self.channels)
        self._few, self._lanes = few, lanes_for(self.channels if few else self.made)
        down, across = (
            list(_lines(made[at], weight.shape[2 + at], *(pair[at] for pair in form), back=back)) for at in (0, 1)
        )
        self._beside = _beside(across, size[1]) if _together(across) else None
        """Columns of zeros that are wanted on either side; None where the taps of a row are not neighbours."""
        self._phases = [self._phase(weight, rows, columns, size, made[1]) for rows in down for columns in across]
        addresses = tuple(
            (phase.kernels.data_ptr(), phase.sources.data_ptr(), phase.shape, phase.places.data_ptr())
            for phase in self._phases
        )
        self._job: bytes = compiled.direct(
            self._lanes, (*size, self.channels), self._beside or (0, 0), addresses,
            (made[0] * made[1] * self.made, self.made), few,
        )  # fmt: skip

    def _phase(self, weight: Tensor, rows: _Line, columns: _Line, size: Sequence[int], across: int) -> _Phase:
        """Results of some rows and columns; ``across`` is how many there are in a row."""
        height, width = size
        y, x = rows.sources[:, None, :, None], columns.sources[None, :, None, :]
        inside = (y >= 0) & (y < height)
        if self._beside is None:
            inside = inside & (x >= 0) & (x < width)
        else:
            x, width = x[..., :1] + self._beside[0], width + sum(self._beside)
        sources = torch.where(inside, (y * width + x) * self.channels, -1)
        kernels = weight[:, :, rows.taps][:, :, :, columns.taps].permute(2, 3, 0, 1)
        lying = kernels.flatten(1, 2) if self._beside is not None and kernels.numel() else kernels.flatten(0, 1)
        if self._few:
            laid = by_colour(lying, self._lanes)
        else:
            laid = in_panels(kernels.reshape(1, -1, self.made), self._lanes, ends=True)
        places = (rows.places[:, None] * across + columns.places).flatten() * self.made
        shape = (len(places), len(lying), lying.shape[1])
        return _Phase(laid, sources.reshape(shape[:2]).int().contiguous(), shape, places.int())

    def job(self, size: Sequence[int], made: Sequence[int]) -> bytes:
        """What ``compiled.c`` needs to know; the sizes are those that the lists are for."""
        return self._job
