"""Convolutions of our own, and what lies between them, computed in one go.

A network's convolutions, additions and ReLUs are only written down while its code runs on stand-ins; once somebody
wants values, all that leads to them is computed in C, a few images at a time so that their maps stay in the cache.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from harness.worker.chains.plan import Plan, chained
from harness.worker.chains.program import Convolution, Kind, Size, Step
from harness.worker.convolutions import Convolutions
from harness.worker.convolutions.differentiable import convolution
from harness.worker.descriptions import OF_VALUES, describes, name_of

PLANS = 64
"""Chains that are remembered; a network has few, unless it does something else each time."""
WORTH = 2
"""Operations of a chain that are no faster in one go than one by one."""
_HERE = torch.empty(0)


class _Node:
    """An operation that was written down."""

    def __init__(
        self,
        kind: Kind,
        inputs: Sequence[_Node | Tensor],
        size: Size,
        convolution: Convolution | None = None,
    ) -> None:
        self.kind, self.size, self.convolution = kind, size, convolution
        self.recording = torch.is_grad_enabled()
        self.inputs: list[tuple[_Node | Tensor, int]] = []
        """What it works with; tensors with how often they had been written to."""
        self.graded = False
        for item in inputs:
            if isinstance(item, _Node):
                self.inputs.append((item, 0))
                self.graded |= item.graded
            else:
                self.inputs.append((item, item._version))
                self.graded |= item.requires_grad
        self.graded &= self.recording
        self.value: Tensor | None = None
        self.written = 0
        """How often the value had been written to when it was made."""
        self.holder: weakref.ref[Deferred] | None = None

    @property
    def held(self) -> bool:
        """Whether the network's code may still ask for its value."""
        holder = None if self.holder is None else self.holder()
        return holder is not None and holder.node is self


class Deferred(Tensor):
    """A stand-in for maps (N, C, H, W) that are computed once their values are wanted; it has a shape and no memory."""

    node: _Node
    chains: Chains

    def hold(self, node: _Node) -> Deferred:
        """Stand for ``node`` from now on."""
        self.node, node.holder = node, weakref.ref(self)
        return self

    @classmethod
    def __torch_function__(
        cls,
        func: Any,  # noqa: ANN401
        types: Any,  # noqa: ANN401
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        """What it is like without its values, everything else with them."""
        kwargs = kwargs or {}
        name = name_of(func)
        if len(args) > 0 and isinstance(args[0], Deferred) and getattr(func, "__name__", "") != "__set__":
            if name == "requires_grad":
                return args[0].node.graded
            if name in OF_VALUES:
                return func(_HERE, *args[1:], **kwargs)
            if describes(func) and name not in {"grad_fn", "is_leaf"}:
                with torch._C.DisableTorchFunctionSubclass():
                    return func(*args, **kwargs)
        return func(*_values(args), **{name: _values(value) for name, value in kwargs.items()})


def _values(value: Any) -> Any:  # noqa: ANN401
    """Computed maps where ``value`` is a stand-in; lists and the like of them too."""
    if isinstance(value, Deferred):
        return value.chains.value(value)
    if type(value) in {list, tuple}:
        return type(value)(map(_values, value))
    if type(value) is dict:
        return {name: _values(item) for name, item in value.items()}
    return value


class Chains(TorchFunctionMode):
    """While it is on, operations of a network that can be computed in one go are written down until they are."""

    def __init__(self, convolutions: Convolutions) -> None:
        """``convolutions`` knows the layers; nothing else is written down until one of them comes."""
        super().__init__()
        self._convolutions = convolutions
        self._plans: dict[tuple[object, ...], Plan] = {}
        self._blanks: dict[tuple[int, ...], Tensor] = {}
        self.lost = False
        """Whether a gradient may have lost its way, or something was changed that was still to be read."""

    def __enter__(self) -> Chains:
        """Begin anew."""
        self.lost = False
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def told(self) -> list[str]:
        """How many operations are computed in one go, for a record; nothing where hardly any are."""
        lengths = [plan.length for plan in self._plans.values()]
        return [f"chained={max(lengths)}"] if sum(lengths) > WORTH * len(lengths) else []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        """Write down what can be; everything else as always."""
        kwargs = kwargs or {}
        rule = _RULES.get(func)
        if rule is not None:
            found = rule(self, *args, **kwargs)
            if found is not None:
                return found
        if Deferred in types:
            return Deferred.__torch_function__(func, types, args, kwargs)
        return func(*args, **kwargs)

    def computed(self, output: object) -> object:
        """What a network returned, with values if it is a stand-in for them."""
        return _values(output)

    def value(self, stand_in: Deferred) -> Tensor:
        """Its maps, computed if they have not been."""
        node = stand_in.node
        if node.graded and not torch.is_grad_enabled():
            # An autograd function of the network's own does not know that it is given part of a graph.
            self.lost = True
        if node.value is None:
            self._compute(node)
        assert node.value is not None
        return node.value

    def _compute(self, target: _Node) -> None:
        """Make values of ``target``, and of what is held on the way."""
        nodes, sources, numbers = self._before(target)
        steps, sizes, wanted = [], [_size(source) for source in sources], [target]
        for number, node in enumerate(nodes, len(sources)):
            numbers[id(node)] = number
            inputs = tuple(numbers[id(item)] for item, _ in node.inputs)
            steps.append(Step(node.kind, inputs, number, node.convolution))
            sizes.append(node.size)
            if node.held and node is not target:
                wanted.append(node)
        outputs = [numbers[id(node)] for node in wanted]
        asked = (*(_named(step) for step in steps), *sizes[: len(sources)], *outputs)
        plan = self._plans.get(asked)
        if plan is None:
            if len(self._plans) >= PLANS:
                self._plans.clear()
            plan = self._plans[asked] = Plan(steps, sizes, len(sources), outputs)
        with torch.set_grad_enabled(target.recording):
            values = self.perform(plan, sources)
        with torch._C.DisableTorchFunctionSubclass():
            for node, value in zip(wanted, values, strict=True):
                node.value, node.written, node.inputs = value, value._version, []

    def perform(self, plan: Plan, sources: Sequence[Tensor]) -> Sequence[Tensor]:
        """The outputs of a plan."""
        return chained(plan, sources)

    def _before(self, target: _Node) -> tuple[list[_Node], list[Tensor], dict[int, int]]:
        """What leads to ``target`` in an order that can be computed, the tensors it begins with, their numbers."""
        nodes: list[_Node] = []
        sources: list[Tensor] = []
        numbers: dict[int, int] = {}
        met: set[int] = set()
        waiting = [(target, False)]
        while waiting:
            node, ready = waiting.pop()
            if ready:
                nodes.append(node)
            elif id(node) not in met:
                met.add(id(node))
                waiting.append((node, True))
                for item, written in node.inputs:
                    if isinstance(item, _Node) and item.value is None:
                        waiting.append((item, False))
                        continue
                    given, before = (item.value, item.written) if isinstance(item, _Node) else (item, written)
                    assert given is not None
                    with torch._C.DisableTorchFunctionSubclass():
                        # One that was written to in between may come a second time.
                        self.lost |= given._version != before
                    if id(item) not in numbers:
                        numbers[id(item)] = len(sources)
                        sources.append(given)
        return nodes, sources, numbers

    def _written_down(
        self, kind: Kind, inputs: Sequence[Tensor], size: Size, layer: Convolution | None = None
    ) -> Deferred:
        """A stand-in for the result of an operation; ``size`` is that of its maps."""
        nodes = [self._input(item) for item in inputs]
        with torch._C.DisableTorchFunctionSubclass():
            count = inputs[0].shape[0]
            node = _Node(kind, nodes, size, layer)
        blank = self._blanks.get((count, *size))
        if blank is None:
            height, width, channels = size
            blank = torch.empty((count, height, width, channels), device="meta").permute(0, 3, 1, 2)
            self._blanks[count, *size] = blank
        made = blank.as_subclass(Deferred)
        made.chains = self
        made.hold(node)
        return made

    def _input(self, item: Tensor) -> _Node | Tensor:
        """What an operation that is written down now works with."""
        if not isinstance(item, Deferred):
            return self.source(item)
        node = item.node
        if node.value is None and node.recording == torch.is_grad_enabled():
            return node
        return self.value(item)

    def source(self, item: Tensor) -> Tensor:
        """What an operation works with that begins a chain with ``item``."""
        return item

    def suits(self, value: Any) -> bool:  # noqa: ANN401
        """Whether an operation on it may be written down."""
        return free() and (isinstance(value, Deferred) or _plain(value))

    def convolution(self, *args: Any, **kwargs: Any) -> Tensor | None:  # noqa: ANN401
        """``torch.conv2d``; None where it is not ours."""
        found = self._convolutions.match(*args, **kwargs)
        if found is None:
            return None
        layer, form, bias = found
        image = args[0] if args else kwargs["input"]
        if not (self.suits(image) and (bias is None or isinstance(bias, nn.Parameter))):
            return convolution(_values(image), layer, form, bias)
        shape = _shape(image)
        made = form.made(shape[2:], layer.weight.shape[2:])
        return self._written_down(
            Kind.CONVOLUTION, [image], (*made, layer.weight.shape[0]), Convolution(layer, form, bias, None)
        )

    def above(self, input: Any, inplace: bool = False) -> Tensor | None:  # noqa: ANN401
        """ReLU of a stand-in, which is its own result from then on where it is wanted in place."""
        if not isinstance(input, Deferred) or not self.suits(input) or (inplace and input.node.value is not None):
            return None
        made = self._written_down(Kind.ABOVE, [input], input.node.size)
        return input.hold(made.node) if inplace else made

    def above_in_place(self, input: Any) -> Tensor | None:  # noqa: ANN401
        """The same in place."""
        return self.above(input, inplace=True)

    def sum(self, *both: Any, inplace: bool = False, **others: Any) -> Tensor | None:  # noqa: ANN401
        """The sum of two maps of the same shape, of which the first may be in place."""
        stand_ins = [item for item in both if isinstance(item, Deferred)]
        if len(both) != 2 or others or not stand_ins or not all(map(self.suits, both)):
            return None
        if _shape(both[0]) != _shape(both[1]):
            return None
        first = both[0]
        if inplace and (not isinstance(first, Deferred) or first.node.value is not None):
            return None
        made = self._written_down(Kind.SUM, both, stand_ins[0].node.size)
        return first.hold(made.node) if inplace else made

    def sum_in_place(self, *both: Any, **others: Any) -> Tensor | None:  # noqa: ANN401
        """The same in place."""
        return self.sum(*both, inplace=True, **others)


def _shape(value: Tensor) -> torch.Size:
    with torch._C.DisableTorchFunctionSubclass():
        return value.shape


def _size(value: Tensor) -> Size:
    """(H, W, C) of maps (N, C, H, W)."""
    _, channels, height, width = _shape(value)
    return height, width, channels


def free() -> bool:
    """Whether nobody else watches what is done, and it is done with numbers."""
    return not (
        torch._C._len_torch_function_stack()
        or torch._C._len_torch_dispatch_stack()
        or torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
        or torch.is_inference_mode_enabled()
    )


def _plain(value: Any) -> bool:  # noqa: ANN401
    """Whether they are maps of float32 on a processor."""
    plain = type(value) is Tensor and value.dtype is torch.float32 and value.device.type == "cpu"
    return plain and value.dim() == 4 and len(value) > 0 and not value.is_inference()


def _named(step: Step) -> tuple[object, ...]:
    """What makes it the step that it is."""
    if step.convolution is None:
        return step.kind, step.inputs
    layer, form, bias, _ = step.convolution
    return step.inputs, id(layer), form, None if bias is None else bias.data_ptr()


_RULES: dict[Any, Callable[..., Tensor | None]] = {
    torch.conv2d: Chains.convolution,
    **dict.fromkeys((F.relu, torch.relu, Tensor.relu), Chains.above),
    **dict.fromkeys((torch.relu_, Tensor.relu_), Chains.above_in_place),
    **dict.fromkeys((torch.add, Tensor.add, Tensor.__add__), Chains.sum),
    **dict.fromkeys((Tensor.add_, Tensor.__iadd__), Chains.sum_in_place),
}
