"""Our attacks against other packages, on this machine in one run: the ratios that this package holds itself to.

``tox -e bench`` writes them to benchmarks.json. Every ratio is measured on the same examples, in two turns, and
counts only at parity: ours may leave at most one robust example more. torchattacks takes part where it is installed
(in an environment of its own: its wheel overwrites RobustBench).
"""

import os
from pathlib import Path

import pytest
import steady
import torch
from torch.nn import functional as F

from harness import datasets
from harness.attacks import ATTACKS
from harness.attacks.randomness import ExampleGenerators
from harness.bench import compare
from harness.environment import bfloat16_speed
from harness.models import LocalModel
from harness.records import ThreatModel
from harness.submission import default_roots, discover

LINF = ThreatModel("Linf", "8/255")
L2 = ThreatModel("L2", "0.5")
EXACT = os.environ.get("RAMPART_BENCH_IMAGES", "")
"""An .npz file of CIFAR-10 test images to measure on instead of the sample's."""
TURNS = 2
BFLOAT16_PAYS = 1.2
"""A convolution in bfloat16 is at least so many times faster than in float32 on hardware that has such arithmetic.

Processors without it (AVX2, say) convert every number and are slower; mixed precision is not meant for them.
"""


def examples(limit):
    """``limit`` images: the file's first, or the sample's twenty, then those mirrored and shifted by 1, 2, ... pixels.

    On few it is something else that would be compared: the overhead of small batches, and, of a cascade, how evenly
    the last images are dealt to the processes.
    """
    data = datasets.load(f"npz:{EXACT}" if EXACT else "cifar10-sample", data_dir=None, limit=limit if EXACT else None)
    x, y = data.tensors(0, len(data))
    copies = [(x if turn % 2 == 0 else x.flip(3)).roll(turn // 2, 3) for turn in range(-(-limit // len(x)))]
    return torch.cat(copies)[:limit], y.repeat(len(copies))[:limit]


@pytest.mark.parametrize(
    ("attack", "threat", "precision", "limit", "least"),
    [
        ("autoattack", LINF, "full", 256, {"pyautoattack": 2.5}),
        ("autoattack", LINF, "mixed", 256, {"pyautoattack": 4.0}),
        ("pgd-40", LINF, "full", 256, {"foolbox": 3.0, "torchattacks": 3.0}),
        ("deepfool", LINF, "full", 128, {"foolbox": 5.0}),
        ("deepfool", L2, "full", 128, {"foolbox": 5.0, "torchattacks": 5.0}),
    ],
)
def test_ours_is_several_times_faster_at_parity(benchmark, attack, threat, precision, limit, least):
    if precision == "mixed" and (pays := bfloat16_speed()) < BFLOAT16_PAYS:
        pytest.skip(f"no bfloat16 arithmetic here: a convolution runs at {pays:.2f} times float32's speed")
    spec = discover(default_roots()).submissions["fgsm-rs-1222"].spec()
    x, y = examples(limit)
    found = benchmark.pedantic(
        compare,
        args=(spec, x, y),
        kwargs={
            "attack": attack,
            "threat": threat,
            "precision": precision,
            "workers": os.cpu_count() or 1,
            "turns": TURNS,
        },
        rounds=1,
    )
    plain = found.plain()
    benchmark.extra_info |= plain | {"cores": os.cpu_count(), "images": Path(EXACT).name or "sample"}
    assert not found.failed
    for package, ratio in least.items():
        if package in plain["reference"]:
            other = plain["reference"][package]
            assert sum(found.ours.robust) <= sum(found.reference[package].robust) + 1, package
            assert other["ratio"] >= ratio, (package, other)


def pgd_and_its_passes():
    """Seconds of PGD-10 and of its bare forward and backward passes, on the network in this process."""
    torch.set_num_threads(1)
    model = LocalModel.from_spec(discover(default_roots()).submissions["fgsm-rs-1222"].spec())
    x = torch.rand(64, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        y = model(x).argmax(1)
    generators = ExampleGenerators.for_examples(0, "pgd", range(64))

    def attack():
        # So small a budget that every image survives all steps.
        ATTACKS.get("pgd").run(model, x, y, eps=1e-5, steps=10, generator=generators)

    def bare():
        with torch.no_grad():
            model(x)
        for _ in range(10):
            leaf = x.clone().requires_grad_()
            torch.autograd.grad(F.cross_entropy(model(leaf), y, reduction="sum"), leaf)
        with torch.no_grad():
            model(x)

    ours, passes = steady.seconds(attack, bare)
    return {"seconds": ours, "seconds_bare": passes, "ratio_to_bare_passes": ours / passes}


def test_pgd_costs_little_more_than_its_forward_and_backward_passes(benchmark):
    ratio = "ratio_to_bare_passes"
    found = benchmark.pedantic(steady.within, args=(1.05, ratio, pgd_and_its_passes), rounds=1)
    benchmark.extra_info |= found
    assert found[ratio] <= 1.05
