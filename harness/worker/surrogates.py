"""A mode in which operations that stop a gradient keep their value and let it through: automatic BPDA (1802.00420).

Level 2 treats rounding, thresholds, comparisons, casts, ``detach``, hooks, ``no_grad`` blocks, custom backward passes
and round trips through the host as if they were not there; level 3 gives steps, masks and saturating outputs smooth
slopes.
"""

import contextlib
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from itertools import permutations
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from harness.worker.carry import Carry, carry, moves

_KEEP = {
    "round", "floor", "ceil", "trunc", "fix", "clamp", "clip", "clamp_min", "clamp_max", "hardshrink", "threshold",
    "softshrink", "floor_divide", "floordiv", "rfloordiv", "fake_quantize_per_tensor_affine",
}  # fmt: skip
"""Operations whose gradient becomes that of their first argument."""
_STEP = {"sign", "sgn", "heaviside"}
_COMPARE = {"gt": 1, "ge": 1, "greater": 1, "greater_equal": 1, "lt": -1, "le": -1, "less": -1, "less_equal": -1}
_CAST = {"float", "double", "half", "bfloat16", "to", "type", "type_as", "int", "long", "byte", "short", "char", "bool"}
_HOST = {"numpy", "array", "tolist", "item", "dlpack"}
_MADE = {"tensor", "as_tensor", "asarray", "frombuffer", "from_dlpack"}
_SQUASH = {"tanh", "sigmoid", "softmax", "erf"}
Value = Any
"""Whatever a submission's code hands around."""
_IN_PLACE = _KEEP | _STEP | {"masked_fill"}
_SAVED = 4096
"""Host copies remembered at once."""


def _scale(values: Tensor) -> Tensor:
    """A quarter of the mean size of ``values``: the width of a smooth step."""
    return values.detach().abs().mean().clamp_min(1e-6) / 4


def _same_numbers(carrier: Tensor, out: Tensor) -> Tensor | None:
    """``carrier`` with its axes in the order of ``out``, which holds what became of the same numbers."""
    if carrier.shape == out.shape:
        return carrier
    if carrier.dim() == out.dim() and sorted(carrier.shape) == sorted(out.shape):
        # Channels move as a whole, height stays before width.
        orders = [(2, 0, 1), (1, 2, 0)] if out.dim() == 3 else list(permutations(range(out.dim())))
        for order in orders:
            if tuple(carrier.shape[axis] for axis in order) == tuple(out.shape):
                return carrier.permute(order)
    return carrier.reshape(out.shape) if carrier.numel() == out.numel() and out.dim() == 1 else None


class _Context:
    """Stands in for the context of a custom ``autograd.Function`` whose forward runs as ordinary code."""

    def __init__(self, inputs: tuple[Any, ...]) -> None:
        self.needs_input_grad = tuple(moves(item) for item in inputs)
        self.saved_tensors: tuple[Any, ...] = ()

    def save_for_backward(self, *tensors: Value) -> None:
        """Kept, never used."""
        self.saved_tensors = tensors

    def __getattr__(self, name: str) -> Callable[..., None]:
        if name.startswith(("mark_", "set_", "save_")):
            return lambda *_args, **_kwargs: None
        raise AttributeError(name)


class _Handle:
    """What a swallowed hook is answered with."""

    id = 0

    def remove(self) -> None:
        """Nothing was registered."""


class Surrogates(TorchFunctionMode):
    """Use it as ``with Surrogates(level).around(module)``; ``level`` is 2 or 3."""

    def __init__(self, level: int) -> None:
        super().__init__()
        self.level = level
        self._handlers: dict[str, Callable[[Value, str, Value, Value], Value]] = {
            "detach": self._transparent, "register_hook": self._unhooked, "retain_grad": self._unhooked,
            "requires_grad": self._wanted, "div": self._divided, "divide": self._divided, "setitem": self._assigned,
            "where": self._chosen, "masked_fill": self._chosen, **dict.fromkeys(("argmax", "argmin"), self._won),
            **dict.fromkeys(("bucketize", "searchsorted"), self._binned), "one_hot": self._one_hot,
            "scatter": self._one_hot, "mod": self._wrapped, "remainder": self._wrapped, "fmod": self._wrapped,
            **dict.fromkeys(_MADE, self._created),
            **dict.fromkeys(_HOST, self._to_host), **dict.fromkeys(_KEEP, self._kept),
            **dict.fromkeys(_STEP, self._stepped), **dict.fromkeys(_COMPARE, self._compared),
            **dict.fromkeys(_CAST, self._cast), **dict.fromkeys(_SQUASH, self._squashed),
        }  # fmt: skip
        self._shadows: Any = WeakTensorKeyDictionary()
        """Float tensors with a gradient, by the whole-number or truth-value tensor that was made of them."""
        self._host: deque[Tensor] = deque(maxlen=_SAVED)
        """What went to the host and did not come back yet, oldest first."""
        self._last_host: Tensor | None = None

    @contextlib.contextmanager
    def around(self, module: nn.Module) -> Iterator[None]:
        """Enter the mode with everything patched that it cannot see by itself; all is put back at the end."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(_without_backward_hooks(module))
            stack.enter_context(self._patched())
            stack.enter_context(self)
            yield

    @contextlib.contextmanager
    def _patched(self) -> Iterator[None]:
        apply, from_numpy = torch.autograd.Function.__dict__["apply"], torch.from_numpy
        enabled, enter, leave = torch.is_grad_enabled, torch.inference_mode.__enter__, torch.inference_mode.__exit__
        mode = self

        def run(cls: Value, *args: Value, **kwargs: Value) -> Value:
            return mode._custom(cls, apply.__get__(None, cls), args, kwargs)

        torch.autograd.Function.apply = classmethod(run)
        torch.from_numpy = lambda ndarray: mode._returned(from_numpy(ndarray))
        torch.is_grad_enabled = lambda: False
        torch.inference_mode.__enter__ = lambda self: None  # type: ignore[method-assign]
        torch.inference_mode.__exit__ = lambda self, *_: None  # type: ignore[method-assign]
        try:
            yield
        finally:
            torch.autograd.Function.apply = apply
            torch.from_numpy, torch.is_grad_enabled = from_numpy, enabled
            torch.inference_mode.__enter__ = enter  # type: ignore[method-assign]
            torch.inference_mode.__exit__ = leave  # type: ignore[method-assign]
            self._shadows.clear()
            self._host.clear()
            self._last_host = None

    def __torch_function__(self, func: Value, types: Value, args: Value = (), kwargs: Value = None) -> Value:
        kwargs = kwargs or {}
        if func is torch._C._set_grad_enabled:
            return None
        if func == torch.Tensor.data.__get__:  # type: ignore[attr-defined]
            return args[0]
        if func == torch.Tensor.requires_grad.__get__:  # type: ignore[attr-defined]
            # What looks at it behaves otherwise when it is attacked.
            return False
        raw = getattr(func, "__name__", "")
        name = raw.strip("_")
        if not args or not isinstance(args[0], Tensor) or kwargs.get("out") is not None:
            return self._returned(func(*args, **kwargs)) if name in _MADE else func(*args, **kwargs)
        if raw.endswith("_") and not raw.endswith("__") and name in _IN_PLACE:
            return args[0].copy_(self._handlers[name](getattr(torch.Tensor, raw[:-1]), name, args, kwargs))
        return self._handlers.get(name, self._followed)(func, name, args, kwargs)

    def _source(self, tensor: Value) -> Tensor | None:
        """Where the gradient of ``tensor`` goes: itself, or what it was cast from."""
        if not isinstance(tensor, Tensor):
            return None
        if tensor.is_floating_point():
            return tensor if tensor.requires_grad else None
        shadow = self._shadows.get(tensor)
        return shadow if isinstance(shadow, Tensor) else None

    def _linked(self, out: Tensor, source: Tensor) -> Tensor:
        if out.is_floating_point():
            return carry(out, source)
        self._shadows[out] = source
        return out

    def _transparent(self, func: Value, name: str, args: Value, kwargs: Value) -> Value:
        return args[0]

    def _unhooked(self, func: Value, name: str, args: Value, kwargs: Value) -> Value:
        return _Handle()

    def _wanted(self, func: Value, name: str, args: Value, kwargs: Value) -> Value:
        wanted = kwargs.get("requires_grad", args[1] if len(args) > 1 else True)
        return func(*args, **kwargs) if wanted else args[0]

    def _created(self, func: Value, name: str, args: Value, kwargs: Value) -> Value:
        return self._returned(func(*args, **kwargs))

    def _kept(self, func: Value, name: str, args: Value, kwargs: Value) -> Value:
        source = self._source(args[0])
        out = func(*args, **kwargs)
        if source is None or not isinstance(out, Tensor) or out.shape != source.shape:
            return out
        return self._linked(out, source)

    def _divided(self, func: Value, name: str, args: Value, kwargs: Value) -> Value:
        handler = self._kept if kwargs.get("rounding_mode") else self._followed
        return handler(func, name, args, kwargs)

    def _stepped(self, func: Value, name: str, args: Value, kwargs: Value) -> Value:
        source = self._source(args[0])
        out = func(*args, **kwargs)
        if source is None:
            return out
        return self._linked(out, torch.tanh(source / _scale(source)) if self.level >= 3 else source)

    def _compared(self, func: Value, name: str, args: Value, kwargs: Value) -> Value:
        out = func(*args, **kwargs)
        sides = [self._source(side) for side in args[:2]]
        if len(args) > 1 and isinstance(out, Tensor) and any(side is not None for side in sides):
            left, right = (given if side is None else side for side, given in zip(sides, args[:2], strict=True))
            difference = _COMPARE[name] * (left - right)
            self._shadows[out] = torch.sigmoid(difference / _scale(difference)) if self.level >= 3 else difference
        return out

    def _cast(self, func: Value, name: str, args: Value, kwargs: Value) -> Value:
        source = self._source(args[0])
        out = func(*args, **kwargs)
        if source is None or out is args[0] or (out.is_floating_point() and args[0].is_floating_point()):
            return out
        return self._linked(out, source)

    def _chosen(self, func: Value, name: str, args: Value, kwargs: Value) -> Value:
        """``where`` and ``masked_fill``: the gradient goes to the branch that has one, whatever the condition says."""
        out = func(*args, **kwargs)
        if len(args) < 3 or not isinstance(out, Tensor) or not out.is_floating_point():
            return out
        condition, one, other = args if name == "where" else (args[1], args[2], args[0])
        shadow = self._shadows.get(condition) if isinstance(condition, Tensor) else None
        if self.level >= 3 and isinstance(shadow, Tensor):
            return carry(out, shadow * one + (1 - shadow) * other)
        moving = [side for side in (one, other) if isinstance(side, Tensor) and side.requires_grad]
        return carry(out, moving[0]) if len(moving) == 1 and moving[0].numel() == out.numel() else out

    def _assigned(self, func: Value, name: str, args: Value, kwargs: Value) -> Value:
        """``x[mask] = constant`` lets the gradient of the old ``x`` through."""
        first, value = args[0], args[2]
        if not first.requires_grad or first.is_leaf or (isinstance(value, Tensor) and value.requires_grad):
            return func(*args)
        before, after = first.clone(), first.detach().clone()
        func(after, *args[1:])
        first.copy_(carry(after, before))
        return None

    def _to_host(self, func: Value, name: str, args: Value, kwargs: Value) -> Value:
        source = self._source(args[0])
        if source is not None:
            self._host.append(source)
            self._last_host = source
        return func(args[0].detach(), *args[1:], **kwargs)

    def _returned(self, out: Value) -> Value:
        """A tensor made of host data; its gradient goes to the oldest host copy that it can have come from."""
        if not isinstance(out, Tensor) or out.numel() < 2:
            return out
        for place, source in enumerate(self._host):
            fitting = _same_numbers(source, out)
            if fitting is not None:
                del self._host[place]
                return self._linked(out, fitting)
        fitting = None if self._last_host is None else _same_numbers(self._last_host, out)
        return out if fitting is None else self._linked(out, fitting)

    def _squashed(self, func: Value, name: str, args: Value, kwargs: Value) -> Value:
        """Of logits: these saturate to a slope of exactly 0; the logits behind a softmax, and softsign, never do."""
        first = args[0]
        if self.level < 3 or first.dim() != 2 or not first.requires_grad:
            return self._followed(func, name, args, kwargs)
        return carry(func(*args, **kwargs), first if name == "softmax" else F.softsign(first))

    def _won(self, func: Value, name: str, args: Value, kwargs: Value) -> Value:
        """The class of the largest logit remembers the logits; the place of the nearest level, about where it is."""
        out = func(*args, **kwargs)
        source = self._source(args[0])
        if self.level < 3 or source is None or not isinstance(out, Tensor):
            return out
        if out.shape not in {source.shape[:-1], (*source.shape[:-1], 1)}:
            return out
        height = -source if name == "argmin" else source
        if source.dim() == 2 and out.dim() == 1:
            self._shadows[out] = height
            return out
        width = height.detach().std(-1, keepdim=True).clamp_min(1e-12)
        places = torch.arange(height.shape[-1], dtype=height.dtype, device=height.device)
        return self._linked(out, (torch.softmax(4 * height / width, -1) * places).sum(-1).view(out.shape))

    def _wrapped(self, func: Value, name: str, args: Value, kwargs: Value) -> Value:
        """A remainder: what is left of ``x - x % step`` is then a step whose slope is 1."""
        return func(args[0].detach(), *args[1:], **kwargs) if self.level >= 3 else func(*args, **kwargs)

    def _binned(self, func: Value, name: str, args: Value, kwargs: Value) -> Value:
        """The number of the bin that each value falls into."""
        out = func(*args, **kwargs)
        source = self._source(args[0] if name == "bucketize" or len(args) < 2 else args[1])
        return out if source is None or not isinstance(out, Tensor) else self._linked(out, source)

    def _one_hot(self, func: Value, name: str, args: Value, kwargs: Value) -> Value:
        out = func(*args, **kwargs)
        index = args[0] if name == "one_hot" or len(args) < 3 else args[2]
        logits = self._shadows.get(index) if isinstance(index, Tensor) else None
        if isinstance(logits, Tensor) and isinstance(out, Tensor) and out.shape == logits.shape:
            return self._linked(out, torch.softmax(logits, 1))
        return out

    def _followed(self, func: Value, name: str, args: Value, kwargs: Value) -> Value:
        """Anything else: where whole numbers or truth values go in, what they were made of goes the same way."""
        out = func(*args, **kwargs)
        if not isinstance(out, Tensor):
            return out
        index = self._index(name, args, kwargs)
        if index is not None and out.is_floating_point() and out.shape == index.shape:
            return carry(out, index)
        replaced = [self._source(item) if self._is_shadowed(item) else None for item in args]
        if all(item is None for item in replaced):
            return out
        with contextlib.suppress(Exception):
            given = [item if other is None else other for item, other in zip(args, replaced, strict=True)]
            follower = func(*given, **kwargs)
            if isinstance(follower, Tensor) and follower.shape == out.shape and follower.is_floating_point():
                return self._linked(out, follower)
        return out

    def _is_shadowed(self, item: Value) -> bool:
        """A whole number, or from level 3 on a truth value, that was made of something with a gradient."""
        if not isinstance(item, Tensor) or item.is_floating_point() or self._shadows.get(item) is None:
            return False
        return self.level >= 3 or item.dtype is not torch.bool

    def _index(self, name: str, args: Value, kwargs: Value) -> Tensor | None:
        """What the index of a table look-up was made of."""
        if name in {"index_select", "gather", "take_along_dim"}:
            # Picked from what has a gradient of its own, values keep that.
            index = kwargs.get("index", kwargs.get("indices", args[1:] and args[-1]))
            if not args or not isinstance(index, Tensor) or args[0].requires_grad:
                return None
            return self._source(index)
        if name not in {"getitem", "embedding", "take"} or len(args) < 2 or not isinstance(args[1], Tensor):
            return None
        index = args[0] if name == "embedding" and not args[0].is_floating_point() else args[1]
        return None if index.dtype is torch.bool or index.is_floating_point() else self._source(index)

    def _custom(self, cls: Value, apply: Value, args: Value, kwargs: Value) -> Value:
        """A custom function's forward, differentiated as it stands instead of by its own backward."""
        if cls is Carry:
            return apply(*args, **kwargs)
        inputs = [item for item in args if moves(item)]
        with contextlib.suppress(Exception):
            own = cls.setup_context is not torch.autograd.Function.setup_context
            out = cls.forward(*args, **kwargs) if own else cls.forward(_Context(args), *args, **kwargs)
            results = out if isinstance(out, tuple) else (out,)
            if any(moves(item) for item in results):
                return out
        out = apply(*args, **kwargs)
        if isinstance(out, Tensor):
            same = [item for item in inputs if item.shape == out.shape]
            return carry(out, same[0]) if same else out
        return out


@contextlib.contextmanager
def _without_backward_hooks(module: nn.Module) -> Iterator[None]:
    """Hide the backward hooks of every module; they could only spoil a gradient."""
    names = ("_backward_hooks", "_backward_pre_hooks")
    saved = []
    for part in module.modules():
        for name in names:
            held = part.__dict__.get(name)
            if held:
                saved.append((part, name, held))
                part.__dict__[name] = OrderedDict()
    try:
        yield
    finally:
        for part, name, held in saved:
            part.__dict__[name] = held
