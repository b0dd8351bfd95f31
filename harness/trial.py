"""One network on a few images: what validation looks at, check by check; each says what it found or what to fix."""

import contextlib
import math
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from harness import datasets
from harness.datasets import Dataset
from harness.errors import UserError
from harness.models import Description, ModelWorker, WorkerError, WorkerOptions
from harness.submission import CARD, Submission
from harness.submission.card import Card
from harness.submission.values import SHAPES as FAMILY_SHAPES

TOLERANCE = 1e-4
"""Largest difference between logits that count as the same, relative to the largest logit of their row."""

SHAPES = ((3, 32, 32), (1, 28, 28), (3, 28, 28), (1, 32, 32), (3, 64, 64), (3, 96, 96), (3, 224, 224))
"""Images (C, H, W) tried, in this order, on a network whose card names no registered data set."""

IMPOSSIBLE = 1e-4
"""Probability below which a natural accuracy on the sample contradicts the one that is claimed."""

FEWEST = 4
"""Images with finite logits that the other checks need."""


class FaultError(Exception):
    """A check that fails; the text is its message."""


class Trial:
    """A submission's network on a few images, and what is known about it so far."""

    def __init__(self, submission: Submission, worker: ModelWorker, description: Description) -> None:
        self.submission, self.worker, self.description = submission, worker, description
        self.x = torch.empty(0)
        """Images the network takes; none before the check of the shape."""
        self.logits = torch.empty(0)
        """Its logits for them."""
        self.state = ""
        """Hash of its parameters and buffers after the first forward pass."""

    @property
    def card(self) -> Card:
        """What the submission says about itself."""
        return self.submission.card

    @property
    def stochastic(self) -> bool:
        """The card says that the same image need not give the same logits."""
        return self.card.defence == "stochastic"


def _sample(card: Card) -> Dataset | None:
    """Real images of the kind the network is made for, where some come with the installation."""
    name = next((f"{family}-sample" for family in card.datasets if f"{family}-sample" in datasets.names()), None)
    with contextlib.suppress(UserError):
        return datasets.load(name) if name else None
    return None


def images(card: Card, shape: tuple[int, int, int] = SHAPES[0]) -> Tensor:
    """A dozen images float32 (12, C, H, W) in [0, 1]: real ones where there are some, noise, corners, black, white."""
    noise = torch.rand((10, *shape), generator=torch.Generator().manual_seed(0))
    noise[8:] = noise[8:].round()
    sample = _sample(card)
    if sample is not None and shape == SHAPES[0]:
        noise[:4] = sample.tensors(0, 4)[0]
    return torch.cat([noise, torch.zeros((1, *shape)), torch.ones((1, *shape))])


def _difference(first: Tensor, second: Tensor) -> float:
    """Largest difference between two sets of logits (N, K), relative to the largest logit of the row."""
    scale = first.abs().amax(1).clamp_min(1e-6)
    return float(((first - second).abs().amax(1) / scale).max())


def _eval_mode(trial: Trial, left: Sequence[str] | None = None) -> str:
    left = trial.description.training if left is None else left
    if left:
        names = ", ".join(name or "the network itself" for name in left[:5]) + (", ..." if len(left) > 5 else "")
        raise FaultError(
            f"expected every module in eval mode, got training mode in {names}: eval() must reach them, and forward() "
            "must not call train()"
        )
    return "every module is in eval mode"


def _accepted(trial: Trial) -> tuple[Tensor, Tensor]:
    """Images that the network takes and its logits for them."""
    shapes = [shape for shape in map(FAMILY_SHAPES.get, trial.card.datasets) if shape] or SHAPES
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
    raise FaultError(f"expected logits for float32 images in [0, 1], got an exception for {refusals[0]}{others}")


def _shape(trial: Trial) -> str:
    x, logits = _accepted(trial)
    wanted, got = trial.card.classes, logits.shape[1]
    detects = trial.card.defence == "detector"
    if got < 2 or (wanted is not None and got != wanted and not (detects and got == wanted + 1)):
        raise FaultError(
            f"expected {wanted or 'at least 2'} logits for each image, as the card's dataset "
            f"({', '.join(trial.card.datasets)}) has classes, got {got}: give the last layer one output for each class"
        )
    trial.x, trial.logits = x, logits
    trial.state = str(trial.worker.probe("state")["sha256"])
    return f"images {tuple(x.shape)} to logits {tuple(logits.shape)}, parameters {trial.description.dtype}"


def _finite(trial: Trial) -> str:
    good = trial.logits.isfinite().all(1)
    if not bool(good.all()):
        names = ["a real image or noise"] * 8 + ["black and white noise"] * 2 + ["a black image", "a white image"]
        where = ", ".join(dict.fromkeys(name for name, fine in zip(names, good.tolist(), strict=True) if not fine))
        good &= good.sum() >= FEWEST
        trial.x, trial.logits = trial.x[good], trial.logits[good]
        raise FaultError(
            f"expected finite logits, got NaN or infinity for {where}: guard divisions, logarithms and roots"
        )
    return f"finite, from {float(trial.logits.min()):.4g} to {float(trial.logits.max()):.4g}"


def _not_probabilities(trial: Trial) -> str:
    z = trial.logits
    if float(z.min()) >= -1e-5 and float(z.max()) <= 1 + 1e-5 and float((z.sum(1) - 1).abs().max()) < 1e-5:
        raise FaultError(
            "expected logits, got probabilities (between 0 and 1, each row sums to 1), which hide the gradient from "
            "attacks: leave out the softmax at the end of forward()"
        )
    return "logits, not probabilities"


def _input_range(trial: Trial) -> str:
    if _difference(trial.logits, trial.logits.roll(1, 0)) == 0:
        raise FaultError(
            "expected logits that depend on the image, got the same for every image: does forward() use x?"
        )
    sample = _sample(trial.card)
    claimed = max((item.natural_accuracy or 0.0 for item in trial.card.claims), default=0.0)
    if not claimed or sample is None:
        return "the logits depend on the image"
    x, y = sample.tensors(0, len(sample))
    right = int((torch.cat([trial.worker.forward(part)[0] for part in torch.split(x, 10)]).argmax(1) == y).sum())
    share = min(claimed, 0.999)
    chance = sum(math.comb(len(y), k) * share**k * (1 - share) ** (len(y) - k) for k in range(right + 1))
    if chance < IMPOSSIBLE:
        raise FaultError(
            f"expected about {claimed:.0%} of the {len(y)} sample images right, as the card claims, got {right}: "
            "is build() for images in [0, 1], with the normalisation inside, and the checkpoint the right one?"
        )
    return f"the logits depend on the image; {right} of {len(y)} sample images right"


def _again(trial: Trial) -> str:
    for way, grad in (("a second time", False), ("with gradients recorded", True)):
        logits, token = trial.worker.forward(trial.x, grad=grad)
        if grad:
            trial.worker.release(token)
        difference = _difference(trial.logits, logits)
        if trial.stochastic:
            return f"differ by {difference:.2g} of the largest, as the card says (stochastic)"
        if not difference <= TOLERANCE:
            raise FaultError(
                f"expected the same logits {way}, got a difference of {difference:.2g} of the largest: take out "
                'dropout and noise, or write defence = "stochastic" into the card'
            )
    return "the same logits again"


def _another_batch(trial: Trial) -> str:
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
            raise FaultError(
                f"expected an image's logits not to depend on its batch, got a difference of {difference:.2g} of the "
                f"largest {way}: BatchNorm must use its running statistics, as it does in eval mode"
            )
    return "the same logits in other batches"


def _gradient(trial: Trial) -> str:
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
        raise FaultError(
            f"expected a finite gradient for the image, got NaN or infinity: guard roots and norms, {advice}"
        )
    if not bool((gradient[:half] != 0).any()):
        raise FaultError(
            "expected a gradient for the image, got zero everywhere: forward() must not detach, round or convert its "
            f"input, {advice}"
        )
    if bool((gradient[half:] != 0).any()):
        raise FaultError(
            "expected an image's logits to depend on this image alone, got a gradient for others of its batch"
        )
    return "finite, and only for the image itself"


def _state(trial: Trial) -> str:
    _eval_mode(trial, trial.worker.probe("training")["training"])
    if str(trial.worker.probe("state")["sha256"]) != trial.state:
        raise FaultError(
            "expected the same parameters and buffers after these checks, got others: forward() must not change them"
        )
    return "parameters and buffers are as they were"


def rebuilt(trial: Trial, options: WorkerOptions, deadline: float) -> str:
    """Compare with the network built once more in a process of its own; ``deadline`` is a ``time.monotonic()``."""
    if trial.stochastic:
        return "not compared: the card says stochastic"
    with ModelWorker(trial.submission.spec(), options) as other:
        other.start(max(1.0, deadline - time.monotonic()))
        other.deadline = deadline
        difference = _difference(trial.logits, other.forward(trial.x)[0])
    if not difference <= TOLERANCE:
        raise FaultError(
            f"expected the same logits in another process, got a difference of {difference:.2g} of the largest: "
            f"build() must not draw weights at random: give a checkpoint in {CARD}, or seed a torch.Generator"
        )
    return "the same logits in another process"


BATTERY: tuple[tuple[str, Callable[[Trial], str]], ...] = (
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
