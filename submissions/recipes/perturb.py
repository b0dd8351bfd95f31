"""Inner maximisation shared by the adversarial recipes: BatchNorm in evaluation mode, parameters frozen."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse
from torch.fx.proxy import TraceError
from torch.nn import functional as F


@contextmanager
def attackable(model: nn.Module) -> Iterator[None]:
    """Evaluation mode and frozen parameters inside the block; both restored after it."""
    training = model.training
    model.eval().requires_grad_(False)
    try:
        yield
    finally:
        model.train(training).requires_grad_(True)


def folded(model: nn.Module, x: Tensor) -> nn.Module:
    """A frozen copy of ``model`` with BatchNorm folded into the convolutions: equal logits up to rounding, sooner.

    ``model`` must be in evaluation mode; what it learns later the copy does not see. ``model`` itself comes back where
    tracing fails or loses something (parameters swapped in ``forward``, a convolution used twice), which the first two
    images ``x`` show, and on a GPU, which would wait longer for the folding than it saves.
    """
    if x.device.type != "cpu":
        return model
    try:
        copy: nn.Module = fuse(model)
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            logits, found = model(x[:2]), copy(x[:2])
    except (TraceError, RuntimeError, TypeError):
        return model
    same = torch.allclose(found, logits, rtol=0, atol=1e-4 * max(1.0, float(logits.abs().max())))
    return copy.requires_grad_(False) if same else model


def climb(
    model: nn.Module,
    x: Tensor,
    start: Tensor,
    objective: Callable[[Tensor], Tensor],
    *,
    eps: float,
    step_size: float,
    steps: int,
) -> Tensor:
    """Signed-gradient ascent on ``objective(logits)`` from ``start`` within the Linf ball of ``eps`` around ``x``."""
    x_adv = start
    with attackable(model):
        network = folded(model, x) if steps > 1 else model
        for _ in range(steps):
            x_adv = x_adv.detach().requires_grad_(True)
            (gradient,) = torch.autograd.grad(objective(network(x_adv)), x_adv)
            moved = x_adv.detach() + step_size * gradient.sign()
            x_adv = (x + (moved - x).clamp(-eps, eps)).clamp(0, 1)
    return x_adv.detach()


def ascend(
    model: nn.Module, x: Tensor, y: Tensor, start: Tensor, *, eps: float, step_size: float, steps: int
) -> Tensor:
    """``climb`` on the cross-entropy with labels ``y`` (N,)."""

    def objective(logits: Tensor) -> Tensor:
        return F.cross_entropy(logits, y, reduction="sum")

    return climb(model, x, start, objective, eps=eps, step_size=step_size, steps=steps)


def ascend_from_clean(
    model: nn.Module, x: Tensor, start: Tensor, *, eps: float, step_size: float, steps: int
) -> Tensor:
    """``climb`` on KL(p(x) || p(x_adv)), TRADES' inner problem: away from the network's own answer at ``x``."""
    with attackable(model), torch.no_grad():
        clean = model(x)

    def objective(logits: Tensor) -> Tensor:
        return divergence(clean, logits).sum()

    return climb(model, x, start, objective, eps=eps, step_size=step_size, steps=steps)


def divergence(p: Tensor, q: Tensor) -> Tensor:
    """KL(softmax(p) || softmax(q)) per example (N,), in float32 or wider, from logits (N, C)."""
    log_p, log_q = (F.log_softmax(logits.to(torch.promote_types(logits.dtype, torch.float32)), 1) for logits in (p, q))
    return (log_p.exp() * (log_p - log_q)).sum(1)


def uniform_start(x: Tensor, *, eps: float, generator: torch.Generator) -> Tensor:
    """``x`` plus uniform noise of the Linf ball of ``eps``, clipped to [0, 1]."""
    noise = torch.rand(x.shape, generator=generator).to(x.device).mul_(2 * eps).sub_(eps)
    return (x + noise).clamp(0, 1)


def normal_start(x: Tensor, *, generator: torch.Generator, scale: float = 0.001) -> Tensor:
    """``x`` plus Gaussian noise of standard deviation ``scale``, clipped to [0, 1]: where TRADES and MART start."""
    return (x + scale * torch.randn(x.shape, generator=generator).to(x.device)).clamp(0, 1)
