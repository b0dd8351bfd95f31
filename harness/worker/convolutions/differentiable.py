"""The convolution, its gradient, and every further derivative; for tensors of any layout."""

import functools
import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.overrides import handle_torch_function, has_torch_function_unary

from harness.worker.convolutions.layer import Form, Layer, Pair
from harness.worker.convolutions.vectors import compiled


@functools.cache
def _helpers(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, "convolution")


def in_threads(run: Callable[[int, int], None], count: int) -> None:
    """``run`` the rows from one on, so many of ``count``, in as many threads as torch has."""
    threads = min(torch.get_num_threads(), count)
    if threads == 1:
        run(0, count)
    elif threads:
        starts = [count * turn // threads for turn in range(threads + 1)]
        counts = [stop - start for start, stop in itertools.pairwise(starts)]
        list(_helpers(threads).map(run, starts, counts))


def convolved(x: Tensor, layer: Layer, form: Form, bias: Tensor | None, back_to: Pair | None) -> Tensor:
    """Maps of ``x`` (N, C, H, W); ``back_to``: the size (H, W) of the images that ``x`` are results of."""
    images = x.permute(0, 2, 3, 1).contiguous()
    count, height, width, _ = images.shape
    made = back_to or form.made((height, width), layer.weight.shape[2:])
    ready = layer.ready(form, (height, width), made, back=back_to is not None)
    # Not a view: those that an autograd function makes may not be written to.
    results = torch.empty((count, ready.made, *made), memory_format=torch.channels_last)
    job, constants = ready.job((height, width), made), 0 if bias is None else bias.data_ptr()

    def run(start: int, rows: int) -> None:
        compiled.run(
            job, images.data_ptr() + 4 * start * images.stride(0), constants,
            results.data_ptr() + 4 * start * results.stride(0), rows,
        )  # fmt: skip

    in_threads(run, count)
    return results


class _Convolution(torch.autograd.Function):
    """Linear but for its bias, so that its derivatives are convolutions like it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Layer, form: Form, bias: Tensor | None, back_to: Pair | None) -> Tensor:  # noqa: ANN401
        ctx.layer, ctx.form, ctx.back_to = layer, form, None if back_to else (x.shape[2], x.shape[3])
        return convolved(x, layer, form, bias, back_to)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:  # noqa: ANN401
        return _differentiable(gradients[0], ctx.layer, ctx.form, None, ctx.back_to), None, None, None, None


class _Transformed(torch.autograd.Function):
    """The same for ``torch.func``, which wants it in another form that takes ten times as long to call."""

    @staticmethod
    def forward(x: Tensor, layer: Layer, form: Form, bias: Tensor | None, back_to: Pair | None) -> Tensor:
        return convolved(x, layer, form, bias, back_to)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ANN401
        x, ctx.layer, ctx.form, _, ctx.same = inputs
        ctx.back_to = None if ctx.same else (x.shape[2], x.shape[3])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:  # noqa: ANN401
        return _Convolution.backward(ctx, *gradients)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:  # noqa: ANN401
        return _differentiable(tangents[0], ctx.layer, ctx.form, None, ctx.same)

    @staticmethod
    def vmap(info: Any, in_dims: Sequence[int | None], x: Tensor, *others: Any) -> tuple[Any, int]:  # noqa: ANN401
        stacked = x.movedim(in_dims[0] or 0, 0)
        found = _differentiable(stacked.flatten(0, 1), *others)
        return found.reshape(*stacked.shape[:2], *found.shape[1:]), 0


def _differentiable(x: Tensor, layer: Layer, form: Form, bias: Tensor | None, back_to: Pair | None) -> Tensor:
    """``convolved``, in a graph where one is made."""
    if torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0:
        found: Tensor = _Transformed.apply(x, layer, form, bias, back_to)
    elif x.requires_grad and torch.is_grad_enabled():
        found = _Convolution.apply(x, layer, form, bias, back_to)
    else:
        found = convolved(x, layer, form, bias, back_to)
    return found


def convolution(x: Tensor, layer: Layer, form: Form, bias: Tensor | None = None) -> Tensor:
    """``torch.conv2d`` of float32 maps (N, C, H, W), differentiable with respect to ``x``."""
    if has_torch_function_unary(x):
        made: Tensor = handle_torch_function(convolution, (x,), x, layer, form, bias)
        return made
    return _differentiable(x, layer, form, bias, None)
