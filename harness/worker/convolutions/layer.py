"""One layer's kernels, as they are needed for the ways in which the network uses them."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from harness.worker.convolutions.direct import Listed, listing_pays
from harness.worker.convolutions.vectors import lanes_for
from harness.worker.convolutions.winograd import CHANNELS, Tiled, bytes_of, tiles_pay

Pair = tuple[int, int]
SIZES = 64
"""Sizes of maps, windows among them, whose lists are kept."""


class Form(NamedTuple):
    """How kernels are used; a pair is for rows and columns."""

    stride: Pair
    padding: Pair
    dilation: Pair
    tiled: bool
    """Whether in tiles (``winograd``); otherwise as it is defined (``direct``)."""

    def made(self, size: Sequence[int], kernel: Sequence[int]) -> Pair:
        """(H, W) of the results for maps of ``size`` (H, W)."""
        down, across = (
            (length + 2 * self.padding[at] - self.dilation[at] * (kernel[at] - 1) - 1) // self.stride[at] + 1
            for at, length in enumerate(size)
        )
        return down, across


def form_for(
    weight: Tensor, stride: Pair, padding: Pair, dilation: Pair, size: Sequence[int], least: int | None = CHANNELS
) -> Form | None:
    """How kernels (O, C, kh, kw) are used on maps of ``size`` (H, W); None: torch is as fast.

    In tiles from ``least`` channels on, where that is not None.
    """
    plain = least is not None and weight.shape[2:] == (3, 3) and stride == padding == dilation == (1, 1)
    if plain and tiles_pay(weight, size, least or 0) and lanes_for(min(weight.shape[:2])) <= min(weight.shape[:2]):
        return Form(stride, padding, dilation, tiled=True)
    form = Form(stride, padding, dilation, tiled=False)
    results = form.made(size, weight.shape[2:])
    return form if min(results) > 0 and listing_pays(weight, stride, size, results) else None


class Layer:
    """The kernels of one layer, by what is computed with them."""

    def __init__(self, weight: Tensor) -> None:
        """``weight`` is float32 (O, C, kh, kw)."""
        self.weight, self._version = weight, weight._version
        self.forms: set[Form] = set()
        """How the network uses them."""
        self._tiled: dict[bool, Tiled] = {}
        self._listed: dict[tuple[object, ...], Listed] = {}

    @property
    def current(self) -> bool:
        """Whether the layer's weights are still those."""
        return self.weight._version == self._version

    def bytes_in(self, form: Form) -> int:
        """Bytes that its kernels take, for results and gradients."""
        lanes = lanes_for(min(self.weight.shape[:2]))
        return bytes_of(self.weight, lanes) if form.tiled else 2 * self.weight.nbytes

    def ready(self, form: Form, size: Pair, made: Pair, *, back: bool) -> Tiled | Listed:
        """What makes maps of size ``made`` (H, W) of those of ``size``; ``back``: images of results."""
        if form.tiled:
            tiled = self._tiled.get(back)
            if tiled is None:
                tiled = self._tiled[back] = Tiled(self.weight, lanes_for(min(self.weight.shape[:2])), back=back)
            return tiled
        listed = self._listed.get((form, size, made, back))
        if listed is None:
            if len(self._listed) >= SIZES:
                self._listed.clear()
            listed = self._listed[form, size, made, back] = Listed(self.weight, form[:3], size, made, back=back)
        return listed
