"""MNIST and SVHN from the starter to the records: the paper's threat models, drawn corruptions, the right shapes."""

import numpy as np
import pytest
from command_line import outcomes, records

from harness import datasets, run
from harness.datasets import Dataset
from harness.datasets.classes import CLASS_NAMES
from harness.models import WorkerOptions
from harness.records import Status
from harness.submission import create, read
from harness.submission.values import FAMILIES, SHAPES
from harness.validate import validate

SUITE = """
[[tasks]]
name = "clean"
kind = "clean"
[[tasks]]
name = "pgd-2"
attack = "pgd"
params = { steps = 2, step_size = "eps/4", restarts = 1, loss = "ce" }
[[tasks]]
name = "shot_noise"
kind = "corruption"
params = { severities = [5] }
[[tasks]]
name = "cost"
kind = "cost"
"""


def digits(name):
    channels, height, width = SHAPES[name]
    images = np.random.default_rng(0).integers(0, 256, (6, height, width, channels), dtype=np.uint8)
    return Dataset(name, images, np.arange(6) % 10, 10, CLASS_NAMES[name], 6)


def test_every_family_has_a_shape():
    assert SHAPES.keys() == FAMILIES.keys()
    for family in ("cifar10", "cifar100"):
        height, width, channels = datasets.load(f"{family}-sample").images.shape[1:]
        assert SHAPES[family] == (channels, height, width)


@pytest.mark.parametrize(("name", "eps"), [("mnist", "0.3"), ("svhn", "8/255")])
def test_the_starter_runs_on_its_data_set(tmp_path, monkeypatch, name, eps):
    folder = create("starter", tmp_path / "own", dataset=name)
    submission = read(folder, folder.parent)
    checks = {check.name: check for check in validate(submission, options=WorkerOptions(), timeout=120)}
    assert all(check.ok for check in checks.values()), checks
    assert f"images {(12, *SHAPES[name])} to logits (12, 10)" in checks["shape"].message
    assert [threat.eps for threat in submission.card.threats] == [eps]
    monkeypatch.setattr(datasets, "load", lambda *_, **__: digits(name))
    suite = tmp_path / "suite.toml"
    suite.write_text(SUITE)
    asked = run.Request(("starter",), str(suite), name, (folder.parent,), tmp_path / "results", data_dir=tmp_path)
    prepared = run.prepare(asked)
    run.execute(prepared, asked, lambda record: None)
    found = {record.shard.task.key: record for record in records(tmp_path / "results")}
    assert found.keys() == {"clean", f"pgd-2@Linf-{eps}", f"shot_noise-5@{name}-c-generated", "cost"}
    for record in found.values():
        assert record.status is Status.OK and record.shard.dataset == name, record.failure
        # Optimisations are tried on images of the right shape, or they would all be refused.
        assert "channels_last" in record.environment.optimisations
    assert len(outcomes(tmp_path / "results")["starter clean 0"][1]) == 6
