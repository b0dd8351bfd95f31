"""Run one shard and write down what happened; trusts neither the network nor the attack. The only place that times."""

import hashlib
import math
import time
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from harness import environment
from harness.attacks import Attack, find_attack
from harness.attacks.randomness import ExampleGenerators
from harness.datasets import Corrupted, Dataset
from harness.engine.corrupting import run_corruption
from harness.engine.counting import Ledger
from harness.engine.inspection import classify, distance, inspect, margins, within
from harness.engine.layouts import enough_logits, logits_again, logits_of
from harness.engine.outcome import Found, Outcome, Settings
from harness.engine.probing import Evidence, run_probe
from harness.errors import BreachError, UserError
from harness.models import Description, ModelWorker, RemoteModel, WorkerError
from harness.plan import Work
from harness.probes.footprint import measure
from harness.records import Cost, Example, Failure, Footprint, Record, Status


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
    """Run ``attack`` on all rows at once and inspect the result; ``batch_size`` cuts its questions."""
    task = work.shard.task
    assert task.threat is not None
    eps, norm = task.threat.value, task.threat.norm
    ledger = Ledger(x)
    if not len(x):
        return x.clone(), ledger
    model.on_forward, model.on_backward = ledger.forward, ledger.backward
    given, labels = x.clone(), y.clone()
    generators = ExampleGenerators.for_examples(work.identity.seed, task.key, indices)
    x_adv = attack.run(
        model, given, labels, eps=eps, norm=norm, generator=generators, batch_size=batch_size, **task.params
    )
    model.on_forward = model.on_backward = None
    inspect(given, x, x_adv, norm=norm, eps=None if attack.minimises(task.params) else eps)
    return x_adv.detach(), ledger


def _run_clean(work: Work, dataset: Dataset, worker: ModelWorker, batch_size: int) -> Found:
    x, y = dataset.tensors(work.shard.start, work.shard.stop)
    first = logits_of(worker, x, batch_size)
    again = logits_again(worker, x, batch_size)
    predictions = classify(again)
    margin = margins(enough_logits(again, dataset.classes), y)
    rows = [
        Example(work.shard.start + row, int(y[row]), int(predictions[row]), int(predictions[row]), True, 0.0, 0.0,
                float(margin[row]), 2, 0)
        for row in range(len(y))
    ]  # fmt: skip
    return Found(rows, int((classify(first) != predictions).sum()))


def _run_attack(
    work: Work, dataset: Dataset, worker: ModelWorker, earlier: Sequence[Record], settings: Settings
) -> Found:
    shard, task, batch_size = work.shard, work.shard.task, settings.batch_size
    assert task.threat is not None
    attack = find_attack(task.attack, task.implementation)
    eps, norm = task.threat.value, task.threat.norm
    x, y = dataset.tensors(shard.start, shard.stop)
    clean_logits = enough_logits(logits_of(worker, x, batch_size), dataset.classes)
    clean = classify(clean_logits)
    if task.cascade:
        attempted, fallen = _survivors(clean == y, earlier)
        labels = y
    else:
        attempted, fallen, labels = clean >= 0, {}, clean
    chosen = attempted.nonzero().squeeze(1)
    indices = [shard.start + int(row) for row in chosen]
    model = RemoteModel(worker, search="bfloat16" if task.precision == "mixed" else "")
    before = worker.probe("state")["parameters"]
    returned, ledger = _attack(attack, model, x[chosen], labels[chosen], indices, work, batch_size)
    if worker.probe("state")["parameters"] != before:
        raise BreachError("breach", "the network's parameters are not what they were before the attack")

    x_adv = x.clone()
    x_adv[chosen] = returned
    delta = x_adv - x
    linf, l2, l1 = (distance(delta, name) for name in ("Linf", "L2", "L1"))
    first = classify(logits_of(worker, returned, batch_size)) if len(chosen) else clean[:0]
    again = logits_again(worker, returned, batch_size) if len(chosen) else clean_logits[:0]
    mismatches = int((first != classify(again)).sum())

    deciding = clean_logits.clone()
    deciding[chosen] = again
    if attack.minimises(task.params):
        moved = attempted & (classify(deciding) != labels)
        linf[attempted & ~moved] = l2[attempted & ~moved] = l1[attempted & ~moved] = math.inf
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
            l1=float(l1[row]) if norm == "L1" else None,
        )
        for row in range(len(y))
    ]
    kept = chosen[(delta[chosen].flatten(1) != 0).any(1)]
    return Found(rows, mismatches, model.nonfinite_gradients, indices=kept + shard.start, adversarial=x_adv[kept])


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
    evidence: Evidence | None = None,
    corrupted: Corrupted | None = None,
) -> Outcome:
    """Run one shard; whatever the network or the attack does, the answer is a record.

    ``earlier`` are the records of the cascade members before this task on the same span; a probe reads ``evidence``
    instead, a corruption takes its images from ``corrupted``. ``worker`` must be loaded, except for the cost task,
    which loads it afresh so that the peaks are its own.
    """
    began = time.monotonic()
    task = work.shard.task
    found, failure, status = Found(), None, Status.OK
    worker.deadline = began + settings.shard_timeout
    try:
        if task.kind == "attack" and (
            any(record.status is not Status.OK for record in earlier) or len(earlier) != len(task.after)
        ):
            raise BreachError("upstream", f"needs {', '.join(task.after)} on the same examples, which failed")
        if task.kind == "cost":
            description, footprint = _run_cost(work, dataset, worker, settings)
            found = Found(footprint=footprint)
        else:
            # A network that draws random numbers draws the same ones whenever this shard is run.
            worker.seed(_shard_seed(work))
            if task.kind == "clean":
                found = _run_clean(work, dataset, worker, settings.batch_size)
            elif task.kind == "probe":
                found = run_probe(work, dataset, worker, evidence or Evidence(), settings)
            elif task.kind == "corruption":
                found = run_corruption(work, dataset, corrupted, worker, settings.batch_size)
            else:
                found = _run_attack(work, dataset, worker, earlier, settings)
    except BreachError as error:
        status = Status.SKIPPED if error.kind == "upstream" else Status.ERROR
        failure = Failure(error.kind, str(error))
    except WorkerError as error:
        status, failure = Status.ERROR, Failure(error.kind, str(error))
    except UserError as error:
        status, failure = Status.ERROR, Failure("refused", str(error))
    finally:
        worker.deadline = None
    forwards, backwards = found.forwards, found.backwards
    record = Record(
        shard=work.shard,
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
            forwards=sum(row.forwards for row in found.rows) if forwards is None else forwards,
            backwards=sum(row.backwards for row in found.rows) if backwards is None else backwards,
            batch_size=settings.batch_size,
        ),
        examples=tuple(found.rows),
        footprint=found.footprint,
        measurements=found.measurements,
        nonfinite_gradients=found.nonfinite_gradients,
        failure=failure,
        mismatches=found.mismatches,
    )
    return Outcome(record, found.indices, found.adversarial)


def _run_cost(work: Work, dataset: Dataset, worker: ModelWorker, settings: Settings) -> tuple[Description, Footprint]:
    x, _ = dataset.tensors(work.shard.start, work.shard.stop)
    worker.close()
    worker.launch()
    baseline = worker.resident_memory()
    description = worker.load(settings.shard_timeout)
    return description, measure(
        worker, x, batch_size=settings.batch_size, baseline=baseline, parameters=description.parameters
    )
