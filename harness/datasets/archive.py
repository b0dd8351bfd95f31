"""CIFAR-10-C and CIFAR-100-C (Hendrycks and Dietterich 2019, arXiv 1903.12261): the archives, mapped from disk.

An archive holds, for each corruption, one array of 5 x 10,000 test images, severity after severity, and the labels.
"""

import contextlib
import json
import os
import shutil
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.corruptions import CORRUPTIONS, SEVERITIES
from harness.datasets.cifar import FULL, data_folder
from harness.datasets.files import Source, fetch, file_md5
from harness.datasets.images import FileImages
from harness.download import Progress
from harness.errors import DatasetError

_SUMS = """
brightness 0a81ef75e0b523c3383219c330a85d48 f22d7195aecd6abb541e27fca230c171
contrast 3c8262171c51307f916c30a3308235a8 322bb385f1d05154ee197ca16535f71e
defocus_blur 7d1322666342a0702b1957e92f6254bc d923e3d9c585a27f0956e2f2ad832564
elastic_transform 9421657c6cd452429cf6ce96cc412b5f a0792bd6581f6810878be71acedfc65a
fog 7b397314b5670f825465fbcd1f6e9ccd 4efc7ebd5e82b028bdbe13048e3ea564
frost 31f6ab3bce1d9934abfb0cc13656f141 3a39c6823bdfaa0bf8b12fe7004b8117
gaussian_blur c33370155bc9b055fb4a89113d3c559d 5204ba0d557839772ef5a4196a052c3e
gaussian_noise ecaf8b9a2399ffeda7680934c33405fd ecc4d366eac432bdf25c024086f5e97d
glass_blur 7361fb4019269e02dbf6925f083e8629 0bf384f38e5ccbf8dd479d9059b913e1
impulse_noise 2090e01c83519ec51427e65116af6b1a 3b3c210ddfa0b5cb918ff4537a429fef
jpeg_compression 2b9cc4c864e0193bb64db8d7728f8187 c851b7f1324e1d2ffddeb76920576d11
labels c439b113295ed5254878798ffe28fd54 bb4026e9ce52996b95f439544568cdb2
motion_blur fffa5f852ff7ad299cfe8a7643f090f4 732a7e2e54152ff97c742d4c388c5516
pixelate 0f14f7e2db14288304e1de10df16832f 96c00c60f144539e14cffb02ddbd0640
saturate 1cfae0964219c5102abbb883e538cc56 c0697e9fdd646916a61e9c312c77bf6b
shot_noise 3a7239bb118894f013d9bf1984be7f11 b0a1fa6e1e465a747c1b204b1914048a
snow bb238de8555123da9c282dea23bd6e55 0237be164583af146b7b144e73b43465
spatter 8a5a3903a7f8f65b59501a6093b4311e 12ccf41d62564d36e1f6a6ada5022728
speckle_noise ef00b87611792b00df09c0b0237a1e30 e3f215b1a0f9fd9fd6f0d1cf94a7ce99
zoom_blur 6ea8e63f1c5cdee1517533840641641b 0204613400c034a81c4830d5df81cb82
"""
"""md5 of each array in CIFAR-10-C and in CIFAR-100-C."""

_CHECKED = "rampart-checked.json"
"""Beside the arrays: size, time and md5 of those that were read through once."""


@dataclass(frozen=True)
class Archive:
    """An official archive and what it must hold."""

    name: str
    """Public name of the data set."""
    base: str
    """The data set whose test split was corrupted."""
    folder: str
    """Folder inside the archive, and beside it once unpacked."""
    source: Source
    record: str
    """Where it is published, e.g. ``zenodo-2535967``."""
    sums: Mapping[str, str]
    """md5 of every array, ``labels`` among them."""
    full: int = FULL
    """Images of one severity."""


def _sums(column: int) -> dict[str, str]:
    return {row.split()[0]: row.split()[column] for row in _SUMS.strip().splitlines()}


def _official(base: str, folder: str, record: str, md5: str, column: int) -> Archive:
    url = f"https://zenodo.org/records/{record}/files/{folder}.tar"
    return Archive(f"{base}-c", base, folder, Source(url, md5), f"zenodo-{record}", _sums(column))


ARCHIVES = {
    "cifar10": _official("cifar10", "CIFAR-10-C", "2535967", "56bf5dcef84df0e2308c6dcbcbbd8499", 1),
    "cifar100": _official("cifar100", "CIFAR-100-C", "3555552", "11f0ed0f1191edbf9fa23466ae6021d3", 2),
}
"""By the name of the data set that was corrupted."""


def is_here(archive: Archive, data_dir: Path | None) -> bool:
    """Whether the archive lies in ``data_folder``, packed or unpacked; looks at names only."""
    folder = data_folder(data_dir)
    return (folder / f"{archive.folder}.tar").is_file() or _complete(folder / archive.folder)


def _complete(unpacked: Path) -> bool:
    return all((unpacked / f"{name}.npy").is_file() for name in ("labels", *CORRUPTIONS))


def open_archive(archive: Archive, data_dir: Path | None, progress: Progress | None = None) -> Path:
    """The folder of the unpacked archive; unpacks it, and downloads it (2.9 GB) first, where that is still to do.

    ``DatasetError``, with the way to do it by hand, when it is neither there nor to be had, or damaged.
    """
    folder = data_folder(data_dir)
    unpacked = folder / archive.folder
    if _complete(unpacked):
        return unpacked
    hint = f", or unpack it into {unpacked}, or use --dataset {archive.base}-sample, which needs no download"
    packed = fetch(archive.source, folder / f"{archive.folder}.tar", where=archive.name, hint=hint, progress=progress)
    try:
        _unpack(archive, packed, unpacked)
    except (OSError, tarfile.TarError, EOFError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise DatasetError(f"{archive.name}: expected to unpack {packed} into {unpacked}, got {reason}") from None
    return unpacked


def _unpack(archive: Archive, packed: Path, unpacked: Path) -> None:
    """Take the arrays that the archive must hold out of it, each under its own name only once it is whole."""
    unpacked.mkdir(parents=True, exist_ok=True)
    found = set()
    with tarfile.open(packed) as tar:
        for member in tar:
            path = PurePosixPath(member.name)
            if not member.isfile() or path.parent.name != archive.folder or path.stem not in archive.sums:
                continue
            content = tar.extractfile(member)
            if path.suffix != ".npy" or content is None:
                continue
            part = unpacked / f"{path.name}.part"
            with open(part, "wb") as file:
                shutil.copyfileobj(content, file, 1 << 20)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, unpacked / path.name)
            found.add(path.stem)
    missing = [name for name in ("labels", *CORRUPTIONS) if name not in found]
    if missing:
        raise DatasetError(f"{archive.name}: expected {missing[0]}.npy in {packed}, got {len(found)} other arrays")


def cell(archive: Archive, folder: Path, corruption: str, severity: int) -> tuple[FileImages, NDArray[np.int64]]:
    """Images of one corruption and severity, still on disk, and their labels; ``DatasetError`` names a wrong file."""
    labels = _array(archive, folder, "labels")
    images = _array(archive, folder, corruption)
    whole = len(SEVERITIES) * archive.full
    if labels.shape != (whole,) or labels.dtype.kind not in "iu":
        raise DatasetError(f"{folder / 'labels.npy'}: expected {whole} labels, got {labels.dtype} {labels.shape}")
    if images.dtype != np.uint8 or images.shape != (whole, 32, 32, 3):
        raise DatasetError(
            f"{folder / corruption}.npy: expected uint8 ({whole}, 32, 32, 3), got {images.dtype} {images.shape}"
        )
    start = (severity - 1) * archive.full
    span = slice(start, start + archive.full)
    return FileImages(folder / f"{corruption}.npy", start, span.stop, (32, 32, 3)), np.array(
        labels[span], dtype=np.int64
    )


def _array(archive: Archive, folder: Path, name: str) -> NDArray[Any]:
    """The mapped array of this name, after its md5 was found right, once."""
    path = folder / f"{name}.npy"
    try:
        _check(path, archive.sums[name])
        mapped: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DatasetError(
            f"{archive.name}: expected {path}, got {type(error).__name__}: {error}; unpack {archive.source.url} "
            f"(md5 {archive.source.md5}) into {folder}"
        ) from None
    return mapped


def _check(path: Path, md5: str) -> None:
    """Read a file through unless a note beside it says that this was done since it last changed."""
    notes = path.with_name(_CHECKED)
    status = path.stat()
    note = [status.st_size, status.st_mtime_ns, md5]
    known: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError):
        held = json.loads(notes.read_text())
        known = held if isinstance(held, dict) else {}
    if known.get(path.name) == note:
        return
    got = file_md5(path)
    if got != md5:
        raise DatasetError(f"{path}: expected md5 {md5}, got {got}: damaged, or another file; delete it and run again")
    part = notes.with_name(f"{_CHECKED}.{os.getpid()}")
    # A folder that cannot be written to is read through each time.
    with contextlib.suppress(OSError):
        part.write_text(json.dumps(known | {path.name: note}))
        os.replace(part, notes)
