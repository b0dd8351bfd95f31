"""Tiny submissions, the command line that runs them in a process of its own, and what the records say."""

import subprocess
import sys
from pathlib import Path

from harness import store
from harness.records import Record

CARD = """
id = "{id}"
title = "{id}"
dataset = "cifar10"
entry = "model.py:build"
[[threat_models]]
norm = "Linf"
eps = "8/255"
"""

HONEST = """
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    features = [nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()]
    return nn.Sequential(*features, nn.Linear(32, 10))
"""


def submission(root: Path, name: str, code: str) -> Path:
    """Write a submission folder."""
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "submission.toml").write_text(CARD.format(id=name))
    (folder / "model.py").write_text(code)
    return folder


def harness(*arguments: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    command = [sys.executable, "-m", "harness", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)


def outcomes(results: Path) -> dict[str, list[tuple]]:
    """What every record says about every example, without what depends on the clock."""
    found = {}
    for path in store.record_files(results):
        record = store.read_record(path)
        key = f"{record.shard.submission} {record.shard.task.key} {record.shard.start}"
        found[key] = [record.status.value, [tuple(vars(row).values()) for row in record.examples]]
    return found


def records(results: Path) -> list[Record]:
    return [store.read_record(path) for path in store.record_files(results)]
