"""Tensors of which only a window is held, for images that differ from a known one in a small window.

A convolution passes a change on to its surroundings alone, so up to some depth most activations are those of the known
image. The network's own code runs as always, on tensors that hold a window of an activation (``rules`` says by which
operations); an operation that is not known there gets the whole activation, put together from the known one and the
window.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from harness.worker.descriptions import OF_VALUES, changes, describes, name_of
from harness.worker.windows.areas import Area, laid_into
from harness.worker.windows.known import Known, UnsuitedError


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
        self.written = False
        """Whether something was written to a whole activation in place of a part."""
        self._seen: Counter[tuple[object, ...]] = Counter()
        self._views: list[tuple[Tensor, int, Partial]] = []
        """Views of whole activations that the network's code was given, how often they had been written to, and of what
        they are views."""

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

    def given(self, found: Any, parts: Mapping[int, Partial]) -> None:  # noqa: ANN401
        """The network's code gets ``found``; ``parts`` are those of the whole activations it is made of, by storage."""
        for value in found if isinstance(found, list | tuple) else (found,):
            if isinstance(value, Tensor) and (part := parts.get(value.untyped_storage().data_ptr())) is not None:
                self._views.append((value, value._version, part))

    def taken_back(self, value: Any) -> None:  # noqa: ANN401
        """A view is written to what it is a view of, as ``x[:, 0] *= 2`` does in the end."""
        self._views = [item for item in self._views if item[0] is not value]

    def seen(self, part: Partial) -> bool:
        """Whether the network's code may hold other tensors with the memory of ``part``."""
        return part.shared or any(item is part for _, _, item in self._views)

    def close(self) -> None:
        """The pass is over; ``UnsuitedError`` if something was written to a view, which the part has not got."""
        if any(view._version != written for view, written, _ in self._views):
            raise UnsuitedError("an operation in place on a view")

    def bytes_per_image(self) -> int:
        """Bytes of the activations that are needed."""
        return sum(self.whole[key][0].nbytes for key in self.needed)

    def bytes_of_windows(self) -> int:
        """Bytes of all windows that were made."""
        return sum(held.nbytes for held, _ in self.windows.values())


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
    written: Tensor | None = None
    """The whole activation, once an operation in place was done on that."""
    shared: bool = False
    """Whether another part may have the same memory."""

    @classmethod
    def of(cls, work: Pass, key: int, held: Tensor, area: Area, size: Sequence[int]) -> Partial:
        """``size`` is (H, W) of the map."""
        height, width = size
        made = work.known.blank((*held.shape[:2], height, width), held.dtype).as_subclass(cls)
        made.work, made.key, made.held, made.area, made.extent = work, key, held, area, (height, width)
        return made

    def copied(self) -> Partial:
        """The same part, which stays what it is."""
        return Partial.of(self.work, self.key, self.held, self.area, self.extent)

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
        part = _first([*args, *kwargs.values()])
        if part is not None and part.work.written:
            args, kwargs = [_written(value) for value in args], {name: _written(kwargs[name]) for name in kwargs}
            part = _first([*args, *kwargs.values()])
        rule = None if part is None else part.work.known.rules.get(func)
        # Rules take what comes first by its place.
        if rule is not None and args:
            result = rule(func, *args, **kwargs)
            if result is not NotImplemented:
                return result
        elif name_of(func) == "data" and getattr(func, "__name__", "") == "__get__":
            return part
        elif name_of(func) in OF_VALUES:
            return func(*[value.held if isinstance(value, Partial) else value for value in args], **kwargs)
        elif describes(func):
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **kwargs)
        if part is not None and changes(func, args, kwargs):
            return _write(func, args, kwargs)
        parts: dict[int, Partial] = {}
        found = func(
            *(whole(value, parts) for value in args), **{name: whole(value, parts) for name, value in kwargs.items()}
        )
        if part is not None:
            part.work.given(found, parts)
        return found


def _first(values: Iterable[Any]) -> Partial | None:
    """The first part of an activation among ``values``."""
    for value in values:
        if isinstance(value, Partial):
            return value
        if isinstance(value, list | tuple) and (found := _first(value)) is not None:
            return found
    return None


def _written(value: Any) -> Any:  # noqa: ANN401
    """The whole activation where something was written to a part of one; lists of them too."""
    if isinstance(value, Partial):
        return value if value.written is None else value.written
    return type(value)(map(_written, value)) if type(value) in {list, tuple} else value


def _write(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:  # noqa: ANN401
    """An operation that writes to its first argument, on whole activations."""
    if not args or not isinstance(args[0], Tensor) or kwargs.get("out") is not None or name_of(func) in _UNWRITABLE:
        raise UnsuitedError("an operation in place that windows cannot follow")
    target, values = args[0], [whole(value) for value in args]
    if isinstance(target, Partial):
        if name_of(func) == "__setitem__":
            target.work.taken_back(args[-1])
        refuse_seen(target)
    found = func(*values, **{name: whole(value) for name, value in kwargs.items()})
    if isinstance(target, Partial):
        # Whoever else holds the part sees what is written to it from now on.
        target.written, target.work.written = values[0], True
    return found


def refuse_seen(target: Partial) -> None:
    """``UnsuitedError`` where what is about to be written to is seen by other tensors, which would not have it."""
    if target.work.seen(target):
        raise UnsuitedError("an operation in place on an activation of which there are views")


_UNWRITABLE = {"data", "grad", "set_", "resize_", "resize_as_", "swap_"}


_UNWRITABLE = {"data", "grad", "set_", "resize_", "resize_as_", "swap_"}


def whole(value: Any, parts: dict[int, Partial] | None = None) -> Any:  # noqa: ANN401
    """The whole activation where ``value`` is a part of one; lists of them too. ``parts`` is told whose it is."""
    if isinstance(value, list | tuple):
        return type(value)(whole(item, parts) for item in value) if type(value) in {list, tuple} else value
    if not isinstance(value, Partial):
        return value
    found = _put_together(value)
    if parts is not None:
        parts[found.untyped_storage().data_ptr()] = value
    return found


def _put_together(value: Partial) -> Tensor:
    """A copy of the whole activation."""
    work = value.work
    work.need(value.key)
    if work.anchors is None:
        # A copy: what is taken down must not change with it.
        return value.held.clone()
    table, border = work.known.map(value.key, 0, work.anchors)
    corners = np.full((2, len(work.anchors)), border)
    found = laid_into(table, work.anchors, corners, value.extent, _lying(value.held), value.area.corners)
    return found.permute(0, 3, 1, 2).contiguous(memory_format=work.known.layout)


def _lying(held: Tensor) -> Tensor:
    """(M, H, W, C) of (M, C, H, W)."""
    return held.permute(0, 2, 3, 1)


def around(part: Partial, area: Area, border: int) -> Tensor:
    """The activation in ``area``, which holds its window, (M, C, side, side): known values and the window's.

    The area reaches at most ``border`` beyond the map, where there are zeros.
    """
    work, inner = part.work, part.area
    assert work.anchors is not None
    table, border = work.known.map(part.key, border, work.anchors)
    found = laid_into(
        table, work.anchors, area.corners + border, (area.side, area.side), _lying(part.held),
        inner.corners - area.corners,
    )  # fmt: skip
    return found.permute(0, 3, 1, 2)
