"""A chain of operations and the way back to its gradient."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from harness.worker.chains.program import Convolution, Kind, Program, Size, Step, empty, floats_of, lying
from harness.worker.convolutions.differentiable import convolution


def _backwards(
    steps: Sequence[Step], sizes: Sequence[Size], known: Sequence[int], wanted: Sequence[int]
) -> tuple[list[Step], list[Size], list[int]]:
    """Steps from gradients of the maps ``known`` to those of the maps ``wanted``, sizes, and what is given.

    Given are the gradients of ``known``, then those of ``wanted``, each of which one of ``known`` is made of.
    """
    needed = set(wanted)
    for step in steps:
        if needed.intersection(step.inputs):
            needed.add(step.result)
    made: list[Step] = []
    made_sizes = [sizes[value] for value in known]
    gradients = {value: number for number, value in enumerate(known)}

    def add(kind: Kind, inputs: tuple[int, ...], value: int, layer: Convolution | None = None, bits: int = 0) -> int:
        made_sizes.append(sizes[value])
        made.append(Step(kind, inputs, len(made_sizes) - 1, layer, bits))
        return len(made_sizes) - 1

    for step in reversed(steps):
        gradient = gradients.get(step.result)
        if gradient is None:
            continue
        for value in step.inputs:
            if value not in needed:
                continue
            part = gradient
            if step.convolution is not None:
                layer = step.convolution._replace(bias=None, back_to=sizes[value][:2])
                part = add(Kind.CONVOLUTION, (gradient,), value, layer)
            elif step.kind == Kind.ABOVE:
                part = add(Kind.CHOSEN, (gradient,), value, bits=step.bits)
            before = gradients.get(value)
            gradients[value] = part if before is None else add(Kind.SUM, (before, part), value)
    given = list(range(len(known)))
    for value in wanted:
        number = gradients[value]
        given.append(add(Kind.COPY, (number,), value) if number in given else number)
    return made, made_sizes, given


class Plan:
    """A chain of operations on maps (N, C, H, W), and its gradient."""

    def __init__(self, steps: Sequence[Step], sizes: Sequence[Size], sources: int, outputs: Sequence[int]) -> None:
        """``sizes`` (H, W, C) of all maps, of which the first ones are the ``sources``."""
        self.sources, self.outputs = sources, tuple(outputs)
        self._image_bits, self.steps = 0, []
        for step in steps:
            kept = step._replace(bits=self._image_bits) if step.kind == Kind.ABOVE else step
            self.steps.append(kept)
            if step.kind == Kind.ABOVE:
                self._image_bits += -(-floats_of(sizes[step.result]) // 8)
        self.length = len(self.steps)
        self.sizes = list(sizes)
        self._forward = Program(self.steps, sizes, [*range(sources), *outputs], self._image_bits)
        self._ways: dict[tuple[tuple[int, ...], tuple[int, ...]], Program] = {}

    def forward(self, sources: Sequence[Tensor], *, differentiable: bool) -> tuple[list[Tensor], Tensor | None]:
        """The outputs, and what ``back`` needs where that is wanted."""
        count = len(sources[0])
        bits = torch.empty((count, self._image_bits), dtype=torch.uint8) if differentiable else None
        results = [empty(count, self.sizes[value]) for value in self.outputs]
        self._forward.run([*map(lying, sources), *results], bits, count)
        return results, bits

    def back(self, gradients: Sequence[Tensor | None], bits: Tensor, wanted: Sequence[bool]) -> list[Tensor | None]:
        """Gradients of the sources that are ``wanted``, of those of the outputs; None for those that are zero."""
        known = tuple(value for value, item in zip(self.outputs, gradients, strict=True) if item is not None)
        reached = set(known)
        for step in reversed(self.steps):
            if step.result in reached:
                reached.update(step.inputs)
        asked = tuple(value for value in range(self.sources) if wanted[value] and value in reached)
        results = {value: empty(len(bits), self.sizes[value]) for value in asked}
        if asked:
            way = self._ways.get((known, asked))
            if way is None:
                steps, sizes, given = _backwards(self.steps, self.sizes, known, asked)
                way = self._ways[known, asked] = Program(steps, sizes, given, self._image_bits)
            there = [lying(item) for item in gradients if item is not None]
            way.run([*there, *results.values()], bits, len(bits))
        return [results.get(value) for value in range(self.sources)]

    def constants(self, value: int) -> list[Tensor]:
        """What the step that makes it works with besides maps."""
        layer = self.steps[value - self.sources].convolution
        return [] if layer is None else [layer.layer.weight, *([] if layer.bias is None else [layer.bias])]

    def one_by_one(self, sources: Sequence[Tensor]) -> list[Tensor]:
        """The outputs of the same operations, each by itself: derivatives of every kind."""
        maps: dict[int, Tensor] = dict(enumerate(sources))
        for step in self.steps:
            inputs = [maps[value] for value in step.inputs]
            if step.convolution is not None:
                layer, form, bias, _ = step.convolution
                maps[step.result] = convolution(inputs[0], layer, form, bias)
            else:
                maps[step.result] = inputs[0].relu() if step.kind == Kind.ABOVE else inputs[0] + inputs[1]
        return [maps[value] for value in self.outputs]


class _Chain(torch.autograd.Function):
    """A plan's operations in one."""

    @staticmethod
    def forward(ctx: Any, plan: Plan, *sources: Tensor) -> tuple[Tensor, ...]:  # noqa: ANN401
        outputs, ctx.bits = plan.forward(sources, differentiable=True)
        ctx.plan = plan
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*sources)
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Any, ...]:  # noqa: ANN401
        if not torch.is_grad_enabled():
            return None, *ctx.plan.back(gradients, ctx.bits, ctx.needs_input_grad[1:])
        # Further derivatives are wanted: gradients of operations that have them.
        sources = ctx.saved_tensors
        wanted = [source for source, needed in zip(sources, ctx.needs_input_grad[1:], strict=True) if needed]
        pairs = zip(ctx.plan.one_by_one(sources), gradients, strict=True)
        outputs, weights = zip(*((output, weight) for output, weight in pairs if weight is not None), strict=True)
        found = iter(torch.autograd.grad(outputs, wanted, weights, create_graph=True, allow_unused=True))
        return None, *(next(found) if needed else None for needed in ctx.needs_input_grad[1:])


def chained(plan: Plan, sources: Sequence[Tensor]) -> Sequence[Tensor]:
    """The outputs of ``plan``, differentiable with respect to the ``sources``."""
    if torch.is_grad_enabled() and any(source.requires_grad for source in sources):
        found: tuple[Tensor, ...] = _Chain.apply(plan, *sources)
        return found
    return plan.forward(sources, differentiable=False)[0]
