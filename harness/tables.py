"""Records as pandas tables: one row per task, one row per example."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any

import pandas as pd

from harness import metrics
from harness.metrics import Accuracy
from harness.records import Example, Record, Status, Task

TASK_COLUMNS = (
    "task", "kind", "norm", "eps", "status", "accuracy", "low", "high", "n", "consistency", "forwards", "backwards",
    "seconds", "message",
)  # fmt: skip
"""``accuracy`` is natural for ``clean``, robust for an attack (of a cascade: after this member), and the share of
corrupted images classified as labelled for a corruption; ``low`` and ``high`` are its 95 % interval."""

Measure = Callable[[Sequence[Example]], Accuracy]


def corrupted_accuracy(rows: Sequence[Example]) -> Accuracy:
    """Share of the other images, e.g. corrupted ones, that are classified as labelled."""
    return metrics.proportion(sum(row.correct_after for row in rows), len(rows))


def measure_of(kind: str) -> Measure:
    """The accuracy that a kind of task is about."""
    if kind == "corruption":
        return corrupted_accuracy
    return metrics.natural_accuracy if kind == "clean" else metrics.robust_accuracy


def _row(task: Task, records: Sequence[Record]) -> dict[str, Any]:
    failed = next((item for item in records if item.status is not Status.OK), None)
    rows = [row for record in records for row in record.examples]
    shown = failed is None and task.kind in {"clean", "attack", "corruption"} and rows
    found = measure_of(task.kind)(rows) if shown else None
    consistency = metrics.consistency_accuracy(rows) if found and task.kind == "attack" and not task.cascade else None
    return {
        "task": task.key, "kind": task.kind,
        "norm": task.threat.norm if task.threat else None, "eps": task.threat.eps if task.threat else None,
        "status": failed.status.value if failed else Status.OK.value,
        "accuracy": found.value if found else None, "low": found.low if found else None,
        "high": found.high if found else None, "n": found.n if found else None,
        "consistency": consistency.value if consistency else None,
        "forwards": sum(record.cost.forwards for record in records),
        "backwards": sum(record.cost.backwards for record in records),
        "seconds": sum(record.cost.seconds for record in records),
        "message": failed.failure.message if failed and failed.failure else "",
    }  # fmt: skip


def task_frame(tasks: Sequence[Task], records: Mapping[str, Sequence[Record]]) -> pd.DataFrame:
    """``TASK_COLUMNS`` of every task, from its records by key."""
    table = pd.DataFrame([_row(task, records[task.key]) for task in tasks], columns=list(TASK_COLUMNS))
    kinds = dict.fromkeys(("accuracy", "low", "high", "consistency"), "Float64") | {"n": "Int64"}
    return table.astype(kinds)


def example_frame(records: Sequence[Record]) -> pd.DataFrame:
    """Every example of every record: ``task``, then the fields of ``Example``."""
    names = [item.name for item in fields(Example)]
    lines = [
        (record.shard.task.key, *(getattr(row, name) for name in names))
        for record in records
        for row in record.examples
    ]
    return pd.DataFrame(lines, columns=["task", *names])
