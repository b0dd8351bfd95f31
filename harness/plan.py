"""From what was asked and what lies on disk to the shards still to run. Pure: no torch, no clock, no disk."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from enum import StrEnum

from harness.records import Candidate, Identity, Manifest, Record, Shard, Status, Task

SHARD_SIZE = 100
"""Examples per shard: what a killed run can lose at most, per worker."""


CELL_SIZE = 1000
"""Examples per shard of a corruption: three forward passes each, and seventy-five cells of them."""


class State(StrEnum):
    """How a wanted shard stands against the record found in its place."""

    DONE = "done"
    """A record of this task and identity, status ok."""
    STALE = "stale"
    """A record of another task definition or identity."""
    FAILED = "failed"
    """A record of this task and identity that ended in an error or was skipped because of one."""
    TODO = "to do"
    """No record."""


@dataclass(frozen=True)
class Work:
    """A wanted shard and the identity its record must have."""

    shard: Shard
    identity: Identity


def spans(n: int, size: int = SHARD_SIZE) -> list[tuple[int, int]]:
    """Cut ``range(n)`` into spans on a fixed grid, so that a longer run reuses the whole spans of a shorter one."""
    return [(start, min(start + size, n)) for start in range(0, n, size)]


Span = tuple[int, int, str]
"""(start, stop, sha256 of the span's images and labels)."""


def _joined(spans: Sequence[Span]) -> Span:
    """Several spans that follow on each other as one."""
    if len(spans) == 1:
        return spans[0]
    whole = hashlib.sha256(" ".join(digest for _, _, digest in spans).encode()).hexdigest()
    return spans[0][0], spans[-1][1], whole


def task_spans(manifest: Manifest, task: Task) -> tuple[Span, ...]:
    """The spans a task is cut into.

    Cost is measured on the first one, a probe looks at all examples at once, and a corruption, which is cheap and has
    many sisters, at ``CELL_SIZE`` of them.
    """
    if task.kind == "cost":
        return manifest.spans[:1]
    if task.kind == "probe" and manifest.spans:
        return (_joined(manifest.spans),)
    if task.kind == "corruption":
        blocks: dict[int, list[Span]] = {}
        for span in manifest.spans:
            blocks.setdefault(span[0] // CELL_SIZE, []).append(span)
        return tuple(_joined(block) for block in blocks.values())
    return manifest.spans


def work_of(manifest: Manifest, candidate: Candidate) -> Iterator[Work]:
    """Every shard that ``manifest`` wants of ``candidate``, tasks in order."""
    for task in candidate.tasks:
        for start, stop, digest in task_spans(manifest, task):
            yield Work(
                Shard(candidate.id, manifest.dataset, task, start, stop),
                Identity(candidate.checkpoint, candidate.source, digest, manifest.seed),
            )


def wanted(manifest: Manifest) -> list[Work]:
    """Every shard of a manifest, submission by submission."""
    return [work for candidate in manifest.candidates for work in work_of(manifest, candidate)]


def _unnamed(shard: Shard) -> Shard:
    """``shard`` without the name of its cascade: the first member of two cascades is the same measurement."""
    return replace(shard, task=replace(shard.task, cascade="x" if shard.task.cascade else ""))


def identity_difference(found: Identity, wanted: Identity) -> str:
    """What makes a record stale though its shard is the wanted one, in words; empty when nothing does."""
    for item in fields(Identity):
        if getattr(found, item.name) != getattr(wanted, item.name):
            return {"source": "other source code", "data": "other images"}.get(item.name, f"another {item.name}")
    return ""


def difference(work: Work, record: Record) -> str:
    """What makes ``record`` stale in the place of ``work``, in words; empty when nothing does."""
    found, wanted = _unnamed(record.shard), _unnamed(work.shard)
    if found == wanted:
        return identity_difference(record.identity, work.identity)
    if found.task.precision != wanted.task.precision:
        return f"{found.task.precision} precision"
    if found.task.implementation != wanted.task.implementation:
        return f"another implementation ({found.task.implementation})"
    return "another recipe"


def state(work: Work, record: Record | None) -> State:
    """Compare a wanted shard with the record in its place (its examples are not looked at)."""
    if record is None:
        return State.TODO
    if difference(work, record):
        return State.STALE
    return State.DONE if record.status is Status.OK else State.FAILED


def outstanding(works: Iterable[Work], find: Callable[[Shard], Record | None]) -> list[Work]:
    """The shards that must run: all that are not done, and every shard whose earlier cascade members must run."""
    left: list[Work] = []
    rerun: set[tuple[str, str, int]] = set()
    for work in works:
        shard = work.shard
        if any(place in rerun for place in upstream(shard)) or state(work, find(shard)) is not State.DONE:
            left.append(work)
            rerun |= {
                (shard.submission, shard.task.key, shard.start),
                (shard.submission, shard.task.key, ANYWHERE),
            }
    return left


ANYWHERE = -1
"""Stands for every span of a task."""


def upstream(shard: Shard) -> list[tuple[str, str, int]]:
    """(submission, task key, start) of the shards that ``shard`` reads; a probe reads all spans of them."""
    start = ANYWHERE if shard.task.kind == "probe" else shard.start
    return [(shard.submission, key, start) for key in shard.task.after]
