"""Parameters, multiply-accumulates, throughput and peak memory of a network in a process of its own."""

import statistics
import time
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from harness.records import Footprint, Timing

WARM_UP = 2
"""Batches run before anything is measured."""
REPEATS = 10
"""Batches timed, at least."""
SECONDS = 1.0
"""Time spent on one figure, at least."""


class Worker(Protocol):
    """The part of a model worker that is needed here."""

    def forward(self, x: Tensor, *, grad: bool = False) -> tuple[Tensor, int]:
        """Logits, and a token for the gradient."""
        ...

    def vjp(self, token: int, grad_logits: Tensor) -> Tensor:
        """Gradient with respect to the input."""
        ...

    def release(self, token: int) -> None:
        """Forget the graph behind a token."""
        ...

    def probe(self, name: str, *, x: Tensor | None = None, **arguments: object) -> dict[str, Any]:
        """Ask about the module."""
        ...

    def reset_peak_memory(self) -> None:
        """Start a new peak."""
        ...

    def peak_memory(self) -> int:
        """Bytes held at most since the last reset."""
        ...


def _time(step: Callable[[], object], examples: int) -> Timing:
    """Median and quartiles of ``examples`` divided by the seconds of one ``step``."""
    for _ in range(WARM_UP):
        step()
    speeds: list[float] = []
    began = time.perf_counter()
    while len(speeds) < REPEATS or time.perf_counter() - began < SECONDS:
        start = time.perf_counter()
        step()
        speeds.append(examples / (time.perf_counter() - start))
    low, median, high = statistics.quantiles(speeds, n=4)
    return Timing(median, low, high, len(speeds))


def measure(worker: Worker, x: Tensor, *, batch_size: int, baseline: int, parameters: int) -> Footprint:
    """Measure a freshly loaded worker on batches made of ``x`` (N, C, H, W), repeated to ``batch_size`` rows.

    ``baseline`` is the memory of the process, in bytes, before the network was built; the peaks are what came on top.
    """
    batch = x.repeat(-(-batch_size // len(x)), 1, 1, 1)[:batch_size].contiguous()

    def forward() -> None:
        worker.forward(batch)

    def forward_backward() -> None:
        logits, token = worker.forward(batch, grad=True)
        worker.vjp(token, torch.ones_like(logits))
        worker.release(token)

    worker.reset_peak_memory()
    forward_timing = _time(forward, batch_size)
    peak_inference = worker.peak_memory()
    worker.reset_peak_memory()
    both_timing = _time(forward_backward, batch_size)
    peak_attack = worker.peak_memory()
    return Footprint(
        parameters=parameters,
        macs=int(worker.probe("macs", shape=list(batch.shape[1:]))["macs"]),
        forward=forward_timing,
        forward_backward=both_timing,
        peak_inference_bytes=max(0, peak_inference - baseline),
        peak_attack_bytes=max(0, peak_attack - baseline),
    )
