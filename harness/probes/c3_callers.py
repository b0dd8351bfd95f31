"""C3: whether the answer depends on who asks: grad mode, thread, an attack's queries asked again, a new process."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from harness.attacks.asking import ask
from harness.attacks.geometry import Ball
from harness.probes.contract import Recorder, attacked, compared
from harness.probes.probe import Probe
from harness.probes.standing import share
from harness.probes.subject import Measured, Subject

MODES = ("no_grad", "inference_mode", "grad", "requires_grad", "thread")


def measure(
    subject: Subject, *, examples: int = 64, queries: int = 512, attacked_examples: int = 48, steps: int = 12,
    fresh: bool = True, timeout: float = 120.0,
) -> Measured:  # fmt: skip
    """Largest relative difference of the logits and changed classes (beyond a near tie), per way of asking.

    ``modes``: contexts inside the network's process, against a pass without gradients, and ``attack``: the pass that
    gradients are asked of. ``replay``: a random sample of the queries of a short attack (margin, ``steps`` steps),
    asked again afterwards in another order and batch; ``fresh``: the same and the images in a second process that
    never saw anything else, not even what a network is asked while it is made faster. ``queries`` and ``nonfinite``
    count what the attack asked and got. Every other image is moved within the budget, off the 256 values of a pixel.
    """
    x = _off_the_grid(subject, subject.pick(torch.ones(len(subject.x), dtype=torch.bool), examples))
    reference = ask(subject.model, x, subject.batch_size)
    modes: dict[str, Any] = {mode: compared(reference, partial(_in_mode, subject, mode, x)) for mode in MODES}
    modes["attack"] = compared(reference, lambda: _with_gradient(subject, x))
    recorder = Recorder(subject.model, size=queries, seed=subject.seed)
    attacked(subject, recorder, share(subject, attacked_examples, 16, 8), steps)
    numbers: dict[str, Any] = {"modes": modes, "asked": recorder.asked, "nonfinite": recorder.nonfinite}
    images, answers = recorder.sample() if recorder.asked else (x[:0], reference[:0])
    if len(images):
        numbers["replay"] = compared(answers, lambda: ask(subject.model, images, 37)) | {"queries": len(images)}
    numbers["again"] = compared(reference, lambda: ask(subject.model, x, subject.batch_size))
    if fresh:
        # Attack queries first: what remembers the images it was shown has nothing to remember.
        keep = images[: queries // 2]
        numbers["fresh"] = compared(
            torch.cat([answers[: len(keep)], reference]), lambda: _elsewhere(subject, torch.cat([keep, x]), timeout)
        ) | {"queries": len(keep) + len(x)}  # fmt: skip
    return Measured(numbers)


def _off_the_grid(subject: Subject, rows: Tensor) -> Tensor:
    """The images of ``rows``, every second one at a random point of its budget."""
    x = subject.x[rows].clone()
    moved = Ball(x[1::2], subject.norm, subject.eps)
    if len(x[1::2]):
        x[1::2] = moved.sample(subject.generators("c3-callers", rows[1::2]))
    return x


def _in_mode(subject: Subject, mode: str, x: Tensor) -> Tensor:
    return ask(subject.variant(kind="context", mode=mode), x, subject.batch_size)


def _with_gradient(subject: Subject, x: Tensor) -> Tensor:
    """The pass that an attack takes its gradient from."""
    parts = []
    for part in x.split(subject.batch_size):  # type: ignore[no-untyped-call]
        leaf = part.clone().requires_grad_()
        with torch.enable_grad():
            logits = subject.model(leaf)
        if logits.requires_grad:
            torch.autograd.grad(logits.sum(), leaf, allow_unused=True)
        parts.append(logits.detach())
    return torch.cat(parts)


def _elsewhere(subject: Subject, x: Tensor, timeout: float) -> Tensor:
    with subject.worker.another(optimise=False) as worker:
        worker.start(timeout)
        return torch.cat([worker.forward(part)[0] for part in x.split(53)])  # type: ignore[no-untyped-call]


PROBE = Probe("c3-callers", measure, 2, reads_attacks=False)
