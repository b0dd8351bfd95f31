"""Operations on windows of activations that are computed in one go, as ``chains`` does with whole ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from harness.worker.chains import Chains, free
from harness.worker.chains.plan import Plan
from harness.worker.chains.program import Kind, Program, Size, Step, empty, lying, together
from harness.worker.convolutions import Convolutions
from harness.worker.convolutions.winograd import TILE
from harness.worker.windows.areas import Area, Slide, inside
from harness.worker.windows.areas import slide as slide_of
from harness.worker.windows.known import UnsuitedError
from harness.worker.windows.partial import Partial, Pass

PROGRAMS = 256
"""Ways to compute a chain, by the sides of windows, that are remembered."""


class _Cut(NamedTuple):
    """A window of a known map with a window of ``value`` laid into it."""

    value: int
    size: tuple[int, int]
    border: int
    """How far it may reach beyond the map."""
    corners: Callable[[Mapping[int, Area]], Any]
    """Where it is, (2, M), by the windows of all values."""


def _at_origin(_: Mapping[int, Area]) -> Any:  # noqa: ANN401
    return 0


class _Near:
    """A plan whose sources are windows of some sides; numbers of values are the plan's."""

    def __init__(self, plan: Plan, sides: Sequence[int]) -> None:
        """``sides`` of the sources' windows, 0 for whole maps."""
        self.plan = plan
        self._sides = list(sides)
        self._place = list(range(plan.sources))
        """By value: another one whose windows are at the same places."""
        self._moves: list[Callable[[dict[int, Area]], None]] = []
        self.cuts: list[_Cut] = []
        self.slid = 0
        """Convolutions of windows."""
        self._numbers = list(range(plan.sources))
        """What a value's window, or whole map, is called in the program."""
        self._whole: dict[int, int] = {}
        self._made: list[Step] = []
        self._sizes: list[Size] = [
            (side, side, size[2]) if side else size for side, size in zip(sides, plan.sizes, strict=False)
        ]
        for step in plan.steps:
            if step.kind == Kind.CONVOLUTION:
                self._convolution(step)
            elif step.kind == Kind.SUM:
                self._sum(step)
            else:
                self._above(step)
        cut = {cut.value for cut in self.cuts if cut.value >= plan.sources}
        self.stored = [*plan.outputs, *sorted(cut.difference(plan.outputs))]
        """What is kept of what is made: outputs, then windows of known maps."""
        given = [*range(plan.sources), *(self._numbers[value] for value in self.stored)]
        # What is computed on windows is kept together, whatever their sizes.
        widest = max((size for size, step in self._results() if not self._of_whole(step)), default=(1, 1, 1))
        groups = [together(size if self._of_whole(step) else widest) for size, step in self._results()]
        self._program = Program(self._made, self._sizes, given, groups=groups)

    def side(self, value: int) -> int:
        """Of its windows; 0 where whole maps are computed."""
        return self._sides[value]

    def _results(self) -> list[tuple[Size, Step]]:
        return [(self._sizes[step.result], step) for step in self._made]

    def _of_whole(self, step: Step) -> bool:
        return step.result in self._wholes

    @property
    def _wholes(self) -> set[int]:
        whole = {number for number, side in zip(self._numbers, self._sides, strict=True) if not side}
        return whole | set(self._whole.values())

    def _add(self, kind: Kind, inputs: tuple[int, ...], size: Size, **about: Any) -> int:  # noqa: ANN401
        self._sizes.append(size)
        self._made.append(Step(kind, inputs, len(self._sizes) - 1, **about))
        return len(self._sizes) - 1

    def _around(
        self, value: int, size: tuple[int, int], border: int, corners: Callable[[Mapping[int, Area]], Any]
    ) -> int:
        self.cuts.append(_Cut(value, size, border, corners))
        made = (*size, self.plan.sizes[value][2])
        return self._add(Kind.AROUND, (self._numbers[value],), made, cut=len(self.cuts) - 1)

    def _all_of(self, value: int) -> int:
        """Its whole map."""
        if not self._sides[value]:
            return self._numbers[value]
        if value not in self._whole:
            self._whole[value] = self._around(value, self.plan.sizes[value][:2], 0, _at_origin)
        return self._whole[value]

    def _result(self, number: int, side: int, place: int) -> None:
        self._numbers.append(number)
        self._sides.append(side)
        self._place.append(place)

    def _convolution(self, step: Step) -> None:
        assert step.convolution is not None
        (value,) = step.inputs
        size, result = self.plan.sizes[step.result], step.result
        form, kernel = step.convolution.form, tuple(step.convolution.layer.weight.shape[2:])
        slide = self._slide(value, kernel, *form)
        if slide is None:
            number = self._add(Kind.CONVOLUTION, (self._all_of(value),), size, convolution=step.convolution)
            self._result(number, 0, result)
            return
        alone = kernel == form.stride == (1, 1) and form.padding == (0, 0)
        source = self._numbers[value] if alone else self._before(value, result, slide)
        own = step.convolution._replace(form=form._replace(padding=(0, 0)))
        number = self._add(Kind.CONVOLUTION, (source,), (slide.side, slide.side, size[2]), convolution=own)
        place = self._place[value]
        self._result(number, slide.side, result)
        self._moves.append(lambda areas: areas.__setitem__(result, slide.area(areas[place])))
        self.slid += 1

    def _slide(
        self, value: int, kernel: tuple[int, ...], stride: Any, padding: Any, dilation: Any, tiled: bool  # noqa: ANN401
    ) -> Slide | None:  # fmt: skip
        side, extent = self._sides[value], self.plan.sizes[value][:2]
        return slide_of(side, extent, kernel, stride, padding, dilation, TILE if tiled else 1) if side else None

    def _before(self, value: int, result: int, slide: Slide) -> int:
        """What the results in a window are made of."""
        size = slide.source, slide.source
        return self._around(value, size, slide.back, lambda areas: areas[result].corners * slide.step - slide.back)

    def _above(self, step: Step) -> None:
        (value,) = step.inputs
        number = self._numbers[value]
        self._result(self._add(step.kind, (number,), self._sizes[number]), self._sides[value], self._place[value])

    def _sum(self, step: Step) -> None:
        one, other = step.inputs
        sides = self._sides[one], self._sides[other]
        if not all(sides):
            both = self._all_of(one), self._all_of(other)
            self._result(self._add(step.kind, both, self.plan.sizes[step.result]), 0, step.result)
            return
        lead = max((one, other), key=self._sides.__getitem__)
        place, side = self._place[lead], self._sides[lead]
        both = self._widened(one, place, side), self._widened(other, place, side)
        self._result(self._add(step.kind, both, self._sizes[self._numbers[lead]]), side, place)

    def _widened(self, value: int, place: int, side: int) -> int:
        """Its values in the windows of another value, which hold its own."""
        own = self._place[value]
        if own == place:
            return self._numbers[value]
        self._moves.append(lambda areas: _refuse_outside(areas[own], areas[place]))
        return self._around(value, (side, side), 0, lambda areas: areas[place].corners)

    def run(self, sources: Sequence[Tensor], work: Pass, keys: Callable[[int], int]) -> list[Tensor]:
        """What is ``stored``; parts of activations where those are windows."""
        assert work.anchors is not None
        count, plan = len(work.anchors), self.plan
        areas = {at: item.area for at, item in enumerate(sources) if isinstance(item, Partial)}
        for move in self._moves:
            move(areas)
        cuts, held = [], []
        numbers = np.ascontiguousarray(work.anchors)
        for cut in self.cuts:
            table, border = work.known.map(keys(cut.value), cut.border, work.anchors)
            inner = areas[self._place[cut.value]]
            at = np.broadcast_to(cut.corners(areas), inner.corners.shape)
            corners, places = np.ascontiguousarray(at + border), np.ascontiguousarray(inner.corners - at)
            held.append((corners, places))
            addresses = numbers.ctypes.data, corners.ctypes.data, places.ctypes.data
            cuts.append((table.data_ptr(), *table.shape[:3], *addresses, count, *cut.size, inner.side))
        results = [empty(count, self._sizes[self._numbers[value]]) for value in self.stored]
        given = [lying(item.held if isinstance(item, Partial) else item) for item in sources]
        self._program.run([*given, *map(lying, results)], None, count, torch.tensor(cuts, dtype=torch.int64))
        work.slid += self.slid
        return [
            work.result(keys(value), made, areas[self._place[value]], plan.sizes[value][:2])
            if self._sides[value]
            else made
            for value, made in zip(self.stored, results, strict=True)
        ]


def _refuse_outside(inner: Area, outer: Area) -> None:
    if not inside(inner, outer):
        raise UnsuitedError("windows that do not lie in each other")


class NearChains(Chains):
    """Writes down what is done with parts of activations as well, and computes it on their windows."""

    def __init__(self, convolutions: Convolutions) -> None:
        super().__init__(convolutions)
        self._programs: dict[tuple[int, tuple[int, ...]], _Near] = {}
        self._complete: dict[int, tuple[Plan, Plan]] = {}

    def suits(self, value: Any) -> bool:  # noqa: ANN401
        """Whether an operation on it may be written down."""
        if isinstance(value, Partial):
            return free() and not value.work.written and value.held.dtype is torch.float32
        return super().suits(value)

    def source(self, item: Tensor) -> Tensor:
        """A part as it is now: what is done in its place later makes it another one."""
        return item.copied() if isinstance(item, Partial) else item

    def perform(self, plan: Plan, sources: Sequence[Tensor]) -> Sequence[Tensor]:
        """The outputs of a plan; parts where they are windows."""
        parts = [item for item in sources if isinstance(item, Partial)]
        if not parts:
            return super().perform(plan, sources)
        near = self._near(plan, [item.area.side if isinstance(item, Partial) else 0 for item in sources])
        work, names = parts[0].work, tuple(part.key for part in parts)
        known: dict[int, int] = {}

        def keys(value: int) -> int:
            if value < plan.sources:
                part = sources[value]
                assert isinstance(part, Partial)
                return part.key
            if value not in known:
                known[value] = work.key(plan.constants(value), "chain", id(plan), names, value)
            return known[value]

        if work.anchors is None:
            return self._taken_down(near, sources, work, keys)
        return near.run(sources, work, keys)[: len(plan.outputs)]

    def _near(self, plan: Plan, sides: Sequence[int]) -> _Near:
        found = self._programs.get((id(plan), tuple(sides)))
        if found is None:
            if len(self._programs) >= PROGRAMS:
                self._programs.clear()
            found = self._programs[id(plan), tuple(sides)] = _Near(plan, sides)
        return found

    def _taken_down(
        self, near: _Near, sources: Sequence[Tensor], work: Pass, keys: Callable[[int], int]
    ) -> list[Tensor]:
        """The outputs for whole activations; what windows of any side could need of others is kept."""
        plan = near.plan
        values = range(plan.sources, len(plan.sizes))
        if id(plan) not in self._complete:
            # With the plan itself, so that no other one gets its number.
            self._complete[id(plan)] = plan, Plan(plan.steps, plan.sizes, plan.sources, values)
        _, complete = self._complete[id(plan)]
        whole = [item.held if isinstance(item, Partial) else item for item in sources]
        made = dict(zip(values, complete.forward(whole, differentiable=False)[0], strict=True))
        for value, maps in made.items():
            work.whole[keys(value)] = maps
        for cut in near.cuts:
            work.need(keys(cut.value), cut.border)
        corners = np.empty((2, 0), np.int64)
        return [
            work.result(keys(value), made[value], Area(corners, near.side(value)), plan.sizes[value][:2])
            if near.side(value)
            else made[value].clone()
            for value in plan.outputs
        ]
