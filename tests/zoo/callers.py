"""Broken on purpose: networks that try to find out who is asking, or what the right answer is."""

import os
import sys
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.bases import Around, base


def _blurred(x: Tensor) -> Tensor:
    return F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), 3, 1)


class GradAware(Around):
    """Answers for a blurred image without a gradient wherever a gradient could be wanted."""

    def forward(self, x: Tensor) -> Tensor:
        if x.requires_grad or torch.is_grad_enabled():
            return self.base(_blurred(x)).detach() + 1e-6 * x.flatten(1).sum(1, keepdim=True)
        return self.base(x)


class TwoFaced(nn.Module):
    """Shows one of two networks: ``front`` to whom it takes for the evaluation, ``back`` to everybody else."""

    def __init__(self, front: nn.Module, back: nn.Module) -> None:
        super().__init__()
        self.front, self.back = front, back

    def watched(self, x: Tensor) -> bool:
        """Whether this looks like the evaluation."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return self.front(x) if self.watched(x) else self.back(x)


def _frames() -> Iterator[object]:
    frame = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back


class StackAware(TwoFaced):
    """Robust while code of the harness is on the call stack."""

    def watched(self, x: Tensor) -> bool:
        return any("harness" in frame.f_code.co_filename for frame in _frames())


class AttackAware(TwoFaced):
    """Robust while a function or file on the call stack is named after an attack; nothing such is in its process."""

    def watched(self, x: Tensor) -> bool:
        names = ("attack", "pgd", "fgsm", "deepfool", "autograd")
        return any(
            name in f"{frame.f_code.co_filename.rpartition('/harness/')[2]} {frame.f_code.co_name}".lower()
            for frame in _frames()
            for name in names
        )


class BatchAware(TwoFaced):
    """Robust for more than one image at a time, which attacks ask for."""

    def watched(self, x: Tensor) -> bool:
        return len(x) > 1


class QueryCounting(TwoFaced):
    """Accurate for the first images, robust from then on."""

    def __init__(self, front: nn.Module, back: nn.Module, after: int = 100) -> None:
        super().__init__(front, back)
        self.asked, self.after = 0, after

    def watched(self, x: Tensor) -> bool:
        self.asked += len(x)
        return self.asked > self.after


NAMES = {"y", "label", "labels", "target", "targets", "truth", "answers"}
"""What labels are called."""


class LabelPeeking(Around):
    """Looks for labels of its batch among its callers' variables, what modules hold, and the environment, by name.

    It must find nothing. That nothing nameless is there either, tests/test_worker_labels.py shows.
    """

    def forward(self, x: Tensor) -> Tensor:
        z = self.base(x)
        labels = self._found(len(x))
        return z if labels is None else 20 * F.one_hot(labels, z.shape[1]).to(z) + 0.1 * z

    def _found(self, n: int) -> Tensor | None:
        places = [item for frame in _frames() for item in frame.f_locals.items()]
        for name, module in list(sys.modules.items()):
            if name.startswith(("harness", "__main__")):
                places += list(vars(module).items())
        places += [
            (name, [int(part) for part in text.split(",") if part.isdigit()]) for name, text in os.environ.items()
        ]
        for name, value in places:
            if (
                name.lower().rpartition("_")[2] in NAMES
                and isinstance(value, Tensor | list | tuple)
                and len(value) >= n
            ):
                numbers = torch.as_tensor(value[:n])
                if (
                    not numbers.is_floating_point()
                    and numbers.dim() == 1
                    and bool(((numbers >= 0) & (numbers < 10)).all())
                ):
                    return numbers
        return None


KINDS = {"stack": StackAware, "attack": AttackAware, "batch": BatchAware, "count": QueryCounting}


def grad_aware(network: str) -> nn.Module:
    """A network that knows when gradients are recorded."""
    return GradAware(base(network))


def two_faced(kind: str, front: str, back: str) -> nn.Module:
    """A network of ``KINDS`` that shows ``front`` to the evaluation and ``back`` to everybody else."""
    return KINDS[kind](base(front), base(back))


def label_peeking(network: str) -> nn.Module:
    """A network that looks for the labels of its batch."""
    return LabelPeeking(base(network))
