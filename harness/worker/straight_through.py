"""A network whose logits are its own and whose gradient goes through what stopped it; a mitigation, not an attack.

Level 1 replaces modules by the identity on the way back, level 2 single operations, level 3 gives steps a smooth slope.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from harness.worker.carry import carry
from harness.worker.surrogates import Surrogates

ZERO = 0.99
"""Share of exact zeros in its gradient from which on a module counts as one that stops gradients."""
WRONG = 0.5
"""Relative error of a directional derivative from which on a module without parameters counts as one that lies."""
MODULES = 500
"""Modules looked at, at most."""
_HONEST = (nn.ReLU, nn.Identity, nn.Dropout, nn.BatchNorm2d, nn.LayerNorm, nn.GroupNorm)

Call = tuple[str, nn.Module, Tensor]
"""Path, module and first input of one call with an input and an output of the same shape."""


def _same_shape_calls(module: nn.Module, x: Tensor) -> list[Call]:
    """First calls, outermost first by end of call, of the submodules that keep the shape of a float tensor."""
    calls: dict[str, Call] = {}

    def watch(name: str) -> Callable[..., None]:
        def hook(part: nn.Module, args: Any, output: Any) -> None:  # noqa: ANN401
            if (
                len(args) == 1 and isinstance(args[0], Tensor) and isinstance(output, Tensor)
                and args[0].is_floating_point() and args[0].shape == output.shape and len(calls) < MODULES
            ):  # fmt: skip
                calls.setdefault(name, (name, part, args[0].detach().clone()))

        return hook

    with contextlib.ExitStack() as stack:
        for name, part in module.named_modules():
            if name and not isinstance(part, _HONEST):
                with contextlib.suppress(RuntimeError):
                    stack.callback(part.register_forward_hook(watch(name)).remove)
        with torch.no_grad():
            module(x)
    return list(calls.values())


def _broken(part: nn.Module, given: Tensor) -> bool:
    """Whether the module by itself stops its gradient, or bends it without having parameters to learn from."""
    leaf = given.clone().requires_grad_()
    direction = torch.randn(given.shape, generator=torch.Generator().manual_seed(3)).to(given)
    weights = torch.randn(given.shape, generator=torch.Generator().manual_seed(4)).to(given)
    try:
        with torch.enable_grad():
            out = part(leaf * 1)
            if not out.requires_grad:
                return True
            (gradient,) = torch.autograd.grad((out * weights).sum(), leaf, allow_unused=True)
        if gradient is None or not bool(gradient.isfinite().all()) or float(gradient.eq(0).float().mean()) > ZERO:
            return True
        if any(True for _ in part.parameters()):
            return False
        step = 0.02 * float(given.std())
        with torch.no_grad():
            rise = (part(given + step * direction) - part(given - step * direction)).mul(weights).sum() / (2 * step)
    except Exception:
        # What cannot run by itself cannot be judged by itself.
        return False
    expected = (gradient * direction).sum()
    return float((rise - expected).abs()) > WRONG * max(float(rise.abs()), float(expected.abs()))


def find_broken(module: nn.Module, x: Tensor) -> list[str]:
    """Paths of the smallest modules with equal input and output shape that stop gradients or make them up."""
    found = [name for name, part, given in _same_shape_calls(module, x) if _broken(part, given)]
    return [name for name in found if not any(other.startswith(name + ".") for other in found)]


def _identity_back(part: nn.Module, args: Any, output: Any) -> Any:  # noqa: ANN401
    if isinstance(output, Tensor) and args and isinstance(args[0], Tensor) and args[0].shape == output.shape:
        return carry(output, args[0])
    return output


class StraightThrough:
    """Maps images to the logits of ``module`` without gradients; their gradient is that of the repaired module."""

    def __init__(self, module: nn.Module, *, level: int, modules: Sequence[str] | None, sample: Tensor) -> None:
        """``modules`` are paths; None: found by trying every module on ``sample`` (N, C, H, W)."""
        self.module, self.level = module, level
        self.hooked = list(modules) if modules is not None else []
        for path in self.hooked:
            module.get_submodule(path)
        self.note = ""
        if modules is None and (level == 1 or not self._reaches(sample)):
            self.hooked = find_broken(module, sample)
        if level > 1 and not self._reaches(sample):
            # The mode itself may be what this network cannot be run in.
            self.level, self.note = 1, self.note or "the gradient still does not reach the image"
        self.reaches = self._reaches(sample)

    def _reaches(self, sample: Tensor) -> bool:
        """Whether a gradient that is not zero arrives at the images."""
        try:
            with torch.enable_grad():
                leaf = sample.clone().requires_grad_()
                out = self._rough(leaf * 1)
                (gradient,) = torch.autograd.grad(out[:, 0].sum() - out[:, -1].sum(), leaf, allow_unused=True)
        except Exception as error:
            self.note = f"{type(error).__name__}: {error}"
            return False
        return gradient is not None and bool(gradient.isfinite().all()) and bool(gradient.ne(0).any())

    @contextlib.contextmanager
    def _repaired(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for path in self.hooked:
                stack.callback(self.module.get_submodule(path).register_forward_hook(_identity_back).remove)
            if self.level > 1:
                stack.enter_context(Surrogates(self.level).around(self.module))
            yield

    def _rough(self, x: Tensor) -> Tensor:
        with self._repaired():
            out: Tensor = self.module(x)
        return out

    def __call__(self, x: Tensor) -> Tensor:
        """Logits (N, K) of images (N, C, H, W), bit by bit those of a call without gradients."""
        with torch.no_grad():
            # A copy each: the network may write into its input.
            value: Tensor = self.module(x.detach().clone())
        if not (torch.is_grad_enabled() and x.requires_grad):
            return value
        return carry(value, self._rough(x))
