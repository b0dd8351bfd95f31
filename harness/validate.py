"""Whether a submission can be evaluated, found out in seconds: one check after the other, each says what to fix.

The network runs in a worker process; nothing of the submission is imported here.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from harness import datasets
from harness.card import Card
from harness.errors import CheckpointError, UserError
from harness.models import Description, ModelWorker, WorkerError, WorkerOptions
from harness.submission import CARD, Submission

TOLERANCE = 1e-4
"""Largest difference between logits that count as the same, relative to the largest logit of their row."""

SHAPES = ((3, 32, 32), (1, 28, 28), (3, 28, 28), (1, 32, 32), (3, 64, 64), (3, 96, 96), (3, 224, 224))
"""Images (C, H, W) tried, in this order, on a network whose card names no registered data set."""

IMPOSSIBLE = 1e-4
"""Probability below which a natural accuracy on the sample contradicts the one that is claimed."""


@dataclass(frozen=True)
class Check:
    """One thing looked at."""

    name: str
    ok: bool
    message: str
    """What was found, or what is wrong and what to do about it; one line."""


class _Wrong(Exception):
    """A check that fails; the text is its message."""


class _Trial:
    """A submission's network on a few images, and what is known about it so far."""

    def __init__(self, submission: Submission, worker: ModelWorker, description: Description) -> None:
        self.submission, self.worker, self.description = submission, worker, description
        self.state = str(worker.probe("state")["sha256"])
        self.x = torch.empty(0)
        self.logits = torch.empty(0)

    @property
    def card(self) -> Card:
        """What the submission says about itself."""
        return self.submission.card

    @property
    def stochastic(self) -> bool:
        """The card says that the same image need not give the same logits."""
        return self.card.defence == "stochastic"


def _family(card: Card) -> str | None:
    return next((name for name in card.datasets if f"{name}-sample" in datasets.names()), None)


def images(card: Card, shape: tuple[int, int, int] = SHAPES[0]) -> Tensor:
    """A dozen images float32 (12, C, H, W) in [0, 1]: real ones where there are some, noise, corners, black, white."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand((10, *shape), generator=generator)
    noise[8:] = noise[8:].round()
    family = _family(card)
    if family is not None and shape == SHAPES[0]:
        try:
            noise[:4] = datasets.load(f"{family}-sample", limit=4).tensors(0, 4)[0]
        except UserError:
            pass
    return torch.cat([noise, torch.zeros((1, *shape)), torch.ones((1, *shape))])


def _difference(first: Tensor, second: Tensor) -> float:
    """Largest difference between two sets of logits (N, K), relative to the largest logit of the row."""
    scale = first.abs().amax(1).clamp_min(1e-6)
    return float(((first - second).abs().amax(1) / scale).max())


def _eval_mode(trial: _Trial) -> str:
    left = trial.description.training
    if left:
        names = ", ".join(name or "the network itself" for name in left[:5]) + (", ..." if len(left) > 5 else "")
        raise _Wrong(
            f"expected every module in eval mode after eval(), got training mode in {names}: let eval() end it"
        )
    return "every module is in eval mode"


def _accepted(trial: _Trial) -> tuple[Tensor, Tensor]:
    """Images that the network takes and its logits for them."""
    shapes = SHAPES if trial.card.classes is None else SHAPES[:1]
    refusals: list[str] = []
    for shape in shapes:
        x = images(trial.card, shape)
        try:
            return x, trial.worker.forward(x)[0]
        except WorkerError as error:
            if error.kind != "raised":
                raise
            refusals.append(f"{tuple(x.shape)}: {error}")
    others = f"; {len(refusals) - 1} other sizes were tried too" if len(refusals) > 1 else ""
    raise _Wrong(f"expected logits for float32 images in [0, 1], got an exception for {refusals[0]}{others}")


def _shape(trial: _Trial) -> str:
    x, logits = _accepted(trial)
    wanted, got = trial.card.classes, logits.shape[1]
    detects = trial.card.defence == "detector"
    if got < 2 or (wanted is not None and got != wanted and not (detects and got == wanted + 1)):
        raise _Wrong(
            f"expected {wanted or 'at least 2'} logits for each image, as the card's dataset "
            f"({', '.join(trial.card.datasets)}) has classes, got {got}: give the last layer one output for each class"
        )
    trial.x, trial.logits = x, logits
    return f"images {tuple(x.shape)} to logits {tuple(logits.shape)}, parameters {trial.description.dtype}"


def _finite(trial: _Trial) -> str:
    good = trial.logits.isfinite().all(1)
    if not bool(good.all()):
        names = ["a real image or noise"] * 8 + ["black and white noise"] * 2 + ["a black image", "a white image"]
        where = ", ".join(dict.fromkeys(name for name, fine in zip(names, good.tolist(), strict=True) if not fine))
        trial.x, trial.logits = trial.x[good], trial.logits[good]
        raise _Wrong(f"expected finite logits, got NaN or infinity for {where}: guard divisions, logarithms and roots")
    return f"finite, from {float(trial.logits.min()):.4g} to {float(trial.logits.max()):.4g}"


def _not_probabilities(trial: _Trial) -> str:
    z = trial.logits
    if float(z.min()) >= -1e-5 and float(z.max()) <= 1 + 1e-5 and float((z.sum(1) - 1).abs().max()) < 1e-5:
        raise _Wrong(
            "expected logits, got probabilities (between 0 and 1, each row sums to 1), which hide the gradient from "
            "attacks: leave out the softmax at the end of forward()"
        )
    return "logits, not probabilities"


def _input_range(trial: _Trial) -> str:
    if _difference(trial.logits, trial.logits.roll(1, 0)) == 0:
        raise _Wrong("expected logits that depend on the image, got the same for every image: does forward() use x?")
    family = _family(trial.card)
    claimed = max((item.natural_accuracy or 0.0 for item in trial.card.claims), default=0.0)
    if not claimed or family is None:
        return "the logits depend on the image"
    x, y = (data := datasets.load(f"{family}-sample")).tensors(0, len(data))
    right = int((torch.cat([trial.worker.forward(part)[0] for part in x.split(10)]).argmax(1) == y).sum())
    share = min(claimed, 0.999)
    chance = sum(math.comb(len(y), k) * share**k * (1 - share) ** (len(y) - k) for k in range(right + 1))
    if chance < IMPOSSIBLE:
        raise _Wrong(
            f"expected about {claimed:.0%} of the {len(y)} sample images right, as the card claims, got {right}: "
            "is build() for images in [0, 1], with the normalisation inside, and the checkpoint the right one?"
        )
    return f"the logits depend on the image; {right} of {len(y)} sample images right"


def _again(trial: _Trial) -> str:
    for way, grad in (("a second time", False), ("with gradients recorded", True)):
        logits, token = trial.worker.forward(trial.x, grad=grad)
        if grad:
            trial.worker.release(token)
        difference = _difference(trial.logits, logits)
        if trial.stochastic:
            return f"differ by {difference:.2g} of the largest, as the card says (stochastic)"
        if not difference <= TOLERANCE:
            raise _Wrong(
                f"expected the same logits {way}, got a difference of {difference:.2g} of the largest: take out dropout "
                'and noise, or write defence = "stochastic" into the card'
            )
    return "the same logits again"


def _another_batch(trial: _Trial) -> str:
    if trial.stochastic:
        return "not compared: the card says stochastic"
    x, logits = trial.x, trial.logits
    half = len(x) // 2
    others = torch.cat([x[:half], x[half:].flip(0).mul(0.5).add(0.25)])
    layouts = {
        "in another order": (x.flip(0), logits.flip(0)),
        "beside other images": (others, logits[:half]),
        "alone in its batch": (x[:1], logits[:1]),
    }
    for way, (batch, expected) in layouts.items():
        difference = _difference(expected, trial.worker.forward(batch)[0][: len(expected)])
        if not difference <= TOLERANCE:
            raise _Wrong(
                f"expected an image's logits not to depend on its batch, got a difference of {difference:.2g} of the "
                f"largest {way}: BatchNorm must use its running statistics, as it does in eval mode"
            )
    return "the same logits in other batches"


def _gradient(trial: _Trial) -> str:
    if trial.card.defence == "non-differentiable":
        return "not looked at: the card says non-differentiable"
    logits, token = trial.worker.forward(trial.x, grad=True)
    half = len(logits) // 2
    weights = torch.zeros_like(logits)
    weights[:half].scatter_(1, logits[:half].argmax(1, keepdim=True), 1.0)
    gradient = trial.worker.vjp(token, weights)
    trial.worker.release(token)
    advice = 'or write defence = "non-differentiable" into the card'
    if gradient.shape != trial.x.shape or not bool(gradient.isfinite().all()):
        raise _Wrong(f"expected a finite gradient for the image, got NaN or infinity: guard roots and norms, {advice}")
    if not bool((gradient[:half] != 0).any()):
        raise _Wrong(
            "expected a gradient for the image, got zero everywhere: forward() must not detach, round or convert its "
            f"input, {advice}"
        )
    if bool((gradient[half:] != 0).any()):
        raise _Wrong("expected an image's logits to depend on this image alone, got a gradient for others of its batch")
    return "finite, and only for the image itself"


def _state(trial: _Trial) -> str:
    if str(trial.worker.probe("state")["sha256"]) != trial.state:
        raise _Wrong(
            "expected the same parameters and buffers after these checks, got changed ones: forward() must not"
        )
    return "parameters and buffers are as they were"


def _rebuilt(trial: _Trial, options: WorkerOptions, deadline: float) -> str:
    if trial.stochastic:
        return "not compared: the card says stochastic"
    with ModelWorker(trial.submission.spec(), options) as other:
        other.start(max(1.0, deadline - time.monotonic()))
        other.deadline = deadline
        difference = _difference(trial.logits, other.forward(trial.x)[0])
    if not difference <= TOLERANCE:
        raise _Wrong(
            f"expected the same logits in another process, got a difference of {difference:.2g} of the largest: "
            f"build() must not draw weights at random: give a checkpoint in {CARD}, or seed a torch.Generator"
        )
    return "the same logits in another process"


BATTERY: tuple[tuple[str, Callable[[_Trial], str]], ...] = (
    ("eval mode", _eval_mode),
    ("shape", _shape),
    ("finite", _finite),
    ("logits", _not_probabilities),
    ("range", _input_range),
    ("repeat", _again),
    ("batch", _another_batch),
    ("gradient", _gradient),
    ("state", _state),
)
"""What is looked at once the network is built, in this order; without logits the rest cannot be looked at."""


def _files(submission: Submission) -> list[Check]:
    """The checks that need no network: card, code and checkpoint."""
    checks = [Check("card", True, f"{submission.folder / CARD}: every field is fine")]
    try:
        submission.source_sha256()
        digest = submission.checkpoint_sha256()
    except CheckpointError as error:
        return [*checks, Check("checkpoint", False, str(error))]
    except UserError as error:
        return [*checks, Check("code", False, str(error))]
    return [*checks, Check("checkpoint", True, f"sha256 {digest}" if digest else "none: build() returns the network")]


def _judged(name: str, worker: ModelWorker, judge: Callable[[], str]) -> Check:
    """One check; a worker that is gone raises its ``WorkerError``, since nothing more can be asked of it."""
    try:
        return Check(name, True, judge())
    except _Wrong as error:
        return Check(name, False, str(error))
    except WorkerError as error:
        if not worker.alive:
            raise
        return Check(name, False, str(error))


def _network(submission: Submission, options: WorkerOptions, deadline: float) -> Iterator[Check]:
    """The checks of the network in its process."""
    stage = "build"
    try:
        with ModelWorker(submission.spec(), options) as worker:
            description = worker.start(deadline - time.monotonic())
            worker.deadline = deadline
            trial = _Trial(submission, worker, description)
            yield Check(stage, True, f"{description.parameters:,} parameters")
            for stage, judge in BATTERY:
                check = _judged(stage, worker, partial(judge, trial))
                yield check
                if stage in {"shape", "finite"} and not len(trial.logits):
                    return
            stage = "rebuild"
            yield _judged(stage, worker, partial(_rebuilt, trial, options, deadline))
    except WorkerError as error:
        yield Check("checkpoint" if error.kind == "checkpoint" else stage, False, str(error))


def validate(submission: Submission, *, options: WorkerOptions, timeout: float) -> list[Check]:
    """Look at everything that can be wrong with a submission; ``timeout`` in seconds is for all of it.

    The list ends at a failed check that makes the following ones impossible.
    """
    deadline = time.monotonic() + timeout
    checks = _files(submission)
    if checks[-1].ok:
        checks += _network(submission, replace(options, optimise=False), deadline)
    return checks
