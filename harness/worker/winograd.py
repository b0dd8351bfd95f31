"""Convolutions of 3 x 3 in a quarter of the multiplications: Winograd's F(4 x 4, 3 x 3) (arXiv 1509.09308).

A tile of 4 x 4 results takes 36 products for each pair of channels instead of 144. The price is sums before and after,
which wide layers make up for, and rounding: the nodes 0, +-1/sqrt(2), +-sqrt(2) and infinity keep it at two to three
times the direct form's (with the usual 0, +-1, +-2 it is five times). They are also their own reciprocals, so that a
kernel turned around, which is what a gradient goes through, has the products of the kernel itself, in another order.
"""

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode, handle_torch_function, has_torch_function_unary

TILE, REACH = 4, 6
"""Results along a side of a tile, and values that they are made of."""
NODES = (0.0, math.sqrt(0.5), -math.sqrt(0.5), math.sqrt(2), -math.sqrt(2))
"""The finite ones; infinity comes last."""
RECIPROCALS = (5, 3, 4, 1, 2, 0)
"""For each node the place of its reciprocal."""
CHANNELS = 128
"""From as many on the products outweigh the sums everywhere: below, the direct form is hardly slower."""
GAIN = 2
"""Products of the direct form, borders included, for each one of this form, at least; tiles reach beyond small maps."""
MEMORY = 512 << 20
"""Bytes of transformed kernels of one network; layers for which there is no room left are computed as always."""
LEAST, MOST = 5 << 19, 10 << 20
"""Bytes of transformed images at once: what is about as large as a layer's kernels, within these."""


class _Sums(NamedTuple):
    """What is done before and after the products: (6, 6) on 6 values, and (4, 6) on 6 products."""

    before: Tensor
    after: Tensor


@functools.cache
def _sums(back: bool) -> _Sums:
    """Those for a kernel, or for it turned around."""
    before, _, after = _transforms()
    if back:
        before, after = before[list(RECIPROCALS)], after[:, list(RECIPROCALS)]
    return _Sums(before.float().contiguous(), after.float().contiguous())


@functools.cache
def _transforms() -> tuple[Tensor, Tensor, Tensor]:
    """float64 matrices (6, 6), (6, 3) and (4, 6) of a row's values, of a kernel's row, and of their products.

    Lagrange's interpolation of a polynomial of degree 5 from five nodes and its leading coefficient, transposed. A
    kernel's row at a node p is divided by p: it reads the same from the other end at 1/p.
    """
    before, kernel, after = (torch.zeros(shape, dtype=torch.float64) for shape in ((6, 6), (6, 3), (4, 6)))
    for at, node in enumerate(NODES):
        others = [other for other in NODES if other != node]
        scale = node or 1.0
        before[at, : REACH - 1] = _polynomial(others) * (scale / math.prod(node - other for other in others))
        kernel[at] = torch.tensor([node**power / scale for power in range(3)])
        after[:, at] = torch.tensor([node**power for power in range(TILE)])
    before[5] = _polynomial(NODES)
    kernel[5, 2] = after[3, 5] = 1.0
    return before, kernel, after


def _polynomial(roots: Iterable[float]) -> Tensor:
    """Coefficients, the constant first, of the product of all x - root."""
    found = torch.ones(1, dtype=torch.float64)
    for root in roots:
        found = torch.cat([found.new_zeros(1), found]) - root * torch.cat([found, found.new_zeros(1)])
    return found


class Kernels:
    """The kernels of one layer, transformed."""

    def __init__(self, weight: Tensor) -> None:
        """``weight`` is (O, C, 3, 3)."""
        self.weight, self._version = weight, weight._version
        side = _transforms()[1]
        products = torch.einsum("ai,bj,ocij->abco", side, side, weight.detach().double())
        self.products = products.reshape(REACH**2, weight.shape[1], weight.shape[0]).float().contiguous()
        """(36, C, O)."""

    @property
    def current(self) -> bool:
        """Whether the layer's weights are still those."""
        return self.weight._version == self._version

    @property
    def nbytes(self) -> int:
        """Bytes that are held."""
        return self.products.nbytes


def _tiles(length: int) -> int:
    return -(-length // TILE)


def pays(weight: Tensor, size: Sequence[int]) -> bool:
    """Whether kernels (O, C, 3, 3) on maps of ``size`` (H, W) are worth it; the same on every machine."""
    height, width = size
    direct, this = 9 * height * width, REACH**2 * _tiles(height) * _tiles(width)
    return min(weight.shape[:2]) >= CHANNELS and direct >= GAIN * this


def _at_once(kernels: Kernels, tiles: int) -> int:
    """Images whose transforms are made together, a power of two: they stay near, and the kernels are not read often."""
    room = min(max(LEAST, kernels.nbytes), MOST) // (tiles * REACH**2 * 4 * max(kernels.products.shape[1:]))
    return 1 << max(0, room.bit_length() - 1)


def _convolved(x: Tensor, kernels: Kernels, *, back: bool) -> Tensor:
    """Maps (N, O, H, W) of ``x`` (N, C, H, W), zeros around it; ``back``: its kernels turned around, from O to C."""
    count, channels, height, width = x.shape
    sums, products = _sums(back), kernels.products.transpose(1, 2) if back else kernels.products
    made = products.shape[2]
    down, across = _tiles(height), _tiles(width)
    right, below = across * TILE + 1 - width, down * TILE + 1 - height
    found = x.new_empty(count, height, width, made)
    step = _at_once(kernels, down * across)
    for start in range(0, count, step):
        part = x[start : start + step].permute(0, 2, 3, 1)
        n = len(part)
        padded = F.pad(part, (0, 0, 1, right, 1, below)).contiguous()
        image, row, column, _ = padded.stride()
        tiles = padded.as_strided(
            (REACH, REACH, n, down, across, channels), (row, column, image, row * TILE, column * TILE, 1)
        )
        columns = (sums.before @ tiles.reshape(REACH, -1)).view(REACH, REACH, -1)
        values = torch.matmul(sums.before, columns).view(REACH**2, -1, channels)
        multiplied = torch.bmm(values, products)
        rows = (sums.after @ multiplied.view(REACH, -1)).view(TILE, REACH, -1)
        results = torch.matmul(sums.after, rows).view(TILE, TILE, n, down, across, made).permute(2, 3, 0, 4, 1, 5)
        whole = found[start : start + n]
        if right == below == 1:
            whole.view(n, down, TILE, across, TILE, made).copy_(results)
        else:
            whole.copy_(results.reshape(n, down * TILE, across * TILE, made)[:, :height, :width])
    return found.permute(0, 3, 1, 2)


class _Convolution(torch.autograd.Function):
    """A convolution without a bias; linear, so that its derivatives are convolutions like it."""

    @staticmethod
    def forward(x: Tensor, kernels: Kernels, back: bool) -> Tensor:
        return _convolved(x, kernels, back=back)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Kernels, bool], output: Tensor) -> None:  # noqa: ANN401
        _, ctx.kernels, ctx.back = inputs

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, None, None]:  # noqa: ANN401
        return _Convolution.apply(gradients[0], ctx.kernels, not ctx.back), None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:  # noqa: ANN401
        return _Convolution.apply(tangents[0], ctx.kernels, ctx.back)

    @staticmethod
    def vmap(info: Any, in_dims: Sequence[int | None], x: Tensor, kernels: Kernels, back: bool) -> tuple[Any, int]:  # noqa: ANN401
        stacked = x.movedim(in_dims[0] or 0, 0)
        found = _Convolution.apply(stacked.flatten(0, 1), kernels, back)
        return found.unflatten(0, stacked.shape[:2]), 0


def convolution(x: Tensor, kernels: Kernels, bias: Tensor | None = None) -> Tensor:
    """``torch.conv2d`` of float32 maps (N, C, H, W) with padding 1; differentiable with respect to ``x``."""
    if has_torch_function_unary(x):
        found: Tensor = handle_torch_function(convolution, (x,), x, kernels, bias)
        return found
    made: Tensor = _Convolution.apply(x, kernels, False)
    return made if bias is None else made + bias[:, None, None]


class Winograd(TorchFunctionMode):
    """While it is on, the convolutions of a network that it knows are computed this way; the network has no part in it.

    Its layers stay what they are, for whoever looks at them or runs them elsewhere.
    """

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        """It gets to know the convolutions by ``parameters`` that come while it is on, until ``settled``."""
        super().__init__()
        self._candidates = {id(parameter): parameter for parameter in parameters}
        self._kernels: dict[int, Kernels] = {}

    @property
    def layers(self) -> int:
        """Convolutions that it knows."""
        return len(self._kernels)

    def settled(self) -> None:
        """What has not come yet will be left alone."""
        self._candidates.clear()

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        """``torch.conv2d`` where it can be done; everything else as always."""
        kwargs = kwargs or {}
        if func is torch.conv2d:
            found = self._instead(*args, **kwargs)
            if found is not None:
                return found
        return func(*args, **kwargs)

    def _instead(
        self, input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0,  # noqa: ANN401
        dilation: Any = 1, groups: int = 1,  # noqa: ANN401
    ) -> Tensor | None:  # fmt: skip
        if groups != 1 or {*_each(stride), *_each(dilation)} != {1} or not {*_each(padding)} <= {1, "same"}:
            return None
        if input.dim() != 4 or input.dtype is not torch.float32 or torch.is_autocast_enabled("cpu"):
            return None
        kernels = self._known(weight, input.shape[2:])
        if (
            kernels is None
            or not kernels.current
            or input.shape[1] != weight.shape[1]
            or not pays(weight, input.shape[2:])
        ):
            return None
        return convolution(input, kernels, bias)

    def _known(self, weight: Tensor, size: Sequence[int]) -> Kernels | None:
        known = self._kernels.get(id(weight))
        if known is not None or id(weight) not in self._candidates:
            return known
        fits = weight.shape[2:] == (3, 3) and weight.dtype is torch.float32 and weight.device.type == "cpu"
        if not fits or weight.requires_grad or not pays(weight, size):
            return None
        known = Kernels(weight)
        if known.nbytes + sum(kernels.nbytes for kernels in self._kernels.values()) > MEMORY:
            return None
        self._kernels[id(weight)] = known
        return known


def _each(value: Any) -> tuple[Any, ...]:  # noqa: ANN401
    return tuple(value) if isinstance(value, tuple | list) else (value,)
