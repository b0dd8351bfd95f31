"""Synthetic results folders for the leaderboard's tests: every outcome is chosen, so every number is known."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from harness import plan, store
from harness.records import (
    Candidate,
    Cost,
    Environment,
    Example,
    Failure,
    Footprint,
    Identity,
    Manifest,
    Record,
    Shard,
    Status,
    Task,
    ThreatModel,
    Timing,
)
from leaderboard import tables
from leaderboard.board import Row

LINF = ThreatModel("Linf", "8/255")
CLEAN = Task("clean", "clean", implementation="rampart-clean-1")
COST = Task("cost", "cost", implementation="rampart-cost-1")
CLASSES = 10
NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def key(name: str) -> str:
    return f"{name}@{LINF}"


def attack(name: str, kind: str | None = None, threat: ThreatModel = LINF, **params: Any) -> Task:
    kind = kind or name.partition("-")[0]
    return Task(name, "attack", kind, params, threat, f"rampart-{kind}-1")


def cascade(
    name: str, members: Iterable[tuple[str, str, dict[str, Any]]], threat: ThreatModel = LINF
) -> tuple[Task, ...]:
    found: list[Task] = []
    for member, kind, params in members:
        after = tuple(task.key for task in found)
        found.append(Task(member, "attack", kind, params, threat, "pyautoattack-0.2.0", name, after))
    return tuple(found)


def probe(name: str, threat: ThreatModel | None = LINF, **params: Any) -> Task:
    return Task(name, "probe", params=params, threat=threat, implementation=f"rampart-{name.partition('-')[0]}-1")


AUTOATTACK = cascade(
    "autoattack",
    [
        ("apgd-ce", "apgd-ce", {"steps": 100}),
        ("apgd-t", "apgd-t", {"steps": 100, "targets": 9}),
        ("fab-t", "fab-t", {"steps": 100, "targets": 9}),
        ("square", "square", {"queries": 5000}),
    ],
)
FGSM = attack("fgsm")
PGD = attack("pgd-20", steps=20, step_size=2 / 255, restarts=1, loss="ce")
PGD100 = attack("pgd-100-5", "pgd", steps=100, step_size=0.8 / 255, restarts=5, loss="ce")
DEEPFOOL = attack("deepfool", steps=50, overshoot=0.02)
STANDARD = (CLEAN, FGSM, PGD, PGD100, DEEPFOOL, *AUTOATTACK, COST)
LIGHT = cascade(
    "autoattack-light",
    [
        ("apgd-ce", "apgd-ce", {"steps": 100}),
        ("apgd-t-3", "apgd-t", {"steps": 100, "targets": 3}),
        ("square-500", "square", {"queries": 500}),
    ],
)
QUICK = (CLEAN, FGSM, PGD, DEEPFOOL, *LIGHT, COST)

ENVIRONMENT = Environment(
    "3.11.9", "2.15.0", "Linux x86_64", "Some Processor", "cpu", 1, "float32", "0.1.0", "c0ffee", False,
    {"numpy": "2.0.0", "pyautoattack": "0.2.0"},
)  # fmt: skip
FOOTPRINT = Footprint(
    178_000, 20_100_000, Timing(1930.4, 1900.0, 1950.0, 12), Timing(640.2, 630.0, 650.0, 11), 50 * 2**20, 120 * 2**20
)


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def spans_of(n: int, size: int, images: str = "images") -> tuple[tuple[int, int, str], ...]:
    return tuple(
        (start, min(start + size, n), digest(f"{images} {start} {min(start + size, n)}")) for start in range(0, n, size)
    )


def card_of(name: str, **more: Any) -> dict[str, Any]:
    threats = [{"norm": "Linf", "eps": "8/255"}]
    return {"id": name, "title": f"Title of {name}", "dataset": ["cifar10"], "threat_models": threats, **more}


@dataclass
class Folder:
    """A results folder under construction; one manifest per submission."""

    root: Path
    n: int = 8
    size: int = 4
    dataset: str = "cifar10"
    full: int = 10_000
    images: str = "images"
    created: str = "2025-01-01T00:00:00+00:00"
    suite: str = "standard"
    environment: Environment = ENVIRONMENT
    footprint: Footprint = FOOTPRINT
    _asked: dict[str, Manifest] = field(default_factory=dict)

    def ask(
        self, name: str, tasks: Sequence[Task], *, card: Mapping[str, Any] | None = None, **changes: Any
    ) -> Manifest:
        """Write the manifest of a run of one submission; ``changes`` go to its candidate, ``run_...`` to the run."""
        candidate = Candidate(name, dict(card or card_of(name)), digest(name), digest("source"), tuple(tasks))
        run = {key.removeprefix("run_"): changes.pop(key) for key in list(changes) if key.startswith("run_")}
        manifest = Manifest(
            created=self.created, suite=self.suite, dataset=self.dataset, classes=CLASSES, n=self.n, full=self.full,
            spans=spans_of(self.n, self.size, self.images), seed=0, candidates=(replace(candidate, **changes),),
            class_names=NAMES,
        )  # fmt: skip
        manifest = replace(manifest, **run)
        store.write_manifest(self.root, manifest)
        self._asked[name] = manifest
        return manifest

    def works(self, name: str, task: Task) -> list[tuple[Shard, Identity]]:
        manifest = self._asked[name]
        candidate = manifest.candidates[0]
        spans = manifest.spans[:1] if task.kind == "cost" else manifest.spans
        return [
            (
                Shard(name, self.dataset, task, start, stop),
                Identity(candidate.checkpoint, candidate.source, data, manifest.seed),
            )
            for start, stop, data in spans
        ]

    def fill(
        self,
        name: str,
        task: Task,
        correct: Sequence[bool] = (),
        robust: Sequence[bool] | None = None,
        consistent: Sequence[bool] | None = None,
        *,
        only: Sequence[int] | None = None,
        linf: Sequence[float] | None = None,
        failure: tuple[Status, str, str] | None = None,
        **changes: Any,
    ) -> None:
        """Write the records of one task. ``only`` names the spans to write, ``failure`` replaces their outcomes,
        ``changes`` go to the records' identity."""
        robust = correct if robust is None else robust
        # An image that was wrong to begin with stays as it was, unless told otherwise.
        consistent = [b or not a for a, b in zip(correct, robust, strict=True)] if consistent is None else consistent
        for place, (shard, identity) in enumerate(self.works(name, task)):
            if only is not None and place not in only:
                continue
            examples = () if task.kind == "cost" or failure else tuple(
                example(i, correct[i], robust[i], consistent[i], linf[i] if linf else 0.03)
                for i in range(shard.start, shard.stop)
            )  # fmt: skip
            record = Record(
                shard=shard,
                identity=replace(identity, **changes),
                status=failure[0] if failure else Status.OK,
                environment=self.environment,
                cost=Cost(1.5, 20 * len(examples), 10 * len(examples), 64),
                examples=examples,
                footprint=self.footprint if task.kind == "cost" and not failure else None,
                failure=Failure(failure[1], failure[2]) if failure else None,
            )
            store.write_record(self.root, record)

    def fill_probe(
        self,
        name: str,
        task: Task,
        measurements: Mapping[str, Any],
        correct: Sequence[bool] = (),
        robust: Sequence[bool] | None = None,
    ) -> None:
        """Write the record of one probe, over all examples; ``robust`` False where it has a witness."""
        manifest = self._asked[name]
        shard, identity = self.works(name, task)[0]
        start, stop, data = plan.task_spans(manifest, task)[0]
        seen = range(start, min(stop, start + len(robust or ())))
        rows = () if robust is None else tuple(
            example(i, correct[i], robust[i], not (correct[i] and not robust[i]), 0.03) for i in seen
        )  # fmt: skip
        store.write_record(
            self.root,
            Record(
                shard=replace(shard, start=start, stop=stop), identity=replace(identity, data=data), status=Status.OK,
                environment=self.environment, cost=Cost(2.5, 300, 200, 64), examples=rows,
                measurements=dict(measurements),
            ),
        )  # fmt: skip

    def complete(
        self,
        name: str,
        correct: Sequence[bool],
        robust: Mapping[str, Sequence[bool]],
        tasks: Sequence[Task] = STANDARD,
        **options: Any,
    ) -> None:
        """Ask for ``tasks`` and fill all of them; ``robust`` by task name, anything missing stays as it was."""
        self.ask(name, tasks, **options)
        for task in tasks:
            self.fill(name, task, correct, robust.get(task.name, correct))


def example(index: int, correct: bool, robust: bool, consistent: bool, linf: float) -> Example:
    label = index % CLASSES
    clean = label if correct else (label + 1) % CLASSES
    adversarial = (
        clean if (robust and correct) or (consistent and not (correct and not robust)) else (label + 2) % CLASSES
    )
    return Example(index, label, clean, adversarial, True, linf, linf * 10, 1.0, 20, 10)


def bits(text: str) -> list[bool]:
    """``1101 0000`` as booleans."""
    return [char == "1" for char in text if char in "01"]


CORRECT = bits("1111 1100")
ROBUST = {
    "fgsm": bits("1111 0000"),
    "pgd-20": bits("1110 0000"),
    "pgd-100-5": bits("1100 0000"),
    "deepfool": bits("0110 1000"),
    "apgd-ce": bits("1110 0000"),
    "apgd-t": bits("1010 0000"),
    "fab-t": bits("1111 1100"),
    "square": bits("1000 1100"),
}
"""Which of eight images a network gets right, and which of them are left right under each attack."""


def only_row(root: Path) -> Row:
    """The row of a folder with one submission and one board."""
    (board,) = tables.load([root])
    (row,) = board.rows
    return row
