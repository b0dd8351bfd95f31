"""What the model worker costs: PGD-20 through the proxy against the same attack on the network in this process.

Run with ``pytest tests/benchmarks --benchmark-only``; the ratios are in the report's ``extra_info``. The two are
timed in turn within one run, so that whatever else the machine does hits both.
"""

import os
import statistics
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from worker_submissions import TIMEOUT, slim

from harness.attacks import ATTACKS
from harness.attacks.randomness import ExampleGenerators
from harness.models import LocalModel, ModelWorker, RemoteModel, WorkerOptions

PAIRS = 15
BATCH_SIZE = 64
EPS = 1e-5
"""So small that every image survives all 20 steps, and nothing gets faster on the way."""
LIMIT = 1.05
"""Most that the proxy may take, relative to the network in process."""


def test_pgd_20_through_the_proxy(benchmark, tmp_path) -> None:
    spec = slim(tmp_path / "slim", width=12)
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(BATCH_SIZE, 3, 32, 32, generator=generator)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)

    def attack(model):
        generators = ExampleGenerators.for_examples(0, "pgd-20", range(BATCH_SIZE))
        began = time.perf_counter()
        x_adv = ATTACKS.get("pgd").run(
            model, x.clone(), y, eps=EPS, norm="Linf", generator=generators, steps=20, step_size=EPS / 4
        )
        return time.perf_counter() - began, x_adv

    local, plain = LocalModel.from_spec(spec), LocalModel.from_spec(spec, WorkerOptions(optimise=False)).network.module
    try:
        with ModelWorker(spec) as worker:
            worker.start(TIMEOUT)
            remote = RemoteModel(worker)
            y = remote(x).argmax(1)
            assert torch.equal(attack(remote)[1], attack(local)[1])
            attack(plain)
            seconds: dict[str, list[float]] = {"remote": [], "local": [], "plain": []}
            for _ in range(PAIRS):
                for name, model in (("local", local), ("remote", remote), ("plain", plain)):
                    seconds[name].append(attack(model)[0])
            benchmark.pedantic(attack, args=(remote,), rounds=3)
    finally:
        torch.set_num_threads(threads)
    pairs = zip(seconds["remote"], seconds["local"], strict=True)
    ratio = statistics.median(mine / theirs for mine, theirs in pairs)
    benchmark.extra_info |= {f"seconds_{name}": statistics.median(values) for name, values in seconds.items()}
    benchmark.extra_info |= {
        "ratio_to_same_network": ratio,
        "ratio_to_unoptimised_network": statistics.median(
            mine / theirs for mine, theirs in zip(seconds["remote"], seconds["plain"], strict=True)
        ),
        "cores": os.cpu_count(),
    }
    assert ratio <= LIMIT
