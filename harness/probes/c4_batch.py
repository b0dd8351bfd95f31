"""C4: whether an image's answer depends on the images beside it."""

from typing import Any

import torch

from harness.attacks.asking import ask
from harness.probes.contract import compared, refusal
from harness.probes.probe import Probe
from harness.probes.subject import Measured, Subject


def measure(subject: Subject, *, examples: int = 64, single: int = 16) -> Measured:
    """Whole batches go through the network at once, without the micro-batches that every other question is cut into.

    Largest relative difference and changed classes against a batch of ``examples``: in another order (``permuted``),
    beside noise (``beside_noise``), alone (``alone``), and in micro-batches (``micro``). ``cross``: largest gradient of
    half of a batch's logits with respect to the other half's images, ``own``: with respect to their own.
    """
    x = subject.x[subject.pick(torch.ones(len(subject.x), dtype=torch.bool), examples)]
    generator = torch.Generator().manual_seed(subject.seed)
    order = torch.randperm(len(x), generator=generator)
    mixed = x.clone()
    half = max(1, len(x) // 2)
    mixed[half:] = torch.rand(mixed[half:].shape, generator=generator)
    numbers: dict[str, Any] = {"examples": len(x)}
    try:
        raw = subject.variant(kind="raw")
        reference = ask(raw, x)
    except Exception as error:
        if refusal(error) is None:
            raise
        return Measured(numbers | {"error": str(error)})
    numbers["permuted"] = compared(reference[order], lambda: ask(raw, x[order]))
    numbers["beside_noise"] = compared(reference[:half], lambda: ask(raw, mixed)[:half])
    numbers["alone"] = compared(reference[:single], lambda: ask(raw, x[:single], 1))
    numbers["micro"] = compared(reference, lambda: ask(subject.model, x, subject.batch_size))
    try:
        numbers |= (
            subject.worker.probe("cross_gradient", x=x, rows=half) if len(x) > 1 else {"cross": None, "own": None}
        )
    except Exception as error:
        if refusal(error) is None:
            raise
        numbers |= {"cross": None, "own": None, "cross_error": str(error)}
    return Measured(numbers)


PROBE = Probe("c4-batch", measure, 1, reads_attacks=False)
