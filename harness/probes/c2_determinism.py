"""C2: whether the same question gets the same answer, and random numbers are drawn for it."""

from itertools import combinations

import torch
from torch import Tensor

from harness.attacks.asking import ask
from harness.probes.contract import plain
from harness.probes.probe import Probe
from harness.probes.subject import Measured, Subject


def measure(subject: Subject, *, examples: int = 128, passes: int = 5) -> Measured:
    """Ask about the same images several times over.

    ``consumed``: global generators that a pass moves on; ``flips``: images whose class is not the same in all passes;
    ``distance``: largest L2 distance between the same image's logits in two passes, each of length 1 (5 passes, as in
    the code of arXiv 2003.01690); ``finite``: images compared.
    """
    x = subject.x[subject.pick(torch.ones(len(subject.x), dtype=torch.bool), examples)]
    consumed: set[str] = set()
    for seed in (subject.seed + 1, subject.seed + 2):
        # A network that seeds itself leaves the same state behind each time; only another state before shows that.
        subject.worker.seed(seed)
        consumed |= set(subject.worker.probe("rng", x=x[:16])["consumed"])
    answers = [ask(subject.model, x, subject.batch_size) for _ in range(passes)]
    finite = torch.stack([logits.isfinite().all(1) for logits in answers]).all(0)
    classes = torch.stack([_classes(logits) for logits in answers])
    units = [torch.nn.functional.normalize(logits[finite].double(), dim=1) for logits in answers]
    distance = max((float((a - b).norm(dim=1).max()) for a, b in combinations(units, 2) if len(a)), default=0.0)
    return Measured(
        {
            "consumed": sorted(consumed), "flips": int((classes != classes[0]).any(0).sum()), "examples": len(x),
            "distance": plain(distance), "finite": int(finite.sum()), "passes": passes,
        }
    )  # fmt: skip


def _classes(logits: Tensor) -> Tensor:
    return torch.where(logits.isfinite().all(1), logits.nan_to_num().argmax(1), -1)


PROBE = Probe("c2-determinism", measure, 1, reads_attacks=False)
