"""Corruption benchmarks: which images a run takes, and one cell of it on a network."""

from pathlib import Path

from harness.datasets import Corrupted, Dataset, corruptions_of
from harness.datasets.archive import ARCHIVES, is_here
from harness.datasets.cifar import data_folder
from harness.download import Progress
from harness.engine.inspection import classify, distance, margins
from harness.engine.layouts import enough_logits, logits_again, logits_of
from harness.engine.outcome import Found
from harness.errors import UserError
from harness.models import ModelWorker
from harness.plan import Work
from harness.records import Example

BATCHES = 4
"""Batches of images that are in memory at a time."""
FORWARDS = 3
"""Passes per example: the image once, its corrupted version in two batch layouts."""


def choose(
    dataset: Dataset,
    *,
    source: str,
    required: bool,
    of_a_file: bool = False,
    data_dir: Path | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> tuple[Corrupted | None, str]:
    """The corrupted images of a run, None when it goes without, and a note for the user, empty when there is none.

    ``source`` is one of ``harness.datasets.corrupted.SOURCES``; only ``official`` downloads. ``auto`` takes the archive
    where it lies in the data folder. Elsewhere, when corruptions are ``required``, it draws those of data sets without
    an archive and of files (``of_a_file``), and raises ``UserError`` with the ways to go on for the others; when they
    are not, the run goes without.
    """
    archive = ARCHIVES.get(dataset.name)
    here = archive is not None and is_here(archive, data_dir)
    if source == "auto" and not here and not required:
        ways = "--corruptions generated draws them"
        if archive is not None:
            ways += f", --corruptions official downloads {archive.folder} (2.9 GB)"
        return None, f"{dataset.name}: no corrupted images in {data_folder(data_dir)}, corruptions left out; {ways}"
    if source == "auto" and not here and archive is not None and not of_a_file:
        place = data_folder(data_dir) / f"{archive.folder}.tar"
        raise UserError(
            f"{archive.name}: expected {place}, or unpacked beside it, got neither; --corruptions official downloads "
            f"it (2.9 GB), or put {archive.source.url} (md5 {archive.source.md5}) there by hand, or choose the folder "
            "with --data-dir, or --corruptions generated draws corruptions that are not comparable with it"
        )
    try:
        drawn = "generated" if source == "auto" and not here else source
        found = corruptions_of(dataset, data_dir=data_dir, source=drawn, seed=seed, progress=progress)
    except UserError as error:
        if required or source != "auto":
            raise
        return None, f"corruptions left out: {error}"
    return found, "" if found.official else f"corruptions are drawn, as {found.name}: not comparable with an archive"


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
    clean = classify(enough_logits(logits_of(worker, x, batch_size), dataset.classes))
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
