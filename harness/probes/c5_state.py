"""C5: whether the network after an attack is the network that it was before."""

import torch

from harness.attacks.asking import ask
from harness.probes.contract import attacked, difference
from harness.probes.probe import Probe
from harness.probes.subject import Measured, Subject

LISTED = 20
"""Names kept of a longer list."""


def measure(subject: Subject, *, examples: int = 64, attacked_examples: int = 16, steps: int = 5) -> Measured:
    """Hashes of every parameter, buffer and plain value that the code can reach, around a batch and an attack.

    ``tensors`` and ``attributes`` name what changed after ``batch`` and after ``attack``, and what differs between two
    passes of the same images with an attack between them (``history``): a note of the last batch does not, a count
    does. ``difference`` and ``mismatches`` compare the logits of those passes; ``training`` names modules in training
    mode. Two passes are made before the first look, so that what is set up at first use is there.
    """
    x = subject.x[subject.pick(torch.ones(len(subject.x), dtype=torch.bool), examples)]
    for _ in range(2):
        ask(subject.model, x, subject.batch_size)
    attacked(subject, subject.model, min(4, attacked_examples), 1)
    first = subject.worker.probe("digest")
    before = ask(subject.model, x, subject.batch_size)
    second = subject.worker.probe("digest")
    attacked(subject, subject.model, attacked_examples, steps)
    third = subject.worker.probe("digest")
    gap, changed = difference(before, ask(subject.model, x, subject.batch_size))
    fourth = subject.worker.probe("digest")
    return Measured(
        {
            "batch": _changes(first, second), "attack": _changes(second, third), "history": _changes(second, fourth),
            "difference": gap, "mismatches": changed, "training": subject.worker.probe("modes")["training"][:LISTED],
        }
    )  # fmt: skip


def _changes(before: dict[str, dict[str, str]], after: dict[str, dict[str, str]]) -> dict[str, list[str]]:
    return {
        kind: sorted(
            name for name in {*before[kind], *after[kind]} if before[kind].get(name) != after[kind].get(name)
        )[:LISTED]
        for kind in ("tensors", "attributes")
    }  # fmt: skip


PROBE = Probe("c5-state", measure, 3, reads_attacks=False)
