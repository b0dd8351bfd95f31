"""What every attack promises on any network: purity, tolerance of bad logits, clear refusals, batch invariance."""

import inspect
import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from attack_models import Linear, RowByRow, distance, images, run
from torch import nn

from harness.attacks import ATTACKS, REFERENCES, Attack, find_attack
from harness.attacks.randomness import ExampleGenerators
from harness.errors import UnknownNameError, UserError


def wrong(model, x, y):
    logits = model(x)
    return (logits.argmax(1) != y) | ~logits.isfinite().all(1)


@pytest.mark.parametrize("name", ATTACKS.names())
def test_an_attack_leaves_its_inputs_the_labels_the_logits_and_all_global_randomness_alone(name):
    class Caching(Linear):
        kept = None

        def forward(self, x):
            logits = super().forward(x)
            if self.kept is None:
                self.kept, self.copy = logits, logits.detach().clone()
            return logits

    model, x = Caching(), images(12)
    y = Linear()(x).argmax(1)
    before_x, before_y = x.clone(), y.clone()
    torch.manual_seed(3), np.random.seed(3), random.seed(3)
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    first = run(name, model, x, y)
    assert torch.equal(x, before_x) and torch.equal(y, before_y) and not x.requires_grad
    assert torch.equal(model.kept, model.copy)
    assert torch.equal(states[0], torch.get_rng_state())
    assert all(np.array_equal(a, b) for a, b in zip(states[1], np.random.get_state(), strict=True))
    assert states[2] == random.getstate()
    assert not first.requires_grad and first.data_ptr() != x.data_ptr()
    torch.manual_seed(99)
    assert torch.equal(first, run(name, Linear(), x, y)), "the same call again gives the same bits"
    with torch.no_grad():
        assert torch.equal(first, run(name, Linear(), x.clone().requires_grad_(), y))


@pytest.mark.parametrize("name", ATTACKS.names())
def test_misclassified_images_come_back_as_they_are_and_a_batch_may_have_any_size(name):
    model, x = Linear(), images(9)
    y = model(x).argmax(1)
    off = torch.arange(9) % 3 == 0
    labels = torch.where(off, (y + 1) % 10, y)
    eps = float(model.exact_distance(x, y, "Linf").max()) * 3
    params = {"random_start": True} if name == "fgsm" else {}
    x_adv = run(name, model, x, labels, eps=eps, **params)
    assert torch.equal(x_adv[off], x[off])
    assert (x_adv[~off] != x[~off]).flatten(1).any(1).any()
    assert torch.equal(run(name, model, x, (y + 1) % 10, eps=eps), x)
    assert run(name, model, x[:1], y[:1], eps=eps).shape == x[:1].shape
    empty = run(name, model, x[:0], y[:0], eps=eps)
    assert empty.shape == x[:0].shape and empty.dtype == x.dtype


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("fgsm", {}),
        ("fgsm", {"random_start": True}),
        ("pgd", {"restarts": 2, "steps": 4}),
        ("pgd", {"loss": "margin", "restarts": 1}),
        ("deepfool", {}),
        ("deepfool", {"candidates": 3}),
        ("budget", {}),
        ("apgd-ce", {}),
        ("apgd-t", {}),
        ("fab-t", {}),
        ("square", {}),
    ],
)
def test_batch_size_and_order_change_nothing_in_our_attacks(name, params, norm):
    model, x = RowByRow(), images(64)
    y = model(x).argmax(1)
    eps = 0.002 if norm == "Linf" else 0.02

    def cut(order, size):
        x_adv = torch.empty_like(x)
        for rows in order.split(size):
            generators = ExampleGenerators.for_examples(7, "task", rows.tolist())
            x_adv[rows] = run(name, model, x[rows], y[rows], eps=eps, norm=norm, generator=generators, **params)
        return x_adv

    whole = cut(torch.arange(64), 64)
    broken = wrong(model, whole, y)
    assert int(broken.sum()) > 0, "a test of nothing"
    assert name == "deepfool" or int(broken.sum()) < 64
    for size in (1, 7):
        assert torch.equal(cut(torch.arange(64), size), whole)
    shuffled = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(cut(shuffled, 13), whole)


@pytest.mark.parametrize("name", ATTACKS.names())
def test_batch_size_cuts_the_questions_and_changes_nothing(name):
    model, x = RowByRow(), images(11)
    y = model(x).argmax(1)
    whole = run(name, model, x, y, eps=0.004)
    model.queries.clear()
    assert torch.equal(run(name, model, x, y, eps=0.004, batch_size=4), whole)
    assert max(len(query) for query in model.queries) == 4
    assert (whole != x).any()


class Cliff(nn.Module):
    """Class 0 of two wins everywhere; where the sum of the pixels has grown by ``step`` the logits are NaN."""

    def __init__(self, x, step):
        super().__init__()
        self.limit = float(x.sum((1, 2, 3)).mean()) + step

    def forward(self, x):
        total = x.sum((1, 2, 3))
        margin = 5.0 - (total - self.limit) * 0.01
        logits = torch.stack([margin, torch.zeros_like(margin)], 1)
        return logits.masked_fill((total > self.limit)[:, None], float("nan"))


@pytest.mark.parametrize("name", ATTACKS.names())
def test_logits_that_are_not_finite_count_as_misclassified(name):
    x = torch.full((5, 3, 8, 8), 0.5)
    model, y = Cliff(x, 1e-3), torch.zeros(5, dtype=torch.int64)
    x_adv = run(name, model, x, y, eps=0.05, steps=20) if name not in {"fgsm", "square"} else run(
        name, model, x, y, eps=0.05
    )  # fmt: skip
    assert x_adv.isfinite().all()
    assert wrong(model, x_adv, y).all()
    nowhere = Cliff(x, -1.0)
    assert torch.equal(run(name, nowhere, x, y, eps=0.05), x), "NaN at the image itself: misclassified already"


class Spoilt(Linear):
    """One pixel in a hundred has a gradient that is not finite."""

    value = float("nan")

    def forward(self, x):
        if x.requires_grad:
            x = x.view_as(x)
            mask = torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) < 0.01
            x.register_hook(lambda grad: grad.masked_fill(mask, self.value))
        return super().forward(x)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("name", ["fgsm", "pgd", "apgd-ce", "apgd-t"])
def test_a_few_gradients_that_are_nan_do_not_disarm_an_attack(name, norm):
    model, x = Spoilt(), images(6)
    y = model(x).argmax(1)
    eps = 2 * float(model.exact_distance(x, y, norm).max())
    assert wrong(model, run(name, model, x, y, eps=eps, norm=norm), y).all()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("name", ATTACKS.names())
def test_gradients_that_are_not_finite_never_reach_the_images(name, norm, value):
    model, x = Spoilt(), images(6)
    model.value = value
    y = model(x).argmax(1)
    eps = 0.02 if norm == "Linf" else 0.2
    x_adv = run(name, model, x, y, eps=eps, norm=norm)
    assert x_adv.isfinite().all() and x_adv.min() >= 0 and x_adv.max() <= 1
    if name in {"fgsm", "pgd"}:
        assert (x_adv != x).flatten(1).any(1).all()
        assert (distance(x_adv, x, norm) <= eps * (1 + 1e-4)).all()


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("name", ATTACKS.names())
def test_a_network_without_gradient_is_survived(name, norm):
    class Flat(nn.Module):
        asked = 0

        def forward(self, x):
            self.asked += 1
            return torch.tensor([3.0, 1.0, 0.0, 0.0, -1.0]).expand(len(x), 5) + 0 * x.flatten(1).sum(1, keepdim=True)

    model, x = Flat(), images(4)
    x_adv = run(name, model, x, torch.zeros(4, dtype=torch.int64), eps=0.01, norm=norm)
    assert x_adv.isfinite().all()
    assert name != "deepfool" or model.asked == 2, "nowhere to go: it stops"
    assert (distance(x_adv, x, norm) <= 0.01 + 1e-6).all()


def test_a_parameter_that_an_attack_does_not_take_is_told_before_anything_runs():
    budget = {"eps": 0.1, "norm": "Linf"}
    ATTACKS.get("pgd").check_params({"steps": 3, "loss": "margin"}, **budget)
    with pytest.raises(UserError, match=r"pgd: expected parameters among .*steps.*, got 'nb_iter'"):
        ATTACKS.get("pgd").check_params({"nb_iter": 3}, **budget)
    unfit = [0.5, "all", [3], {"a": 1}, [1, "x"], object()]
    for attack in (registry.get(name) for registry in (ATTACKS, REFERENCES) for name in registry.names()):
        attack.check_params({}, **budget)
        known = inspect.signature(attack.run).parameters
        for name, parameter in known.items():
            kind = type(parameter.default)
            if name in {"model", "x", "y", "eps", "norm", "generator", "batch_size"}:
                continue
            for value in unfit:
                if ((kind is float or name == "step_size") and value == 0.5) or (name == "fractions" and value == [3]):
                    continue
                with pytest.raises(UserError, match=f": {name}: expected .*, got "):
                    attack.check_params({name: value}, **budget)


def test_the_registry_names_what_it_holds():
    members = ["apgd-ce", "apgd-dlr", "apgd-t", "fab", "fab-t", "square"]
    assert ATTACKS.names() == sorted(["budget", "deepfool", "fgsm", "pgd", *members])
    assert ATTACKS.get("pgd").implementation("L2") == "rampart-pgd-1"
    assert [ATTACKS.get("square").implementation(norm)[-1] for norm in ("Linf", "L2", "L1")] == ["1", "2", "1"]
    assert find_attack("square", "reference").implementation("L2").startswith("pyautoattack-0.")
    assert find_attack("square", "pyautoattack-0.2.0").run is find_attack("square", "reference").run
    assert find_attack("pgd", "reference") is ATTACKS.get("pgd"), "there is no other"
    with pytest.raises(UnknownNameError, match="did you mean 'pgd'"):
        ATTACKS.get("pdg")
    absent = Attack("x", ATTACKS.get("pgd").run, "no-such-package-anywhere", ("Linf",))
    with pytest.raises(UserError, match="pip install no-such-package-anywhere"):
        absent.implementation("Linf")


def test_importing_the_attacks_and_data_sets_loads_no_peer():
    code = (
        "import harness.attacks, harness.datasets, sys; "
        "peers = ('torchvision', 'pyautoattack', 'foolbox', 'robustbench', 'PIL'); "
        "print([name for name in peers if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]" and done.stderr == ""


def test_a_gradient_loads_no_computer_algebra():
    """Torch takes a second to import one, in every process, when gradients are weighted in the wrong way."""
    code = """
import sys
import torch
from harness.attacks import find_attack

model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3))
x = torch.rand(4, 3, 2, 2)
y = model(x).argmax(1)
leaf = x.clone().requires_grad_()
torch.autograd.grad(model(leaf).sum(), leaf)
before = "sympy" in sys.modules
for name in ("pgd", "apgd-ce", "deepfool"):
    find_attack(name).run(model, x, y, eps=0.01, norm="Linf")
sys.exit("sympy" in sys.modules and not before)
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=120, check=False).returncode == 0


def test_generators_give_every_example_its_own_stream():
    of = ExampleGenerators.for_examples
    whole = of(1, "a", range(6))
    first, second = whole.uniform((2, 3)), whole.uniform((2, 3))
    assert first.shape == (6, 2, 3) and first.min() >= 0 and first.max() < 1
    assert not torch.equal(first, second)
    assert torch.equal(of(1, "a", [4]).uniform((2, 3))[0], first[4])
    assert not torch.equal(of(1, "b", [4]).uniform((2, 3))[0], first[4])
    assert not torch.equal(of(2, "a", [4]).uniform((2, 3))[0], first[4])
    assert len({float(value) for value in first.flatten()}) == first.numel()
    shared = of(1, "a", range(6))
    mask = torch.tensor([True, False, True, False, False, True])
    part = shared.select(mask)
    assert len(part) == 3
    assert torch.equal(part.uniform((2, 3)), first[mask])
    assert torch.equal(shared.select(torch.tensor([5])).uniform((2, 3))[0], second[5]), "select shares the streams"
    assert torch.equal(shared.uniform((2, 3))[1], first[1])
    assert of(1, "a", range(6)).batch_seed == of(1, "a", [0, 3]).batch_seed != of(1, "a", [3]).batch_seed
    normal = of(1, "a", range(50)).normal((100,))
    assert abs(float(normal.mean())) < 0.05 and abs(float(normal.std()) - 1) < 0.05


def test_a_plain_generator_or_none_is_turned_into_streams():
    drawn = ExampleGenerators.of(torch.Generator().manual_seed(5), 4).uniform((2,))
    assert torch.equal(ExampleGenerators.of(torch.Generator().manual_seed(5), 4).uniform((2,)), drawn)
    assert not torch.equal(ExampleGenerators.of(torch.Generator().manual_seed(6), 4).uniform((2,)), drawn)
    none = ExampleGenerators.of(None, 3).uniform((2,))
    assert torch.equal(none, ExampleGenerators.for_examples(0, "", range(3)).uniform((2,)))
    with pytest.raises(ValueError, match="expected generators for 4 examples, got 3"):
        ExampleGenerators.of(ExampleGenerators.of(None, 3), 4)
