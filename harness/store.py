"""Records and manifests on disk: where they lie, atomic writes, reads, migration. Never what a number means.

Layout of a results folder::

    runs/<digest>.json                                        one manifest per distinct run
    records/<dataset>/<submission>/<task>/<start>-<stop>.parquet
    records/.../<start>-<stop>.adv.safetensors                adversarial examples, not tracked

A record is a Parquet table with one row per example; everything else is JSON in the file's metadata.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from harness.errors import ResultsError
from harness.plain import manifest_from_dict, record_from_dict, to_dict
from harness.records import MIXED, SCHEMA, Example, Manifest, Record, Shard

_HEADER = b"rampart"
_ARROW = {"int": pa.int64(), "float": pa.float64(), "float | None": pa.float64(), "bool": pa.bool_()}
_COLUMNS = pa.schema([(item.name, _ARROW[str(item.type)]) for item in fields(Example)])
_LATER = _COLUMNS.names[-1]
"""A column without values in most tables, which older ones do not have."""
_ENCODINGS = {"index": "DELTA_BINARY_PACKED", "l2": "BYTE_STREAM_SPLIT", "margin": "BYTE_STREAM_SPLIT"}
"""Of the columns whose values hardly repeat; the others have a dictionary."""


def _slug(text: str) -> str:
    """``text`` as a file name: every character outside a safe set becomes an underscore."""
    return "".join(c if c.isalnum() or c in "-_.@+=," else "_" for c in text)


def record_path(root: Path, shard: Shard) -> Path:
    """Where the record of ``shard`` lies below the results folder ``root``."""
    folder = root / "records" / _slug(shard.dataset) / _slug(shard.submission) / _slug(shard.task.key)
    return folder / f"{shard.start:05d}-{shard.stop:05d}.parquet"


def adversarial_path(root: Path, shard: Shard) -> Path:
    """Where the adversarial examples of ``shard`` lie."""
    return record_path(root, shard).with_suffix(".adv.safetensors")


def submissions(root: Path, dataset: str) -> list[str]:
    """Folder names of the submissions that have records on ``dataset``."""
    return sorted(path.name for path in (root / "records" / _slug(dataset)).glob("*") if path.is_dir())


def spans_on_disk(root: Path, shard: Shard) -> list[tuple[int, int]]:
    """Spans of records of ``shard``'s task that follow on each other and cover ``shard``; empty when some are missing.

    Where several records begin at the same example, the longest that fits counts.
    """
    found: dict[int, int] = {}
    for path in record_path(root, shard).parent.glob("*-*.parquet"):
        start, stop = (int(part) for part in path.stem.split("-"))
        if stop <= shard.stop:
            found[start] = max(stop, found.get(start, 0))
    spans: list[tuple[int, int]] = []
    at = shard.start
    while at < shard.stop and at in found:
        spans.append((at, found[at]))
        at = found[at]
    return spans if at == shard.stop else []


def write_bytes(path: Path, content: bytes) -> None:
    """Write ``content`` so that a reader sees the old file or the whole new one, whenever the writer is killed."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise ResultsError(f"{path}: could not be written: {error.strerror or error}") from None


def write_record(root: Path, record: Record) -> Path:
    """Write one record; returns its path. ``ResultsError`` when the disk refuses."""
    header = to_dict(replace(record, examples=()))
    columns = {item.name: [getattr(row, item.name) for row in record.examples] for item in fields(Example)}
    path = record_path(root, record.shard)
    write_bytes(path, _parquet(pa.table(columns, schema=_COLUMNS), json.dumps(header).encode()))
    return path


def _parquet(table: pa.Table, header: bytes) -> bytes:
    """A file for ``table``, about half of what the default settings make of so few rows.

    Statistics and Arrow's own description of the columns, which repeats the header, would be half of it.
    """
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(
        sink,
        table.schema,
        compression="zstd",
        use_dictionary=[name for name in table.column_names if name not in _ENCODINGS],
        column_encoding=_ENCODINGS,
        store_schema=False,
        write_statistics=False,
    ) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({_HEADER: header})
    content: bytes = sink.getvalue().to_pybytes()
    return content


def migrate(data: dict[str, Any], path: Path) -> dict[str, Any]:
    """Bring the plain data of an older schema up to ``SCHEMA``; ``ResultsError`` for a newer or unknown one."""
    schema = data.get("schema")
    if not isinstance(schema, int):
        raise ResultsError(f"{path}: schema: expected a whole number, got {schema!r}")
    if schema > SCHEMA:
        raise ResultsError(
            f"{path}: schema: expected {SCHEMA} or older, got {schema}: written by a newer version, upgrade rampart"
        )
    while schema < SCHEMA:
        if schema not in MIGRATIONS:
            raise ResultsError(f"{path}: schema {schema} is too old to migrate")
        data = MIGRATIONS[schema](data)
        schema = data["schema"]
    return data


def _with_measurements(data: dict[str, Any]) -> dict[str, Any]:
    """Schema 2 brought what probes measure and counts gradients that were not finite; manifests stayed as they were."""
    added = {"measurements": {}, "nonfinite_gradients": 0} if "shard" in data else {}
    return data | added | {"schema": 2}


def _with_precision(data: dict[str, Any]) -> dict[str, Any]:
    """Schema 3 brought distances in L1, a column that older tables lack, and says in the task how it searched."""
    environment = data.get("environment", {})
    if "shard" in data and "search_bfloat16" in environment.get("optimisations", ()):
        task = data["shard"]["task"]
        task = task | {"implementation": task["implementation"].removesuffix(MIXED) + MIXED}
        data = data | {"shard": data["shard"] | {"task": task}}
    return data | {"schema": 3}


MIGRATIONS: dict[int, Any] = {1: _with_measurements, 2: _with_precision}
"""For schema k, the function from its plain data to those of schema k + 1."""


def read_record(path: Path, *, examples: bool = True) -> Record:
    """Read one record, or without ``examples`` its header alone. ``ResultsError`` when the file is not a record."""
    try:
        with pq.ParquetFile(path) as file:
            data = json.loads((file.schema_arrow.metadata or {})[_HEADER])
            if not isinstance(data, dict):
                raise ValueError(f"expected a header with names, got {type(data).__name__}")
            table = file.read(use_threads=False) if examples else None
    except (OSError, pa.ArrowException, KeyError, ValueError) as error:
        raise ResultsError(f"{path}: expected a record, got {type(error).__name__}: {error}") from None
    data = migrate(data, path)
    try:
        record = record_from_dict(data)
        return record if table is None else replace(record, examples=_examples(table))
    except (KeyError, TypeError, ValueError) as error:
        raise ResultsError(f"{path}: not a record of schema {SCHEMA}: {type(error).__name__}: {error}") from None


def _examples(table: pa.Table) -> tuple[Example, ...]:
    """The rows of a record's table, column by column: several times faster than one dictionary a row."""
    if _LATER not in table.column_names:
        table = table.append_column(_LATER, pa.nulls(len(table), pa.float64()))
    if not table.schema.equals(_COLUMNS, check_metadata=False):
        got = ", ".join(f"{item.name} {item.type}" for item in table.schema)
        raise ValueError(
            f"expected the columns {', '.join(f'{item.name} {item.type}' for item in _COLUMNS)}, got {got}"
        )
    missing = [column.null_count for column in table.columns]
    if any(missing[:-1]) or missing[-1] not in {0, len(table)}:
        raise ValueError("expected a value in every row, got an empty one")
    *columns, later = table.columns
    return tuple(map(Example, *(column.to_numpy().tolist() for column in columns), later.to_pylist()))


def find_record(root: Path, shard: Shard, *, examples: bool = True) -> Record | None:
    """The record on disk at the place of ``shard``, whatever its identity; None when there is none.

    A damaged file counts as none: its shard runs again. One of a newer schema raises ``ResultsError``.
    """
    path = record_path(root, shard)
    if not path.exists():
        return None
    try:
        return read_record(path, examples=examples)
    except ResultsError as error:
        if "schema:" in str(error):
            raise
        return None


def manifest_path(root: Path, manifest: Manifest) -> Path:
    """Where ``manifest`` lies: the name is a digest of what was asked, so the same run is written once."""
    asked = to_dict(replace(manifest, created=""))
    digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:12]
    return root / "runs" / f"{digest}.json"


def write_manifest(root: Path, manifest: Manifest) -> Path:
    """Write a manifest; returns its path."""
    path = manifest_path(root, manifest)
    write_bytes(path, (json.dumps(asdict(manifest), indent=1, sort_keys=True) + "\n").encode())
    return path


def read_manifests(root: Path) -> list[Manifest]:
    """All manifests of a results folder, oldest first; empty when there is none."""
    found: list[Manifest] = []
    for path in sorted((root / "runs").glob("*.json")):
        try:
            data = json.loads(path.read_text())
            if not isinstance(data, dict):
                raise ValueError("expected an object")
            found.append(manifest_from_dict(migrate(data, path)))
        except ResultsError:
            raise
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise ResultsError(f"{path}: expected a run manifest, got {type(error).__name__}: {error}") from None
    return sorted(found, key=lambda item: item.created)


def open_folder(root: Path) -> None:
    """Create the results folder, prove that a file can be written, and remove what killed writers left half-written.

    ``ResultsError`` when the disk refuses.
    """
    probe = root / ".writable"
    write_bytes(probe, b"")
    probe.unlink(missing_ok=True)
    for path in root.rglob(".*.tmp"):
        writer = path.name.removesuffix(".tmp").rpartition(".")[2]
        if writer.isdigit() and not psutil.pid_exists(int(writer)):
            path.unlink(missing_ok=True)


def record_files(root: Path) -> Iterator[Path]:
    """Every record file below ``root``, in a stable order."""
    yield from sorted((root / "records").glob("*/*/*/*.parquet"))
