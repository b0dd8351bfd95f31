"""How a network is asked: in micro-batches of few fixed shapes.

Kernels pick their order of summation by the shape of the batch, so the same image may get other last bits in a batch of
7 than in one of 64, and an attack may then end elsewhere. Cutting every request into micro-batches of one size, the
last one filled up with rows of the same request, removes that: a row's logits and gradient no longer depend on the
batch it came in. ``harness.worker.optimise`` finds out which other sizes give the same bits. A network whose rows
influence each other (BatchNorm in train mode, votes over the batch) sees micro-batches of one size, and one that draws
random numbers draws them for a whole micro-batch.
"""

import contextlib
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from harness.worker.chains import Chains
from harness.worker.convolutions import Convolutions

MICRO_BATCH = {"cpu": 16, "cuda": 64}
"""Rows of the micro-batch whose bits every answer has; of 4 to 64 none was much faster for slim residual networks."""


class OutputError(Exception):
    """A network returned something else than logits; the text is one line."""


def describe_output(output: object) -> str:
    """What a network returned, for a message."""
    if isinstance(output, Tensor):
        return f"{tuple(output.shape)} of {str(output.dtype).removeprefix('torch.')}"
    if isinstance(output, dict):
        return f"a dict with {', '.join(repr(str(key)) for key in list(output)[:4]) or 'nothing in it'}"
    if isinstance(output, tuple | list):
        inside = ", ".join(describe_output(item) for item in output[:3])
        return f"a {type(output).__name__} of {len(output)}: {inside}"
    return f"a {type(output).__name__}"


def precision_hint(module: nn.Module, error: Exception) -> str:
    """What to do about ``error`` when weights in another precision than the images' may be its cause; else empty."""
    kinds = {str(item.dtype).removeprefix("torch.") for item in module.parameters() if item.is_floating_point()}
    if "type" not in str(error) or not kinds - {"float32"}:
        return ""
    weights = " and ".join(sorted(kinds))
    return (
        f"expected weights that take float32 images, got {weights} ones: convert them with .float(), or cast in forward"
    )


def empty_logits(x: Tensor, classes: int) -> Tensor:
    """Logits (0, ``classes``) of no images, attached to ``x`` so that a gradient can be asked for."""
    return x.flatten(1).sum(1, keepdim=True).expand(0, classes)


class Network(nn.Module):
    """A loaded network together with the way it is asked; maps float32 (N, C, H, W) to float32 logits (N, K)."""

    def __init__(self, module: nn.Module, *, micro_batch: int, device: str = "cpu") -> None:
        super().__init__()
        self.module = module.to(device)
        self.micro_batch = micro_batch
        self.sizes: tuple[int, ...] = (micro_batch,)
        """Sizes of micro-batches that give the same bits, the largest first.

        More than one only of a network that answers a question twice the same, and every row by itself.
        """
        self.device = torch.device(device)
        self.layout = torch.contiguous_format
        self.convolutions: Convolutions | None = None
        """What computes some of its convolutions, where torch does not."""
        self.chains: Chains | None = None
        """What computes them together with what lies between, with the same bits."""

    def _ask(self, part: Tensor, size: int) -> Tensor:
        rows = len(part)
        if rows < size:
            # Filler: copies outside the graph, whose infinite gradients times zero would spoil the rows they copy.
            filler = part.detach()[torch.arange(rows, size, device=part.device) % rows]
            part = torch.cat([part, filler])
        return self._answer(part)[:rows]

    def _answer(self, images: Tensor) -> Tensor:
        """What it says of one micro-batch, in chains where that can be done."""
        # A copy in the right layout; the network may change it in place without touching the caller's images.
        if self.chains is None:
            return self.run(images.clone(memory_format=self.layout))
        with contextlib.suppress(Exception):
            logits = self.run(images.clone(memory_format=self.layout), self.chains)
            if not self.chains.lost:
                return logits
        logits = self.run(images.clone(memory_format=self.layout))
        # Only the chains are to blame.
        self.chains = None
        return logits

    def computing(self) -> AbstractContextManager[object]:
        """Inside, the module's convolutions are computed as in all answers."""
        return nullcontext() if self.convolutions is None else self.convolutions

    def run(self, images: Tensor, chains: Chains | None = None) -> Tensor:
        """What the network's own code says of one micro-batch, in its own precision; ``OutputError`` as always."""
        try:
            with self.computing() if chains is None else chains:
                logits: object = self.module(images)
                if chains is not None:
                    logits = chains.computed(logits)
        except RuntimeError as error:
            hint = precision_hint(self.module, error)
            if not hint:
                raise
            raise OutputError(hint) from error
        n = len(images)
        if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != n or not logits.is_floating_point():
            raise OutputError(f"expected float logits (N, K), got {describe_output(logits)} for a batch of {n}")
        return logits

    def cuts(self, rows: int) -> list[int]:
        """Sizes of the micro-batches for a request, large ones first, only the last one to be filled up."""
        cuts: list[int] = []
        left = rows + -rows % self.sizes[-1]
        for size in self.sizes:
            whole, left = divmod(left, size)
            cuts += [size] * whole
        return cuts if sum(cuts) >= rows else [*cuts, self.sizes[-1]]

    def forward(self, x: Tensor) -> Tensor:
        """Logits of ``x``; differentiable. ``OutputError`` when the network returns anything but (N, K) floats."""
        if len(x) == 0:
            return empty_logits(x, self(x.new_zeros((1, *x.shape[1:]))).shape[1])
        cuts = self.cuts(len(x))
        rows = [*cuts[:-1], len(x) - sum(cuts[:-1])]
        parts = x.to(self.device).split(rows)  # type: ignore[no-untyped-call]
        logits = torch.cat([self._ask(part, size) for part, size in zip(parts, cuts, strict=True)])
        return logits.to(device=x.device, dtype=torch.float32)


def pull_back(logits: Tensor, x: Tensor, weights: Tensor) -> Tensor:
    """Gradient of ``(logits * weights).sum()`` with respect to ``x``; the graph is kept.

    Zeros when the logits do not depend on ``x`` in a way that can be differentiated.
    """
    if not logits.requires_grad:
        return torch.zeros_like(x)
    # Not through ``grad_outputs``: it makes torch import a computer algebra system, a second and 40 MB per process.
    total = (logits * weights).sum()
    try:
        (gradient,) = torch.autograd.grad(total, x, retain_graph=True, allow_unused=True)
    except RuntimeError as error:
        if "use_reentrant" not in str(error) or not x.is_leaf:
            raise
        # Reentrant checkpoints differentiate only into leaves, all of them at once.
        x.grad = None
        total.backward(retain_graph=True)  # type: ignore[no-untyped-call]
        found, x.grad = x.grad, None
        return torch.zeros_like(x) if found is None else found
    return torch.zeros_like(x) if gradient is None else gradient
