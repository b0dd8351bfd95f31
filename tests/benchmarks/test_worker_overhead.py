"""What the model worker costs: PGD-10 through the proxy against the same attack on the network in this process.

Run with ``pytest tests/benchmarks --benchmark-only``; the ratios are in the report's ``extra_info``.
"""

import os
import sys
from pathlib import Path

import steady
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from worker_submissions import TIMEOUT, slim

from harness.attacks import ATTACKS
from harness.attacks.randomness import ExampleGenerators
from harness.models import LocalModel, ModelWorker, RemoteModel, WorkerOptions

BATCH_SIZE = 64
EPS = 1e-5
"""So small that every image survives all steps, and nothing gets faster on the way."""
LIMIT = 0.05
"""Most that the proxy may cost, relative to the attack in this process on the network as it was written.

Messages and copies take what they take, however fast the process makes the network: 4 % of this were 8 % of the
attack on the network as it is asked there.
"""


def proxy_and_network(folder):
    """Seconds of the attack through the proxy, on the same network in this process, and on it as it was written."""
    torch.set_num_threads(1)
    spec = slim(folder, width=12)
    x = torch.rand(BATCH_SIZE, 3, 32, 32, generator=torch.Generator().manual_seed(0))

    def attack(model):
        generators = ExampleGenerators.for_examples(0, "pgd-10", range(BATCH_SIZE))
        return ATTACKS.get("pgd").run(
            model, x.clone(), y, eps=EPS, norm="Linf", generator=generators, steps=10, step_size=EPS / 4
        )

    local, plain = LocalModel.from_spec(spec), LocalModel.from_spec(spec, WorkerOptions(optimise=False)).network.module
    with ModelWorker(spec) as worker:
        worker.start(TIMEOUT)
        remote = RemoteModel(worker)
        y = remote(x).argmax(1)
        assert torch.equal(attack(remote), attack(local))
        proxy, same, unoptimised = steady.seconds(lambda: attack(remote), lambda: attack(local), lambda: attack(plain))
    return {
        "seconds_remote": proxy, "seconds_local": same, "seconds_plain": unoptimised,
        "ratio_to_same_network": proxy / same, "ratio_to_unoptimised_network": proxy / unoptimised,
        "cost": (proxy - same) / unoptimised,
    }  # fmt: skip


def test_pgd_through_the_proxy(benchmark, tmp_path) -> None:
    args = (LIMIT, "cost", proxy_and_network, tmp_path / "slim")
    found = benchmark.pedantic(steady.within, args=args, rounds=1)
    benchmark.extra_info |= found | {"cores": os.cpu_count()}
    assert found["cost"] <= LIMIT
