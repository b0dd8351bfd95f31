"""G5: whether the gradient predicts what a step of an attack's size does, and is the right way round."""

import torch
from torch import Tensor

from harness.attacks.asking import ask
from harness.attacks.geometry import ascent
from harness.attacks.losses import LOSSES
from harness.probes.campaign import FULL_STEPS, Turned, run_campaign
from harness.probes.climbing import climb, sensitivity
from harness.probes.probe import Probe
from harness.probes.standing import broken, gate, pairs_of, sample, standing
from harness.probes.subject import Measured, Subject

SCALES = {"eps/16": 1 / 16, "eps/4": 1 / 4, "eps": 1.0}
margin = LOSSES["margin"]


def measure(
    subject: Subject, *, examples: int = 48, directions: int = 8, reverse: int = 64, steps: int = 20,
    smoothed: int = 8, smooth: int = 6, full_steps: int = FULL_STEPS,
) -> Measured:  # fmt: skip
    """(a) Slope of central differences on autograd's derivatives; (b) PGD down the loss; (c) PGD on smoothed gradients.

    (a) over clean-correct images, ``directions`` normal directions and the gradient's own sign, at three step sizes:
    ``beta`` is the least squares slope through 0 over all pairs, ``beta_sign`` the same along the sign of the gradient.
    (b) and (c) attack examples called robust; plain PGD from the image runs beside (c), so that only what smoothing
    adds counts. A success of (b) starts a full attack (``full_steps`` for each of its parts) with the gradient turned
    around on all of them, two of (c) smoothed PGD.
    Deep: ``examples=64, directions=16, reverse=256, smoothed=64, smooth=16``.
    """
    rows = sample(subject, subject.correct, examples)
    stop = gate(subject, rows)
    if stop is not None:
        return stop
    numbers: dict[str, object] = {"applicable": True, "examples": len(rows), **_slopes(subject, rows, directions)}
    alive = standing(subject)
    common = {"eps": subject.eps, "norm": subject.norm, "batch_size": subject.batch_size}
    down = sample(subject, alive, reverse)
    x, y = subject.x[down], subject.y[down]
    back = climb(subject.model, x, y, steps=steps, sign=-1.0, **common)  # type: ignore[arg-type]
    found = [pairs_of(down, back.fooled, back.x_adv)]
    numbers |= {"reversed_examples": len(down), "reversed_found": int(back.fooled.sum())}
    if bool(back.fooled.any()):
        campaign = run_campaign(
            subject,
            Turned(subject.model),
            alive.nonzero().squeeze(1),
            name="g5-turned",
            steps=full_steps,
            force=int(back.fooled.sum()) >= 3,
        )
        found += campaign.found
        numbers["campaign"] = campaign.numbers
    few = sample(subject, alive, smoothed)
    x, y = subject.x[few], subject.y[few]
    plain = climb(subject.model, x, y, steps=steps, **common)  # type: ignore[arg-type]
    soft = climb(subject.model, x, y, steps=steps // 2, smooth=smooth, step_size=subject.eps / 2.5,
                 generators=subject.generators("g5-smooth", few), **common)  # type: ignore[arg-type]  # fmt: skip
    found += [pairs_of(few, plain.fooled, plain.x_adv), pairs_of(few, soft.fooled, soft.x_adv)]
    gained = int((soft.fooled & ~plain.fooled).sum())
    if gained >= 2:
        alive[broken(found)] = False
        rest = alive.nonzero().squeeze(1)
        more = climb(subject.model, subject.x[rest], subject.y[rest], steps=steps, smooth=2 * smooth,
                     generators=subject.generators("g5-smooth-all", rest), **common)  # type: ignore[arg-type]  # fmt: skip
        found.append(pairs_of(rest, more.fooled, more.x_adv))
        numbers |= {"smoothed_attempted": len(rest), "smoothed_all_found": int(more.fooled.sum())}
    numbers |= {
        "smoothed_examples": len(few), "plain_found": int(plain.fooled.sum()),
        "smoothed_found": gained, "broken": broken(found),
    }  # fmt: skip
    return Measured.of(numbers, found)


def _slopes(subject: Subject, rows: Tensor, directions: int) -> dict[str, object]:
    """``beta`` and ``beta_sign`` by step size."""
    x, y = subject.x[rows], subject.y[rows]
    _, grad = sensitivity(subject.model, x, y, "margin", subject.batch_size)
    draws = subject.generators("g5-multiscale", rows)
    ways = [ascent(draws.normal(x.shape[1:]).to(x), "L2") for _ in range(directions)]
    uphill = ascent(grad, "Linf")
    length = subject.eps if subject.norm != "Linf" else subject.eps * x[0].numel() ** 0.5
    beta, beta_sign = {}, {}
    for name, part in SCALES.items():
        pairs = [_differences(subject, x, y, grad, part * length * way) for way in ways]
        beta[name] = _slope(torch.stack([told for told, _ in pairs]), torch.stack([seen for _, seen in pairs]))
        beta_sign[name] = _slope(*_differences(subject, x, y, grad, part * length * ascent(uphill, "L2")))
    return {"beta": beta, "beta_sign": beta_sign}


def _differences(subject: Subject, x: Tensor, y: Tensor, grad: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
    """What the gradient says of the margin's change from ``x - step`` to ``x + step``, in the box, and the change."""
    high, low = (x + step).clamp(0, 1), (x - step).clamp(0, 1)
    seen = margin(ask(subject.model, high, subject.batch_size), y) - margin(
        ask(subject.model, low, subject.batch_size), y
    )
    return ((high - low) * grad).flatten(1).sum(1), seen


def _slope(told: Tensor, seen: Tensor) -> float | None:
    """Least squares slope through 0 of ``seen`` on ``told``, every image weighed alike; None without a derivative."""
    told, seen = told.double(), seen.double()
    if told.ndim == 2:
        size = told.square().mean(0).sqrt().clamp_min(1e-300)
        told, seen = told / size, seen / size
    else:
        size = told.abs().clamp_min(1e-300)
        told, seen = told / size, seen / size
    keep = told.isfinite() & seen.isfinite()
    below = float(told[keep].square().sum())
    return float((told[keep] * seen[keep]).sum()) / below if below > 0 else None


PROBE = Probe("g5-multiscale", measure, 1)
