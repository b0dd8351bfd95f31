"""Tensors of which only a window is held, for images that differ from a known one in a small window.

A convolution passes a change on to its surroundings alone, so up to some depth most activations are those of the known
image. The network's own code runs as always, on tensors that hold a window of an activation; an operation that this
module does not know gets the whole activation, put together from the known one and the window.
"""

from __future__ import annotations

import functools
import inspect
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

SHARE = 0.5
"""Largest part of a map that a window may cover; from there on the whole map is computed."""


class UnsuitedError(Exception):
    """The network does something that it did not do before, or that windows cannot follow."""


class StaleError(Exception):
    """A window needs the surroundings of an activation that is not there, or not that of its known image any more."""


class Area(NamedTuple):
    """Square windows, one per row of a batch: their upper left corners (2, M), down and across, and their side.

    While activations of known images are taken down there are no corners, only a side.
    """

    corners: NDArray[np.int64]
    side: int


@dataclass
class _Map:
    """One activation of every known image."""

    constants: Sequence[Tensor]
    """What the operation that makes it works with besides activations."""
    border: int = 0
    """Rows and columns of zeros around it in ``table``: what a convolution sees beyond the border of a map."""
    table: Tensor | None = None
    """(A, H + 2 * border, W + 2 * border, C); None where no window needs it."""
    fresh: NDArray[np.bool_] | None = None
    """(A,): of which known images it is."""
    complete: bool = False
    """Whether of all."""


class Known:
    """The activations of known images, as far as windows reach, by what makes them."""

    def __init__(self, layout: torch.memory_format) -> None:
        self.layout = layout
        self._numbers: dict[tuple[object, ...], int] = {}
        self._maps: dict[int, _Map] = {}
        self._wanted: dict[int, int] = {}
        """Activations that turned out to be needed, and their borders."""
        self._blanks: dict[tuple[tuple[int, ...], torch.dtype], Tensor] = {}

    def blank(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """A tensor of that shape without memory."""
        blank = self._blanks.get((shape, dtype))
        if blank is None:
            blank = torch.empty(shape, dtype=dtype, device="meta", memory_format=self.layout)
            self._blanks[shape, dtype] = blank
        return blank

    def number(self, parts: tuple[object, ...]) -> int:
        """A short name for what makes an activation."""
        return self._numbers.setdefault(parts, len(self._numbers))

    def note(self, key: int, constants: Sequence[Tensor], *, new: bool) -> None:
        """An operation's result is made; ``UnsuitedError`` unless it works with what it worked with before."""
        known = self._maps.get(key)
        if known is None:
            if not new:
                raise UnsuitedError("an operation that was not there before")
            self._maps[key] = _Map(constants)
        elif len(known.constants) != len(constants) or not all(
            one.shape == other.shape and (one.data_ptr() == other.data_ptr() or torch.equal(one, other))
            for one, other in zip(known.constants, constants, strict=True)
        ):
            raise UnsuitedError("an operation whose weights were others before")

    def map(self, key: int, border: int, numbers: NDArray[np.int64]) -> tuple[Tensor, int]:
        """Table and border of an activation of some known images.

        Raises ``StaleError`` if it must be taken down before.
        """
        known = self._maps[key]
        if known.table is None or known.fresh is None or known.border < border:
            self._wanted[key] = max(border, known.border)
            raise StaleError
        if not (known.complete or known.fresh[numbers].all()):
            raise StaleError
        return known.table, known.border

    def keep(self, work: Pass, numbers: NDArray[np.int64], rows: NDArray[np.int64], count: int) -> None:
        """The activations in some rows of a pass are those of the known images ``numbers``, of ``count``."""
        for key, wanted in (work.needed | self._wanted).items():
            whole, known = work.whole[key], self._maps[key]
            _, channels, height, width = whole.shape
            border = max(wanted, known.border)
            if known.table is None or known.border < border:
                known.border, known.fresh = border, np.zeros(count, dtype=np.bool_)
                known.table = whole.new_zeros(count, height + 2 * border, width + 2 * border, channels)
            inside = known.table[:, known.border : known.border + height, known.border : known.border + width]
            inside[torch.from_numpy(numbers)] = whole[torch.from_numpy(rows)].permute(0, 2, 3, 1)
            assert known.fresh is not None
            known.fresh[numbers] = True
            known.complete = bool(known.fresh.all())

    def follow(self, work: Pass, numbers: NDArray[np.int64], rows: NDArray[np.int64]) -> None:
        """Known images become those in some rows of a pass; activations that it did not get to are stale."""
        for key, known in self._maps.items():
            if known.table is None or known.fresh is None:
                continue
            if key not in work.windows:
                known.fresh[numbers] = known.complete = False
                continue
            held, area = work.windows[key]
            windows, at = _windows(known.table, numbers, Area(area.corners[:, rows] + known.border, area.side))
            windows[at] = _array(held.permute(0, 2, 3, 1))[rows]


class Pass:
    """One run of the network's code: over whole images that become known ones, or over windows of some."""

    def __init__(self, known: Known, anchors: NDArray[np.int64] | None = None) -> None:
        """``anchors`` (M,) are the numbers of known images; None while their activations are taken down."""
        self.known, self.anchors = known, anchors
        self.rows = np.arange(0 if anchors is None else len(anchors))
        self.whole: dict[int, Tensor] = {}
        """Every activation that a window could reach, while they are taken down."""
        self.needed: dict[int, int] = {}
        """Those of them whose surroundings a window needs, and how far beyond the map."""
        self.windows: dict[int, tuple[Tensor, Area]] = {}
        """Every window that was made, unless activations are taken down."""
        self.slid = 0
        """Convolutions and poolings of windows."""
        self._seen: Counter[tuple[object, ...]] = Counter()

    def enter(self, images: Tensor, area: Area, size: Sequence[int]) -> Partial:
        """The network's input: windows (M, C, side, side) of images, or whole ones, of ``size`` (H, W)."""
        return self.result(self.key([], "input"), images, area, size)

    def key(self, constants: Sequence[Tensor], *parts: object) -> int:
        """A name for the result of an operation: what it is, of what, and how many like it there were."""
        self._seen[parts] += 1
        key = self.known.number((*parts, self._seen[parts]))
        self.known.note(key, constants, new=self.anchors is None)
        return key

    def need(self, key: int, border: int = 0) -> None:
        """The surroundings of an activation are needed."""
        if self.anchors is None:
            self.needed[key] = max(self.needed.get(key, 0), border)

    def result(self, key: int, held: Tensor, area: Area, size: Sequence[int]) -> Partial:
        """The result of an operation, ``size`` (H, W) being that of the map."""
        if self.anchors is None:
            self.whole[key] = held
        else:
            self.windows[key] = held, area
        return Partial.of(self, key, held, area, size)

    def bytes_per_image(self) -> int:
        """Bytes of the activations that are needed."""
        return sum(self.whole[key][0].nbytes for key in self.needed)


class Partial(Tensor):
    """An activation (M, C, H, W) of which windows are held, or the whole while it is taken down.

    As a tensor it has a shape and no memory. What is asked of it goes through ``__torch_function__``: a subclass that
    is seen below, by the dispatcher, would make torch import half a second's worth of other things.
    """

    work: Pass
    key: int
    held: Tensor
    """(M, C, side, side), or (M, C, H, W) while it is taken down."""
    area: Area
    extent: tuple[int, int]
    """(H, W)."""

    @classmethod
    def of(cls, work: Pass, key: int, held: Tensor, area: Area, size: Sequence[int]) -> Partial:
        """``size`` is (H, W) of the map."""
        height, width = size
        made = work.known.blank((*held.shape[:2], height, width), held.dtype).as_subclass(cls)
        made.work, made.key, made.held, made.area, made.extent = work, key, held, area, (height, width)
        return made

    @classmethod
    def __torch_function__(
        cls,
        func: Any,  # noqa: ANN401
        types: Any,  # noqa: ANN401
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        """Run an operation on windows where that is known to be right, else on whole activations."""
        kwargs = kwargs or {}
        rule = _RULES.get(func)
        if rule is not None:
            result = rule(func, *args, **kwargs)
            if result is not NotImplemented:
                return result
        elif _name(func) in _OF_VALUES:
            return func(*[value.held if isinstance(value, Partial) else value for value in args], **kwargs)
        elif _describes(func):
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **kwargs)
        elif _changes(func, args, kwargs):
            raise UnsuitedError("an operation in place that windows cannot follow")
        return func(*map(_whole, args), **{name: _whole(value) for name, value in kwargs.items()})


_OF_VALUES = {"device", "is_cuda", "is_cpu", "is_meta", "get_device"}
_DESCRIPTIONS = {
    "shape", "dtype", "layout", "ndim", "requires_grad", "is_leaf", "is_sparse", "is_quantized", "is_nested", "grad_fn",
    "size", "dim", "numel", "nelement", "stride", "is_contiguous", "__len__", "is_floating_point", "is_complex",
    "element_size", "ndimension", "storage_offset",
}  # fmt: skip


def _name(func: Any) -> str:  # noqa: ANN401
    name = getattr(func, "__name__", "")
    return getattr(getattr(func, "__self__", None), "__name__", "") if name in {"__get__", "__set__"} else name


def _describes(func: Any) -> bool:  # noqa: ANN401
    """Whether it only asks for what a tensor is like, not for its values."""
    return _name(func) in _DESCRIPTIONS and getattr(func, "__name__", "") != "__set__"


def _changes(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> bool:  # noqa: ANN401
    """Whether it writes to one of its arguments."""
    name = getattr(func, "__name__", "")
    return (
        name in {"__setitem__", "__set__", "__delitem__"}
        or (name.endswith("_") and not name.endswith("__"))
        or (name.startswith("__i") and name not in {"__index__", "__int__", "__invert__"})
        or kwargs.get("inplace") is True
        or kwargs.get("out") is not None
        or any(value is True for value in args)
    )


def _whole(value: Any) -> Any:  # noqa: ANN401
    """The whole activation where ``value`` is a part of one; lists of them too."""
    if isinstance(value, list | tuple):
        return type(value)(map(_whole, value)) if type(value) in {list, tuple} else value
    if not isinstance(value, Partial):
        return value
    work = value.work
    work.need(value.key)
    if work.anchors is None:
        return value.held
    table, border = work.known.map(value.key, 0, work.anchors)
    height, width = value.extent
    whole = table[:, border : border + height, border : border + width][torch.from_numpy(work.anchors)]
    lay(whole, value.held.permute(0, 2, 3, 1), work.rows, value.area)
    return whole.permute(0, 3, 1, 2).contiguous(memory_format=work.known.layout)


def _around(part: Partial, area: Area, border: int) -> Tensor:
    """The activation in ``area``, which holds its window, (M, C, side, side): known values and the window's.

    The area reaches at most ``border`` beyond the map, where there are zeros.
    """
    work, inner = part.work, part.area
    assert work.anchors is not None
    table, border = work.known.map(part.key, border, work.anchors)
    found = cut(table, work.anchors, Area(area.corners + border, area.side))
    lay(found, part.held.permute(0, 2, 3, 1), work.rows, Area(inner.corners - area.corners, inner.side))
    return found.permute(0, 3, 1, 2)


def cut(images: Tensor, rows: NDArray[np.int64], area: Area) -> Tensor:
    """Windows (M, side, side, C) of contiguous ``images`` (N, H, W, C), the m-th of image ``rows[m]``; a copy."""
    windows, at = _windows(images, rows, area)
    return torch.from_numpy(windows[at]).view(images.dtype)


def lay(images: Tensor, held: Tensor, rows: NDArray[np.int64], area: Area) -> None:
    """Put ``held`` (M, side, side, C) where ``cut`` would take it from."""
    windows, at = _windows(images, rows, area)
    windows[at] = _array(held)


def _array(values: Tensor) -> NDArray[Any]:
    """``values`` as numpy has them; what it does not know, as integers of the same size."""
    return (values.view(torch.int16) if values.dtype is torch.bfloat16 else values).numpy()


def _windows(images: Tensor, rows: NDArray[np.int64], area: Area) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """All windows (n, side, side, C) of contiguous images, and which of them: numpy copies them faster than torch."""
    array, side = _array(images), area.side
    count, height, width, channels = array.shape
    _, line, pixel, one = array.strides
    shape = (count * height * width - (side - 1) * (width + 1), side, side, channels)
    windows: NDArray[Any] = np.ndarray(shape, array.dtype, array.data, 0, (pixel, line, pixel, one))
    return windows, (rows * height + area.corners[0]) * width + area.corners[1]


def _flat(value: Tensor) -> bool:
    """Whether it is the same for every row and everywhere in a map."""
    return value.dim() == 0 or (
        value.dim() in {3, 4} and value.shape[-1] == value.shape[-2] == 1 and (value.dim() == 3 or len(value) == 1)
    )


def _pointwise(func: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
    """An operation on every value by itself."""
    if kwargs.pop("inplace", False):
        return _in_place(args[0], _pointwise(func, *args, **kwargs))
    if kwargs.get("out") is not None or any(value is True for value in args):
        raise UnsuitedError("an operation in place that windows cannot follow")
    parts = [value for value in args if isinstance(value, Partial)]
    others = [value for value in args if isinstance(value, Tensor) and not isinstance(value, Partial)]
    same = all(part.extent == parts[0].extent and part.held.shape[:2] == parts[0].held.shape[:2] for part in parts)
    if not parts or not same or not all(map(_flat, others)):
        return NotImplemented
    area = _common(parts)
    if area is None:
        return NotImplemented
    held = [_widened(value, area) if isinstance(value, Partial) else value for value in args]
    lead = parts[0]
    plain = str([value for value in args if not isinstance(value, Tensor)]) + (str(kwargs) if kwargs else "")
    key = lead.work.key(others, func, tuple(part.key for part in parts), plain)
    return lead.work.result(key, func(*held, **kwargs), area, lead.extent)


def _also_in_place(plain: Any) -> Callable[..., Any]:  # noqa: ANN401
    """The rule for an operation that does in place what ``plain`` does."""

    def rule(func: Any, target: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        return _in_place(target, _pointwise(plain, target, *args, **kwargs))

    return rule


def _in_place(target: Any, result: Any) -> Any:  # noqa: ANN401
    """``target``, which is ``result`` from now on."""
    if not isinstance(target, Partial) or not isinstance(result, Partial) or result.held.dtype != target.held.dtype:
        raise UnsuitedError("an operation in place that windows cannot follow")
    target.key, target.held, target.area = result.key, result.held, result.area
    return target


def _common(parts: Sequence[Partial]) -> Area | None:
    """Windows that hold those of all parts; None where they would not fit the map."""
    areas = [part.area for part in parts]
    lead = max(areas, key=lambda area: area.side)
    if parts[0].work.anchors is None or all(area is lead or _inside(area, lead) for area in areas):
        return lead
    first = np.minimum.reduce([area.corners for area in areas])
    last = np.maximum.reduce([area.corners + area.side for area in areas])
    side, extent = int((last - first).max()), parts[0].extent
    if side > min(extent):
        return None
    return Area(np.minimum(first, [[length - side] for length in extent]), side)


def _inside(inner: Area, outer: Area) -> bool:
    """Whether all windows lie inside the others."""
    off = inner.corners - outer.corners
    return bool(off.min() >= 0 and off.max() <= outer.side - inner.side)


def _widened(part: Partial, area: Area) -> Tensor:
    """The values of ``part`` in ``area``, whose windows hold its own."""
    inner = part.area
    if part.work.anchors is None:
        if inner.side < area.side:
            part.work.need(part.key)
        return part.held
    if inner is area or (inner.side == area.side and np.array_equal(inner.corners, area.corners)):
        return part.held
    return _around(part, area, 0)


@dataclass(frozen=True)
class _Slide:
    """How a kernel goes over windows: a window of side s changes ``side`` results, made of ``source`` pixels."""

    step: int
    back: int
    """A result stands for the pixels from ``step`` times its place minus this on."""
    reach: int
    size: tuple[int, int]
    """(H, W) of the results."""
    side: int
    source: int
    margin: int
    """How far the window may lie outside its source, because nothing looks there."""
    border: int
    """How far the source and its margin may reach beyond the map."""
    last: NDArray[np.int64]
    """(2, 1): the last corner of a window of results."""

    def area(self, area: Area) -> Area:
        """Windows of results that change."""
        corners = (area.corners + (self.back - self.reach + self.step - 1)) // self.step
        np.minimum(corners, self.last, out=corners)
        return Area(np.maximum(corners, 0, out=corners), self.side)

    def take(self, part: Partial, area: Area) -> Tensor:
        """What the results in ``area`` are made of, (M, C, source, source)."""
        margin = self.margin
        around = Area(area.corners * self.step - (self.back + margin), self.source + 2 * margin)
        found = _around(part, around, self.border)
        if margin:
            found = found[:, :, margin:-margin, margin:-margin].contiguous(memory_format=torch.channels_last)
        return found


@functools.lru_cache(4096)
def _slide(
    side: int,
    shape: tuple[int, int],
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
) -> _Slide | None:
    """How windows of ``side`` in maps of ``shape`` (H, W) go through.

    None where squares cannot describe it, or would cover too much of the map.
    """
    if any(len(set(both)) != 1 for both in (kernel, stride, padding, dilation)):
        return None
    step, pad, reach = stride[0], padding[0], (kernel[0] - 1) * dilation[0]
    height, width = ((length + 2 * pad - reach - 1) // step + 1 for length in shape)
    changed = (side - 1 + reach) // step + 1
    if changed > min(height, width) or changed * changed > SHARE * height * width:
        return None
    unseen = max((length + 2 * pad - reach - 1) % step - pad for length in shape)
    margin = max(0, step - 1 - reach, unseen)
    source = (changed - 1) * step + reach + 1
    last = np.array([[height - changed], [width - changed]])
    return _Slide(step, pad, reach, (height, width), changed, source, margin, pad + margin, last)


def _two(value: Any) -> tuple[int, ...] | None:  # noqa: ANN401
    """One for each dimension of an image; None where they are given in words."""
    if isinstance(value, int):
        return (value, value)
    return None if isinstance(value, str) else tuple(value) * (2 // max(1, len(value)))


def _slid(
    func: Callable[[Tensor], Tensor],
    part: Partial,
    name: object,
    constants: Sequence[Tensor],
    slide: _Slide,
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
    return work.result(key, func(part.held if alone else slide.take(part, area)), area, slide.size)


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
    slide = _slide(image.area.side, image.extent, kernel, steps, pads, apart)
    if slide is None:
        return NotImplemented
    inside = pads if image.work.anchors is None else (0, 0)
    return _slid(
        lambda values: func(values, weight, bias, steps, inside, apart, groups), image,
        (func, tuple(weight.shape), steps, pads, apart, groups), [weight] if bias is None else [weight, bias], slide,
        alone=kernel == steps == (1, 1) and pads == (0, 0),
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
    # Dilation, ceil_mode and the like: what is not their usual value is left alone.
    unusual = [value for value in (*args, *kwargs.values()) if value not in (1, False, None)]
    unusual += [name for name in ("ceil_mode", "return_indices") if kwargs.get(name)]
    if not isinstance(image, Partial) or not kernel or not steps or pads != (0, 0) or unusual or True in args:
        return NotImplemented
    slide = _slide(image.area.side, image.extent, kernel, steps, (0, 0), (1, 1))
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


def _rules() -> dict[Any, Callable[..., Any]]:
    """What is done on windows, by the function that a network calls."""
    found: dict[Any, Callable[..., Any]] = {
        torch.conv2d: _convolution, F.avg_pool2d: _pooling, torch.max_pool2d: _pooling, F.max_pool2d: _pooling,
        F.batch_norm: _batch_norm, F.interpolate: _interpolated,
    }  # fmt: skip
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
    return found


_POINTWISE = """
relu relu6 leaky_relu elu selu celu silu gelu sigmoid tanh hardtanh hardswish hardsigmoid mish softplus threshold clamp
clamp_min clamp_max neg abs exp square clone detach contiguous to float add sub mul div truediv true_divide pow
"""
_RULES = _rules()
