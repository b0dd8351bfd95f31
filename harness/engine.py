"""Run one shard and write down what happened; trusts neither the network nor the attack. The only place that times."""

import hashlib
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from harness import environment
from harness.attacks import ATTACKS, Attack
from harness.attacks.randomness import ExampleGenerators
from harness.counting import Ledger
from harness.datasets import Dataset
from harness.errors import BreachError, UserError
from harness.models import Description, ModelWorker, RemoteModel, WorkerError
from harness.plan import Work
from harness.probes.footprint import measure
from harness.records import Cost, Example, Failure, Footprint, Record, Status

LINF_SLACK = 1e-6
"""Absolute slack of the Linf budget: x + eps - x rounds."""
L2_SLACK = 1e-5
"""Relative slack of the L2 and L1 budgets."""


@dataclass(frozen=True)
class Settings:
    """How shards are run; none of it may change an outcome."""

    batch_size: int = 64
    device: str = "cpu"
    threads: int = 1
    memory_limit: int | None = None
    """Bytes the worker may hold; None: no limit."""
    shard_timeout: float = 3600.0
    """Seconds a shard may take."""


@dataclass(frozen=True)
class Outcome:
    """A record, and the adversarial examples that belong beside it."""

    record: Record
    indices: Tensor | None = None
    """int64 (M,): positions in the data set of the examples below."""
    adversarial: Tensor | None = None
    """float32 (M, C, H, W) in [0, 1]; None when there is none."""


def classify(logits: Tensor) -> Tensor:
    """Predicted classes int64 (N,); -1 where a logit is not finite, which counts as misclassified."""
    return logits.argmax(1).masked_fill(~logits.isfinite().all(1), -1)


def margins(logits: Tensor, y: Tensor) -> Tensor:
    """Logit of ``y`` minus the largest other logit, float32 (N,)."""
    own = logits.gather(1, y[:, None]).squeeze(1)
    return own.sub(logits.scatter(1, y[:, None], -math.inf).amax(1))


def distance(delta: Tensor, norm: str) -> Tensor:
    """Norm of every row of ``delta`` (N, ...), computed in float64."""
    order = {"Linf": math.inf, "L2": 2, "L1": 1}[norm]
    length: Tensor = torch.linalg.vector_norm(delta.flatten(1).double(), ord=order, dim=1)
    return length


def within(delta: Tensor, norm: str, eps: float) -> Tensor:
    """Whether every row of ``delta`` lies in the budget, up to the rounding of float32; bool (N,)."""
    limit = eps + LINF_SLACK if norm == "Linf" else eps * (1 + L2_SLACK)
    return distance(delta, norm) <= limit


def inspect(x: Tensor, before: Tensor, x_adv: Tensor, *, norm: str, eps: float | None) -> None:
    """Hold what an attack returned against its contract; ``BreachError`` with the number when it breaks it."""
    if not isinstance(x_adv, Tensor) or x_adv.shape != before.shape:
        got = tuple(x_adv.shape) if isinstance(x_adv, Tensor) else type(x_adv).__name__
        raise BreachError("breach", f"the attack returned {got}, expected a tensor {tuple(before.shape)}")
    if x_adv.dtype != before.dtype:
        raise BreachError("breach", f"the attack returned {x_adv.dtype}, expected {before.dtype}")
    if not torch.equal(x, before):
        raise BreachError("breach", f"the attack changed its input by {float((x - before).abs().max()):.3g}")
    if not x_adv.isfinite().all():
        raise BreachError("breach", f"{int((~x_adv.isfinite()).sum())} pixels of the adversarial images are not finite")
    if float(x_adv.min()) < 0 or float(x_adv.max()) > 1:
        raise BreachError("breach", f"pixels in [{float(x_adv.min()):.9g}, {float(x_adv.max()):.9g}], expected [0, 1]")
    if eps is not None and not within(x_adv - before, norm, eps).all():
        worst = float(distance(x_adv - before, norm).max())
        raise BreachError("breach", f"{norm} distance {worst:.9g} is larger than eps {eps:.9g}")


def _logits(worker: ModelWorker, x: Tensor, batch_size: int) -> Tensor:
    return torch.cat([worker.forward(part)[0] for part in torch.split(x, batch_size)])


def _logits_again(worker: ModelWorker, x: Tensor, batch_size: int) -> Tensor:
    """The same question in another batch layout: reversed order, batches about a third smaller."""
    return _logits(worker, x.flip(0), max(1, batch_size * 2 // 3)).flip(0)


def _survivors(correct: Tensor, earlier: Sequence[Record]) -> tuple[Tensor, Mapping[int, int]]:
    """Examples still to attack in a cascade, and the class that each fallen one was turned into."""
    alive = correct.clone()
    fallen: dict[int, int] = {}
    for record in earlier:
        for row, example in enumerate(record.examples):
            if bool(alive[row]) and not example.robust:
                alive[row] = False
                fallen[row] = example.adversarial_prediction
    return alive, fallen


def _attack(
    attack: Attack, model: RemoteModel, x: Tensor, y: Tensor, indices: list[int], work: Work, batch_size: int
) -> tuple[Tensor, Ledger]:
    """Run ``attack`` on all rows, in batches unless it wants the whole shard at once, and inspect the result."""
    task = work.shard.task
    assert task.threat is not None
    eps, norm = task.threat.value, task.threat.norm
    ledger = Ledger(x)
    parts: list[Tensor] = []
    step = len(x) if attack.whole_shard else batch_size
    extra = {"batch_size": batch_size} if attack.whole_shard else {}
    for start in range(0, len(x), max(1, step)):
        span = slice(start, start + step)
        own = Ledger(x[span])
        model.on_forward, model.on_backward = own.forward, own.backward
        given, labels = x[span].clone(), y[span].clone()
        generators = ExampleGenerators.for_examples(work.identity.seed, task.key, indices[span])
        x_adv = attack.run(model, given, labels, eps=eps, norm=norm, generator=generators, **task.params, **extra)
        model.on_forward = model.on_backward = None
        inspect(given, x[span], x_adv, norm=norm, eps=None if attack.minimum_norm else eps)
        parts.append(x_adv.detach())
        ledger.forwards[span], ledger.backwards[span] = own.forwards, own.backwards
    return (torch.cat(parts) if parts else x.clone()), ledger


def _run_clean(work: Work, dataset: Dataset, worker: ModelWorker, batch_size: int) -> tuple[list[Example], int]:
    x, y = dataset.tensors(work.shard.start, work.shard.stop)
    first = _logits(worker, x, batch_size)
    again = _logits_again(worker, x, batch_size)
    predictions = classify(again)
    margin = margins(again, _inside(y, again))
    rows = [
        Example(work.shard.start + row, int(y[row]), int(predictions[row]), int(predictions[row]), True, 0.0, 0.0,
                float(margin[row]), 2, 0)
        for row in range(len(y))
    ]  # fmt: skip
    return rows, int((classify(first) != predictions).sum())


def _inside(y: Tensor, logits: Tensor) -> Tensor:
    """``y``, after checking that every label is a class of the network."""
    if int(y.max()) >= logits.shape[1]:
        raise BreachError(
            "contract", f"label {int(y.max())} has no logit: the network returns {logits.shape[1]} classes"
        )
    return y


def _run_attack(
    work: Work, dataset: Dataset, worker: ModelWorker, earlier: Sequence[Record], batch_size: int
) -> tuple[list[Example], int, Tensor, Tensor]:
    shard, task = work.shard, work.shard.task
    assert task.threat is not None
    attack = ATTACKS.get(task.attack)
    eps, norm = task.threat.value, task.threat.norm
    x, y = dataset.tensors(shard.start, shard.stop)
    clean_logits = _logits(worker, x, batch_size)
    _inside(y, clean_logits)
    clean = classify(clean_logits)
    if task.cascade:
        attempted, fallen = _survivors(clean == y, earlier)
        labels = y
    else:
        attempted, fallen, labels = clean >= 0, {}, clean
    chosen = attempted.nonzero().squeeze(1)
    indices = [shard.start + int(row) for row in chosen]
    model = RemoteModel(worker)
    before = worker.probe("state")["parameters"]
    returned, ledger = _attack(attack, model, x[chosen], labels[chosen], indices, work, batch_size)
    if worker.probe("state")["parameters"] != before:
        raise BreachError("breach", "the network's parameters are not what they were before the attack")

    x_adv = x.clone()
    x_adv[chosen] = returned
    delta = x_adv - x
    linf, l2 = distance(delta, "Linf"), distance(delta, "L2")
    first = classify(_logits(worker, returned, batch_size)) if len(chosen) else clean[:0]
    again = _logits_again(worker, returned, batch_size) if len(chosen) else clean_logits[:0]
    mismatches = int((first != classify(again)).sum())

    deciding = clean_logits.clone()
    deciding[chosen] = again
    if attack.minimum_norm:
        moved = attempted & (classify(deciding) != labels)
        linf[attempted & ~moved] = l2[attempted & ~moved] = math.inf
        deciding[~(moved & within(delta, norm, eps))] = clean_logits[~(moved & within(delta, norm, eps))]
    predictions = classify(deciding)
    margin = margins(deciding, y)
    forwards, backwards = torch.ones_like(y), torch.zeros_like(y)
    forwards[chosen] += ledger.forwards + 2
    backwards[chosen] = ledger.backwards
    rows = [
        Example(
            index=shard.start + row,
            label=int(y[row]),
            clean_prediction=int(clean[row]),
            adversarial_prediction=fallen.get(row, int(predictions[row])),
            attempted=bool(attempted[row]),
            linf=float(linf[row]),
            l2=float(l2[row]),
            margin=float(margin[row]),
            forwards=int(forwards[row]),
            backwards=int(backwards[row]),
        )
        for row in range(len(y))
    ]
    kept = chosen[(delta[chosen].flatten(1) != 0).any(1)]
    return rows, mismatches, kept + shard.start, x_adv[kept]


def _shard_seed(work: Work) -> int:
    """A seed that depends on the run's seed, the task and the span, and on nothing else."""
    text = f"{work.identity.seed} {work.shard.task.key} {work.shard.start}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4])


def run_shard(
    work: Work,
    *,
    dataset: Dataset,
    worker: ModelWorker,
    description: Description | None,
    earlier: Sequence[Record],
    settings: Settings,
) -> Outcome:
    """Run one shard; whatever the network or the attack does, the answer is a record.

    ``earlier`` are the records of the cascade members before this task on the same span. ``worker`` must be loaded,
    except for the cost task, which loads it afresh so that the peaks are its own.
    """
    began = time.monotonic()
    shard, task = work.shard, work.shard.task
    rows: list[Example] = []
    mismatches, footprint, failure = 0, None, None
    status = Status.OK
    indices = adversarial = None
    worker.deadline = began + settings.shard_timeout
    try:
        if any(record.status is not Status.OK for record in earlier) or len(earlier) != len(task.after):
            raise BreachError("upstream", f"needs {', '.join(task.after)} on the same examples, which failed")
        if task.kind != "cost":
            # A network that draws random numbers draws the same ones whenever this shard is run.
            worker.seed(_shard_seed(work))
        if task.kind == "cost":
            description, footprint = _run_cost(work, dataset, worker, settings)
        elif task.kind == "clean":
            rows, mismatches = _run_clean(work, dataset, worker, settings.batch_size)
        else:
            rows, mismatches, indices, adversarial = _run_attack(work, dataset, worker, earlier, settings.batch_size)
    except BreachError as error:
        status = Status.SKIPPED if error.kind == "upstream" else Status.ERROR
        failure = Failure(error.kind, str(error))
    except WorkerError as error:
        status, failure = Status.ERROR, Failure(error.kind, str(error))
    except UserError as error:
        status, failure = Status.ERROR, Failure("refused", str(error))
    finally:
        worker.deadline = None
    if failure is not None:
        rows, indices, adversarial, mismatches = [], None, None, 0
    record = Record(
        shard=shard,
        identity=work.identity,
        status=status,
        environment=environment.describe(
            device=settings.device,
            threads=settings.threads,
            dtype=description.dtype if description else "",
            hardware=description.hardware if description else "",
            optimisations=description.optimisations if description else (),
        ),
        cost=Cost(
            seconds=time.monotonic() - began,
            forwards=sum(row.forwards for row in rows),
            backwards=sum(row.backwards for row in rows),
            batch_size=settings.batch_size,
        ),
        examples=tuple(rows),
        footprint=footprint,
        failure=failure,
        mismatches=mismatches,
    )
    return Outcome(record, indices, adversarial)


def _run_cost(work: Work, dataset: Dataset, worker: ModelWorker, settings: Settings) -> tuple[Description, Footprint]:
    x, _ = dataset.tensors(work.shard.start, work.shard.stop)
    worker.close()
    worker.launch()
    baseline = worker.resident_memory()
    description = worker.load(settings.shard_timeout)
    return description, measure(
        worker, x, batch_size=settings.batch_size, baseline=baseline, parameters=description.parameters
    )
