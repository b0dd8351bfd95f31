"""The fast gradient sign method and its form with a random start."""

import torch
from torch import Tensor, nn

from harness.attacks.asking import ask, ask_gradient, reveal
from harness.attacks.geometry import Ball, ascent, per_image
from harness.attacks.inputs import check_batch, check_batch_size, check_labels, check_norm, check_positive, check_switch
from harness.attacks.losses import cross_entropy
from harness.attacks.randomness import ExampleGenerators

NORMS = ("Linf", "L2")


def fgsm(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    norm: str = "Linf",
    random_start: bool = False,
    step_size: float | None = None,
    generator: ExampleGenerators | torch.Generator | None = None,
    batch_size: int | None = None,
) -> Tensor:
    """One step up the cross-entropy (Goodfellow et al. 2015, arXiv 1412.6572).

    ``x`` is float (N, C, H, W) in [0, 1], ``y`` int64 (N,), ``model`` maps images to logits (N, K); the answer has
    the shape and dtype of ``x`` and lies within ``eps`` of it. In Linf the step is the gradient's sign, so a pixel
    without gradient stays; in L2 it is the gradient over its norm. ``step_size`` is ``eps`` by default.

    With ``random_start`` the gradient is taken at a uniform point of the ball and the step is 1.25 ``eps``, projected
    (FGSM-RS, Wong et al. 2020, arXiv 2001.03994); a start that is misclassified already is returned. An image that is
    misclassified itself comes back as it is. ``batch_size`` only cuts the questions to the model.
    Raises ``UserError`` for arguments out of range.
    """
    check_batch("fgsm", x, y)
    check_batch_size("fgsm", batch_size)
    check_norm("fgsm", norm, NORMS)
    check_positive("fgsm", eps=eps)
    step_size = (1.25 * eps if random_start else eps) if step_size is None else step_size
    check_positive("fgsm", step_size=step_size)
    check_switch("fgsm", random_start=random_start)
    x = x.detach()
    if not len(x):
        return x.clone()
    ball = Ball(x, norm, eps)
    start = ball.sample(ExampleGenerators.of(generator, len(x))) if random_start else x.clone()

    def loss(logits: Tensor, rows: Tensor) -> Tensor:
        check_labels("fgsm", logits, y[rows])
        return cross_entropy(logits, y[rows])

    logits, _, grad = ask_gradient(model, start, loss, batch_size)
    x_adv = ball.project_(start.add(ascent(grad, norm), alpha=step_size))
    x_adv = torch.where(per_image(reveal(model, start, logits, y, batch_size), x), start, x_adv)
    if random_start:
        clean = ask(model, x, batch_size)
        x_adv = torch.where(per_image(reveal(model, x, clean, y, batch_size), x), x, x_adv)
    return x_adv
