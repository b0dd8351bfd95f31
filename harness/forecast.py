"""How long a run will take: passes that tasks should need times the speed of two batches, then what they took."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from harness.attacks import find_attack
from harness.executors.holder import Speed
from harness.records import Record, Shard, Status, Task

SURVIVING = 0.5
"""Share of the images taken to survive an attack until the first one has shown it."""
STARTING = 3.0
"""Seconds to start a process and build a network."""
PROBING = 3000.0
"""Forward passes taken for one probe of which nothing is known."""


CORRUPTING = 0.0005
"""Seconds taken to draw the corrupted version of an image."""


@dataclass
class Forecast:
    """Learns speeds and durations, and says what the rest will take."""

    classes: int
    speeds: dict[str, Speed] = field(default_factory=dict)
    """By submission."""
    spent: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    """Seconds of finished shards by submission and task key."""
    surviving: dict[str, float] = field(default_factory=dict)
    """By submission: the smallest share of robust images that a shard has shown."""

    def hear(self, submission: str, speed: Speed) -> None:
        """Take note of how fast ``submission`` is."""
        self.speeds[submission] = speed

    def learn(self, record: Record) -> None:
        """Take note of a finished shard."""
        shard = record.shard
        if record.status is not Status.OK:
            return
        self.spent.setdefault((shard.submission, shard.task.key), []).append(record.cost.seconds)
        if shard.task.kind == "attack" and record.examples:
            share = sum(row.robust for row in record.examples) / len(record.examples)
            self.surviving[shard.submission] = min(share, self.surviving.get(shard.submission, 1.0))

    def _modelled(self, shard: Shard) -> float | None:
        speed = self.speeds.get(shard.submission)
        if speed is None:
            return None
        images = shard.stop - shard.start
        task: Task = shard.task
        if task.kind == "cost":
            return STARTING + 4.0
        if task.kind == "probe":
            return PROBING * (speed.forward + speed.backward / 3)
        if task.kind == "clean":
            return 2 * images * speed.forward
        if task.kind == "corruption":
            return images * (3 * speed.forward + CORRUPTING)
        forwards, backwards = find_attack(task.attack, task.implementation).passes(task.params, self.classes)
        share = self.surviving.get(shard.submission, SURVIVING)
        return images * share * (forwards * speed.forward + backwards * speed.backward) + 4 * images * speed.forward

    def seconds(self, shard: Shard) -> float | None:
        """Estimate for one shard: the mean of its task so far, else passes times speed; None when neither is known."""
        own = self.spent.get((shard.submission, shard.task.key))
        if own:
            return sum(own) / len(own)
        modelled = self._modelled(shard)
        if modelled is not None:
            return modelled
        alike = [value for (_, key), values in self.spent.items() if key == shard.task.key for value in values]
        return sum(alike) / len(alike) if alike else None

    def left(self, shards: Iterable[Shard]) -> float | None:
        """Worker seconds for all ``shards``, unknown ones at the mean of the rest; None before anything is known."""
        estimates = [self.seconds(shard) for shard in shards]
        known = [value for value in estimates if value is not None]
        if not estimates:
            return 0.0
        if not known:
            return None
        return sum(known) * len(estimates) / len(known)


def mean_seconds(spent: Mapping[str, Sequence[float]], left: Sequence[str]) -> float | None:
    """Seconds for the task keys in ``left``, each at its own mean so far, or at the mean of all where it has none."""
    every = [seconds for values in spent.values() for seconds in values]
    if not left:
        return 0.0
    if not every:
        return None
    overall = sum(every) / len(every)
    return sum(sum(spent[key]) / len(spent[key]) if key in spent else overall for key in left)
