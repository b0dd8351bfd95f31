"""Convolutions of our own for float32 on a processor, faster than torch's in narrow layers and with kernels of 3 x 3.

The work is done by ``compiled.c``, which is compiled when the package is installed; without it, and on processors that
it knows nothing of, torch computes as always.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from harness.worker.convolutions.differentiable import convolution
from harness.worker.convolutions.layer import Form, Layer, Pair, form_for
from harness.worker.convolutions.vectors import lanes_for
from harness.worker.convolutions.winograd import CHANNELS, CHANNELS_NEAR

MEMORY = 1 << 30
"""Bytes of kernels of one network; layers for which there is no room left are computed as always."""


class Convolutions(TorchFunctionMode):
    """While it is on, the convolutions of a network that it knows are computed by us; the network has no part in it.

    Its layers stay what they are, for whoever looks at them or runs them elsewhere.
    """

    def __init__(self, parameters: Iterable[Tensor], *, least: int | None = CHANNELS) -> None:
        """It gets to know the convolutions by ``parameters`` that come while it is on, until ``settled``.

        Tiles are used from ``least`` channels on. Without any, None, all are computed as they are defined: results that
        are equal in torch stay equal.
        """
        super().__init__()
        self._least = least
        self._candidates = {id(parameter): parameter for parameter in parameters}
        self._layers: dict[int, Layer] = {}
        self._known: dict[tuple[object, ...], tuple[Layer, Form] | None] = {}
        """By weight, size of the maps, and what else was asked for."""
        self._bytes = 0

    def told(self) -> list[str]:
        """What is computed how, for a record."""
        ways = Counter(form.tiled for layer in self._layers.values() for form in layer.forms)
        return [f"{name}={ways[tiled]}" for name, tiled in (("winograd", True), ("direct", False)) if ways[tiled]]

    def narrow_tiles(self) -> bool:
        """Whether there are tiles of fewer channels than are worth it near known images."""
        return any(
            form.tiled and min(layer.weight.shape[:2]) < CHANNELS_NEAR
            for layer in self._layers.values()
            for form in layer.forms
        )

    def settled(self) -> None:
        """What has not come yet will be left alone."""
        self._candidates.clear()

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        """``torch.conv2d`` where it can be done; everything else as always."""
        if func is torch.conv2d:
            found = self.match(*args, **(kwargs or {}))
            if found is not None:
                return convolution(args[0] if args else (kwargs or {})["input"], *found)
        return func(*args, **kwargs) if kwargs else func(*args)

    def match(
        self, input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0,  # noqa: ANN401
        dilation: Any = 1, groups: int = 1,  # noqa: ANN401
    ) -> tuple[Layer, Form, Tensor | None] | None:  # fmt: skip
        """What computes a ``torch.conv2d``, for ``convolution``; None where it cannot be done."""
        # A subclass of tensors takes a hundred times as long to say what it is like.
        with torch._C.DisableTorchFunctionSubclass():
            shape, dtype = input.shape, input.dtype
        if len(shape) != 4 or dtype is not torch.float32 or torch.is_autocast_enabled("cpu") or groups != 1:
            return None
        if bias is not None and (bias.requires_grad or bias.dtype is not torch.float32 or bias.stride() != (1,)):
            return None
        size = shape[2:]
        asked = (
            id(weight),
            size,
            *(tuple(way) if isinstance(way, list) else way for way in (stride, padding, dilation)),
        )
        known = self._known.get(asked)
        if known is None and id(weight) in self._candidates and asked not in self._known:
            known = self._known[asked] = self._new(weight, size, _pair(stride), padding, _pair(dilation))
        if known is None or shape[1] != weight.shape[1] or not known[0].current:
            return None
        return *known, bias

    def _new(
        self, weight: Tensor, size: Sequence[int], stride: Pair, padding: Any, dilation: Pair  # noqa: ANN401
    ) -> tuple[Layer, Form] | None:  # fmt: skip
        """How a weight is used on maps of ``size`` (H, W); None where it is not."""
        if weight.dim() != 4 or weight.dtype is not torch.float32 or weight.device.type != "cpu":
            return None
        if weight.requires_grad or not lanes_for(1):
            return None
        if isinstance(padding, str):
            reach = [pace * (length - 1) for pace, length in zip(dilation, weight.shape[2:], strict=True)]
            if padding == "same" and any(length % 2 for length in reach):
                return None
            padding = [length // 2 for length in reach] if padding == "same" else 0
        form = form_for(weight, stride, _pair(padding), dilation, size, self._least)
        if form is None:
            return None
        layer = self._layers.get(id(weight)) or Layer(weight)
        if form not in layer.forms:
            taken = self._bytes + layer.bytes_in(form)
            if taken > MEMORY:
                return None
            self._bytes = taken
            layer.forms.add(form)
        self._layers[id(weight)] = layer
        return layer, form


def _pair(value: Any) -> Pair:  # noqa: ANN401
    if isinstance(value, int):
        return value, value
    down, across = value if len(value) == 2 else (*value, *value)
    return down, across
