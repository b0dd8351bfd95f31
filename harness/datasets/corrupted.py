"""The corrupted versions of a data set: from the official archive, or drawn by ``harness.corruptions``."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harness.corruptions import (
    CORRUPTIONS,
    EXTRA_CORRUPTIONS,
    IMPLEMENTATION,
    LEAST_SIDE,
    SEVERITIES,
)
from harness.datasets.archive import ARCHIVES, Archive, cell, is_here, open_archive
from harness.datasets.dataset import Dataset
from harness.datasets.images import GeneratedImages, Images
from harness.download import Progress
from harness.errors import DatasetError, UnknownNameError, UserError

SOURCES = ("auto", "official", "generated")
"""``auto``: the official archive where there is one and it lies in the data folder, else generated."""


@dataclass(frozen=True, eq=False)
class Corrupted:
    """Every corrupted version of ``base``, all of one source; a cell is read or made when its tensors are asked for."""

    base: Dataset
    archive: Archive | None = None
    """The official archive; None: generated."""
    folder: Path | None = None
    """Where it is unpacked."""
    seed: int = 0
    """Of the generator; the archive has none."""

    @property
    def official(self) -> bool:
        """Whether the images are the published ones."""
        return self.archive is not None

    @property
    def name(self) -> str:
        """``cifar10-c`` for the archive, else e.g. ``cifar10-sample-c-generated``: two different boards."""
        return self.archive.name if self.archive else f"{self.base.name}-c-generated"

    @property
    def implementation(self) -> str:
        """Who made the images, with a version: what a record must name beside the corruption and the severity."""
        return self.archive.record if self.archive else IMPLEMENTATION

    def cell(self, corruption: str, severity: int) -> Dataset:
        """The same examples as ``base``, corrupted.

        ``UnknownNameError`` for an unknown corruption, ``UserError`` for another severity than 1 to 5, ``DatasetError``
        for an archive that is damaged or belongs to other examples.
        """
        if corruption not in (*CORRUPTIONS, *EXTRA_CORRUPTIONS):
            raise UnknownNameError("corruption", corruption, (*CORRUPTIONS, *EXTRA_CORRUPTIONS))
        if severity not in SEVERITIES:
            raise UserError(f"{corruption}: severity: expected 1 to 5, got {severity}")
        base, n = self.base, len(self.base)
        images: Images = GeneratedImages(base.images, corruption, severity, self.seed)
        if self.archive is not None and self.folder is not None:
            held, labels = cell(self.archive, self.folder, corruption, severity)
            if not np.array_equal(labels[:n], base.labels):
                raise DatasetError(f"{self.name}: expected the labels of {base.name} in {self.folder}, got others")
            images = held[:n]
        return Dataset(self.name, images, base.labels, base.classes, base.class_names, base.full)

    def cells(self, *, extra: bool = False) -> Iterator[tuple[str, int, Dataset]]:
        """(corruption, severity, data set) of all 75 cells, of all 95 with ``extra``; severity changes fastest."""
        for corruption in (*CORRUPTIONS, *(EXTRA_CORRUPTIONS if extra else ())):
            for severity in SEVERITIES:
                yield corruption, severity, self.cell(corruption, severity)

    def save(self, path: Path, corruption: str, severity: int) -> None:
        """Write one cell as an ``npz`` file that ``--dataset npz:FILE`` reads."""
        data = self.cell(corruption, severity)
        with open(path, "wb") as file:
            np.savez(file, images=np.asarray(data.images), labels=data.labels)


def corruptions_of(
    dataset: Dataset,
    *,
    data_dir: Path | None = None,
    source: str = "auto",
    seed: int = 0,
    progress: Progress | None = None,
) -> Corrupted:
    """The corrupted versions of ``dataset``; nothing is made yet.

    ``official`` downloads the archive where it is not there, and ``DatasetError`` says how to place it by hand when
    that fails; ``auto`` downloads nothing. ``progress`` is told the bytes of a download. ``UserError`` for a data set
    without an archive or with images too small to corrupt.
    """
    if source not in SOURCES:
        raise UserError(f"corruptions: source: expected {', '.join(SOURCES)}, got {source!r}")
    archive = ARCHIVES.get(dataset.name)
    if source == "official" and archive is None:
        raise UserError(f"corruptions: expected {' or '.join(ARCHIVES)} for the official archive, got {dataset.name}")
    if archive is not None and (source == "official" or (source == "auto" and is_here(archive, data_dir))):
        return Corrupted(dataset, archive, open_archive(archive, data_dir, progress))
    height, width = dataset.images.shape[1:3]
    if min(height, width) < LEAST_SIDE:
        raise UserError(
            f"{dataset.name}: corruptions: expected images of at least {LEAST_SIDE} x {LEAST_SIDE} pixels, "
            f"got {height} x {width}"
        )
    return Corrupted(dataset, seed=seed)


def corrupted(
    dataset: Dataset,
    corruption: str,
    severity: int,
    *,
    data_dir: Path | None = None,
    source: str = "auto",
    seed: int = 0,
) -> Dataset:
    """One cell of ``corruptions_of``."""
    return corruptions_of(dataset, data_dir=data_dir, source=source, seed=seed).cell(corruption, severity)
