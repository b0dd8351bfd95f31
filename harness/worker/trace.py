"""What happens inside one forward pass: which operations could stop or bend a gradient, where, and how often."""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from harness.worker.network import Network, pull_back

LISTED = 60
"""Entries of a list, at most."""
STEPS = {
    "round", "floor", "ceil", "trunc", "sign", "sgn", "heaviside", "argmax", "argmin", "bucketize", "searchsorted",
    "floor_divide", "remainder", "fmod", "fake_quantize_per_tensor_affine", "quantize_per_tensor", "hardshrink",
    "fake_quantize_per_tensor_affine_cachemask", "_fake_quantize_learnable_per_tensor_affine", "one_hot", "frac",
}  # fmt: skip
"""Piecewise constant, or with jumps."""
SELECTS = {
    "topk",
    "sort",
    "kthvalue",
    "median",
    "where",
    "masked_fill",
    "threshold",
    "gt",
    "ge",
    "lt",
    "le",
    "eq",
    "ne",
}
"""Choose by comparing; their derivative is right almost everywhere and can still mislead."""
RANDOM = {
    "bernoulli", "rand", "rand_like", "randn", "randn_like", "randint", "randint_like", "randperm", "normal",
    "normal_functional", "uniform", "native_dropout", "multinomial", "poisson", "exponential", "rrelu_with_noise",
}  # fmt: skip
_WHOLE = {torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool}
_HALF = {torch.float16, torch.bfloat16}
_HOST = ("numpy", "__array__", "tolist", "item", "__dlpack__")


class _Places:
    """The path of the innermost module that runs."""

    def __init__(self, root: nn.Module) -> None:
        self._names = {id(part): name or "(root)" for name, part in root.named_modules()}
        self._stack: list[str] = []

    @property
    def now(self) -> str:
        return self._stack[-1] if self._stack else "(root)"

    @contextlib.contextmanager
    def followed(self) -> Iterator[None]:
        def push(part: nn.Module, _args: Any) -> None:  # noqa: ANN401
            self._stack.append(self._names.get(id(part), type(part).__name__))

        def pop(_part: nn.Module, _args: Any, _output: Any) -> None:  # noqa: ANN401
            if self._stack:
                self._stack.pop()

        with contextlib.ExitStack() as stack:
            stack.callback(hooks.register_module_forward_pre_hook(push).remove)
            stack.callback(hooks.register_module_forward_hook(pop, always_call=True).remove)
            yield


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the operations that what came from the images goes into."""

    def __init__(self, x: Tensor, places: _Places) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.places = places
        self.counts: Counter[tuple[str, str, str]] = Counter()
        self.backward_ops = 0
        self.half = False
        self._from_images: Any = WeakTensorKeyDictionary()
        self._from_images[x] = True

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Torch would import its compiler, two seconds and 900 modules, to keep it away from this class.
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__.removesuffix("_")
        given = [item for item in tree_leaves((args, kwargs)) if isinstance(item, Tensor)]
        tainted = [item for item in given if item in self._from_images]
        if tainted:
            for item in tree_leaves(out):
                if isinstance(item, Tensor):
                    self._from_images[item] = True
                    self.half = self.half or item.dtype in _HALF
        self.backward_ops += name.endswith("_backward") or "backward" in name
        group = self._group(name, tainted, out)
        if group:
            self.counts[(group, name, self.places.now)] += 1
        return out

    @staticmethod
    def _group(name: str, tainted: list[Tensor], out: Any) -> str:  # noqa: ANN401
        if name in RANDOM or not tainted:
            return "random" if name in RANDOM else ""
        if name in STEPS:
            return "step"
        if name in SELECTS and any(item.is_floating_point() for item in tainted):
            # ``where`` and ``masked_fill`` by a mask that has nothing to do with the image choose nothing.
            if name in {"where", "masked_fill"} and not any(item.dtype is torch.bool for item in tainted):
                return ""
            return "select"
        if name == "_to_copy" and isinstance(out, Tensor) and out.dtype in _WHOLE:
            return "cast" if any(item.is_floating_point() for item in tainted) else ""
        return "decomposition" if "svd" in name or "eigh" in name else ""


@contextlib.contextmanager
def _patched(owner: Any, name: str, around: Callable[[Any], Any]) -> Iterator[None]:  # noqa: ANN401
    """``owner.name`` replaced by ``around(it)`` for a while."""
    original = getattr(owner, name)
    setattr(owner, name, around(original))
    try:
        yield
    finally:
        setattr(owner, name, original)


@contextlib.contextmanager
def _tallied(tally: Counter[tuple[str, str]], places: _Places) -> Iterator[None]:
    """Counts round trips through the host, hooks on tensors, and derivatives or steps taken inside the forward pass."""
    from torch.optim.optimizer import register_optimizer_step_pre_hook

    def counted(what: str, *, large: bool = False) -> Callable[[Any], Any]:
        def around(original: Any) -> Any:  # noqa: ANN401
            def call(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
                if not large or (isinstance(args[0], Tensor) and args[0].numel() > 1):
                    tally[(what, places.now)] += 1
                return original(*args, **kwargs)

            return call

        return around

    with contextlib.ExitStack() as stack:
        for name in _HOST:
            if hasattr(Tensor, name):
                stack.enter_context(_patched(Tensor, name, counted(f"host {name.strip('_')}", large=True)))
        stack.enter_context(_patched(Tensor, "register_hook", counted("hook")))
        stack.enter_context(_patched(torch.autograd, "_engine_run_backward", counted("derivative")))
        stepped = register_optimizer_step_pre_hook(lambda *_: tally.update([("optimiser", places.now)]))
        stack.callback(stepped.remove)
        yield


@contextlib.contextmanager
def _layer_calls(root: nn.Module, seen: dict[str, list[int]]) -> Iterator[None]:
    """Rows of each call of every module with parameters of its own."""

    def watch(name: str) -> Callable[..., None]:
        def hook(_part: nn.Module, args: Any) -> None:  # noqa: ANN401
            first = next((item for item in args if isinstance(item, Tensor)), None)
            seen.setdefault(name, []).append(0 if first is None or not first.dim() else len(first))

        return hook

    with contextlib.ExitStack() as stack:
        for name, part in root.named_modules():
            if next(part.parameters(recurse=False), None) is not None:
                with contextlib.suppress(RuntimeError):
                    stack.callback(part.register_forward_pre_hook(watch(name)).remove)
        yield


def _custom_nodes(logits: Tensor) -> Counter[str]:
    """Names of the backward steps behind ``logits`` that are written in Python."""
    found: Counter[str] = Counter()
    todo, seen = [logits.grad_fn], set()
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if isinstance(node, torch.autograd.function.BackwardCFunction):
            found[type(node).__name__.removesuffix("Backward")] += 1
        todo.extend(after for after, _ in node.next_functions)
    return found


def _reached(logits: Tensor, leaf: Tensor) -> tuple[bool, bool]:
    """Whether the graph of ``logits`` leads to ``leaf``, and whether a gradient that is not zero arrives there."""
    todo, seen, reachable = [logits.grad_fn], set(), False
    while todo and not reachable:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        reachable = getattr(node, "variable", None) is leaf
        todo.extend(after for after, _ in node.next_functions)
    weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(2)).to(logits)
    return reachable, reachable and bool(pull_back(logits, leaf, weights).ne(0).any())


def trace(network: Network, x: Tensor) -> dict[str, Any]:
    """One forward pass with gradients of at most a micro-batch of ``x``, watched.

    ``ops`` lists group (step, select, cast, random, decomposition), operation, innermost module and count; ``custom``
    the backward functions written in Python; ``events`` host round trips, tensor hooks, derivatives and optimiser steps
    during the pass; ``layers`` how often modules with parameters ran, and on how many rows for each image.
    """
    root = network.module
    leaf = x[: network.micro_batch or len(x)].to(network.device).clone(memory_format=network.layout).requires_grad_()
    places = _Places(root)
    tally: Counter[tuple[str, str]] = Counter()
    calls: dict[str, list[int]] = {}
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.enable_grad())
        stack.enter_context(places.followed())
        stack.enter_context(_tallied(tally, places))
        stack.enter_context(_layer_calls(root, calls))
        images = leaf * 1
        watch = stack.enter_context(_Watch(images, places))
        logits = root(images)
    if not isinstance(logits, Tensor):
        raise TypeError(f"expected logits, got {type(logits).__name__}")
    custom = _custom_nodes(logits)
    reachable, moved = _reached(logits, leaf)
    ops = [
        {"group": group, "op": name, "module": place, "count": count}
        for (group, name, place), count in watch.counts.most_common(LISTED)
    ]
    return {
        "reachable": reachable, "gradient": moved, "ops": ops, "custom": dict(custom.most_common(LISTED)),
        "events": [{"what": what, "module": place, "count": n} for (what, place), n in tally.most_common(LISTED)],
        "backward_ops": watch.backward_ops, "half": watch.half,
        "hooked": [name or "(root)" for name, part in root.named_modules() if part._backward_hooks][:LISTED],
        "layers": {
            "count": len(calls), "most_calls": max(map(len, calls.values()), default=0),
            "most_rows": max((sum(rows) / len(leaf) for rows in calls.values()), default=0.0),
        },
        "scripted": any(isinstance(part, torch.jit.ScriptModule) for part in root.modules()),
    }  # fmt: skip
