"""C1: whether the logits are logits: width, finiteness, ties, probabilities, values that are only labels."""

import torch
from torch import Tensor

from harness.attacks.asking import ask, ask_gradient
from harness.attacks.losses import margin
from harness.probes.contract import budget, is_half, plain
from harness.probes.probe import Probe
from harness.probes.subject import Measured, Subject


def measure(subject: Subject, *, examples: int = 64, noise: int = 16) -> Measured:
    """Logits of images, corners of their budget, noise and flat images; gradients of the margin at images and corners.

    ``width``: logits per image; ``nonfinite``: rows by kind of input; ``ties``: rows whose two largest logits are
    equal, of ``rows``; ``distinct``: median number of different values in a row; ``probabilities``,
    ``log_probabilities``: whether the rows look like them (arXiv 2003.01690's code: within 1e-5); ``saturated``: share
    of rows with a 1.0; ``gradients``: rows of gradients that are not finite, of ``asked``; ``half``: all logits are
    half-precision numbers.
    """
    x = subject.x[subject.pick(torch.ones(len(subject.x), dtype=torch.bool), examples)]
    generator = torch.Generator().manual_seed(subject.seed)
    signs = torch.rand(x.shape, generator=generator).sub(0.5).sign()
    norm, eps = budget(subject)
    length = eps if norm == "Linf" else eps / x[0].numel() ** (0.5 if norm == "L2" else 1.0)
    corners = (x + length * signs).clamp(0, 1)
    level = torch.tensor([0.0, 0.5, 1.0]).view(3, 1, 1, 1).expand(3, *x.shape[1:])
    sets = {
        "images": x, "corners": corners, "noise": torch.rand((noise, *x.shape[1:]), generator=generator),
        "flat": level.clone(),
    }  # fmt: skip
    answers = {name: ask(subject.model, images, subject.batch_size) for name, images in sets.items()}
    rows = torch.cat([answers[name] for name in ("images", "corners", "noise")])
    whole = rows[rows.isfinite().all(1)]
    broken = sum(_broken_gradients(subject, sets[name], answers[name]) for name in ("images", "corners"))
    return Measured(
        {
            "width": rows.shape[1], "classes": subject.classes, "rows": len(rows),
            "nonfinite": {name: int((~logits.isfinite().all(1)).sum()) for name, logits in answers.items()},
            "gradients": broken, "asked": 2 * len(x), **_looks(whole),
        }
    )  # fmt: skip


def _broken_gradients(subject: Subject, x: Tensor, logits: Tensor) -> int:
    labels = logits.nan_to_num(-1e30).argmax(1)
    _, _, gradient = ask_gradient(subject.model, x, lambda z, at: margin(z, labels[at]), subject.batch_size)
    fine = logits.isfinite().all(1)
    return int((~gradient.flatten(1).isfinite().all(1) & fine).sum())


def _looks(logits: Tensor) -> dict[str, float | int | bool | None]:
    if not len(logits):
        return {
            "ties": 0, "distinct": None, "probabilities": False, "log_probabilities": False, "saturated": 0.0,
            "half": False,
        }  # fmt: skip
    top = logits.topk(2, 1).values
    total = logits.double().sum(1)
    probabilities = bool((logits.min() >= -1e-5) & (logits.max() <= 1 + 1e-5) & ((total - 1).abs().max() < 1e-5))
    distinct = torch.tensor([float(len(row.unique())) for row in logits])
    return {
        "ties": int((top[:, 0] == top[:, 1]).sum()), "distinct": plain(distinct.median()),
        "probabilities": probabilities,
        "log_probabilities": bool(logits.double().logsumexp(1).abs().max() < 1e-5),
        "saturated": float((logits.amax(1) >= 1.0).float().mean()) if probabilities else 0.0, "half": is_half(logits),
    }  # fmt: skip


PROBE = Probe("c1-output", measure, 1, reads_attacks=False)
