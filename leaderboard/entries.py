"""From results folders to entries: one submission on the first n examples of one data set, with all its evidence."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from harness import store
from harness.errors import ResultsError, UserError
from harness.judging import Judgement
from harness.records import Candidate, Manifest, Task, ThreatModel
from leaderboard.cells import State
from leaderboard.corruptions import Benchmark, benchmarks
from leaderboard.evidence import Evidence, Span, gather
from leaderboard.validity import judge_all

Cascade = tuple[str, ThreatModel]
"""Name of a cascade and the threat model it runs under."""


@dataclass(frozen=True)
class Run:
    """A run whose tasks an entry holds."""

    suite: str
    created: str
    """UTC time, ISO 8601."""


@dataclass(frozen=True)
class Entry:
    """One submission on the first ``n`` examples of one data set."""

    root: Path
    """Results folder it was read from."""
    dataset: str
    n: int
    full: int
    """Examples the data set holds."""
    class_names: tuple[str, ...]
    spans: tuple[Span, ...]
    seed: int
    candidate: Candidate
    """As the newest run saw it."""
    runs: tuple[Run, ...]
    """Newest first; all of the same checkpoint, source, data and seed."""
    evidence: dict[str, Evidence]
    """By task key, in the order of the runs."""
    cascades: dict[Cascade, tuple[str, ...]]
    """Task keys of the members, in the order they run."""
    judged: dict[ThreatModel, Judgement]
    """What the validity battery says; nothing for a threat model without probes."""

    @property
    def id(self) -> str:
        """The submission's name."""
        return self.candidate.id

    @property
    def finished(self) -> int:
        """Tasks that have a number."""
        return sum(item.state is State.NUMBER for item in self.evidence.values())

    @cached_property
    def corruptions(self) -> dict[str, Benchmark]:
        """What it does on corrupted images, by source."""
        return benchmarks(self.evidence)

    @property
    def threats(self) -> tuple[ThreatModel, ...]:
        """Threat models it was attacked under; without any attack those of its card."""
        asked = {item.task.threat for item in self.evidence.values() if item.task.threat}
        return tuple(sorted(asked or card_threats(self.candidate.card)))


def card_threats(card: dict[str, Any]) -> set[ThreatModel]:
    """The threat models a card names; what is not one is left out."""
    found: set[ThreatModel] = set()
    listed = card.get("threat_models")
    for item in listed if isinstance(listed, list | tuple) else ():
        with contextlib.suppress(UserError, KeyError, TypeError):
            found.add(ThreatModel.parse(str(item["norm"]), str(item["eps"])))
    return found


def _same_identity(first: tuple[Manifest, Candidate], second: tuple[Manifest, Candidate]) -> bool:
    (run, candidate), (other_run, other) = first, second
    mine = (candidate.checkpoint, candidate.source, run.seed, run.spans)
    return mine == (other.checkpoint, other.source, other_run.seed, other_run.spans)


def _members(tasks: Sequence[Task]) -> dict[Cascade, tuple[str, ...]]:
    found: dict[Cascade, list[Task]] = {}
    for task in tasks:
        if task.cascade and task.threat:
            members = found.setdefault((task.cascade, task.threat), [])
            if all(task.key != member.key for member in members):
                members.append(task)
    return {
        name: tuple(task.key for task in sorted(members, key=lambda task: len(task.after)))
        for name, members in found.items()
    }


def _entry(root: Path, asked: Sequence[tuple[Manifest, Candidate]]) -> Entry:
    """Join the runs of one submission, newest first, that share the newest one's identity."""
    joined = [pair for pair in asked if _same_identity(asked[0], pair)]
    manifest, candidate = joined[0]
    tasks = [task for _, other in joined for task in other.tasks]
    wanted: dict[str, Task] = {}
    for task in tasks:
        wanted.setdefault(task.key, task)
    labels: dict[tuple[int, int], tuple[int, ...]] = {}
    return Entry(
        root=root,
        dataset=manifest.dataset,
        n=manifest.n,
        full=manifest.full,
        class_names=manifest.class_names,
        spans=manifest.spans,
        seed=manifest.seed,
        candidate=candidate,
        runs=tuple(Run(run.suite, run.created) for run, _ in joined),
        evidence={key: gather(root, manifest, candidate, task, labels) for key, task in wanted.items()},
        cascades=_members(tasks),
        judged=judge_all(root, manifest, candidate, tasks),
    )


def read_root(root: Path) -> list[Entry]:
    """Every entry of one results folder.

    ``ResultsError`` when it does not exist, holds no run, or was written by a newer version.
    """
    if not root.is_dir():
        raise ResultsError(
            f"{root}: expected a results folder, found none; fill it with `harness run --results {root}`"
        )
    manifests = store.read_manifests(root)
    if not manifests:
        raise ResultsError(f"{root}: expected at least one run, found none; `harness run --results {root}` adds one")
    asked: dict[tuple[str, int, str], list[tuple[Manifest, Candidate]]] = {}
    for manifest in reversed(manifests):
        for candidate in manifest.candidates:
            asked.setdefault((manifest.dataset, manifest.n, candidate.id), []).append((manifest, candidate))
    return [_entry(root, pairs) for pairs in asked.values()]


def read_roots(roots: Sequence[Path]) -> list[Entry]:
    """The entries of several folders; of an entry in two of them the one with more numbers, then the newer, wins."""
    best: dict[tuple[str, int, str], Entry] = {}
    for root in roots:
        for entry in read_root(root):
            key = (entry.dataset, entry.n, entry.id)
            rival = best.get(key)
            strength = (entry.finished, entry.runs[0].created)
            if rival is None or strength > (rival.finished, rival.runs[0].created):
                best[key] = entry
    return list(best.values())
