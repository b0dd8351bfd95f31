"""Boards and rows: entries turned into cells, derived accuracies included. One board = (dataset, n, norm, eps)."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from harness.checks.verdict import ColumnFlag
from harness.judging import CURVE, Judgement
from harness.metrics import Accuracy, proportion
from harness.records import Task, ThreatModel
from leaderboard.cells import Cell, not_asked, number
from leaderboard.entries import Entry
from leaderboard.evidence import Evidence
from leaderboard.links import slug
from leaderboard.validity import Badge, badge, flags_of

AUTOATTACK = ("apgd-ce", "apgd-t", "fab-t", "square")
"""Members, in order, that a cascade must have to be called AutoAttack (Croce and Hein 2020, arXiv 2003.01690)."""
FAMILIES = ("fgsm", "pgd", "deepfool")
"""Order of the attack columns outside of cascades; other attacks follow."""


def attacks_of(entry: Entry, threat: ThreatModel) -> dict[str, Evidence]:
    """The attacks of an entry under one threat model, by task key; probes are no attacks, nor is a budget curve."""
    return {
        key: item
        for key, item in entry.evidence.items()
        if item.task.kind == "attack" and item.task.threat == threat and item.task.attack != CURVE
    }


@dataclass(frozen=True)
class Row:
    """One submission on one board."""

    entry: Entry
    threat: ThreatModel
    natural: Cell
    robust: dict[str, Cell]
    """By task key; ``autoattack@...`` when the cascade was asked for, and ``worst-case@...``."""
    consistency: dict[str, Cell]
    """By task key; attacks outside of cascades."""
    rank: int | None = None
    tied: bool = False
    """Shares its rank with another row."""
    reason: str = ""
    """Why it has no rank."""

    @property
    def id(self) -> str:
        """The submission's name."""
        return self.entry.id

    @property
    def card(self) -> dict[str, Any]:
        """The submission card, as plain data from a submitter."""
        return self.entry.candidate.card

    @property
    def worst(self) -> Cell:
        """Worst-case accuracy over every attack of this row."""
        return self.robust[f"worst-case@{self.threat}"]

    @property
    def judgement(self) -> Judgement | None:
        """What the validity battery says; None when no run asked for it or the clean predictions are not there."""
        return self.entry.judged.get(self.threat)

    @property
    def verdict(self) -> str:
        """The battery's word; ``unchecked`` when it did not run."""
        return self.judgement.verdict.word if self.judgement else "unchecked"

    @property
    def badge(self) -> Badge:
        """The verdict as the board shows it."""
        return badge(self.judgement)

    @property
    def corrected(self) -> Cell:
        """Best known robust accuracy: right after every attack and every verified witness of a probe."""
        if self.judgement is None:
            return not_asked("the validity battery")
        if not self.worst.complete:
            return self.worst
        known = zip(self.judgement.case.best_known, self.worst.flags, strict=True)
        return number([left and stands for left, stands in known])

    @property
    def standing(self) -> Cell:
        """What the row is ranked by: the corrected accuracy, or the worst case where no battery ran."""
        return self.corrected if self.judgement else self.worst

    @property
    def flags(self) -> dict[str, ColumnFlag]:
        """Columns that the battery does not call true, by task key."""
        return flags_of(self.judgement, self.entry.cascades, self.robust)

    @property
    def cost(self) -> Evidence | None:
        """What was measured of its cost; None when nobody asked."""
        return next((item for item in self.entry.evidence.values() if item.task.kind == "cost"), None)

    @property
    def clean(self) -> Evidence | None:
        """The clean task; None when nobody asked."""
        return next((item for item in self.entry.evidence.values() if item.task.kind == "clean"), None)

    @property
    def curve(self) -> Evidence | None:
        """The run's curve over many budgets; None when nobody asked, or its records do not hold the distances."""
        found = (item for item in self.entry.evidence.values() if item.task.attack == CURVE)
        item = next((item for item in found if item.task.threat == self.threat), None)
        held = item is not None and item.outcomes is not None and self.threat.norm in item.outcomes.distances
        return item if held else None

    def withstands(self, part: float) -> list[bool]:
        """By example: right, and what the curve's attack found is farther away than ``part`` of the budget."""
        assert self.curve is not None and self.curve.outcomes is not None
        found = self.curve.outcomes
        distances = found.distances[self.threat.norm]
        limit = part * self.threat.value * (1 + 1e-4)
        return [right and far > limit for right, far in zip(found.correct, distances, strict=True)]

    @property
    def attacks(self) -> dict[str, Evidence]:
        """The attacks under this board's threat model, by task key."""
        return attacks_of(self.entry, self.threat)

    def per_class(self, cell: Cell) -> dict[int, Accuracy]:
        """``cell`` split by label; empty without a number."""
        labels = next((item.outcomes.labels for item in self.entry.evidence.values() if item.outcomes), ())
        if not cell.complete or len(labels) != len(cell.flags):
            return {}
        groups: dict[int, list[bool]] = {}
        for label, flag in zip(labels, cell.flags, strict=True):
            groups.setdefault(label, []).append(flag)
        return {label: proportion(sum(flags), len(flags)) for label, flags in sorted(groups.items())}


@dataclass(frozen=True)
class Board:
    """Submissions that can be compared: the same examples, the same threat model."""

    dataset: str
    n: int
    full: int
    """Examples the data set holds; ``n`` below it marks a board on a part."""
    threat: ThreatModel
    class_names: tuple[str, ...]
    rows: tuple[Row, ...]
    """Ranked rows by rank, then those without a rank, then those outside of the protocol."""
    tasks: dict[str, tuple[Task, ...]]
    """The attacks of the board by key, in column order, each with its distinct recipes."""

    @property
    def title(self) -> str:
        """``cifar10 · Linf 8/255``."""
        return f"{self.dataset} · {self.threat.norm} {self.threat.eps}"

    @property
    def slug(self) -> str:
        """Name of the board in addresses and file names."""
        return slug(f"{self.dataset}-{self.n}-{self.threat.norm}-{self.threat.eps.replace('/', '_')}".lower())

    @property
    def robust_keys(self) -> tuple[str, ...]:
        """Keys of the robust accuracies, derived ones last."""
        derived = (f"autoattack@{self.threat}", f"worst-case@{self.threat}")
        return (*self.tasks, *(key for key in derived if any(key in row.robust for row in self.rows)))

    @property
    def consistency_keys(self) -> tuple[str, ...]:
        """Keys of the consistency accuracies."""
        return tuple(key for key in self.tasks if any(key in row.consistency for row in self.rows))


def name_of(key: str) -> str:
    """A task key without its threat model."""
    return key.partition("@")[0]


def _natural_order(text: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", text)]


def column_order(tasks: Iterable[Task]) -> list[Task]:
    """Attacks of their own by family, then the cascades member by member, AutoAttack last."""

    def place(task: Task) -> tuple[Any, ...]:
        family = FAMILIES.index(task.attack) if task.attack in FAMILIES else len(FAMILIES)
        alone = not (task.cascade or task.after)
        return (not alone, task.cascade == "autoattack", task.cascade) + (
            (family, _natural_order(task.name)) if alone else (len(task.after), [(0, task.name)])
        )

    return sorted(tasks, key=place)


def _first_missing(cells: Iterable[tuple[str, Cell]]) -> Cell | None:
    """The state of the first cell without a number, told as a need of a derived one."""
    for key, cell in cells:
        if not cell.complete:
            return Cell(
                cell.state, f"needs {name_of(key)}", f"Needs {key}, which is {cell.label}. {cell.detail}".strip()
            )
    return None


def _all_of(cells: Sequence[tuple[str, Cell]]) -> Cell:
    """Share of examples whose flag is true in every cell."""
    missing = _first_missing(cells)
    return missing or number([all(flags) for flags in zip(*(cell.flags for _, cell in cells), strict=True)])


def _own(item: Evidence) -> Cell:
    """Robust in this task alone."""
    return item.cell(item.outcomes.robust if item.outcomes else None)


def _robust(attacks: dict[str, Evidence], item: Evidence) -> Cell:
    """Robust accuracy of a task; of a cascade member, the share still robust after it."""
    own = _own(item)
    if not own.complete:
        return own
    earlier = [(key, _own(attacks[key]) if key in attacks else not_asked(key)) for key in item.task.after]
    return _all_of([*earlier, (item.task.key, own)])


def make_row(entry: Entry, threat: ThreatModel) -> Row:
    """The cells of one submission under one threat model, still without a rank."""
    attacks = attacks_of(entry, threat)
    robust = {task.key: _robust(attacks, attacks[task.key]) for task in column_order(i.task for i in attacks.values())}
    worst = _all_of(list(robust.items())) if robust else not_asked("an attack under this threat model")
    members = entry.cascades.get(("autoattack", threat), ())
    if members:
        named = tuple(attacks[key].task.attack for key in members)
        last = robust[members[-1]]
        missing = _first_missing((key, robust[key]) for key in members)
        whole = not_asked(f"all of {', '.join(AUTOATTACK)}, in this order")
        robust[f"autoattack@{threat}"] = (missing or last) if named == AUTOATTACK else whole
    robust[f"worst-case@{threat}"] = worst
    clean = next((item for item in entry.evidence.values() if item.task.kind == "clean"), None)
    return Row(
        entry=entry,
        threat=threat,
        natural=clean.cell(clean.outcomes.correct if clean.outcomes else None)
        if clean
        else not_asked("clean accuracy"),
        robust=robust,
        consistency={
            key: item.cell(item.outcomes.consistent if item.outcomes else None)
            for key, item in attacks.items()
            if not (item.task.cascade or item.task.after)
        },
    )
