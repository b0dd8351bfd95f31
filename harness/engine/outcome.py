"""How a shard is run, and what comes of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from harness.records import Example, Footprint, Record


@dataclass(frozen=True)
class Settings:
    """How shards are run; none of it may change an outcome."""

    batch_size: int = 64
    """Images per question to the network; halved for a submission that runs out of memory."""
    device: str = "cpu"
    threads: int = 1
    memory_limit: int | None = None
    """Bytes the worker may hold; None: no limit."""
    shard_timeout: float = 3600.0
    """Seconds a shard may take."""


@dataclass(frozen=True)
class Found:
    """What was found out about a span, before it becomes a record."""

    rows: list[Example] = field(default_factory=list)
    mismatches: int = 0
    nonfinite_gradients: int = 0
    forwards: int | None = None
    """Forward passes; None: the sum over ``rows``."""
    backwards: int | None = None
    indices: Tensor | None = None
    """int64 (M,): positions in the data set of the examples below."""
    adversarial: Tensor | None = None
    """float32 (M, C, H, W) in [0, 1]; None when there is none."""
    footprint: Footprint | None = None
    measurements: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """A record, and the adversarial examples that belong beside it."""

    record: Record
    indices: Tensor | None = None
    """As in ``Found``."""
    adversarial: Tensor | None = None
    """As in ``Found``."""
