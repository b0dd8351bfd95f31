"""What a check looks at: the outcomes of a run's attacks and the raw numbers of its probes. Pure; no torch, no disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from harness.metrics import Accuracy, proportion


@dataclass(frozen=True)
class Column:
    """One attack's verdict on every example."""

    key: str
    """Task key, e.g. ``pgd-20@Linf-8/255``; ``autoattack@...`` for the four members together."""
    attack: str
    """Name of the attack, e.g. ``pgd``; ``autoattack`` for the four members together."""
    robust: tuple[bool, ...]
    """Per example: right before and after the attack."""

    @property
    def accuracy(self) -> float:
        """Robust accuracy in [0, 1]."""
        return sum(self.robust) / len(self.robust)


@dataclass(frozen=True)
class Case:
    """One submission under one threat model, as the records tell it."""

    n: int
    classes: int
    norm: str
    eps: float
    correct: tuple[bool, ...]
    """Per example: right on the image itself."""
    columns: Mapping[str, Column]
    """Attacks with a complete record, by task key; AutoAttack as one column beside its members."""
    measured: Mapping[str, Mapping[str, Any]]
    """Raw numbers by probe name; probes that did not run are absent."""
    witnessed: Mapping[str, tuple[bool, ...]] = field(default_factory=dict)
    """By probe name, per example: the probe found a verified adversarial example within the budget."""
    absent: Mapping[str, str] = field(default_factory=dict)
    """By probe name: why there are no numbers."""
    defence: str = "static"
    """The card's word: static, stochastic, dynamic, non-differentiable or detector."""
    card: Mapping[str, Any] = field(default_factory=dict)
    wavering: int = 0
    """Examples whose class, on the image itself, is not the same in all records of the run."""
    deep: bool = False
    """The probes ran with the settings of the suite ``deep``."""

    @property
    def refuted(self) -> int:
        """Adversarial examples that a probe had seen and that did not fool the network when it was asked again."""
        return sum(int(numbers.get("refuted", 0)) for numbers in self.measured.values())

    @property
    def claimed(self) -> float:
        """The largest robust accuracy that a column claims; 0 without columns."""
        return max((column.accuracy for column in self.columns.values()), default=0.0)

    @property
    def survivors(self) -> tuple[bool, ...]:
        """Per example: right, and called robust by every column."""
        alive = list(self.correct)
        for column in self.columns.values():
            alive = [before and now for before, now in zip(alive, column.robust, strict=True)]
        return tuple(alive)

    @property
    def best_known(self) -> tuple[bool, ...]:
        """Per example: a survivor that no probe has a witness against either."""
        alive = list(self.survivors)
        for found in self.witnessed.values():
            alive = [before and not hit for before, hit in zip(alive, found, strict=True)]
        return tuple(alive)

    @property
    def corrected(self) -> Accuracy:
        """Robust accuracy after every attack and every witness, with its interval."""
        return proportion(sum(self.best_known), self.n)

    def witnesses_against(self, key: str) -> int:
        """Examples that column ``key`` calls robust and that another column or a probe has broken."""
        return sum(claim and not true for claim, true in zip(self.columns[key].robust, self.best_known, strict=True))
