"""Holds the model worker of the submission at hand, and learns how fast it is and how much memory it can be given."""

import time
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from harness.engine.outcome import Settings
from harness.models import Description, ModelWorker, WorkerError, WorkerOptions
from harness.worker.network import MICRO_BATCH

PROBE_BATCH = 32
"""Images of each of the two batches that the estimate of the time left starts from."""
LOAD_TIMEOUT = 900.0
"""Seconds a network may take to be built and to read its checkpoint."""


@dataclass(frozen=True)
class Speed:
    """How fast a submission is, from two batches asked before its first shard."""

    forward: float
    """Seconds per image."""
    backward: float
    """Seconds per image, on top of the forward pass."""


class Holder:
    """The model worker of the submission at hand; replaced when another submission's turn comes or when it is lost."""

    def __init__(self, settings: Settings, image_shape: tuple[int, int, int] = (3, 32, 32)) -> None:
        """``image_shape`` is (C, H, W) of the run's images."""
        self._asked, self._image_shape = settings, image_shape
        self._sizes: dict[str, int] = {}
        self._worker: ModelWorker | None = None
        self._spec: dict[str, Any] | None = None
        self._description: Description | None = None

    def settings(self, spec: dict[str, Any]) -> Settings:
        """Those of the run, with the batch size that the submission's memory allows."""
        return replace(self._asked, batch_size=self._sizes.get(spec["id"], self._asked.batch_size))

    def _options(self, settings: Settings) -> WorkerOptions:
        usual = MICRO_BATCH["cuda" if settings.device.startswith("cuda") else "cpu"]
        return WorkerOptions(
            device=settings.device,
            threads=settings.threads,
            memory_limit=settings.memory_limit,
            micro_batch=settings.batch_size if settings.batch_size < min(usual, self._asked.batch_size) else None,
            image_shape=self._image_shape,
        )

    def _made(self, spec: dict[str, Any], options: WorkerOptions) -> ModelWorker:
        """A worker for ``spec``; not started yet."""
        return ModelWorker(spec, options)

    def take(self, spec: dict[str, Any], *, loaded: bool) -> tuple[ModelWorker, Description | None]:
        """The worker for ``spec``, started unless ``loaded`` is False; raises ``WorkerError`` when it cannot start."""
        if self._worker is None or self._spec != spec:
            self.drop()
            self._worker, self._spec = self._made(spec, self._options(self.settings(spec))), spec
        if loaded and self._description is None:
            self._description = self._worker.start(min(LOAD_TIMEOUT, self._asked.shard_timeout))
        return self._worker, self._description

    def halve(self, spec: dict[str, Any], x: Tensor) -> bool:
        """Go on with batches half as large, after the network ran out of memory; False when that is no use.

        It is no use when even the one image ``x`` (1, C, H, W) is too much.
        """
        self.drop()
        size = self.settings(spec).batch_size // 2
        if size < 1:
            return False
        self._sizes[spec["id"]] = size
        worker = self._made(spec, replace(self._options(self.settings(spec)), micro_batch=1))
        try:
            worker.start(min(LOAD_TIMEOUT, self._asked.shard_timeout))
            logits, token = worker.forward(x, grad=True)
            worker.vjp(token, torch.ones_like(logits))
        except WorkerError:
            return False
        finally:
            worker.close()
        return True

    def drop(self) -> None:
        """End the worker."""
        if self._worker is not None:
            self._worker.close()
        self._worker = self._description = self._spec = None


def measure_speed(worker: ModelWorker, x: Tensor, settings: Settings) -> Speed:
    """Two batches made of the image ``x`` (1, C, H, W), a forward pass each, the second with a gradient; timed."""
    batch = x.expand(min(settings.batch_size, PROBE_BATCH), *x.shape[1:]).contiguous()
    worker.forward(batch)
    began = time.monotonic()
    worker.forward(batch)
    middle = time.monotonic()
    logits, token = worker.forward(batch, grad=True)
    worker.vjp(token, torch.ones_like(logits))
    worker.release(token)
    forward = (middle - began) / len(batch)
    return Speed(forward, max(0.0, (time.monotonic() - middle) / len(batch) - forward))
