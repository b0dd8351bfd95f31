"""Steps of a chain, one after the other: where their maps lie, and which images go through them together."""

from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

import torch
from torch import Tensor

from harness.worker.convolutions.differentiable import in_threads
from harness.worker.convolutions.layer import Form, Layer, Pair
from harness.worker.convolutions.vectors import compiled, lanes_for

TOGETHER = 768
"""Places of a map, over all images that are computed together: fewer fill too few tiles, more leave the cache."""


class Kind(IntEnum):
    """What a step does; ``compiled.c`` knows the numbers."""

    CONVOLUTION, ABOVE, CHOSEN, SUM, COPY, AROUND = range(6)


class Convolution(NamedTuple):
    """One use of a layer."""

    layer: Layer
    form: Form
    bias: Tensor | None
    back_to: Pair | None
    """The size (H, W) of the images, on the way back from their results."""


class Step(NamedTuple):
    """One operation; maps are named by numbers."""

    kind: Kind
    inputs: tuple[int, ...]
    result: int
    convolution: Convolution | None = None
    bits: int = 0
    """Where those of an image begin that say which values were above zero, for ABOVE and CHOSEN."""
    cut: int = 0
    """Which of the cuts, for AROUND: a window of a known map with another one, the input, laid into it."""


Size = tuple[int, int, int]
"""(H, W, C) of a map."""
_GIVEN, _ALL, _FEW = range(3)


def together(size: Size) -> int:
    """Images whose maps of that size are computed together."""
    return max(1, -(-TOGETHER // (size[0] * size[1])))


class _Room:
    """Who lies where in a row of floats."""

    def __init__(self) -> None:
        self.most = 0
        self._taken: dict[int, tuple[int, int]] = {}

    def take(self, who: int, floats: int) -> int:
        """Where it has room now."""
        start = 0
        for begin, end in sorted(self._taken.values()):
            if begin - start >= floats:
                break
            start = max(start, end)
        self._taken[who] = start, start + floats
        self.most = max(self.most, start + floats)
        return start

    def hand_over(self, one: int, other: int) -> int:
        """The room of one is another's now."""
        self._taken[other] = self._taken.pop(one)
        return self._taken[other][0]

    def leave(self, who: int) -> None:
        """Its room is free again."""
        self._taken.pop(who, None)


class Program:
    """Steps whose maps have been given their places."""

    def __init__(
        self,
        steps: Sequence[Step],
        sizes: Sequence[Size],
        given: Sequence[int],
        image_bits: int = 0,
        groups: Sequence[int] | None = None,
    ) -> None:
        """``sizes`` of all maps; ``given``: those that are read from, or written to, tensors (N, H, W, C).

        ``groups``: images that are computed together in each step, where it is not by the size of the result.
        """
        self._image_bits = image_bits
        groups = groups or [together(sizes[step.result]) for step in steps]
        places = _placed(steps, sizes, given, groups)
        self._floats = (places.all, places.few)
        jobs: list[Tensor] = []
        rows = []
        for step, group in zip(steps, groups, strict=True):
            address, bias = step.cut, 0
            if step.convolution is not None:
                jobs.append(_job(step.convolution, sizes[step.inputs[0]], sizes[step.result]))
                address = jobs[-1].data_ptr()
                bias = 0 if step.convolution.bias is None else step.convolution.bias.data_ptr()
            rows.append([step.kind, step.inputs[0], step.inputs[-1], step.result, step.bits, address, bias, group])
        self._steps = torch.tensor(rows, dtype=torch.int64)
        self._values = torch.tensor(places.values, dtype=torch.int64)
        self._held = jobs, steps
        """What the addresses point to."""
        self._lanes = lanes_for(1 << 16)

    def run(self, given: Sequence[Tensor], bits: Tensor | None, count: int, cuts: Tensor | None = None) -> None:
        """Compute ``count`` images from the ``given`` tensors, and into them; ``bits`` is uint8 (N, image_bits).

        ``cuts``: int64 (n, 11), as ``compiled.c`` has them.
        """
        addresses = torch.tensor([tensor.data_ptr() for tensor in given], dtype=torch.int64)

        def run(start: int, rows: int) -> None:
            compiled.chain(
                self._lanes, self._steps.data_ptr(), len(self._steps), self._values.data_ptr(),
                self._floats, addresses.data_ptr(), 0 if bits is None else bits.data_ptr(),
                self._image_bits, 0 if cuts is None else cuts.data_ptr(), start, rows,
            )  # fmt: skip

        in_threads(run, count)


def _job(convolution: Convolution, size: Size, made: Size) -> Tensor:
    """What ``compiled.c`` needs to know, in memory that stays where it is."""
    layer, form, _, back_to = convolution
    ready = layer.ready(form, size[:2], made[:2], back=back_to is not None)
    job = ready.job(size[:2], made[:2])
    return torch.frombuffer(bytearray(job), dtype=torch.uint8)


class _Places(NamedTuple):
    values: list[tuple[int, int, int]]
    """Of every map: where, offset, floats of an image."""
    all: int
    few: int


def _stretches(groups: Sequence[int]) -> list[int]:
    """A number for every step; neighbours whose groups are of one size have the same."""
    found = [0]
    for group, before in zip(groups[1:], groups, strict=False):
        found.append(found[-1] + (group != before))
    return found


def _placed(steps: Sequence[Step], sizes: Sequence[Size], given: Sequence[int], groups: Sequence[int]) -> _Places:
    """A stretch takes a few images through all of its steps; what it leaves to others is kept for all images."""
    stretches = _stretches(groups)
    last: dict[int, int] = {}
    users: dict[int, set[int]] = {}
    for at, step in enumerate(steps):
        for value in (*step.inputs, step.result):
            last[value] = at
            users.setdefault(value, set()).add(stretches[at])
    places: dict[int, tuple[int, int]] = {value: (_GIVEN, at) for at, value in enumerate(given)}
    few, every = _Room(), _Room()
    ends = dict(zip(stretches, range(len(steps)), strict=True))

    def place(step: Step, at: int) -> tuple[int, int]:
        floats = floats_of(sizes[step.result])
        spent = [value for value in step.inputs if last[value] == at and places[value][0] == _FEW]
        if len(users[step.result]) > 1:
            return _ALL, every.take(step.result, floats)
        if step.kind not in {Kind.CONVOLUTION, Kind.AROUND} and spent:
            return _FEW, few.hand_over(spent[0], step.result)
        return _FEW, few.take(step.result, floats * groups[at])

    for at, step in enumerate(steps):
        if step.result not in places:
            places[step.result] = place(step, at)
        for value in step.inputs:
            if last[value] == at:
                few.leave(value)
        if ends[stretches[at]] == at:
            for value, end in last.items():
                if end <= at:
                    every.leave(value)
    values = [(*places.get(value, (_GIVEN, 0)), floats_of(size)) for value, size in enumerate(sizes)]
    return _Places(values, every.most, few.most)


def floats_of(size: Size) -> int:
    """Floats of an image's maps."""
    return size[0] * size[1] * size[2]


def empty(count: int, size: Size) -> Tensor:
    """Room for maps (N, C, H, W) that lie as (N, H, W, C)."""
    # Not a view: those that an autograd function makes may not be written to.
    return torch.empty((count, size[2], *size[:2]), memory_format=torch.channels_last)


def lying(maps: Tensor) -> Tensor:
    """(N, H, W, C) of (N, C, H, W)."""
    return maps.permute(0, 2, 3, 1).contiguous()
