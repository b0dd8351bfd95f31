"""The engine on a worker of known answers: what it writes down, and what it refuses to believe."""

import math
import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from harness.attacks import ATTACKS, Attack
from harness.datasets import Dataset
from harness.engine.counting import Ledger
from harness.engine.inspection import within
from harness.engine.outcome import Settings
from harness.engine.shard import run_shard
from harness.models import RemoteModel, WorkerOptions
from harness.plan import Work
from harness.records import MIXED, Identity, Shard, Status, Task, ThreatModel
from harness.worker.network import Network
from harness.worker.serve import state_hash

EPS = 8 / 255


class Brightness(torch.nn.Module):
    """Class 1 when the mean pixel is above one half, else class 0; exact distance to the boundary: |mean - 1/2|."""

    def forward(self, x: Tensor) -> Tensor:
        z = (x.flatten(1).mean(1) - 0.5) * 100
        return torch.stack([-z, z], 1)


class InProcess:
    """A worker that is this process: the questions of the engine, answered by a module at hand."""

    deadline: float | None = None

    def __init__(self, module: torch.nn.Module) -> None:
        self.network = Network(module.eval(), micro_batch=WorkerOptions().micro_batch or 4)
        self.graphs: dict[int, tuple[Tensor, Tensor]] = {}

    def forward(self, x: Tensor, *, grad: bool = False) -> tuple[Tensor, int]:
        leaf = x.detach().clone().requires_grad_(grad)
        with torch.set_grad_enabled(grad):
            logits = self.network(leaf)
        self.graphs[len(self.graphs) + 1] = (leaf, logits)
        return logits.detach().clone(), len(self.graphs)

    def vjp(self, token: int, grad_logits: Tensor) -> Tensor:
        leaf, logits = self.graphs[token]
        return torch.autograd.grad(logits, leaf, grad_logits, retain_graph=True)[0]

    def release(self, token: int) -> None:
        pass

    def seed(self, value: int) -> None:
        torch.manual_seed(value)

    def probe(self, name: str, **_: object) -> dict[str, str]:
        return {"parameters": state_hash(self.network, buffers=False)}


class Coin(Brightness):
    """Brightness, except that every second call turns the answer round."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(x) * (-1) ** self.calls


class Nan(Brightness):
    """No finite logit for bright images."""

    def forward(self, x: Tensor) -> Tensor:
        z = super().forward(x)
        return torch.where(z[:, 1:] > 0, torch.nan, z)


LEVELS = np.array([0, 120, 126, 129, 136, 255], np.uint8)
LABELS = np.array([0, 0, 0, 1, 1, 0])
"""The last image is bright and labelled dark: misclassified."""


def dataset() -> Dataset:
    images = np.broadcast_to(LEVELS[:, None, None, None], (6, 32, 32, 3)).copy()
    return Dataset("grey", images, LABELS, 2, ("dark", "bright"), 6)


def task(attack: str, **changes: object) -> Task:
    values: dict[str, object] = {
        "name": attack, "kind": "attack", "attack": attack, "params": {}, "threat": ThreatModel("Linf", "8/255"),
    }  # fmt: skip
    return Task(**(values | changes))  # type: ignore[arg-type]


def run(task: Task, model: torch.nn.Module | None = None, earlier=(), batch_size: int = 4):
    data = dataset()
    work = Work(Shard("model", "grey", task, 0, 6), Identity("", "", data.span_sha256(0, 6), 0))
    worker = InProcess(model or Brightness())
    return run_shard(
        work, dataset=data, worker=worker, description=None, earlier=earlier, settings=Settings(batch_size=batch_size)
    )


@pytest.fixture
def broken_attack(monkeypatch) -> Callable[[Callable[..., Tensor]], Task]:
    """Put an attack into the registry for one test."""

    def put(function: Callable[..., Tensor]) -> Task:
        attack = Attack("broken", lambda model, x, y, **_: function(x), "test-1", ("Linf",))
        monkeypatch.setitem(ATTACKS._items, "broken", attack)
        return task("broken")

    return put


def test_clean_predictions() -> None:
    record = run(Task(name="clean", kind="clean")).record
    assert record.status is Status.OK
    assert [row.clean_prediction for row in record.examples] == [0, 0, 0, 1, 1, 1]
    assert [row.correct for row in record.examples] == [True] * 5 + [False]
    assert [row.margin for row in record.examples] == pytest.approx(
        [200 * abs(level / 255 - 0.5) * (-1 if row == 5 else 1) for row, level in enumerate(LEVELS)], rel=1e-4
    )


@pytest.mark.parametrize("name", ["fgsm", "pgd"])
def test_a_bounded_attack_finds_exactly_what_lies_within_the_budget(name) -> None:
    outcome = run(task(name))
    rows = outcome.record.examples
    near = [abs(level / 255 - 0.5) < EPS for level in LEVELS]
    assert [not row.consistent for row in rows] == near
    assert [row.robust for row in rows] == [True, False, False, False, True, False]
    assert all(row.attempted and row.linf <= EPS + 1e-6 for row in rows)
    assert outcome.adversarial is not None and outcome.indices is not None
    fallen = [row.index for row in rows if not row.consistent]
    assert set(fallen) <= set(outcome.indices.tolist())


def test_a_minimum_norm_attack_is_judged_at_the_budget() -> None:
    rows = run(task("deepfool")).record.examples
    for row, level in zip(rows, LEVELS, strict=True):
        exact = abs(level / 255 - 0.5)
        assert row.linf == pytest.approx(1.02 * exact, rel=1e-3)
        assert row.consistent == (1.02 * exact > EPS)


def test_distances_in_l1_are_recorded_where_the_budget_is_in_l1() -> None:
    threat = ThreatModel("L1", "40")
    for name, params in (("budget", {"fractions": [0.5, 1.0, 4.0], "steps": 20}), ("apgd-ce", {"steps": 20})):
        found = run(task(name, params=params, threat=threat))
        moved = {int(at): image for at, image in zip(found.indices, found.adversarial, strict=True)}
        for row, level in zip(found.record.examples, LEVELS, strict=True):
            far = float((moved[row.index] - level / 255).abs().double().sum()) if row.index in moved else row.l1
            assert row.l1 == pytest.approx(far, rel=1e-5)
            assert name == "budget" or row.l1 <= 40 * (1 + 1e-4)
    assert all(row.l1 is None for row in run(task("fgsm")).record.examples)


def test_fab_that_looks_for_the_minimum_is_judged_at_the_budget_too() -> None:
    record = run(task("fab-t", params={"steps": 10, "targets": 1, "minimum": True})).record
    assert record.status is Status.OK, record.failure
    assert max(row.linf for row in record.examples) > 2 * EPS
    assert [row.consistent for row in record.examples] == [abs(level / 255 - 0.5) > EPS for level in LEVELS]


def test_a_minimum_norm_attack_that_finds_nothing_is_infinitely_far(monkeypatch) -> None:
    attack = Attack("lazy", lambda model, x, y, **_: x.clone(), "test-1", ("Linf",), minimum_norm=True)
    monkeypatch.setitem(ATTACKS._items, "lazy", attack)
    rows = run(task("lazy")).record.examples
    assert all(math.isinf(row.linf) and math.isinf(row.l2) and row.consistent for row in rows)


def test_a_cascade_attacks_correct_survivors_and_remembers_the_fallen(monkeypatch) -> None:
    seen = []

    def spy(model, x, y, **_):
        seen.append(x[:, 0, 0, 0].mul(255).round().int().tolist())
        return x.clone()

    monkeypatch.setitem(ATTACKS._items, "spy", Attack("spy", spy, "test-1", ("Linf",)))
    first = run(task("fgsm", cascade="all")).record
    assert [row.attempted for row in first.examples] == [True] * 5 + [False]
    second = run(task("spy", cascade="all", after=("fgsm@Linf-8/255",)), earlier=[first]).record
    assert [level for batch in seen for level in batch] == [0, 136]
    assert [row.robust for row in second.examples] == [row.robust for row in first.examples]


def test_the_task_says_in_which_precision_the_search_is(monkeypatch) -> None:
    asked = []

    def remember(worker, search):
        asked.append(search)
        return RemoteModel(worker)

    monkeypatch.setattr("harness.engine.shard.RemoteModel", remember)
    for ending in ("", MIXED):
        run(task("fgsm", implementation=f"rampart-fgsm-1{ending}"))
    assert asked == ["", "bfloat16"]


def test_a_member_after_a_failed_one_is_skipped() -> None:
    record = run(task("fgsm", cascade="all", after=("pgd@Linf-8/255",))).record
    assert record.status is Status.SKIPPED
    assert record.failure is not None and record.failure.kind == "upstream"


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: x[:1], r"the attack returned \(1, 3, 32, 32\), expected a tensor \(6, 3, 32, 32\)"),
        (lambda x: x.double(), "returned torch.float64, expected torch.float32"),
        (lambda x: x + torch.nan, "pixels of the adversarial images are not finite"),
        (lambda x: x - 1e-3, r"expected \[0, 1\]"),
        (lambda x: (x + 0.0315).clamp(0, 1), r"Linf distance 0\.0315.* is larger than eps 0\.031372"),
        (lambda x: x.mul_(0.999), "the attack changed its input by"),
        (lambda _: None, "the attack returned NoneType"),
    ],
)
def test_a_breach_is_an_error_record_with_the_number_in_it(broken_attack, function, message) -> None:
    record = run(broken_attack(function)).record
    assert record.status is Status.ERROR and record.examples == ()
    assert record.failure is not None and record.failure.kind == "breach"
    assert re.search(message, record.failure.message), record.failure.message


def test_a_network_that_changes_its_weights_under_attack_is_a_breach() -> None:
    class Learner(Brightness):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(()))

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                self.weight += 1
            return super().forward(x)

    failure = run(task("fgsm"), Learner()).record.failure
    assert failure is not None and "parameters are not what they were" in failure.message


def test_float_rounding_at_the_edge_of_the_budget_is_no_breach(broken_attack) -> None:
    record = run(broken_attack(lambda x: (x + EPS).clamp(0, 1))).record
    assert record.status is Status.OK


def test_an_answer_that_changes_between_layouts_is_counted() -> None:
    # Batches of four and of two: the second question is asked in three calls, so it starts on the other foot.
    record = run(Task(name="clean", kind="clean"), Coin()).record
    assert record.mismatches > 0
    assert run(Task(name="clean", kind="clean")).record.mismatches == 0


def test_a_logit_that_is_not_finite_counts_as_misclassified() -> None:
    rows = run(task("fgsm"), Nan()).record.examples
    assert [row.clean_prediction for row in rows] == [0, 0, 0, -1, -1, -1]
    assert [row.attempted for row in rows] == [True] * 3 + [False] * 3
    assert not any(row.robust for row in rows[3:])


def test_counts_follow_the_example_when_an_attack_drops_rows() -> None:
    x = torch.rand(5, 3, 4, 4)
    ledger = Ledger(x)
    ledger.forward(x + 0.01)
    ledger.forward(x[[1, 3]] + 0.01)
    ledger.backward(x[[4]])
    ledger.forward(torch.cat([x[[2]], x[[2]], x[[0]]]))
    assert ledger.forwards.tolist() == [2, 2, 3, 2, 1]
    assert ledger.backwards.tolist() == [0, 0, 0, 0, 1]


def test_counts_follow_the_example_when_another_call_has_as_many_rows() -> None:
    x = torch.rand(4, 3, 4, 4)
    ledger = Ledger(x)
    ledger.forward(torch.cat([x[[2]], x[[2]], x[[0]], x[[3]]]) + 0.01)
    assert ledger.forwards.tolist() == [1, 0, 2, 1]
    ledger.forward(x + 0.9)
    assert ledger.forwards.sum() == 8


def test_equal_images_are_counted_in_their_own_places() -> None:
    ledger = Ledger(torch.rand(2, 3, 4, 4).repeat(2, 1, 1, 1))
    ledger.forward(ledger._x.view(4, 3, 4, 4) + 0.01)
    assert ledger.forwards.tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize(("norm", "eps"), [("Linf", 1e-6), ("Linf", 1e-4), ("L2", 1e-6), ("L1", 1e-6)])
def test_a_small_budget_has_a_small_slack(norm: str, eps: float) -> None:
    x = torch.full((1, 1, 1, 1), 0.25)
    assert bool(within((x + eps) - x, norm, eps * 1.02))
    assert not bool(within((x + 1.2 * eps) - x, norm, eps))


def test_forwards_and_backwards_of_pgd_without_success() -> None:
    rows = run(task("pgd", params={"steps": 5})).record.examples
    # One clean forward for the labels, two for the final answer; inside: the clean test, 5 steps and the last iterate.
    assert (rows[0].forwards, rows[0].backwards) == (3 + 1 + 6, 5)
