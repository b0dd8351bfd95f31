"""Whether a submission can be evaluated, found out in seconds: one check after the other, each says what to fix.

The network runs in a worker process; nothing of the submission is imported here.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

from harness.errors import CheckpointError, UserError
from harness.models import ModelWorker, WorkerError, WorkerOptions
from harness.submission import CARD, Submission
from harness.trial import BATTERY, FaultError, Trial, rebuilt


@dataclass(frozen=True)
class Check:
    """One thing looked at."""

    name: str
    ok: bool
    message: str
    """What was found, or what is wrong and what to do about it; one line."""


def _files(submission: Submission) -> list[Check]:
    """The checks that need no network: card, code and checkpoint."""
    checks = [Check("card", True, f"{submission.folder / CARD}: every field is fine")]
    try:
        submission.source_sha256()
        digest = submission.checkpoint_sha256()
    except CheckpointError as error:
        return [*checks, Check("checkpoint", False, str(error))]
    except UserError as error:
        return [*checks, Check("code", False, str(error))]
    return [*checks, Check("checkpoint", True, f"sha256 {digest}" if digest else "none: build() returns the network")]


def _judged(name: str, worker: ModelWorker, judge: Callable[[], str]) -> Check:
    """One check; a worker that is gone raises its ``WorkerError``, since nothing more can be asked of it."""
    try:
        return Check(name, True, judge())
    except FaultError as error:
        return Check(name, False, str(error))
    except WorkerError as error:
        if not worker.alive:
            raise
        return Check(name, False, str(error))


def _network(submission: Submission, options: WorkerOptions, deadline: float) -> Iterator[Check]:
    """The checks of the network in its process."""
    stage = "build"
    try:
        with ModelWorker(submission.spec(), options) as worker:
            description = worker.start(deadline - time.monotonic())
            worker.deadline = deadline
            trial = Trial(submission, worker, description)
            yield Check(stage, True, f"{description.parameters:,} parameters")
            for stage, judge in BATTERY:
                check = _judged(stage, worker, partial(judge, trial))
                yield check
                if stage in {"shape", "finite"} and not len(trial.logits):
                    return
            stage = "rebuild"
            yield _judged(stage, worker, partial(rebuilt, trial, options, deadline))
    except WorkerError as error:
        yield Check("checkpoint" if error.kind == "checkpoint" else stage, False, str(error))


def validate(submission: Submission, *, options: WorkerOptions, timeout: float) -> list[Check]:
    """Look at everything that can be wrong with a submission; ``timeout`` is the seconds its network may take.

    The list ends at a failed check that makes the following ones impossible.
    """
    checks = _files(submission)
    if checks[-1].ok:
        checks += _network(submission, replace(options, optimise=False), time.monotonic() + timeout)
    return checks
