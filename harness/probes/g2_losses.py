"""G2: whether other losses, or the same at another scale of the logits, break what the columns call robust."""

from functools import partial

from torch import Tensor
from torch.nn import functional as F

from harness.attacks.asking import ask
from harness.attacks.losses import LOSSES
from harness.probes.campaign import FULL_STEPS, run_campaign
from harness.probes.climbing import LOSS_OF, LossOf, climb, cosine, sensitivity
from harness.probes.probe import Probe
from harness.probes.standing import broken, gate, pairs_of, sample, standing
from harness.probes.subject import Measured, Subject

RIVALS = ("ce", "ce_rescaled", "margin", "dlr")


def measure(
    subject: Subject, *, examples: int = 96, steps: int = 20, scaled: int = 16, scales: tuple[float, ...] = (1e-3, 1e3),
    full_steps: int = FULL_STEPS,
) -> Measured:  # fmt: skip
    """PGD of ``steps`` from the image with four losses on ``examples`` clean-correct images.

    Losses: cross-entropy, cross-entropy of logits over their median margin, margin, DLR. ``left`` are the shares of the
    correct images that each loss leaves standing, on the same images, so that a loss that is blind shows by itself.
    The scale test asks for the direction of the cross-entropy's gradient with logits times ``scales``: an honest
    network's barely turns. When a loss other than plain cross-entropy breaks an example called robust, a full attack
    on the margin goes over all of them, of ``full_steps`` for each of its parts. Deep: ``examples=256``, ``scaled=64``.
    """
    rows = sample(subject, subject.correct, examples)
    stop = gate(subject, rows)
    if stop is not None:
        return stop
    x, y = subject.x[rows], subject.y[rows]
    logits = ask(subject.model, x, subject.batch_size)
    temperature = float(-LOSSES["margin"](logits, y).median())
    losses: dict[str, LossOf] = {**LOSS_OF, "ce_rescaled": partial(_scaled, 1 / max(temperature, 1e-12))}
    left, found = {}, []
    alive = standing(subject)[rows]
    for name in RIVALS:
        result = climb(subject.model, x, y, eps=subject.eps, norm=subject.norm, steps=steps, loss=losses[name],
                       batch_size=subject.batch_size)  # fmt: skip
        left[name] = float((~result.fooled).float().mean())
        found.append(pairs_of(rows, result.fooled & alive, result.x_adv))
    numbers = {
        "applicable": True, "examples": len(rows), "steps": steps, "temperature": temperature, "left": left,
        "ce_minus_best": left["ce"] - min(left.values()), **_turns(subject, x[:scaled], y[:scaled], scales),
    }  # fmt: skip
    if broken(found):
        campaign = run_campaign(
            subject, subject.model, standing(subject).nonzero().squeeze(1), name="g2-margin", steps=full_steps,
            force=True,
        )  # fmt: skip
        found += campaign.found
        numbers["campaign"] = campaign.numbers
    return Measured.of({**numbers, "broken": broken(found)}, found)


def _scaled(scale: float, logits: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(logits * scale, y, reduction="none")


def _turns(subject: Subject, x: Tensor, y: Tensor, scales: tuple[float, ...]) -> dict[str, object]:
    """Mean cosine between the signs of the gradients with plain and with scaled logits, and shares of zero gradients.

    The reference is the margin's gradient, which no scale can change.
    """
    _, reference = sensitivity(subject.model, x, y, "margin", subject.batch_size)
    dead = float((reference.flatten(1) == 0).all(1).float().mean())
    turned = {}
    zero = {}
    for scale in (1.0, *scales):
        _, grad = sensitivity(subject.model, x, y, partial(_scaled, scale), subject.batch_size)
        turned[f"{scale:g}"] = float(cosine(grad.sign(), reference.sign()).mean())
        zero[f"{scale:g}"] = float((grad.flatten(1) == 0).all(1).float().mean())
    return {"scale_cosine": turned, "scale_zero": zero, "margin_zero": dead}


PROBE = Probe("g2-losses", measure, 1)
