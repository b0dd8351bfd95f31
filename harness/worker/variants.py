"""Other forms of the loaded network, asked the same two questions: what the probes and mitigations look through."""

import contextlib
import copy
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from harness.worker.loading import LoadError
from harness.worker.network import Network, OutputError, describe_output
from harness.worker.optimise import equal_sizes, probe_batches, same_bits
from harness.worker.straight_through import StraightThrough
from harness.worker.weights import frozen, one_line

AGREEMENT = 1e-2
"""Largest difference of the logits of a network built anew, relative to the largest logit, to be taken for the same."""
CONTEXTS = ("no_grad", "inference_mode", "grad", "requires_grad", "thread")


class Asked(nn.Module):
    """A function from images to logits, for where a module is expected."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self._function = function
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, K)."""
        return self._function(x)


class RawNetwork(Network):
    """A network asked with the whole batch at once, in the memory layout of the original."""

    def __init__(self, base: Network) -> None:
        nn.Module.__init__(self)
        self.module, self.micro_batch, self.device, self.layout = base.module, 0, base.device, base.layout
        self.convolutions = base.convolutions

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, K); ``OutputError`` as in ``Network``."""
        with self.computing():
            logits: object = self.module(x.to(self.device).clone(memory_format=self.layout))
        if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != len(x):
            raise OutputError(f"expected float logits ({len(x)}, K), got {describe_output(logits)}")
        return logits.to(device=x.device, dtype=torch.float32)


class _Features:
    """Maps images to what goes into the last ``nn.Linear`` of a network, (N, d)."""

    def __init__(self, module: nn.Module, sample: Tensor) -> None:
        self._module = module
        calls: list[tuple[str, tuple[int, ...]]] = []

        def watch(name: str) -> Callable[..., None]:
            return lambda _part, _args, output: calls.append((name, tuple(output.shape)))

        with contextlib.ExitStack() as stack, torch.no_grad():
            for name, part in module.named_modules():
                if isinstance(part, nn.Linear):
                    stack.callback(part.register_forward_hook(watch(name)).remove)
            logits = module(sample.clone())
        last = calls[-1] if calls else None
        if last is None or not isinstance(logits, Tensor) or last[1] != tuple(logits.shape):
            raise LoadError("contract", "features: expected a network that ends in an nn.Linear, found none at its end")
        self.path = last[0]

    def __call__(self, x: Tensor) -> Tensor:
        """Features (N, d)."""
        found: list[Tensor] = []
        layer = self._module.get_submodule(self.path)

        def keep(_part: nn.Module, args: tuple[Tensor, ...]) -> None:
            found.append(args[0])

        with contextlib.closing(_Hook(layer.register_forward_pre_hook(keep))):
            self._module(x)
        return found[-1].flatten(1)


class _Inner:
    """Maps images to what the submodule at ``path`` answers while the whole network runs, the last time it is asked."""

    def __init__(self, module: nn.Module, path: str) -> None:
        self._module, self._part = module, module.get_submodule(path)

    def __call__(self, x: Tensor) -> Tensor:
        """The submodule's answer (N, K)."""
        found: list[Tensor] = []

        def keep(_part: nn.Module, _args: tuple[Tensor, ...], output: Tensor) -> None:
            found.append(output)

        with contextlib.closing(_Hook(self._part.register_forward_hook(keep))):
            self._module(x)
        return found[-1]


class _Hook:
    """A hook that ``contextlib.closing`` takes away."""

    def __init__(self, handle: Any) -> None:  # noqa: ANN401
        self._handle = handle

    def close(self) -> None:
        """Take the hook away."""
        self._handle.remove()


def _in_context(network: Network, mode: str) -> Callable[[Tensor], Tensor]:
    """The network's own module, called in another way than usual; never with a graph to the caller."""
    call = _stranger()

    @contextlib.contextmanager
    def quietly() -> Iterator[None]:
        with torch.no_grad(), network.computing():
            yield

    def ask(x: Tensor) -> Tensor:
        x = x.detach()
        if mode == "inference_mode":
            with torch.inference_mode(), network.computing():
                return network.module(x.clone()).clone()  # type: ignore[no-any-return]
        if mode == "no_grad":
            with quietly():
                return network.module(x)  # type: ignore[no-any-return]
        if mode in {"grad", "requires_grad"}:
            with torch.enable_grad(), network.computing():
                return network.module(x.clone().requires_grad_(mode == "requires_grad")).detach()  # type: ignore[no-any-return]
        return _in_thread(call, network.module, x, quietly)

    return ask


_STRANGER = """
def main(module, x, out, failed, quietly):
    try:
        with quietly():
            out.append(module(x))
    except BaseException as error:
        failed.append(error)
"""


def _stranger() -> Callable[..., None]:
    """A caller whose code lies in no file and in no module of this project."""
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(_STRANGER, "main.py", "exec"), names)  # noqa: S102
    caller: Callable[..., None] = names["main"]
    return caller


def _in_thread(
    call: Callable[..., None], module: nn.Module, x: Tensor, quietly: Callable[[], AbstractContextManager[None]]
) -> Tensor:
    """The answer to ``call``, with nothing of this project on the thread's stack."""
    out: list[Tensor] = []
    failed: list[BaseException] = []
    thread = threading.Thread(target=call, args=(module, x, out, failed, quietly), name="Thread-1")
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return out[0]


def _rounded(module: nn.Module) -> nn.Module:
    """A copy whose convolutions and linear layers hold the weights that autocast would round them to in every pass."""
    module = copy.deepcopy(module)
    for layer in module.modules():
        if type(layer) in {nn.Conv2d, nn.Linear}:
            layer.to(torch.bfloat16)
    return module


class Variants:
    """The forms of one network that were asked for, by number; 0 is the network itself."""

    def __init__(self, base: Network, shape: Sequence[int], rebuild: Callable[[], nn.Module] | None = None) -> None:
        """``shape`` is (C, H, W) of an image; ``rebuild`` makes the network anew, as loaded."""
        self.base, self.shape, self._rebuild = base, tuple(shape), rebuild
        self._plain: nn.Module | None = None
        self._made: list[Network] = [base]

    def get(self, number: int) -> Network:
        """The form with this number."""
        return self._made[number]

    def add(self, spec: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
        """Make a form; its number and what is worth knowing about it. ``LoadError`` when it cannot be made."""
        kind = spec.get("kind")
        makers: dict[str, Callable[[Mapping[str, Any]], tuple[Network, dict[str, Any]]]] = {
            "plain": self._make_plain, "raw": self._make_raw, "child": self._make_child,
            "inner": self._make_inner, "features": self._make_features, "straight_through": self._make_straight_through,
            "dtype": self._make_dtype, "context": self._make_context,
        }  # fmt: skip
        if kind not in makers:
            raise LoadError("contract", f"variant: expected a kind among {', '.join(sorted(makers))}, got {kind!r}")
        network, about = makers[str(kind)](spec)
        self._made.append(network)
        return len(self._made) - 1, about

    def plain(self) -> nn.Module:
        """The network as it was loaded; the optimised one where it cannot be built a second time or copied."""
        if self._plain is None:
            self._plain = self._anew() or self.base.module
        return self._plain

    def _anew(self) -> nn.Module | None:
        makers: list[Callable[[], nn.Module]] = [lambda: copy.deepcopy(self.base.module)]
        if self._rebuild is not None:
            makers.insert(0, self._rebuild)
        for make in makers:
            with contextlib.suppress(Exception):
                module = frozen(make()).to(self.base.device)
                if self._agrees(module):
                    return module
        return None

    def _agrees(self, module: nn.Module) -> bool:
        """Whether ``module`` answers as the network does; one that draws random numbers is not asked."""
        x = self._sample()
        with torch.no_grad():
            logits, again, other = self.base(x), self.base(x), self._network(module)(x)
        if not torch.equal(logits, again):
            return True
        return bool((logits - other).abs().max() <= AGREEMENT * logits.abs().max())

    def _network(self, module: nn.Module) -> Network:
        return Network(module, micro_batch=self.base.micro_batch, device=str(self.base.device))

    def _sample(self) -> Tensor:
        return torch.cat(probe_batches(self.shape, max(2, self.base.micro_batch // 2), self.base.device))

    def _make_plain(self, spec: Mapping[str, Any]) -> tuple[Network, dict[str, Any]]:
        module = self.plain()
        return self._network(module), {"own": module is not self.base.module}

    def _make_raw(self, spec: Mapping[str, Any]) -> tuple[Network, dict[str, Any]]:
        return RawNetwork(self.base), {}

    def _make_child(self, spec: Mapping[str, Any]) -> tuple[Network, dict[str, Any]]:
        path = str(spec.get("path", ""))
        try:
            child = self.plain().get_submodule(path)
        except AttributeError:
            raise LoadError("contract", f"variant child: path: expected a submodule, got {path!r}") from None
        scale, shift = (
            self._per_channel(spec.get(name), default) for name, default in (("scale", 1.0), ("shift", 0.0))
        )

        def ask(x: Tensor) -> Tensor:
            result: Tensor = child(x * scale + shift)
            return result

        return self._network(Asked(ask)), {}

    def _make_inner(self, spec: Mapping[str, Any]) -> tuple[Network, dict[str, Any]]:
        path = str(spec.get("path", ""))
        try:
            return self._network(Asked(_Inner(self.plain(), path))), {}
        except AttributeError:
            raise LoadError("contract", f"variant inner: path: expected a submodule, got {path!r}") from None

    def _per_channel(self, values: Any, default: float) -> Tensor:  # noqa: ANN401
        values = [default] * self.shape[0] if values is None else values
        listed = values if isinstance(values, list) else [values] * self.shape[0]
        if len(listed) != self.shape[0] or not all(isinstance(value, int | float) for value in listed):
            raise LoadError(
                "contract", f"variant child: scale, shift: expected {self.shape[0]} numbers, got {values!r}"
            )
        return torch.tensor([float(value) for value in listed], device=self.base.device).view(1, -1, 1, 1)

    def _make_features(self, spec: Mapping[str, Any]) -> tuple[Network, dict[str, Any]]:
        features = _Features(self.plain(), self._sample())
        return self._network(Asked(features)), {"path": features.path}

    def _make_straight_through(self, spec: Mapping[str, Any]) -> tuple[Network, dict[str, Any]]:
        level, modules = spec.get("level"), spec.get("modules")
        if level not in {1, 2, 3}:
            raise LoadError("contract", f"variant straight_through: level: expected 1, 2 or 3, got {level!r}")
        if modules is not None and (
            not isinstance(modules, list) or not all(isinstance(path, str) for path in modules)
        ):
            raise LoadError("contract", f"variant straight_through: modules: expected paths, got {modules!r}")
        try:
            repaired = StraightThrough(self.plain(), level=level, modules=modules, sample=self._sample())
        except AttributeError as error:
            raise LoadError("contract", f"variant straight_through: modules: {error}") from None
        about = {
            "level": repaired.level, "modules": repaired.hooked[:50], "reaches": repaired.reaches,
            "note": one_line(repaired.note, 200),
        }  # fmt: skip
        return self._network(Asked(repaired)), about

    def _make_dtype(self, spec: Mapping[str, Any]) -> tuple[Network, dict[str, Any]]:
        dtype = spec.get("dtype")
        if dtype == "bfloat16":
            network = self._mixed(self.base.module)
            if len(self.base.sizes) > 1:
                with contextlib.suppress(Exception):
                    rounded = self._mixed(_rounded(self.base.module))
                    if same_bits(network, rounded, self._sample()):
                        network = rounded
                with contextlib.suppress(Exception):
                    network.sizes = equal_sizes(network, self.shape)
            return network, {}
        if dtype != "float64":
            raise LoadError("contract", f"variant dtype: expected 'float64' or 'bfloat16', got {dtype!r}")
        double = self._double()
        return self._network(Asked(lambda x: double(x.double()))), {}

    def _mixed(self, module: nn.Module) -> Network:
        """``module`` asked under autocast to bfloat16."""
        device = self.base.device.type

        def ask(x: Tensor) -> Tensor:
            with torch.autocast(device, dtype=torch.bfloat16, cache_enabled=False):
                result: Tensor = module(x)
            return result.float()

        network = self._network(Asked(ask))
        network.layout = self.base.layout
        return network

    def _double(self) -> nn.Module:
        try:
            return copy.deepcopy(self.plain()).double()
        except Exception as error:
            if self._rebuild is None:
                text = f"variant dtype: expected a network that can be copied: {error}"
                raise LoadError("contract", one_line(text)) from error
        return frozen(self._rebuild()).to(self.base.device).double()

    def _make_context(self, spec: Mapping[str, Any]) -> tuple[Network, dict[str, Any]]:
        mode = spec.get("mode")
        if mode not in CONTEXTS:
            raise LoadError("contract", f"variant context: mode: expected one of {', '.join(CONTEXTS)}, got {mode!r}")
        network = self._network(Asked(_in_context(self.base, str(mode))))
        network.layout = self.base.layout
        return network, {}
