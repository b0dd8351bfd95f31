"""Run one probe: gather what is known, let it look, and verify every adversarial example it claims."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from harness.datasets import Dataset
from harness.engine.inspection import classify, distance, margins, within
from harness.engine.outcome import Found, Settings
from harness.models import ModelWorker, RemoteModel
from harness.plan import Work
from harness.probes import PROBES, Measured, Subject
from harness.records import Example

Images = tuple[Tensor, Tensor]
"""Positions int64 (m,) and adversarial images float32 (m, C, H, W)."""


@dataclass(frozen=True)
class Evidence:
    """What a results folder holds about the submission that a probe looks at."""

    columns: Mapping[str, tuple[bool, ...]] = field(default_factory=dict)
    """Per example, by task key: the attack calls it robust. Attacks without all their records are absent."""
    measured: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Measurements by probe name."""
    fallen: Mapping[str, Callable[[], Images]] = field(default_factory=dict)
    """By task key: reads the adversarial examples beside its records."""
    others: Mapping[str, Callable[[], Images]] = field(default_factory=dict)
    """By a name of their own: reads those of other submissions on the same images."""


class _Lazy(Mapping[str, Images]):
    """Adversarial examples that are read from disk when they are asked for."""

    def __init__(self, readers: Mapping[str, Callable[[], Images]]) -> None:
        self._readers = readers

    def __getitem__(self, key: str) -> Images:
        return self._readers[key]()

    def __iter__(self) -> Any:  # noqa: ANN401
        return iter(self._readers)

    def __len__(self) -> int:
        return len(self._readers)


class _Count:
    """Passes of the network, whoever asked."""

    def __init__(self) -> None:
        self.forwards = self.backwards = 0

    def forward(self, x: Tensor) -> None:
        self.forwards += len(x)

    def backward(self, x: Tensor) -> None:
        self.backwards += len(x)


def run_probe(work: Work, dataset: Dataset, worker: ModelWorker, evidence: Evidence, settings: Settings) -> Found:
    """Measure; the rows say which examples the probe has a verified adversarial example against."""
    task = work.shard.task
    probe = PROBES.get(task.name)
    x, y = dataset.tensors(work.shard.start, work.shard.stop)
    count = _Count()

    def counted(model: RemoteModel) -> RemoteModel:
        model.on_forward, model.on_backward = count.forward, count.backward
        return model

    def variant(**spec: Any) -> RemoteModel:  # noqa: ANN401
        return counted(RemoteModel(worker, variant=worker.variant(**spec)))

    model = counted(RemoteModel(worker))
    with torch.no_grad():
        logits = torch.cat([model(part) for part in torch.split(x, settings.batch_size)])
    clean = classify(logits)
    subject = Subject(
        model=model,
        worker=worker,
        variant=variant,
        x=x,
        y=y,
        clean=clean,
        classes=logits.shape[1],
        norm=task.threat.norm if task.threat else "Linf",
        eps=task.threat.value if task.threat else 8 / 255,
        columns={key: torch.tensor(robust) for key, robust in evidence.columns.items()},
        fallen=_Lazy(evidence.fallen),
        measured=evidence.measured,
        names=tuple(sorted(evidence.others)),
        others=lambda name: evidence.others[name](),
        seed=work.identity.seed,
        batch_size=settings.batch_size,
    )
    measured = probe.run(subject, **task.params)
    rows, indices, adversarial, refuted = _verified(subject, measured, logits, worker, settings.batch_size)
    return Found(
        rows=rows,
        nonfinite_gradients=model.nonfinite_gradients,
        forwards=count.forwards,
        backwards=count.backwards,
        indices=indices,
        adversarial=adversarial,
        measurements=_believed(measured.numbers, indices) | {"refuted": refuted},
    )


def _believed(numbers: dict[str, Any], indices: Tensor | None) -> dict[str, Any]:
    """``numbers`` with those ``broken`` examples alone that hold: later probes leave these out."""
    if "broken" not in numbers:
        return numbers
    return numbers | {"broken": [] if indices is None else sorted(int(row) for row in indices)}


def _verified(
    subject: Subject, measured: Measured, logits: Tensor, worker: ModelWorker, batch_size: int
) -> tuple[list[Example], Tensor | None, Tensor | None, int]:
    """One row per example of the run, the examples that hold, and how many claimed ones do not.

    A claimed example holds when it lies in the box and in the budget and two fresh forward passes, in different batch
    layouts, both take it for another class than its label.
    """
    if measured.x_adv is None or not len(measured.rows):
        return [], None, None, 0
    rows, x_adv = measured.rows, measured.x_adv.detach().float()
    delta = x_adv - subject.x[rows]
    allowed = within(delta, subject.norm, subject.eps)
    allowed &= x_adv.flatten(1).isfinite().all(1) & (x_adv.flatten(1).amin(1) >= 0) & (x_adv.flatten(1).amax(1) <= 1)
    safe = torch.where(allowed.view(-1, 1, 1, 1), x_adv, subject.x[rows])
    first = torch.cat([worker.forward(part)[0] for part in torch.split(safe, batch_size)])
    turned = safe.flip(0)
    again = torch.cat([worker.forward(part)[0] for part in torch.split(turned, max(1, batch_size * 2 // 3))]).flip(0)
    holds = allowed & (classify(first) != subject.y[rows]) & (classify(again) != subject.y[rows])
    by_row = {int(row): at for at, row in enumerate(rows) if bool(holds[at])}
    tried = set(rows.tolist())
    clean_margin, margin = margins(logits, subject.y), margins(again, subject.y[rows])
    linf, l2, l1 = (distance(delta, name) for name in ("Linf", "L2", "L1"))
    examples = []
    for row in range(len(subject.y)):
        at = by_row.get(row)
        examples.append(
            Example(
                index=row,
                label=int(subject.y[row]),
                clean_prediction=int(subject.clean[row]),
                adversarial_prediction=int(subject.clean[row]) if at is None else int(classify(again)[at]),
                attempted=row in tried,
                linf=0.0 if at is None else float(linf[at]),
                l2=0.0 if at is None else float(l2[at]),
                margin=float(clean_margin[row] if at is None else margin[at]),
                forwards=0,
                backwards=0,
                l1=None if subject.norm != "L1" else 0.0 if at is None else float(l1[at]),
            )
        )
    return examples, rows[holds], x_adv[holds], int((~holds).sum())
