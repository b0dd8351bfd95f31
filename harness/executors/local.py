"""Run shards in engine processes on this machine; each has a model worker of its own."""

import contextlib
import multiprocessing
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from harness import store
from harness.datasets import Corrupted, Dataset
from harness.engine.outcome import Settings
from harness.errors import ResultsError
from harness.executors.holder import Speed
from harness.executors.shard_process import LOST, Job, Reply, failed_record, serve
from harness.plan import ANYWHERE, Work, upstream
from harness.records import Failure, Record, Status

STRIKES = 2
"""Shards in a row that may lose the model's process before the rest of the submission is given up."""

Place = tuple[str, str, int]


@dataclass
class _Slot:
    """One engine process and what it is doing."""

    process: BaseProcess
    connection: Connection
    job: Job | None = None
    submission: str = ""


def _place(work: Work) -> Place:
    return work.shard.submission, work.shard.task.key, work.shard.start


class _Queue:
    """Jobs not yet handed out, in order, with what must be finished before each."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self._jobs = list(jobs)
        self._open = Counter(place for job in jobs for place in self._places(job.work))

    def __len__(self) -> int:
        return len(self._jobs)

    @staticmethod
    def _places(work: Work) -> tuple[Place, Place]:
        """What ``work`` is waited for under: its own span, and the task as a whole."""
        return _place(work), (work.shard.submission, work.shard.task.key, ANYWHERE)

    def _ready(self, job: Job) -> bool:
        return not any(self._open[place] for place in upstream(job.work.shard))

    def take(self, submission: str, *, idle: bool) -> Job | None:
        """The next job, of ``submission`` if possible; cost jobs come last and only while all else is ``idle``."""
        ready = [job for job in self._jobs if job.work.shard.task.kind != "cost" and self._ready(job)]
        if not ready and idle and all(job.work.shard.task.kind == "cost" for job in self._jobs):
            ready = self._jobs
        if not ready:
            return None
        chosen = next((job for job in ready if job.work.shard.submission == submission), ready[0])
        self._jobs.remove(chosen)
        return chosen

    def finish(self, work: Work) -> None:
        """Let the jobs that wait for ``work`` go."""
        self._open.subtract(place for place in self._places(work) if self._open[place])

    def of(self, submission: str) -> list[Job]:
        """Remove and return every job of ``submission``."""
        gone = [job for job in self._jobs if job.work.shard.submission == submission]
        self._jobs = [job for job in self._jobs if job.work.shard.submission != submission]
        return gone


class LocalExecutor:
    """Runs jobs in ``workers`` processes; use ``run`` once."""

    def __init__(
        self,
        *,
        root: Path,
        dataset: Dataset,
        settings: Settings,
        workers: int,
        corrupted: Corrupted | None = None,
    ) -> None:
        self._root, self._dataset, self._settings, self._workers = root, dataset, settings, workers
        self._corrupted = corrupted
        self._context = multiprocessing.get_context("spawn")
        self._slots: list[_Slot] = []
        self._strikes: Counter[str] = Counter()

    def _open_slot(self) -> _Slot:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=serve,
            args=(theirs, os.getpid(), self._dataset, str(self._root), self._settings, self._corrupted),
            daemon=False,
        )
        process.start()
        theirs.close()
        return _Slot(process, ours)

    def _close(self, slot: _Slot) -> None:
        slot.connection.close()
        slot.process.terminate()
        slot.process.join(5)
        if slot.process.is_alive():
            slot.process.kill()
            slot.process.join()

    def _receive(self, slot: _Slot) -> Reply | Speed:
        assert slot.job is not None
        try:
            reply: Reply | Speed = slot.connection.recv()
        except (EOFError, OSError):
            self._close(slot)
            failure = Failure("engine", f"the engine's process ended with exit code {slot.process.exitcode}")
            record = failed_record(slot.job.work, failure, self._settings)
            store.write_record(self._root, record)
            self._slots.remove(slot)
            return Reply(record)
        return reply

    def _give_up(self, queue: _Queue, reply: Reply, report: Callable[[Record], None]) -> None:
        """Close the remaining shards of a submission that cannot be loaded or keeps losing its process."""
        failure = reply.record.failure
        submission = reply.record.shard.submission
        if failure is None or failure.kind not in LOST:
            self._strikes[submission] = 0
        else:
            self._strikes[submission] += 1
        if not reply.load_failed and self._strikes[submission] < STRIKES:
            return
        assert failure is not None
        reason = failure.message
        if not reply.load_failed:
            reason = f"not tried after {STRIKES} failures in a row, the last: {failure.message}"
        for job in queue.of(submission):
            record = failed_record(job.work, Failure(failure.kind, reason), self._settings)
            store.write_record(self._root, record)
            queue.finish(job.work)
            report(record)

    def run(
        self,
        jobs: Sequence[Job],
        report: Callable[[Record], None],
        speed: Callable[[str, Speed], None] = lambda _name, _speed: None,
    ) -> None:
        """Run every job; ``report`` gets each record as it is saved, ``speed`` how fast a submission is once known.

        ``ResultsError`` when a record cannot be written: the run stops there, and nothing already saved is lost.
        ``KeyboardInterrupt`` ends the processes and is passed on.
        """
        queue = _Queue(jobs)
        try:
            while len(queue) or any(slot.job for slot in self._slots):
                self._hand_out(queue)
                busy = [slot for slot in self._slots if slot.job is not None]
                for connection in wait([slot.connection for slot in busy], timeout=1.0):
                    slot = next(slot for slot in busy if slot.connection is connection)
                    reply = self._receive(slot)
                    if isinstance(reply, Speed):
                        speed(slot.submission, reply)
                        continue
                    if reply.write_error:
                        raise ResultsError(reply.write_error)
                    assert slot.job is not None
                    queue.finish(slot.job.work)
                    slot.job = None
                    report(reply.record)
                    if reply.record.status is not Status.OK:
                        self._give_up(queue, reply, report)
                    else:
                        self._strikes[reply.record.shard.submission] = 0
        finally:
            for slot in self._slots:
                with contextlib.suppress(OSError):
                    self._close(slot)

    def _hand_out(self, queue: _Queue) -> None:
        while len(queue):
            free = [slot for slot in self._slots if slot.job is None]
            idle = len(free) == len(self._slots)
            preferred = free[0].submission if free else ""
            if not free and len(self._slots) >= self._workers:
                return
            job = queue.take(preferred, idle=idle)
            if job is None:
                return
            if free:
                slot = next((slot for slot in free if slot.submission == job.work.shard.submission), free[0])
            else:
                slot = self._open_slot()
                self._slots.append(slot)
            slot.job, slot.submission = job, job.work.shard.submission
            try:
                slot.connection.send(job)
            except (BrokenPipeError, OSError):
                continue
