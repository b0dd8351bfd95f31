"""What is done on windows of activations: operations on every value by itself, convolutions, pooling and the like."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from harness.worker.convolutions.differentiable import convolution
from harness.worker.convolutions.layer import Form, Layer
from harness.worker.convolutions.winograd import TILE
from harness.worker.descriptions import changes
from harness.worker.windows.areas import Area, Slide, inside
from harness.worker.windows.areas import slide as slide_of
from harness.worker.windows.known import Rules
from harness.worker.windows.partial import Partial, around, refuse_seen


def _flat(value: Tensor) -> Tensor | None:
    """``value`` with one entry for each channel at most, if it is the same for all rows and places; else None."""
    if value.numel() == 1 and value.dim() <= 4:
        return value
    free = {3: (1, 2), 4: (0, 2, 3)}.get(value.dim())
    if free is None or any(value.shape[at] > 1 and value.stride(at) for at in free):
        return None
    return value[:, :1, :1] if value.dim() == 3 else value[:1, :, :1, :1]


def _pointwise(func: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
    """An operation on every value by itself."""
    if kwargs.pop("inplace", False):
        return _in_place(args[0], _pointwise(func, *args, **kwargs))
    if changes(func, args, kwargs) or any(isinstance(value, Tensor) for value in kwargs.values()):
        return NotImplemented
    parts = [value for value in args if isinstance(value, Partial)]
    others = [_flat(value) for value in args if isinstance(value, Tensor) and not isinstance(value, Partial)]
    constants = [value for value in others if value is not None]
    same = all(part.extent == parts[0].extent and part.held.shape[:2] == parts[0].held.shape[:2] for part in parts)
    if not parts or not same or len(constants) < len(others):
        return NotImplemented
    area = _common(parts)
    if area is None:
        return NotImplemented
    flat = iter(constants)
    held = [
        _widened(value, area) if isinstance(value, Partial) else next(flat) if isinstance(value, Tensor) else value
        for value in args
    ]
    lead, made = parts[0], func(*held, **kwargs)
    if not isinstance(made, Tensor) or made.shape != _shape_in(lead, area):
        return NotImplemented
    plain = str([value for value in args if not isinstance(value, Tensor)]) + (str(kwargs) if kwargs else "")
    key = lead.work.key(constants, func, tuple(part.key for part in parts), plain)
    return lead.work.result(key, made, area, lead.extent)


def _shape_in(part: Partial, area: Area) -> tuple[int, ...]:
    """Shape of what is held of ``part`` when its windows are ``area``."""
    taken_down = part.work.anchors is None
    return (*part.held.shape[:2], *(part.extent if taken_down else (area.side, area.side)))


def _also_in_place(plain: Any) -> Callable[..., Any]:  # noqa: ANN401
    """The rule for an operation that does in place what ``plain`` does."""

    def rule(func: Any, target: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        return _in_place(target, _pointwise(plain, target, *args, **kwargs))

    return rule


def _in_place(target: Any, result: Any) -> Any:  # noqa: ANN401
    """``target``, which is ``result`` from now on; ``NotImplemented`` where either is not a part of an activation."""
    if not isinstance(target, Partial) or not isinstance(result, Partial) or result.held.dtype != target.held.dtype:
        return NotImplemented
    refuse_seen(target)
    target.key, target.held, target.area = result.key, result.held, result.area
    return target


def _common(parts: Sequence[Partial]) -> Area | None:
    """Windows that hold those of all parts; None where they would not fit the map."""
    areas = [part.area for part in parts]
    lead = max(areas, key=lambda area: area.side)
    if parts[0].work.anchors is None or all(area is lead or inside(area, lead) for area in areas):
        return lead
    first = np.minimum.reduce([area.corners for area in areas])
    last = np.maximum.reduce([area.corners + area.side for area in areas])
    side, extent = int((last - first).max()), parts[0].extent
    if side > min(extent):
        return None
    return Area(np.minimum(first, [[length - side] for length in extent]), side)


def _widened(part: Partial, area: Area) -> Tensor:
    """The values of ``part`` in ``area``, whose windows hold its own."""
    inner = part.area
    if part.work.anchors is None:
        if inner.side < area.side:
            part.work.need(part.key)
        return part.held
    if inner is area or (inner.side == area.side and np.array_equal(inner.corners, area.corners)):
        return part.held
    return around(part, area, 0)


def _two(value: Any) -> tuple[int, ...] | None:  # noqa: ANN401
    """One for each dimension of an image; None where they are given in words."""
    if isinstance(value, int):
        return (value, value)
    return None if isinstance(value, str) else tuple(value) * (2 // max(1, len(value)))


def _taken(part: Partial, area: Area, slide: Slide) -> Tensor:
    """What the results in ``area`` are made of, (M, C, source, source)."""
    margin = slide.margin
    around_it = Area(area.corners * slide.step - (slide.back + margin), slide.source + 2 * margin)
    found = around(part, around_it, slide.border)
    if margin:
        found = found[:, :, margin:-margin, margin:-margin].contiguous(memory_format=torch.channels_last)
    return found


def _slid(
    func: Callable[[Tensor], Tensor],
    part: Partial,
    name: object,
    constants: Sequence[Tensor],
    slide: Slide,
    *,
    alone: bool,
) -> Partial:
    """The result of ``func``, which looks at what ``slide`` says."""
    work = part.work
    key = work.key(constants, name, part.key)
    if work.anchors is None:
        work.need(part.key, slide.border)
        return work.result(key, func(part.held), Area(part.area.corners, slide.side), slide.size)
    work.slid += 1
    area = slide.area(part.area)
    return work.result(key, func(part.held if alone else _taken(part, area, slide)), area, slide.size)


def _convolution(
    func: Any,  # noqa: ANN401
    image: Any,  # noqa: ANN401
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,  # noqa: ANN401
    padding: Any = 0,  # noqa: ANN401
    dilation: Any = 1,  # noqa: ANN401
    groups: int = 1,
) -> Any:  # noqa: ANN401
    """``torch.conv2d``."""
    kernel, steps, pads, apart = tuple(weight.shape[2:]), _two(stride), _two(padding), _two(dilation)
    if not isinstance(image, Partial) or isinstance(weight, Partial) or not steps or not pads or not apart:
        return NotImplemented
    slide = slide_of(image.area.side, image.extent, kernel, steps, pads, apart)
    if slide is None:
        return NotImplemented
    inside = pads if image.work.anchors is None else (0, 0)
    return _slid(
        lambda values: func(values, weight, bias, steps, inside, apart, groups), image,
        (func, tuple(weight.shape), steps, pads, apart, groups), [weight] if bias is None else [weight, bias], slide,
        alone=kernel == steps == (1, 1) and pads == (0, 0),
    )  # fmt: skip


def _own_convolution(func: Any, image: Any, layer: Layer, form: Form, bias: Tensor | None = None) -> Any:  # noqa: ANN401
    """A convolution of ours; in tiles a result has its bits only where it has its place in a tile."""
    kernel = tuple(layer.weight.shape[2:])
    grid = TILE if form.tiled else 1
    slide = slide_of(image.area.side, image.extent, kernel, form.stride, form.padding, form.dilation, grid)
    if slide is None:
        return NotImplemented
    inside = form if image.work.anchors is None else form._replace(padding=(0, 0))
    return _slid(
        lambda values: func(values, layer, inside, bias), image, (func, tuple(layer.weight.shape), form),
        [layer.weight] if bias is None else [layer.weight, bias], slide,
        alone=kernel == form.stride == (1, 1) and form.padding == (0, 0),
    )  # fmt: skip


def _pooling(
    func: Any,  # noqa: ANN401
    image: Any,  # noqa: ANN401
    kernel_size: Any,  # noqa: ANN401
    stride: Any = None,  # noqa: ANN401
    padding: Any = 0,  # noqa: ANN401
    *args: Any,  # noqa: ANN401
    **kwargs: Any,  # noqa: ANN401
) -> Any:  # noqa: ANN401
    """Average or largest value of squares that lie inside the map."""
    kernel, steps, pads = _two(kernel_size), _two(stride or kernel_size), _two(padding)
    average = ("ceil_mode", "count_include_pad", "divisor_override")
    names = average if func is F.avg_pool2d else ("dilation", "ceil_mode", "return_indices")
    given = dict(zip(names, args, strict=False)) | kwargs
    unusual = given.get("ceil_mode") or given.get("return_indices") or _two(given.get("dilation", 1)) != (1, 1)
    if not isinstance(image, Partial) or not kernel or not steps or pads != (0, 0) or unusual:
        return NotImplemented
    slide = slide_of(image.area.side, image.extent, kernel, steps, (0, 0), (1, 1))
    if slide is None:
        return NotImplemented
    return _slid(
        lambda values: func(values, kernel, steps, 0, *args, **kwargs), image, (func, kernel, steps), [], slide,
        alone=False,
    )  # fmt: skip


def _batch_norm(func: Any, image: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
    """BatchNorm by running statistics."""
    given = inspect.signature(F.batch_norm).bind(image, *args, **kwargs).arguments
    if not isinstance(image, Partial) or given.get("training"):
        return NotImplemented
    constants = [value for value in given.values() if isinstance(value, Tensor) and value is not image]
    key = image.work.key(constants, func, image.key, str(given.get("eps")))
    return image.work.result(key, func(image.held, *args, **kwargs), image.area, image.extent)


def _by_channel(func: Any, image: Any, weight: Any) -> Any:  # noqa: ANN401
    """An operation on every value by itself, with a number of each channel's own."""
    if not isinstance(image, Partial) or isinstance(weight, Partial):
        return NotImplemented
    key = image.work.key([weight], func, image.key)
    return image.work.result(key, func(image.held, weight), image.area, image.extent)


def _converted(func: Any, image: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
    """Another type or layout; the tensor itself where it has them, so that what is written to one is in the other."""
    found = _pointwise(func, image, *args, **kwargs)
    if not isinstance(found, Partial) or found.held.dtype != image.held.dtype or kwargs.get("copy"):
        return found
    if func is not Tensor.contiguous and not any(isinstance(value, torch.memory_format) for value in kwargs.values()):
        return image
    # Whether it is another hangs on the layout, which a part does not know.
    image.shared = found.shared = True
    return found


def _reshaped(func: Any, image: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
    """Another shape that is the one it has."""
    sizes = args[0] if args and isinstance(args[0], tuple | list) else args
    same = isinstance(image, Partial) and tuple(sizes) in {tuple(image.shape), (-1, *image.shape[1:])}
    return image if same and not kwargs else NotImplemented


def _dropped(func: Any, image: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:  # noqa: ANN401
    """Dropout that is off."""
    return NotImplemented if training or not isinstance(image, Partial) else image


def _interpolated(
    func: Any,  # noqa: ANN401
    image: Any,  # noqa: ANN401
    size: Any = None,  # noqa: ANN401
    scale_factor: Any = None,  # noqa: ANN401
    mode: str = "nearest",
    *args: Any,  # noqa: ANN401
    **kwargs: Any,  # noqa: ANN401
) -> Any:  # noqa: ANN401
    """Upsampling by a whole number, every value repeated."""
    factors = _two(int(scale_factor)) if scale_factor in range(1, 65) else None
    if not isinstance(image, Partial) or size is not None or mode != "nearest" or not factors:
        return NotImplemented
    work, area, factor = image.work, image.area, factors[0]
    key = work.key([], func, image.key, factor)
    area = Area(area.corners * factor, area.side * factor)
    found = func(image.held, None, scale_factor, mode, *args, **kwargs)
    return work.result(key, found, area, (image.extent[0] * factor, image.extent[1] * factor))


def _padded(
    func: Any,  # noqa: ANN401
    image: Any,  # noqa: ANN401
    pad: Any,  # noqa: ANN401
    mode: str = "constant",
    value: float | None = None,
) -> Any:  # noqa: ANN401
    """A map with a border of one value."""
    sizes = tuple(pad)
    if not isinstance(image, Partial) or mode != "constant" or len(sizes) != 4 or min(sizes) < 0:
        return NotImplemented
    left, right, top, bottom = sizes
    height, width = image.extent
    work, area = image.work, image.area
    key = work.key([], func, image.key, sizes, value)
    held = func(image.held, pad, mode, value) if work.anchors is None else image.held
    return work.result(key, held, Area(np.add(area.corners, [[top], [left]]), area.side),
                       (height + top + bottom, width + left + right))  # fmt: skip


def _joined(func: Any, parts: Any, dim: Any = 0, **kwargs: Any) -> Any:  # noqa: ANN401
    """Channels of several activations, one after the other."""
    if not all(isinstance(part, Partial) for part in parts) or dim not in {1, -3} or kwargs:
        return NotImplemented
    lead = parts[0]
    same = all(part.extent == lead.extent and len(part.held) == len(lead.held) for part in parts)
    area = _common(parts) if same and len({part.held.dtype for part in parts}) == 1 else None
    if area is None:
        return NotImplemented
    key = lead.work.key([], func, tuple(part.key for part in parts))
    return lead.work.result(key, func([_widened(part, area) for part in parts], 1), area, lead.extent)


def _rules() -> dict[Any, Callable[..., Any]]:
    """What is done on windows, by the function that a network calls."""
    found: dict[Any, Callable[..., Any]] = {
        torch.conv2d: _convolution, convolution: _own_convolution, F.avg_pool2d: _pooling,
        torch.max_pool2d: _pooling, F.max_pool2d: _pooling,
        F.batch_norm: _batch_norm, F.interpolate: _interpolated, F.pad: _padded, torch.cat: _joined,
        torch.concat: _joined, torch.prelu: _by_channel, F.prelu: _by_channel,
    }  # fmt: skip
    found |= dict.fromkeys((Tensor.view, Tensor.reshape, torch.reshape), _reshaped)
    found |= dict.fromkeys((F.dropout, F.dropout2d), _dropped)
    for name in _POINTWISE.split():
        plain = None
        for owner in (Tensor, F, torch):
            for spelt in (name, f"__{name}__", f"__r{name}__"):
                if hasattr(owner, spelt):
                    found[getattr(owner, spelt)] = _pointwise
                    plain = getattr(owner, name, plain)
        for owner in (Tensor, F, torch):
            for spelt in (f"{name}_", f"__i{name}__"):
                if hasattr(owner, spelt) and plain is not None:
                    found[getattr(owner, spelt)] = _also_in_place(plain)
    conversions = ["detach", "contiguous", "to", "type", "cpu", "float", "double", "half", "bfloat16"]
    return found | {torch.detach: _converted} | {getattr(Tensor, name): _converted for name in conversions}


_POINTWISE = """
relu relu6 leaky_relu elu selu celu silu gelu sigmoid tanh hardtanh hardswish hardsigmoid mish softplus softsign
logsigmoid hardshrink softshrink tanhshrink threshold clamp clip clamp_min clamp_max maximum minimum neg abs exp log
log1p sqrt rsqrt reciprocal square erf sin cos sign round floor ceil gt lt ge le eq ne logical_not where masked_fill
lerp addcmul clone add sub mul div truediv true_divide pow
"""
RULES: Rules = _rules()
