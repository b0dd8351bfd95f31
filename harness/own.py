"""A network and tensors of the user's: looked at before anything is run, and held in this process while it is."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from harness.datasets import Dataset
from harness.engine.outcome import Settings
from harness.errors import InputError
from harness.executors.holder import Holder
from harness.models import ModelWorker, WorkerOptions
from harness.worker.in_process import LocalWorker
from harness.worker.network import describe_output, precision_hint
from harness.worker.serve import state_hash
from harness.worker.weights import one_line

TRIED = 2
"""Images that a network is tried on before anything else."""


@dataclass(frozen=True)
class Tried:
    """A network that answers with logits."""

    module: nn.Module
    """A copy of the user's, on the processor."""
    classes: int
    digest: str
    """sha256 of its parameters and buffers."""


class _Function(nn.Module):
    """A plain function where a module is expected."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self._function = function

    def forward(self, x: Tensor) -> Tensor:
        return self._function(x)


def check_images(x: Tensor, y: Tensor) -> None:
    """``InputError`` unless ``x`` is float32 (N, C, H, W) in [0, 1] and ``y`` integer (N,), from 0 upwards."""
    if not isinstance(x, Tensor) or x.dtype != torch.float32 or x.dim() != 4 or not x.numel():
        raise InputError(f"x: expected a float32 tensor (N, C, H, W) with at least one image, got {_shown(x)}")
    # Written so that a NaN is outside.
    low, high = float(x.min()), float(x.max())
    if not (low >= 0 and high <= 1):
        raise InputError(
            f"x: expected pixels in [0, 1], got {low:g} to {high:g}; normalisation belongs inside the model"
        )
    whole = isinstance(y, Tensor) and not y.is_floating_point() and not y.is_complex() and y.dtype != torch.bool
    if not whole or y.shape != x.shape[:1]:
        raise InputError(f"y: expected an integer tensor ({len(x)},), one label per image, got {_shown(y)}")
    if int(y.min()) < 0:
        raise InputError(f"y: expected labels from 0 upwards, got {int(y.min())}")


def _shown(value: object) -> str:
    return describe_output(value) if isinstance(value, Tensor) else f"a {type(value).__name__}"


def device_of(model: object, device: str | None) -> str:
    """``device``, else that of the network's first parameter; ``InputError`` when this machine does not have it."""
    if device is None:
        first = next(model.parameters(), None) if isinstance(model, nn.Module) else None
        return "cpu" if first is None else str(first.device)
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"device: expected one this machine has, got {device!r}: {one_line(str(error), 120)}"
        ) from None
    return device


def check_model(model: object, x: Tensor, y: Tensor, device: str) -> Tried:
    """Try a copy of ``model`` on the first images. ``InputError`` unless it answers with logits for every label."""
    if not isinstance(model, nn.Module) and not callable(model):
        raise InputError(f"model: expected a torch.nn.Module, got a {type(model).__name__}")
    try:
        module = (copy.deepcopy(model) if isinstance(model, nn.Module) else _Function(model)).cpu()
    except Exception as error:
        raise InputError(f"model: expected a module that can be copied, got {_told(error)}") from None
    with isolated(), torch.no_grad():
        try:
            digest = state_hash(module)
            logits: Any = copy.deepcopy(module).eval().to(device)(x[:TRIED].detach().to(device))
        except Exception as error:
            hint = precision_hint(module, error)
            raise InputError(
                f"model: {hint or f'expected one that takes images {tuple(x.shape[1:])}, got {_told(error)}'}"
            ) from None
    rows = min(TRIED, len(x))
    if (
        not isinstance(logits, Tensor)
        or logits.dim() != 2
        or len(logits) != rows
        or not logits.is_floating_point()
        or logits.shape[1] < 2
    ):
        raise InputError(
            f"model: expected float logits ({rows}, K) with K of at least 2 for {rows} images, got "
            f"{describe_output(logits)}"
        )
    if int(y.max()) >= logits.shape[1]:
        raise InputError(f"y: expected labels below {logits.shape[1]}, the model's classes, got {int(y.max())}")
    return Tried(module, logits.shape[1], digest)


def _told(error: Exception) -> str:
    return one_line(f"{type(error).__name__}: {error}", 200)


class TensorData(Dataset):
    """Images that are no 8-bit ones: tensors of the user's, as they are."""

    _x: Tensor

    @classmethod
    def of(cls, x: Tensor, labels: Tensor, classes: int) -> TensorData:
        """Keep ``x`` float32 (N, C, H, W) beside its roundings."""
        data = cls(**_fields(x, labels, classes))
        object.__setattr__(data, "_x", x)
        return data

    def tensors(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """As in ``Dataset``."""
        self._check_span(start, stop)
        return self._x[start:stop].clone(), torch.from_numpy(self.labels[start:stop].copy())

    def span_sha256(self, start: int, stop: int) -> str:
        """As in ``Dataset``, of the exact values."""
        x, labels = self.tensors(start, stop)
        digest = hashlib.sha256(f"images float32 {tuple(x.shape)} labels int64\n".encode())
        digest.update(x.contiguous().numpy().tobytes())
        digest.update(labels.numpy().tobytes())
        return digest.hexdigest()


def _fields(x: Tensor, labels: Tensor, classes: int) -> dict[str, Any]:
    images = (x * 255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()
    names = tuple(str(label) for label in range(classes))
    return {
        "name": "tensors", "images": images, "labels": labels.numpy().astype(np.int64), "classes": classes,
        "class_names": names, "full": len(images),
    }  # fmt: skip


def dataset_of(x: Tensor, y: Tensor, *, classes: int) -> Dataset:
    """The tensors as a data set called ``tensors``; images that are exactly 8-bit ones get the identity of those."""
    x, labels = x.detach().cpu(), y.detach().cpu().to(torch.int64)
    data = Dataset(**_fields(x, labels, classes))
    if all(torch.equal(data.tensors(at, min(at + 256, len(x)))[0], x[at : at + 256]) for at in range(0, len(x), 256)):
        return data
    return TensorData.of(x.clone(), labels, classes)


class LocalHolder(Holder):
    """Holds one network in this process, and halves its batches as for any other."""

    def __init__(self, settings: Settings, data: Dataset, build: Callable[[], nn.Module]) -> None:
        height, width, channels = data.images.shape[1:]
        super().__init__(settings, (channels, height, width))
        self._build = build

    def _made(self, spec: dict[str, Any], options: WorkerOptions) -> ModelWorker:
        return LocalWorker(self._build, options)


@contextlib.contextmanager
def isolated() -> Iterator[None]:
    """Inside: one processor thread and exact arithmetic; afterwards everything global is as it was."""
    before = torch.get_num_threads()
    matmul, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    flags = (matmul.allow_tf32, convolutions.allow_tf32, convolutions.benchmark)
    python, array = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        try:
            torch.set_num_threads(1)
            matmul.allow_tf32 = convolutions.allow_tf32 = convolutions.benchmark = False
            yield
        finally:
            matmul.allow_tf32, convolutions.allow_tf32, convolutions.benchmark = flags
            torch.set_num_threads(before)
            random.setstate(python)
            np.random.set_state(array)
