"""What a results folder holds that a shard builds on: cascade members before it, columns, probe numbers, examples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from harness import store
from harness.engine.probing import Evidence, Images
from harness.plan import Work
from harness.records import Record, Shard, Status

TRANSFERRED = ("apgd-t", "apgd-ce", "pgd-20")
"""Attacks whose adversarial examples are replayed on other submissions, the first that is there of each."""


def _sibling(shard: Shard, key: str, start: int, stop: int) -> Shard:
    """The place of another task of the same submission and threat model."""
    name, _, threat = key.partition("@")
    task = replace(shard.task, name=name, threat=shard.task.threat if threat else None)
    return replace(shard, task=task, start=start, stop=stop)


def earlier_records(root: Path, shard: Shard) -> list[Record]:
    """Records on disk of the cascade members before ``shard``'s task; shorter than ``after`` when one is missing."""
    found = (store.find_record(root, _sibling(shard, key, shard.start, shard.stop)) for key in shard.task.after)
    return [record for record in found if record is not None]


def _pieces(root: Path, shard: Shard, key: str) -> list[Record]:
    """Ok records of task ``key`` that cover all examples of ``shard``; empty when some are missing."""
    found: list[Record] = []
    for start, stop in store.spans_on_disk(root, _sibling(shard, key, shard.start, shard.stop)):
        record = store.find_record(root, _sibling(shard, key, start, stop))
        if record is None or record.status is not Status.OK:
            return []
        found.append(record)
    return found


def read_images(root: Path, shards: Sequence[Shard]) -> Images:
    """The adversarial examples beside these records; those that are not there are left out."""
    import torch
    from safetensors.torch import load_file

    parts = [load_file(path) for path in (store.adversarial_path(root, shard) for shard in shards) if path.exists()]
    if not parts:
        return torch.zeros(0, dtype=torch.int64), torch.zeros(0)
    return torch.cat([part["indices"] for part in parts]), torch.cat([part["x_adv"] for part in parts])


def gather_evidence(root: Path, work: Work) -> Evidence:
    """Everything on disk that the probe of ``work`` may look at."""
    shard = work.shard
    columns: dict[str, tuple[bool, ...]] = {}
    measured = {}
    fallen: dict[str, Callable[[], Images]] = {}
    for key in shard.task.after:
        records = _pieces(root, shard, key)
        if not records:
            continue
        if records[0].shard.task.kind == "probe":
            measured[records[0].shard.task.name] = records[0].measurements
        if records[0].shard.task.kind == "attack":
            columns[key] = tuple(row.robust for record in records for row in record.examples)
            fallen[key] = partial(read_images, root, [record.shard for record in records])
    return Evidence(columns, measured, fallen, _others(root, shard))


def _others(root: Path, shard: Shard) -> dict[str, Callable[[], Images]]:
    """Readers of the adversarial examples of other submissions, by ``submission/task``."""
    if shard.task.threat is None:
        return {}
    found: dict[str, Callable[[], Images]] = {}
    for name in store.submissions(root, shard.dataset):
        if name == shard.submission:
            continue
        for attack in TRANSFERRED:
            other = replace(shard, submission=name, task=replace(shard.task, name=attack))
            places = [replace(other, start=start, stop=stop) for start, stop in store.spans_on_disk(root, other)]
            if any(store.adversarial_path(root, place).exists() for place in places):
                found[f"{name}/{attack}"] = partial(read_images, root, places)
                break
    return found
