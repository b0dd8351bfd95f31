"""From a request on the command line to a manifest and jobs, and from jobs to records on disk."""

from __future__ import annotations

import datetime
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from harness import datasets, plan, store, suites
from harness.attacks import Attack, find_attack
from harness.datasets import NPZ, Corrupted, Dataset
from harness.download import Progress
from harness.engine.corrupting import choose
from harness.engine.outcome import Settings
from harness.errors import UnknownNameError, UserError
from harness.executors.holder import Speed
from harness.executors.local import LocalExecutor
from harness.executors.shard_process import Job, failed_record
from harness.forecast import mean_seconds
from harness.plan import Work
from harness.probes import PROBES
from harness.records import MIXED, Candidate, Failure, Manifest, Record, Shard, Status, Task, ThreatModel
from harness.submission import Submission, discover, fits

Find = Callable[[Shard], Record | None]
"""The record in a shard's place, without its examples."""


@dataclass(frozen=True)
class Request:
    """What the user asked for; empty tuples mean everything."""

    ids: tuple[str, ...]
    suite: str
    dataset: str
    roots: tuple[Path, ...]
    results: Path
    limit: int | None = None
    threats: tuple[ThreatModel, ...] = ()
    only: tuple[str, ...] = ()
    """Names of the tasks to run; empty: the whole suite."""
    data_dir: Path | None = None
    seed: int = 0
    shard_size: int = plan.SHARD_SIZE
    workers: int = 1
    implementation: str = "own"
    """``own``, or ``reference`` for pyautoattack's members of AutoAttack."""
    settings: Settings = field(default_factory=Settings)
    precision: str = "full"
    """``full``, or ``mixed``: attacks search in bfloat16 and every success is decided in float32."""
    corruptions: str = "auto"
    """Where corrupted images come from: ``harness.datasets.corrupted.SOURCES``."""
    progress: Progress | None = None
    """Told the bytes of a download that was asked for."""


@dataclass(frozen=True)
class Prepared:
    """A run that is about to start."""

    manifest: Manifest
    dataset: Dataset
    works: tuple[Work, ...]
    """Shards still to run."""
    specs: Mapping[str, dict[str, Any]]
    """How to build each submission."""
    unusable: Mapping[str, UserError]
    """Submissions that were asked for and cannot be evaluated, with the reason."""
    notes: tuple[str, ...]
    """What was left out and why."""
    corrupted: Corrupted | None = None
    """Where the corruption tasks take their images from; None when there are none."""

    @property
    def total(self) -> int:
        """Shards of the whole run, done ones included."""
        return len(plan.wanted(self.manifest))


def select(request: Request) -> tuple[list[Submission], dict[str, UserError], list[str]]:
    """The submissions a request names: usable ones, unusable ones with the reason, and notes on what was left out."""
    found = discover(request.roots)
    known = [*found.submissions, *found.problems]
    for name in request.ids:
        if name not in known:
            raise UnknownNameError("submission", name, known)
    chosen = list(request.ids) or sorted(known)
    problems = {name: found.problems[name] for name in chosen if name in found.problems}
    usable, notes = [], []
    for name in dict.fromkeys(chosen):
        if name in problems:
            continue
        submission = found.submissions[name]
        if fits(submission.card, request.dataset):
            usable.append(submission)
        elif request.ids:
            problems[name] = UserError(
                f"{name}: dataset: the card says {', '.join(submission.card.datasets)}, got {request.dataset!r}"
            )
        else:
            notes.append(f"{name} is for {', '.join(submission.card.datasets)}: left out")
    if not usable and not problems:
        places = ", ".join(str(root) for root in request.roots)
        raise UserError(f"no submission for {request.dataset} in {places}; make one with: harness new my-model")
    return usable, problems, notes


def _corrupted(request: Request, data: Dataset, notes: list[str]) -> Corrupted | None:
    """The corrupted images that the suite asks for; None when it asks for none or can do without."""
    entries = suites.corruptions_in(suites.load(request.suite), request.only)
    if not entries:
        return None
    required = bool(request.only) or not all(entry.get("optional") for entry in entries)
    found, note = choose(
        data, source=request.corruptions, required=required, of_a_file=request.dataset.startswith(NPZ),
        data_dir=request.data_dir, seed=request.seed, progress=request.progress,
    )  # fmt: skip
    notes += [note] if note else []
    return found


def _tasks(request: Request, submission: Submission, corrupted: Corrupted | None, notes: list[str]) -> tuple[Task, ...]:
    suite = suites.load(request.suite)
    threats = request.threats or submission.card.threats

    def find(name: str) -> Attack:
        return find_attack(name, request.implementation)

    ending = MIXED if request.precision == "mixed" else ""
    tasks = suites.expand(
        suite,
        threats,
        implementation=lambda name, norm: find(name).implementation(norm) + ending,
        only=request.only,
        probe=PROBES.get,
        corruptions=corrupted,
        defence=submission.card.defence,
    )
    kept: list[Task] = []
    for task in tasks:
        if task.attack and task.threat is not None:
            attack, norm = find(task.attack), task.threat.norm
            if norm not in attack.norms:
                note = f"{task.name} has no {norm} form: left out"
                if note not in notes:
                    notes.append(note)
                continue
            attack.check_params(task.params, eps=task.threat.value, norm=norm)
        kept.append(task)
    return tuple(kept)


def prepare(request: Request) -> Prepared:
    """Check everything that can be checked before any work, write the manifest, and plan.

    ``UserError`` when the request as a whole makes no sense; a submission that cannot be used only loses its own row.
    """
    suites.load(request.suite)
    data = datasets.load(request.dataset, data_dir=request.data_dir, limit=request.limit)
    usable, unusable, notes = select(request)
    corrupted = _corrupted(request, data, notes)
    store.open_folder(request.results)
    candidates: list[Candidate] = []
    specs: dict[str, dict[str, Any]] = {}
    for submission in usable:
        try:
            checkpoint, source = submission.checkpoint_sha256(), submission.source_sha256()
            specs[submission.id] = submission.spec()
        except UserError as error:
            unusable[submission.id] = error
            checkpoint, source = "unavailable", "unavailable"
        tasks = _tasks(request, submission, corrupted, notes)
        candidates.append(Candidate(submission.id, submission.card.plain(), checkpoint, source, tasks))
    cuts = plan.spans(len(data), request.shard_size)
    manifest = Manifest(
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        suite=request.suite if not request.suite.endswith(".toml") else Path(request.suite).stem,
        dataset=data.name,
        classes=data.classes,
        n=len(data),
        full=data.full,
        spans=tuple((start, stop, data.span_sha256(start, stop)) for start, stop in cuts),
        seed=request.seed,
        candidates=tuple(candidates),
        class_names=data.class_names,
    )
    if candidates:
        store.write_manifest(request.results, manifest)

    def find(shard: Shard) -> Record | None:
        return store.find_record(request.results, shard, examples=False)

    for candidate in candidates:
        if candidate.id not in specs:
            failure = Failure("checkpoint", str(unusable[candidate.id]))
            _fail_at_once(plan.work_of(manifest, candidate), failure, request, find)
    runnable = replace(manifest, candidates=tuple(item for item in candidates if item.id in specs))
    works = tuple(plan.outstanding(plan.wanted(runnable), find))
    notes += _replaced(works, find)
    return Prepared(runnable, data, works, specs, unusable, tuple(notes), corrupted)


def _fail_at_once(works: Iterable[Work], failure: Failure, request: Request, find: Find) -> None:
    """Error records without a run, so that the page can say why; numbers that are there stay."""
    for work in works:
        there = find(work.shard)
        if there is None or there.status is not Status.OK:
            store.write_record(request.results, failed_record(work, failure, request.settings))


def _replaced(works: Iterable[Work], find: Find) -> list[str]:
    """A note on the records that ``works`` will replace though they hold numbers; none when there are none."""
    there = [(work, find(work.shard)) for work in works]
    ready = [plan.difference(work, record) for work, record in there if record and record.status is Status.OK]
    reasons = [f"{count} of {what}" for what, count in Counter(filter(None, ready)).items()]
    kept = "another --results keeps them"
    return [f"stale records, to be run again and replaced ({kept}): {', '.join(reasons)}"] if reasons else []


def execute(
    prepared: Prepared,
    request: Request,
    report: Callable[[Record], None],
    speed: Callable[[str, Speed], None] = lambda _name, _speed: None,
) -> None:
    """Run the shards that are left; ``report`` gets each record once it is on disk, ``speed`` each submission's."""
    jobs = [Job(work, prepared.specs[work.shard.submission]) for work in prepared.works]
    executor = LocalExecutor(
        root=request.results,
        dataset=prepared.dataset,
        settings=request.settings,
        workers=max(1, min(request.workers, len(jobs))),
        corrupted=prepared.corrupted,
    )
    executor.run(jobs, report, speed)


def default_workers() -> int:
    """One worker per processor core this process may use."""
    return max(1, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


@dataclass(frozen=True)
class Standing:
    """How far one manifest has come."""

    manifest: Manifest
    counts: Mapping[plan.State, int]
    failures: tuple[Record, ...]
    """Records (without examples) of the failed shards."""
    eta_seconds: float | None
    """Estimate of the worker seconds left, from the shards already done; None when nothing is done yet."""


def standing(results: Path, manifest: Manifest) -> Standing:
    """Compare a manifest with the records on disk."""
    counts = dict.fromkeys(plan.State, 0)
    failures: list[Record] = []
    spent: dict[str, list[float]] = {}
    left: list[str] = []
    for work in plan.wanted(manifest):
        record = store.find_record(results, work.shard, examples=False)
        state = plan.state(work, record)
        counts[state] += 1
        if state is plan.State.DONE and record is not None:
            spent.setdefault(work.shard.task.key, []).append(record.cost.seconds)
        else:
            left.append(work.shard.task.key)
        if state is plan.State.FAILED and record is not None:
            failures.append(record)
    return Standing(manifest, counts, tuple(failures), mean_seconds(spent, left))
