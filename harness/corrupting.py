"""Run one cell of a corruption benchmark: the network on the images and on their corrupted versions."""

from harness.datasets import Corrupted, Dataset
from harness.errors import UserError
from harness.inspection import classify, distance, margins
from harness.layouts import logits_again, logits_of, with_logits
from harness.models import ModelWorker
from harness.outcome import Found
from harness.plan import Work
from harness.records import Example

BATCHES = 4
"""Batches of images that are in memory at a time."""
FORWARDS = 3
"""Passes per example: the image once, its corrupted version in two batch layouts."""


def run_corruption(
    work: Work, dataset: Dataset, corrupted: Corrupted | None, worker: ModelWorker, batch_size: int
) -> Found:
    """One row per example of the span: predictions for the image and for its corrupted version.

    The prediction that counts comes from the second of the two layouts, and ``mismatches`` counts where they differ.
    ``UserError`` when ``corrupted`` is not what the task names, or cannot be read.
    """
    shard, params = work.shard, work.shard.task.params
    if corrupted is None or corrupted.name != params["dataset"]:
        got = "none" if corrupted is None else corrupted.name
        raise UserError(f"{shard.task.key}: expected the images of {params['dataset']}, got {got}")
    cell = corrupted.cell(str(params["corruption"]), int(params["severity"]))
    rows: list[Example] = []
    mismatches = 0
    for start in range(shard.start, shard.stop, BATCHES * batch_size):
        stop = min(start + BATCHES * batch_size, shard.stop)
        found, differing = _block(start, stop, dataset, cell, worker, batch_size)
        rows += found
        mismatches += differing
    return Found(rows, mismatches)


def _block(
    start: int, stop: int, dataset: Dataset, cell: Dataset, worker: ModelWorker, batch_size: int
) -> tuple[list[Example], int]:
    x, y = dataset.tensors(start, stop)
    changed, _ = cell.tensors(start, stop)
    clean_logits = logits_of(worker, x, batch_size)
    clean = classify(clean_logits)
    with_logits(y, clean_logits)
    first = classify(logits_of(worker, changed, batch_size))
    logits = logits_again(worker, changed, batch_size)
    predictions, margin = classify(logits), margins(logits, y)
    linf, l2 = distance(changed - x, "Linf"), distance(changed - x, "L2")
    rows = [
        Example(
            index=start + row,
            label=int(y[row]),
            clean_prediction=int(clean[row]),
            adversarial_prediction=int(predictions[row]),
            attempted=True,
            linf=float(linf[row]),
            l2=float(l2[row]),
            margin=float(margin[row]),
            forwards=FORWARDS,
            backwards=0,
        )
        for row in range(stop - start)
    ]
    return rows, int((first != predictions).sum())
