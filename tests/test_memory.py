"""What a long run needs in memory: not much more than a short one."""

import json
import subprocess
import sys

import numpy as np
import pytest
from command_line import HONEST, submission

SUITE = """
[[tasks]]
name = "clean"
kind = "clean"
[[tasks]]
name = "apgd-t-2"
attack = "apgd-t"
params = { steps = 2, targets = 3 }
"""
MEASURE = """
import json, resource, sys
from harness.cli import main
code = main(sys.argv[2:])
peaks = [resource.getrusage(who).ru_maxrss // 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
open(sys.argv[1], "w").write(json.dumps({"code": code, "peaks": peaks}))
"""
GROWTH = 300
"""MiB that twenty times the images may add to any process."""


@pytest.fixture(scope="module")
def peaks(tmp_path_factory):
    """Peak memory in MiB of the command and of the largest process under it, by number of images."""
    folder = tmp_path_factory.mktemp("memory")
    submission(folder / "models", "honest", HONEST)
    (folder / "suite.toml").write_text(SUITE)
    draw = np.random.default_rng(0)
    np.savez(
        folder / "images.npz",
        images=draw.integers(0, 256, (10_000, 32, 32, 3), dtype=np.uint8),
        labels=draw.integers(0, 10, 10_000),
    )
    found = {}
    for limit in (500, 10_000):
        told = folder / f"{limit}.json"
        done = subprocess.run(
            [sys.executable, "-c", MEASURE, str(told), "run", "honest", "--submissions", str(folder / "models"),
             "--suite", str(folder / "suite.toml"), "--dataset", f"npz:{folder / 'images.npz'}", "--limit", str(limit),
             "--results", str(folder / f"results-{limit}"), "--workers", "1"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        found[limit] = json.loads(told.read_text())
        assert found[limit]["code"] == 0, done.stdout[-500:] + done.stderr
        assert f"of {limit}" in done.stdout or f"{limit} of 10000" in done.stdout
    return {limit: item["peaks"] for limit, item in found.items()}


def test_ten_thousand_images_need_little_more_memory_than_five_hundred(peaks):
    command, workers = (large - small for small, large in zip(peaks[500], peaks[10_000], strict=True))
    assert command < GROWTH and workers < GROWTH, peaks
