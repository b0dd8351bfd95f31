"""One engine process: takes shards one at a time over a pipe, runs them against a model worker, saves the records."""

import contextlib
import hashlib
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from harness import environment, store
from harness.datasets import Corrupted, Dataset
from harness.engine.evidence import earlier_records, gather_evidence
from harness.engine.outcome import Outcome, Settings
from harness.engine.shard import run_shard
from harness.errors import ResultsError
from harness.executors.holder import Holder, Speed, measure_speed
from harness.models import WorkerError
from harness.plan import Work
from harness.records import Cost, Failure, Record, Status

LOST = frozenset({"died", "timeout", "memory"})
"""Kinds of failure after which the model's process is gone."""


@dataclass(frozen=True)
class Job:
    """One shard and what is needed to build the submission it belongs to."""

    work: Work
    spec: dict[str, Any]


@dataclass(frozen=True)
class Reply:
    """What came of a job."""

    record: Record
    load_failed: bool = False
    """The submission could not even be built: its other shards need not be tried."""
    write_error: str = ""
    """The record could not be saved; the text says why."""


def save(root: Path, outcome: Outcome) -> Record:
    """Write the adversarial examples, then the record that names their hash; ``ResultsError`` when the disk refuses."""
    record = outcome.record
    if outcome.adversarial is not None and outcome.indices is not None and len(outcome.indices):
        from safetensors.torch import save as pack

        content = pack({"indices": outcome.indices, "x_adv": outcome.adversarial.contiguous()})
        store.write_bytes(store.adversarial_path(root, record.shard), content)
        record = replace(record, adversarial_sha256=hashlib.sha256(content).hexdigest())
    store.write_record(root, record)
    return record


Images = tuple[Dataset, Corrupted | None]
"""The images of a run, and their corrupted versions where a task asks for them."""


def run_job(job: Job, holder: Holder, images: Images, root: Path, tell: Callable[[Speed], None] | None = None) -> Reply:
    """Run one shard and save its record below ``root``; batches are halved while memory runs out.

    ``tell`` gets the speed of the submission before the shard is run. ``ResultsError`` when the disk refuses.
    """
    while True:
        reply = _try(job, holder, images, root, tell)
        failure = reply.record.failure
        if failure is None or failure.kind != "memory":
            return reply
        x, _ = images[0].tensors(job.work.shard.start, job.work.shard.start + 1)
        if not holder.halve(job.spec, x):
            return reply


def _try(job: Job, holder: Holder, images: Images, root: Path, tell: Callable[[Speed], None] | None) -> Reply:
    dataset, corrupted = images
    shard = job.work.shard
    kind = shard.task.kind
    try:
        worker, description = holder.take(job.spec, loaded=kind != "cost")
    except WorkerError as error:
        holder.drop()
        record = failed_record(
            job.work, Failure(error.kind, f"could not be loaded: {error}"), holder.settings(job.spec)
        )
        return Reply(save(root, Outcome(record)), load_failed=True)
    if kind != "cost" and tell is not None:
        with contextlib.suppress(WorkerError):
            tell(measure_speed(worker, dataset.tensors(shard.start, shard.start + 1)[0], holder.settings(job.spec)))
    outcome = run_shard(
        job.work,
        dataset=dataset,
        worker=worker,
        description=description,
        earlier=earlier_records(root, shard) if kind == "attack" else (),
        evidence=gather_evidence(root, job.work) if kind == "probe" else None,
        settings=holder.settings(job.spec),
        corrupted=corrupted,
    )
    ended = outcome.record.failure
    if kind == "cost" or (ended is not None and ended.kind != "upstream"):
        holder.drop()
    return Reply(save(root, outcome))


def failed_record(work: Work, failure: Failure, settings: Settings) -> Record:
    """The record of a shard that was not run, or whose engine process was lost."""
    return Record(
        shard=work.shard,
        identity=work.identity,
        status=Status.ERROR,
        environment=environment.describe(device=settings.device, threads=settings.threads, dtype=""),
        cost=Cost(0.0, 0, 0, settings.batch_size),
        failure=failure,
    )


def _follow_parent(parent: int) -> None:
    """End this process soon after ``parent`` is gone, even in the middle of a shard."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def serve(
    connection: Connection,
    parent: int,
    dataset: Dataset,
    root: str,
    settings: Settings,
    corrupted: Corrupted | None = None,
) -> None:
    """Answer jobs until the pipe closes; runs in a process of its own."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _follow_parent(parent)
    # Idle OpenMP threads of the engine would spin on the cores that the model worker needs.
    torch.set_num_threads(1)
    height, width, channels = dataset.images.shape[1:]
    holder = Holder(settings, (channels, height, width))
    told: set[str] = set()

    def tell(speed: Speed) -> None:
        connection.send(speed)

    with contextlib.suppress(EOFError, OSError, BrokenPipeError):
        while True:
            job = connection.recv()
            name = job.work.shard.submission
            try:
                reply = run_job(job, holder, (dataset, corrupted), Path(root), None if name in told else tell)
            except ResultsError as error:
                record = failed_record(job.work, Failure("disk", str(error)), settings)
                reply = Reply(record, write_error=str(error))
            told.add(name)
            connection.send(reply)
    holder.drop()
