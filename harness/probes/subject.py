"""What a probe is given, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from harness.attacks.randomness import ExampleGenerators


@dataclass(frozen=True)
class Subject:
    """A loaded network, the images of a run, and what earlier tasks found out about them.

    ``worker`` is the handle on the submission's process (``harness.models.ModelWorker``); ``model`` is the counted
    proxy of the network as attacks see it. ``variant(**spec)`` gives a proxy of another form of the same network.
    """

    model: nn.Module
    worker: Any
    variant: Callable[..., nn.Module]
    """``variant(kind="child", path="backbone")`` and the like; see ``harness.worker.variants``."""
    x: Tensor
    """float32 (n, C, H, W) in [0, 1]: all images of the run."""
    y: Tensor
    """int64 (n,): labels; they never leave the engine's process."""
    clean: Tensor
    """int64 (n,): predicted classes; -1 where a logit was not finite."""
    classes: int
    norm: str
    eps: float
    """Budget of the threat model that is judged, in units of [0, 1] pixels."""
    columns: Mapping[str, Tensor]
    """bool (n,) by task key: what each attack of the run calls robust. Attacks without a complete record are absent."""
    fallen: Mapping[str, tuple[Tensor, Tensor]]
    """Adversarial examples on disk by task key: positions int64 (m,) and images float32 (m, C, H, W)."""
    measured: Mapping[str, Mapping[str, Any]]
    """Measurements of the probes that ran before, by probe name."""
    names: tuple[str, ...]
    """Files of adversarial examples of other submissions on the same images, for replays; may be empty."""
    others: Callable[[str], tuple[Tensor, Tensor]]
    """From one of ``names`` to positions int64 (m,) and images float32 (m, C, H, W)."""
    seed: int
    batch_size: int

    @property
    def robust(self) -> Tensor:
        """Bool (n,): right on the image itself and called robust by every column."""
        alive = self.clean == self.y
        for column in self.columns.values():
            alive = alive & column
        return alive

    @property
    def correct(self) -> Tensor:
        """Bool (n,): right on the image itself."""
        return self.clean == self.y

    def pick(self, wanted: Tensor, count: int) -> Tensor:
        """Up to ``count`` positions int64 of the rows where ``wanted`` (bool (n,)), spread evenly over them.

        The same rows on every call: it depends on ``wanted`` alone.
        """
        rows = wanted.nonzero().squeeze(1)
        if len(rows) <= count:
            return rows
        return rows[(torch.arange(count) * len(rows)) // count]

    def generators(self, name: str, rows: Tensor) -> ExampleGenerators:
        """One generator per row, fixed by the run's seed, ``name`` and the row's position."""
        return ExampleGenerators.for_examples(self.seed, name, [int(row) for row in rows])


@dataclass(frozen=True)
class Measured:
    """The raw numbers of a probe, and the adversarial examples it claims to have found.

    The engine verifies every claimed example by itself (box, budget, prediction of a fresh forward); those that do not
    hold are counted, not believed.
    """

    numbers: dict[str, Any]
    """Plain data: str, int, float, bool, None, lists and dicts of them; NaN and infinities as None."""
    rows: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    """int64 (m,): positions of the claimed examples."""
    x_adv: Tensor | None = None
    """float32 (m, C, H, W); None without rows."""

    @classmethod
    def of(cls, numbers: dict[str, Any], found: Sequence[tuple[Tensor, Tensor]] = ()) -> Measured:
        """From several (rows, x_adv) pairs; the first example of a row counts."""
        first: dict[int, Tensor] = {}
        for rows, images in found:
            for row, image in zip(rows.tolist(), images, strict=True):
                first.setdefault(row, image)
        if not first:
            return cls(numbers)
        ordered = sorted(first)
        return cls(numbers, torch.tensor(ordered), torch.stack([first[row] for row in ordered]))
