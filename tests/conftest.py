"""Things several rooms' tests share."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.records import Cost, Environment, Example, Identity, Record, Shard, Status, Task, ThreatModel

EXACT = Path(__file__).resolve().parents[2] / "shared" / "data"
"""Where a developer may keep real images; tests that need them skip elsewhere."""


@pytest.fixture(scope="session")
def exact_data() -> Path:
    """A folder with ``cifar10-test-exact.npz``."""
    if not (EXACT / "cifar10-test-exact.npz").exists():
        pytest.skip("needs the exact CIFAR images, which are not part of the repository")
    return EXACT


@pytest.fixture
def one_thread() -> Iterator[None]:
    """torch on one processor thread: sums come out the same however many cores there are."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def make_example() -> Callable[..., Example]:
    """An ``Example`` that is robust unless said otherwise; indices count up."""
    counter = itertools.count()

    def make(label: int = 3, clean: int | None = None, adversarial: int | None = None, **changes: object) -> Example:
        clean = label if clean is None else clean
        values = {
            "index": next(counter), "label": label, "clean_prediction": clean,
            "adversarial_prediction": clean if adversarial is None else adversarial, "attempted": True,
            "linf": 0.03, "l2": 1.0, "margin": 0.5, "forwards": 21, "backwards": 20,
        }  # fmt: skip
        return Example(**(values | changes))  # type: ignore[arg-type]

    return make


@pytest.fixture
def make_record(make_example: Callable[..., Example]) -> Callable[..., Record]:
    """A record of PGD on two examples, with any field replaced."""

    def make(**changes: object) -> Record:
        task = Task(
            name="pgd-20", kind="attack", attack="pgd", params={"steps": 20, "step_size": 2 / 255},
            threat=ThreatModel("Linf", "8/255"), implementation="rampart-pgd-1",
        )  # fmt: skip
        values: dict[str, object] = {
            "shard": Shard("model", "cifar10-sample", task, 0, 2),
            "identity": Identity("c" * 64, "s" * 64, "d" * 64, 0),
            "status": Status.OK,
            "environment": Environment(
                "3.11", "2.15", "Linux x86_64", "a cpu", "cpu", 1, "float32", "0.1.0", "", False, {"numpy": "2"}, ("a",)
            ),
            "cost": Cost(1.5, 42, 40, 64),
            "examples": (make_example(), make_example(adversarial=5)),
        }
        return Record(**(values | changes))  # type: ignore[arg-type]

    return make
