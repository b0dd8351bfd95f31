"""A model worker's answers from this very process, and a subject around a network, for the tests of probes."""

from contextlib import contextmanager

import torch
from torch import nn

from harness.models import LocalModel, WorkerError, WorkerOptions
from harness.probes.subject import Subject
from harness.worker.inspection import INSPECTIONS, directional
from harness.worker.loading import LoadError, seed_all

SHAPE = (3, 8, 8)
CLASSES = 5


class Asked(nn.Module):
    """A local model that fails as a remote one does, and knows the number of its variant."""

    def __init__(self, model, number=0) -> None:
        super().__init__()
        self._model, self.number = [model], number

    def forward(self, x):
        try:
            return self._model[0](x)
        except RuntimeError as error:
            raise WorkerError("raised", str(error)) from error


class InProcess:
    """What a probe asks a worker, asked of ``network`` without a process."""

    def __init__(self, make) -> None:
        self._make = make
        self.local = LocalModel(make(), WorkerOptions(optimise=False, image_shape=SHAPE))
        self.model = Asked(self.local)

    def seed(self, value) -> None:
        seed_all(value)

    def probe(self, name, *, x=None, **arguments):
        try:
            return INSPECTIONS[name](self.local.network, torch.empty(0) if x is None else x, **arguments)
        except LoadError as error:
            raise WorkerError(error.kind, str(error)) from error
        except (RuntimeError, TypeError) as error:
            raise WorkerError("raised", str(error)) from error

    def jvp(self, x, direction, *, variant=0):
        return directional(self.local._forms.get(variant), x, direction)

    def variant(self, **spec):
        return Asked(self.local.variant(**spec), len(self.local._forms._made) - 1)

    @contextmanager
    def another(self, *, optimise=True):
        yield Fresh(self._make)


class Fresh(InProcess):
    def start(self, timeout) -> None:
        pass

    def forward(self, x):
        with torch.no_grad():
            return self.model(x), 0


class Base(nn.Module):
    """A smooth network for images (3, 8, 8), always with the same weights."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.conv = nn.Conv2d(3, 8, 3, padding=1)
            self.linear = nn.Linear(8 * 64, CLASSES)
        self.setup()

    def setup(self) -> None:
        pass

    def f(self, x):
        return self.linear(nn.functional.silu(self.conv(4 * x - 2)).flatten(1))

    def forward(self, x):
        return self.f(x)


def wrapped(call, setup=None, **fields):
    """``Base`` with another forward."""
    members = {"forward": call, **({"setup": setup} if setup else {}), **fields}
    return type("Wrapped", (Base,), members)


def images(n=48):
    """8-bit images (n, 3, 8, 8)."""
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, 256, (n, *SHAPE), generator=generator).float() / 255


def subject(make, *, n=48, measured=None, claim=True, y=None):
    """A subject around a fresh network; unless said otherwise the labels are the plain network's predictions."""
    worker = InProcess(make)
    x = images(n)
    with torch.no_grad():
        truth = LocalModel(Base(), WorkerOptions(optimise=False, image_shape=SHAPE))(x).argmax(1) if y is None else y
        logits = worker.model(x)
    clean = torch.where(logits.isfinite().all(1), logits.nan_to_num().argmax(1), -1)
    return Subject(
        model=worker.model, worker=worker, variant=worker.variant, x=x, y=truth, clean=clean, classes=CLASSES,
        norm="Linf", eps=8 / 255, columns={"pgd-20@Linf-8/255": clean == truth} if claim else {}, fallen={},
        measured=measured or {}, names=(), others=None, seed=0, batch_size=16,
    )  # fmt: skip
