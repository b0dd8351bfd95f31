"""One engine process: takes shards one at a time over a pipe, runs them against a model worker, saves the records."""

import contextlib
import hashlib
import os
import signal
import threading
import time
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from harness import environment, store
from harness.datasets import Dataset
from harness.engine import Outcome, Settings, run_shard
from harness.errors import ResultsError
from harness.models import Description, ModelWorker, WorkerError, WorkerOptions
from harness.plan import Work
from harness.records import Cost, Failure, Record, Shard, Status

LOST = frozenset({"died", "timeout", "memory"})
"""Kinds of failure after which the model's process is gone."""


LOAD_TIMEOUT = 900.0
"""Seconds a network may take to be built and to read its checkpoint."""


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


def earlier_records(root: Path, shard: Shard) -> list[Record]:
    """Records on disk of the cascade members before ``shard``'s task; shorter than ``after`` when one is missing."""
    found: list[Record] = []
    for key in shard.task.after:
        name = key.partition("@")[0]
        record = store.find_record(root, replace(shard, task=replace(shard.task, name=name)))
        if record is not None:
            found.append(record)
    return found


class _Bench:
    """The model worker of the submission at hand; replaced when another submission's turn comes or when it is lost."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._worker: ModelWorker | None = None
        self._spec: dict[str, Any] | None = None
        self._description: Description | None = None

    def take(self, spec: dict[str, Any], *, loaded: bool) -> tuple[ModelWorker, Description | None]:
        """The worker for ``spec``, started unless ``loaded`` is False; raises ``WorkerError`` when it cannot start."""
        if self._worker is None or self._spec != spec:
            self.drop()
            options = WorkerOptions(
                device=self._settings.device,
                threads=self._settings.threads,
                memory_limit=self._settings.memory_limit,
            )
            self._worker, self._spec = ModelWorker(spec, options), spec
        if loaded and self._description is None:
            self._description = self._worker.start(min(LOAD_TIMEOUT, self._settings.shard_timeout))
        return self._worker, self._description

    def drop(self) -> None:
        """End the worker."""
        if self._worker is not None:
            self._worker.close()
        self._worker = self._description = self._spec = None


def _run(job: Job, bench: _Bench, dataset: Dataset, root: Path, settings: Settings) -> Reply:
    shard = job.work.shard
    is_cost = shard.task.kind == "cost"
    try:
        worker, description = bench.take(job.spec, loaded=not is_cost)
    except WorkerError as error:
        bench.drop()
        record = failed_record(job.work, Failure(error.kind, f"could not be loaded: {error}"), settings)
        return Reply(save(root, Outcome(record)), load_failed=True)
    outcome = run_shard(
        job.work,
        dataset=dataset,
        worker=worker,
        description=description,
        earlier=earlier_records(root, shard),
        settings=settings,
    )
    failure = outcome.record.failure
    if is_cost or (failure is not None and failure.kind != "upstream"):
        bench.drop()
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


def serve(connection: Connection, parent: int, dataset: Dataset, root: str, settings: Settings) -> None:
    """Answer jobs until the pipe closes; runs in a process of its own."""
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _follow_parent(parent)
    # Idle OpenMP threads of the engine would spin on the cores that the model worker needs.
    torch.set_num_threads(1)
    bench = _Bench(settings)
    with contextlib.suppress(EOFError, OSError, BrokenPipeError):
        while True:
            job = connection.recv()
            try:
                reply = _run(job, bench, dataset, Path(root), settings)
            except ResultsError as error:
                record = failed_record(job.work, Failure("disk", str(error)), settings)
                reply = Reply(record, write_error=str(error))
            connection.send(reply)
    bench.drop()
