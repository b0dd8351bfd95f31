"""Adversarial examples that contradict a flagged column, as small pictures: read from the files beside the records."""

import base64
import hashlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness import datasets, store
from harness.checks.verdict import ColumnFlag
from harness.errors import DatasetError
from harness.records import Example, Shard, Task
from leaderboard.cells import State
from leaderboard.entries import Entry
from leaderboard.evidence import Span

Image = NDArray[np.float32]
"""(C, H, W), values in [0, 1]."""

CHANNELS = (1, 3)
"""What can be shown as a picture."""
ORDER = ("overestimated", "suspect", "note")
"""Flags in the order in which their witnesses are shown."""


@dataclass(frozen=True)
class Witness:
    """An image that a column calls right under every attack, and an adversarial example for it."""

    column: str
    """Key of the column."""
    source: Task
    """Attack or probe that found the example."""
    row: Example
    """What the source's record says of it."""
    adversarial: Image
    original: Image | None
    """The image itself; None when the data set is not on this machine."""
    file: Path
    """Where the example lies, below the results folder."""


def witnesses(entry: Entry, flags: Sequence[tuple[ColumnFlag, Sequence[int]]], most: int) -> list[Witness]:
    """Up to ``most`` witnesses of an entry, the sources in turn; empty where no adversarial examples are stored.

    ``flags`` pairs a flagged column with the positions of the images that it calls robust and that are not.
    """
    found: list[Witness] = []
    shown: set[int] = set()
    for flag, broken in sorted(flags, key=lambda pair: ORDER.index(pair[0].flag) if pair[0].flag in ORDER else 9):
        wanted = set(broken)
        sources = [
            _of_source(entry, item.task, flag.key, wanted)
            for item in entry.evidence.values()
            if item.state is State.NUMBER and item.task.kind in {"attack", "probe"} and item.task.key != flag.key
            and str(item.task.threat) == flag.key.partition("@")[2]
        ]  # fmt: skip
        while sources and len(found) < most:
            source = sources.pop(0)
            new = next((item for item in source if item.row.index not in shown), None)
            if new is not None:
                shown.add(new.row.index)
                found.append(new)
                sources.append(source)
    return found


def _of_source(entry: Entry, task: Task, column: str, wanted: set[int]) -> Iterator[Witness]:
    """Witnesses of one attack or probe, by image; files that their record does not vouch for are passed over."""
    from safetensors import SafetensorError, safe_open

    whole = Shard(entry.candidate.id, entry.dataset, task, 0, entry.n)
    for start, stop in store.spans_on_disk(entry.root, whole):
        shard = Shard(entry.candidate.id, entry.dataset, task, start, stop)
        path = store.adversarial_path(entry.root, shard)
        record = store.find_record(entry.root, shard) if path.is_file() else None
        if record is None or not _holds(path, record.adversarial_sha256):
            continue
        rows = {row.index: row for row in record.examples if row.index in wanted and not row.robust}
        try:
            with safe_open(path, framework="numpy") as file:
                indices = file.get_tensor("indices").tolist()
                pictures = file.get_slice("x_adv")
                for place, index in enumerate(indices):
                    if index in rows and pictures.get_shape()[1] in CHANNELS:
                        original = _original(entry, index)
                        yield Witness(
                            column, task, rows[index], pictures[place], original, path.relative_to(entry.root)
                        )
        except (OSError, KeyError, SafetensorError):
            continue


def _holds(path: Path, digest: str) -> bool:
    """Whether the file is the one that the record was written with."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == digest


def _original(entry: Entry, index: int) -> Image | None:
    """The image as the run saw it: its span's pixels must have the hash that the run noted."""
    data = _at_hand(entry.dataset)
    span = next((span for span in entry.spans if span[0] <= index < span[1]), None)
    if data is None or span is None or not _same(data, span):
        return None
    image: Image = np.asarray(data.images[index : index + 1], dtype=np.float32)[0].transpose(2, 0, 1) / np.float32(255)
    return image


@cache
def _at_hand(name: str) -> datasets.Dataset | None:
    """A data set that lies on this machine already: building a page downloads nothing."""
    if not datasets.at_hand(name):
        return None
    try:
        return datasets.load(name)
    except DatasetError:
        return None


@cache
def _same(data: datasets.Dataset, span: Span) -> bool:
    start, stop, digest = span
    return stop <= len(data) and data.span_sha256(start, stop) == digest


def png(image: Image) -> str:
    """An image with 1 or 3 channels as the address of an 8-bit PNG inside the page; values are clipped to [0, 1]."""
    from PIL import Image as Pictures

    pixels = (np.clip(image, 0, 1) * 255).round().astype(np.uint8).transpose(1, 2, 0)
    sink = io.BytesIO()
    Pictures.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels).save(sink, "PNG")
    return f"data:image/png;base64,{base64.b64encode(sink.getvalue()).decode()}"


def stretched(change: Image) -> Image:
    """A perturbation for the eye: zero is mid-grey, its largest value black or white."""
    return 0.5 + change / (2 * max(float(np.abs(change).max()), 1e-12))
