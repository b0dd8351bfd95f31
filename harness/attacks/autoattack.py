"""The four members of AutoAttack (Croce and Hein 2020, arXiv 2003.01690), each by itself, through pyautoattack.

``x`` is float (N, C, H, W) in [0, 1], ``y`` int64 (N,), ``model`` maps images to logits (N, K). The answer has the
shape and dtype of ``x``: an adversarial example within ``eps`` where one was found, else ``x`` itself, which is also
what an image that is misclassified already gets. Members draw random numbers for all rows at once, so an outcome may
depend on which examples are attacked together, yet not on ``batch_size``, which only cuts the questions to the model
(None: all rows at once). Global random state is left as it was. Arguments out of range raise ``UserError``.
"""

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from harness.attacks.asking import answer
from harness.attacks.geometry import per_image
from harness.attacks.guard import GuardedModel
from harness.attacks.inputs import check_batch, check_count, check_labels, check_norm, check_positive
from harness.attacks.losses import misclassified
from harness.attacks.randomness import ExampleGenerators
from harness.errors import UserError

NORMS = ("Linf", "L2", "L1")

Generator = ExampleGenerators | torch.Generator | None
Prepare = Callable[[nn.Module, int, int], Any]
"""From the guarded model, the number of classes and a seed to one of pyautoattack's attacks."""


def apgd_ce(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    norm: str = "Linf",
    steps: int = 100,
    restarts: int = 1,
    generator: Generator = None,
    batch_size: int | None = None,
) -> Tensor:
    """Auto-PGD on the cross-entropy. In L1 the budget shrinks to ``eps`` from three times that, as in AutoAttack."""
    check_count("apgd-ce", steps=steps, restarts=restarts)

    def prepare(guarded: nn.Module, classes: int, seed: int) -> Any:  # noqa: ANN401
        from pyautoattack.autopgd_base import APGDAttack

        return APGDAttack(
            guarded, n_iter=steps, norm=norm, n_restarts=restarts, eps=eps, seed=seed, loss="ce", eot_iter=1, rho=0.75,
            use_largereps=norm == "L1", device=x.device, logger=_silent(),
        )  # fmt: skip

    return _run("apgd-ce", prepare, model, x, y, eps, norm, generator, batch_size)


def apgd_t(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    norm: str = "Linf",
    steps: int = 100,
    targets: int = 9,
    generator: Generator = None,
    batch_size: int | None = None,
) -> Tensor:
    """Auto-PGD on the targeted DLR loss, for the ``targets`` (at most K - 1) likeliest other classes in turn.

    The loss divides the difference of two logits by a spread that needs four classes. With two or three the
    difference itself is used: Auto-PGD only follows directions and compares values of one example.
    """
    check_count("apgd-t", steps=steps, targets=targets)

    def prepare(guarded: nn.Module, classes: int, seed: int) -> Any:  # noqa: ANN401
        from pyautoattack.autopgd_base import APGDAttack_targeted

        member = APGDAttack_targeted(
            guarded, n_iter=steps, norm=norm, n_restarts=1, eps=eps, seed=seed, eot_iter=1, rho=0.75,
            n_target_classes=min(targets, classes - 1), use_largereps=norm == "L1", device=x.device, logger=_silent(),
        )  # fmt: skip
        if classes < 4:

            def difference(logits: Tensor, labels: Tensor) -> Tensor:
                return logits.gather(1, torch.stack([labels, member.y_target], 1)).diff(dim=1).squeeze(1)

            member.dlr_loss_targeted = difference
        return member

    return _run("apgd-t", prepare, model, x, y, eps, norm, generator, batch_size)


def fab_t(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    norm: str = "Linf",
    steps: int = 100,
    targets: int = 9,
    generator: Generator = None,
    batch_size: int | None = None,
) -> Tensor:
    """Targeted FAB (Croce and Hein 2020, arXiv 1907.02044) towards the ``targets`` (at most K - 1) likeliest classes.

    It minimises the norm; what it finds beyond ``eps`` does not count.
    """
    check_count("fab-t", steps=steps, targets=targets)

    def prepare(guarded: nn.Module, classes: int, seed: int) -> Any:  # noqa: ANN401
        from pyautoattack.fab_pt import FABAttack_PT

        return FABAttack_PT(
            guarded, norm=norm, n_restarts=1, n_iter=steps, eps=eps, seed=seed, targeted=True, device=x.device,
            n_target_classes=min(targets, classes - 1),
        )  # fmt: skip

    return _run("fab-t", prepare, model, x, y, eps, norm, generator, batch_size)


def square(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    norm: str = "Linf",
    queries: int = 5000,
    generator: Generator = None,
    batch_size: int | None = None,
) -> Tensor:
    """Square Attack (Andriushchenko et al. 2020, arXiv 1912.00049): black-box random search with ``queries`` steps.

    The schedule of square sizes is that of AutoAttack and does not stretch with ``queries``: fewer queries are the
    beginning of the longer run. In L2 and L1 images must have at least 5 x 5 pixels.
    """
    check_count("square", queries=queries)
    if norm != "Linf" and x.ndim == 4 and min(x.shape[2:]) < 5:
        raise UserError(f"square: x: expected images of at least 5 x 5 pixels, got {x.shape[2]} x {x.shape[3]}")

    def prepare(guarded: nn.Module, classes: int, seed: int) -> Any:  # noqa: ANN401
        from pyautoattack.square import SquareAttack

        return SquareAttack(
            guarded, norm=norm, n_queries=queries, eps=eps, p_init=0.8, n_restarts=1, seed=seed, resc_schedule=False,
            device=x.device,
        )  # fmt: skip

    return _run("square", prepare, model, x, y, eps, norm, generator, batch_size)


def _silent() -> logging.Logger:
    """A logger of its own that keeps quiet: what the members warn about, checks measure."""
    logger = logging.Logger("pyautoattack")
    logger.addHandler(logging.NullHandler())
    return logger


def drawn_back(points: Tensor, x: Tensor, eps: float) -> Tensor:
    """``points``, those beyond ``eps`` in L1 drawn back: pyautoattack's projection is off by up to 1e-4 of it."""
    delta = points - x
    lengths = torch.linalg.vector_norm(delta.flatten(1).double(), ord=1, dim=1)
    drawn = x + delta * per_image(eps / lengths.clamp_min(eps), delta).to(delta)
    return torch.where(per_image(lengths > eps, x), drawn, points)


def _run(
    attack: str,
    prepare: Prepare,
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    eps: float,
    norm: str,
    generator: Generator,
    batch_size: int | None,
) -> Tensor:
    """Attack the rows that are classified as ``y`` and take over what came back adversarial and finite."""
    check_batch(attack, x, y)
    check_norm(attack, norm, NORMS)
    check_positive(attack, eps=eps)
    if batch_size is not None:
        check_count(attack, batch_size=batch_size)
    x_adv = x.detach().clone()
    if not len(x):
        return x_adv
    with torch.no_grad():
        logits = torch.cat([answer(model, part) for part in torch.split(x_adv, batch_size or len(x))])
    check_labels(attack, logits, y)
    rows = (~misclassified(logits, y)).nonzero().squeeze(1)
    if not len(rows):
        return x_adv
    classes = logits.shape[1]
    seed = ExampleGenerators.of(generator, len(x)).select(rows).batch_seed
    guarded = GuardedModel(model, classes=classes, batch_size=batch_size)
    # Members seed the global generators of the CPU and of the current accelerator.
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices):
        found = prepare(guarded, classes, seed).perturb(x_adv[rows], y[rows])
    found = found.detach().to(x.dtype).clamp_(0, 1)
    if norm == "L1":
        found = drawn_back(found, x_adv[rows], eps)
    kept = found.flatten(1).isfinite().all(1)
    x_adv[rows[kept]] = found[kept]
    return x_adv
