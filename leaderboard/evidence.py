"""What a results folder holds about one task of one submission: counting records, and the state of the rest."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness import plan, store
from harness.records import (
    LARGEST_EPS,
    Candidate,
    Environment,
    Footprint,
    Identity,
    Manifest,
    Record,
    Shard,
    Status,
    Task,
)
from leaderboard.cells import Cell, State, number

Span = tuple[int, int, str]
"""(start, stop, sha256 of the span's images and labels)."""


@dataclass(frozen=True)
class Outcomes:
    """Per-example outcomes of one task over all examples, in the data set's order."""

    labels: tuple[int, ...]
    correct: tuple[bool, ...]
    robust: tuple[bool, ...]
    consistent: tuple[bool, ...]
    right: tuple[bool, ...]
    """The image that the task is about, e.g. a corrupted one, is classified as labelled."""
    attempted: tuple[bool, ...]
    distances: Mapping[str, tuple[float, ...]]
    """By norm, how far the image that the attack returned is; inf when it found none. Without what is not recorded."""


@dataclass(frozen=True)
class Problem:
    """A shard that ended without numbers."""

    start: int
    stop: int
    state: State
    kind: str
    message: str


@dataclass(frozen=True)
class Evidence:
    """All records of one task of one submission."""

    task: Task
    state: State
    text: str
    detail: str
    outcomes: Outcomes | None = None
    """Set when every example has a record that counts and the task looks at examples."""
    footprint: Footprint | None = None
    problems: tuple[Problem, ...] = ()
    environments: tuple[Environment, ...] = ()
    """The distinct environments of the counting records."""
    seconds: float = 0.0
    forwards: int = 0
    backwards: int = 0
    batch_sizes: tuple[int, ...] = ()
    mismatches: int = 0
    """Predictions that changed when they were asked again in another batch layout."""
    nonfinite_gradients: int = 0
    """Gradients with a value that was not finite, of all that the attack asked for."""

    def cell(self, flags: Sequence[bool] | None) -> Cell:
        """A number made of ``flags`` when this task is complete, else the reason why there is none."""
        if self.state is State.NUMBER and flags is not None:
            return number(flags)
        return Cell(self.state, self.text, self.detail)


def same_recipe(first: Task, second: Task) -> bool:
    """Whether two tasks measure the same thing: everything equal but the name of the cascade they are filed under."""
    return replace(first, cascade="") == replace(second, cascade="")


def _stale(record: Record, shard: Shard, identity: Identity) -> str:
    """What makes ``record`` stale, in words; empty when it counts."""
    if not same_recipe(record.shard.task, shard.task):
        return "another recipe"
    if replace(record.shard, task=shard.task) != shard:
        return "another shard"
    return plan.identity_difference(record.identity, identity)


def _damage(record: Record, labels: Sequence[int] | None) -> str:
    """Why an ok record cannot be believed, in words; empty when it can."""
    shard = record.shard
    if shard.task.kind == "cost":
        found = record.footprint
        speeds = (found.forward, found.forward_backward) if found else ()
        finite = all(
            math.isfinite(value) for item in speeds for value in (item.examples_per_second, item.low, item.high)
        )
        return "" if found and finite else "the record holds no figures, or some that are not finite"
    if shard.task.kind == "probe" and not record.examples:
        return ""
    if [row.index for row in record.examples] != list(range(shard.start, shard.stop)):
        return f"expected examples {shard.start} to {shard.stop - 1} once each, got {len(record.examples)} rows"
    if labels is not None and [row.label for row in record.examples] != list(labels):
        return "the labels differ from those of the other tasks"
    return ""


def gather(
    root: Path, manifest: Manifest, candidate: Candidate, task: Task, labels: dict[tuple[int, int], tuple[int, ...]]
) -> Evidence:
    """Read the records of one task below ``root``.

    ``labels`` maps a span to its labels; the first task read fills it, later ones must agree.
    ``ResultsError`` when a record was written by a newer version.
    """
    spans = plan.task_spans(manifest, task)
    good: list[Record] = []
    problems: list[Problem] = []
    stale: list[str] = []
    for start, stop, digest in spans:
        shard = Shard(candidate.id, manifest.dataset, task, start, stop)
        record = store.find_record(root, shard)
        if record is None:
            continue
        reason = _stale(record, shard, Identity(candidate.checkpoint, candidate.source, digest, manifest.seed))
        if reason:
            stale.append(reason)
        elif record.status is not Status.OK:
            state = State.SKIPPED if record.status is Status.SKIPPED else State.FAILED
            kind, message = (record.failure.kind, record.failure.message) if record.failure else ("unknown", "")
            problems.append(Problem(start, stop, state, kind, message))
        elif damage := _damage(record, labels.get((start, stop))):
            problems.append(Problem(start, stop, State.FAILED, "damaged", damage))
        else:
            if record.examples:
                labels.setdefault((start, stop), tuple(row.label for row in record.examples))
            good.append(record)
    asked = sum(stop - start for start, stop, _ in spans)
    done = sum(record.shard.stop - record.shard.start for record in good)
    state, text, detail = _judge(asked, done, problems, stale, len(spans))
    complete = state is State.NUMBER
    return Evidence(
        task=task,
        state=state,
        text=text,
        detail=detail,
        outcomes=_outcomes(good) if complete and task.kind in {"clean", "attack", "corruption"} else None,
        footprint=good[0].footprint if complete and task.kind == "cost" else None,
        problems=tuple(problems),
        environments=_distinct(record.environment for record in good),
        seconds=sum(record.cost.seconds for record in good),
        forwards=sum(record.cost.forwards for record in good),
        backwards=sum(record.cost.backwards for record in good),
        batch_sizes=tuple(sorted({record.cost.batch_size for record in good})),
        mismatches=sum(record.mismatches for record in good),
        nonfinite_gradients=sum(record.nonfinite_gradients for record in good),
    )


def _judge(
    asked: int, done: int, problems: Sequence[Problem], stale: Sequence[str], shards: int
) -> tuple[State, str, str]:
    """State, a few words and a sentence for a task with these shards."""
    share = f"{done:,} of {asked:,}"
    for state in (State.FAILED, State.SKIPPED):
        mine = [problem for problem in problems if problem.state is state]
        if mine:
            detail = f"{len(mine)} of {shards} shards {state.value}, {share} examples done: {mine[0].message}"
            return state, mine[0].kind, detail.rstrip(": ")
    if asked and done == asked:
        return State.NUMBER, "", ""
    why = f" with {' and '.join(sorted(set(stale)))}" if stale else ""
    if done:
        rest = f"; {len(stale)} of {shards} shards were measured{why}" if stale else ""
        return State.PARTIAL, share, f"{share} examples done{rest}."
    if stale:
        return State.STALE, sorted(set(stale))[0], f"{len(stale)} of {shards} shards were measured{why}; run again."
    return State.NOT_RUN, "", "Asked for, but there is no record yet."


def _distinct(environments: Iterable[Environment]) -> tuple[Environment, ...]:
    found: list[Environment] = []
    for environment in environments:
        if environment not in found:
            found.append(environment)
    return tuple(found)


def _outcomes(records: Sequence[Record]) -> Outcomes:
    rows = [row for record in sorted(records, key=lambda item: item.shard.start) for row in record.examples]
    return Outcomes(
        labels=tuple(row.label for row in rows),
        correct=tuple(row.correct for row in rows),
        robust=tuple(row.robust for row in rows),
        consistent=tuple(row.consistent for row in rows),
        right=tuple(row.correct_after for row in rows),
        attempted=tuple(row.attempted for row in rows),
        distances={
            norm: found
            for norm in LARGEST_EPS
            if len(found := tuple(far for row in rows if (far := row.distance(norm)) is not None)) == len(rows)
        },
    )
