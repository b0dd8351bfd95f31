"""FAB: its projections against solvers, itself against exact distances and against pyautoattack's."""

import math
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from attack_models import Linear, RowByRow, distance, images
from oracles import linear_problem
from torch import nn

from harness.attacks.fab import fab, fab_t
from harness.attacks.hyperplane import NORMS
from harness.attacks.randomness import ExampleGenerators
from harness.datasets import load
from harness.errors import UserError
from harness.models import LocalModel
from harness.submission import discover

EPS = {"Linf": 8 / 255, "L2": 0.5, "L1": 12.0}


def towards(classes):
    """Both kinds of FAB, against all other classes."""
    return {"targeted": partial(fab_t, targets=classes - 1), "untargeted": fab}


KINDS = ("targeted", "untargeted")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("classes", [2, 3, 4, 10, 100])
@pytest.mark.parametrize("norm", NORMS)
def test_on_linear_models_the_closest_point_found_lies_at_the_exact_distance(norm, classes, kind):
    model, x, y, exact = linear_problem(classes, norm, seed=classes, n=12)
    assert exact.isfinite().all()
    x_adv = towards(classes)[kind](model, x, y, eps=1.0, norm=norm, steps=40, minimum=True)
    moved = distance(x_adv, x, norm)
    assert (model(x_adv).argmax(1) != y).all()
    assert x_adv.min() >= 0 and x_adv.max() <= 1
    assert (moved >= exact * (1 - 1e-4) - 1e-6).all()
    # An untargeted search may settle at a boundary that is only nearly the nearest.
    assert (moved <= exact * (1.02 if kind == "targeted" else 1.05) + 1e-4).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("classes", [2, 3, 4, 10, 100])
@pytest.mark.parametrize("norm", NORMS)
def test_on_linear_models_the_robust_images_are_the_exact_ones_at_several_budgets(norm, classes, kind):
    problem = linear_problem(classes, norm, seed=10 + classes, n=12)
    model, x, y, exact = problem
    for share in (0.25, 0.5, 0.75):
        eps = problem.eps(share, clearance=0.01 if kind == "targeted" else 0.03)
        x_adv = towards(classes)[kind](model, x, y, eps=eps, norm=norm, steps=40)
        robust = model(x_adv).argmax(1) == y
        assert torch.equal(robust, exact > eps)
        assert 0 < robust.sum() < len(x)
        assert torch.equal(x_adv[robust], x[robust])
        assert (distance(x_adv, x, norm) <= (eps + 1e-6 if norm == "Linf" else eps * (1 + 1e-5))).all()


@pytest.mark.parametrize("norm", NORMS)
def test_fewer_targets_are_the_likeliest_ones(norm):
    """Class 1 is the runner-up and hardly depends on the image; class 2 comes last and is the nearest."""

    class Steep(nn.Module):
        def forward(self, x):
            means = x.mean((2, 3)) - 0.5
            return torch.stack([torch.ones(len(x)), 0.9 + 0.43 * means[:, 0], 19 * means[:, 1]], 1)

    x, y = images(8, low=0.5, high=0.5), torch.zeros(8, dtype=torch.int64)
    pixels = {"Linf": 1, "L2": 8, "L1": 64}[norm]
    runner_up = fab_t(Steep(), x, y, eps=1.0, norm=norm, steps=20, targets=1, minimum=True)
    assert torch.allclose(distance(runner_up, x, norm), torch.tensor(0.1 / 0.43 * pixels).double(), rtol=0.02)
    assert (Steep()(runner_up).argmax(1) == 1).all()
    for attack in (fab_t, fab):
        nearest = attack(Steep(), x, y, eps=1.0, norm=norm, steps=20, minimum=True)
        assert torch.allclose(distance(nearest, x, norm), torch.tensor(1 / 19 * pixels).double(), rtol=0.02)
        assert (Steep()(nearest).argmax(1) == 2).all()


@pytest.fixture(scope="module")
def network():
    """A network, images with their labels, and a budget for each norm that breaks some of them."""
    model, x = RowByRow(), images(10, low=0.0, high=1.0)
    y = model(x).argmax(1)
    budgets = {}
    for norm in NORMS:
        found = fab_t(model, x, y, eps=1.0, norm=norm, steps=10, minimum=True)
        budgets[norm] = float(distance(found, x, norm).median())
    return model, x, y, budgets


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("restarts", [1, 3])
@pytest.mark.parametrize("minimum", [False, True])
@pytest.mark.parametrize("norm", NORMS)
def test_an_outcome_depends_on_neither_batch_size_nor_order_nor_company(
    network, norm, minimum, restarts, kind, monkeypatch
):
    model, x, y, budgets = network
    shared = {"eps": budgets[norm], "norm": norm, "steps": 5, "restarts": restarts, "minimum": minimum}

    def attacked(rows, batch_size=None):
        generators = ExampleGenerators.for_examples(0, "fab", rows.tolist())
        return towards(4)[kind](model, x[rows], y[rows], generator=generators, batch_size=batch_size, **shared)

    everything = torch.arange(len(x))
    expected = attacked(everything)
    broken = model(expected).argmax(1) != y
    assert broken.any() and (minimum or not broken.all())
    for batch_size in (1, 7, 64):
        assert torch.equal(attacked(everything, batch_size), expected)
    shuffled = torch.randperm(len(x), generator=torch.Generator().manual_seed(4))
    assert torch.equal(attacked(shuffled, 7), expected[shuffled])
    assert torch.equal(attacked(everything[3:6]), expected[3:6])
    # So few pixels at the same time that images must wait for others to leave, and other blocks within a step.
    monkeypatch.setattr(sys.modules[fab.__module__], "_POOL", 10 * x[0].numel())
    monkeypatch.setattr(sys.modules[fab.__module__], "_BLOCK", 3 * x[0].numel())
    assert torch.equal(attacked(everything, 3), expected)


@pytest.mark.parametrize("norm", NORMS)
def test_restarts_leave_what_was_found_and_find_more(norm):
    """Every gradient at the images themselves is zero; only a random start sees the boundary."""

    class Plateau(Linear):
        def forward(self, x):
            logits = super().forward(x)
            return torch.where(((x - 0.5).flatten(1).abs().amax(1) > 1e-4)[:, None], logits, logits.detach())

    model, x = Plateau(), torch.full((10, 3, 8, 8), 0.5)
    model.bias[0] += 0.05
    y = model(x).argmax(1)
    eps = 5 * float(model.exact_distance(x, y, norm)[0])
    assert torch.equal(fab_t(model, x, y, eps=eps, norm=norm, steps=10), x)
    generators = ExampleGenerators.for_examples(0, "restarts", range(10))
    x_adv = fab_t(model, x, y, eps=eps, norm=norm, steps=10, restarts=2, generator=generators)
    assert (model(x_adv).argmax(1) != y).all()
    assert (distance(x_adv, x, norm) <= eps * (1 + 1e-5)).all()


class Counting(nn.Module):
    """Counts images asked about, and images differentiated."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.forwards, self.backwards = inner, 0, 0

    def forward(self, x):
        self.forwards += len(x)
        logits = self.inner(x)
        if logits.requires_grad:
            logits.register_hook(self.count)
        return logits

    def count(self, gradient):
        self.backwards += int(gradient.ne(0).any(1).sum())


def test_a_step_costs_one_forward_and_one_backward_pass_and_fallen_images_cost_nothing():
    problem = linear_problem(10, "Linf", seed=2, n=12)
    model, x, y, exact = problem
    counting = Counting(model)
    fab_t(counting, x, y, eps=float(exact.min()) / 2, steps=20, targets=3)
    assert (counting.forwards, counting.backwards) == (12 + 12 * 3 * 21, 12 * 3 * 20)
    counting = Counting(model)
    fab_t(counting, x, y, eps=float(exact.max()) * 2, steps=20, targets=9)
    assert counting.forwards <= 12 + 12 * 9 * 3
    counting = Counting(model)
    fab(counting, x, y, eps=float(exact.min()) / 2, steps=20)
    assert (counting.forwards, counting.backwards) == (12 + 12 * 21, 12 * 9 * 20)


class Rounded(Linear):
    """Answers as in reduced precision, with an error of up to a hundredth, and counts exact answers."""

    asked = 0

    def forward(self, x):
        logits = super().forward(x)
        return logits + 0.01 * torch.sin(1e4 * logits.detach())

    def exact(self, x):
        self.asked += len(x)
        return super().forward(x)


@pytest.mark.parametrize("minimum", [False, True])
@pytest.mark.parametrize("attack", [fab_t, fab])
@pytest.mark.parametrize("norm", NORMS)
def test_a_model_in_reduced_precision_is_believed_only_where_it_is_exact(norm, attack, minimum):
    model, x = Rounded(), images(30)
    y = model.exact(x).argmax(1)
    distances = Linear().exact_distance(x, y, norm)
    x_adv = attack(model, x, y, norm=norm, eps=1.5 * float(distances.median()), steps=30, minimum=minimum)
    moved, wrong = (x_adv != x).flatten(1).any(1), Linear()(x_adv).argmax(1) != y
    assert torch.equal(moved, wrong)
    assert wrong[distances < 1.3 * float(distances.median())].all()
    assert (distance(x_adv, x, norm)[wrong] >= distances[wrong] * (1 - 1e-4)).all()


def test_certainty_is_asked_for_where_it_matters_only():
    model, x = Rounded(), images(30)
    y = model.exact(x).argmax(1)
    model.asked = 0
    x_adv = fab_t(model, x, y, eps=0.5 * float(Linear().exact_distance(x, y, "Linf").min()), steps=30)
    assert torch.equal(x_adv, x) and model.asked < len(x)


@pytest.mark.parametrize("attack", [fab_t, fab])
@pytest.mark.parametrize("norm", NORMS)
def test_logits_and_gradients_that_are_not_finite_stay_where_they_are(norm, attack):
    class Poisoned(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            grad = grad.clone()
            grad[:, 0, 0, 0], grad[:, 0, 0, 1], grad[::2, 0, 0, 2] = math.nan, 0.0, math.nan
            return grad

    class Holes(Linear):
        def forward(self, x):
            logits = super().forward(Poisoned.apply(x))
            return torch.where((x.mean((1, 2, 3)) > 0.59)[:, None], math.nan, logits)

    model, x = Holes(), images(20)
    x[3] = 0.595
    y = Linear()(x).argmax(1)
    y[3] = 0
    x_adv = attack(model, x, y, eps=1.0, norm=norm, steps=15, minimum=True)
    assert x_adv.isfinite().all() and torch.equal(x_adv[3], x[3])
    others = torch.arange(20) != 3
    assert (model(x_adv).argmax(1) != y)[others].all()
    exact = model.exact_distance(x, y, norm)
    assert (distance(x_adv, x, norm)[others] <= 1.3 * exact[others] + 1e-4).all()

    class AllNaN(nn.Module):
        def forward(self, x):
            return x.flatten(1)[:, :5] * math.nan

    assert torch.equal(attack(AllNaN(), x, y % 5, eps=0.1, norm=norm), x)


@pytest.mark.parametrize("attack", [fab_t, fab])
@pytest.mark.parametrize("norm", NORMS)
def test_an_image_whose_neighbourhood_is_nan_has_fallen_there(norm, attack):
    class Cliff(nn.Module):
        """Class 0 and a slope towards class 1 that is never reached: beyond a mean of 0.55 there are no numbers."""

        def forward(self, x):
            mean = x.mean((1, 2, 3))
            logits = torch.stack([1 - mean, mean - 0.5], 1)
            return torch.where((mean > 0.55)[:, None], math.inf, logits)

    x, y = images(6, low=0.45, high=0.5), torch.zeros(6, dtype=torch.int64)
    eps = {"Linf": 0.35, "L2": 0.35 * 192**0.5, "L1": 0.35 * 192}[norm]
    x_adv = attack(Cliff(), x, y, eps=eps, norm=norm, steps=10)
    assert (x_adv.mean((1, 2, 3)) > 0.55).all()
    assert (distance(x_adv, x, norm) <= eps * (1 + 1e-5)).all()


@pytest.mark.parametrize("attack", [fab_t, fab])
@pytest.mark.parametrize("norm", NORMS)
def test_without_any_gradient_the_images_come_back_after_one_look(norm, attack):
    class Flat(nn.Module):
        asked = 0

        def forward(self, x):
            self.asked += len(x)
            return torch.tensor([1.0, 0.0, 0.5]).repeat(len(x), 1) + 0 * x.sum((1, 2, 3))[:, None]

    class NoGraph(Flat):
        def forward(self, x):
            return super().forward(x.detach())

    for model in (Flat(), NoGraph()):
        x, y = images(5), torch.zeros(5, dtype=torch.int64)
        assert torch.equal(attack(model, x, y, eps=0.1, norm=norm), x)
        assert model.asked == 5 + 5 * (2 if attack is fab_t else 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"eps": 0}, "fab-t: eps: expected a finite number above 0, got 0"),
        ({"eps": math.nan}, "fab-t: eps: expected a finite number above 0, got nan"),
        ({"norm": "L3"}, "fab-t: norm: expected one of Linf, L2, L1, got 'L3'"),
        ({"steps": 0}, "fab-t: steps: expected a whole number of at least 1, got 0"),
        ({"targets": 0}, "fab-t: targets: expected a whole number of at least 1, got 0"),
        ({"restarts": 1.5}, "fab-t: restarts: expected a whole number of at least 1, got 1.5"),
        ({"batch_size": 0}, "fab-t: batch_size: expected a whole number of at least 1, got 0"),
        ({"alpha_max": 1.5}, "fab-t: alpha_max: expected at most 1, got 1.5"),
        ({"beta": 2}, "fab-t: beta: expected at most 1, got 2"),
        ({"eta": -1}, "fab-t: eta: expected a finite number above 0, got -1"),
        ({"x": 2 * torch.ones(4, 3, 8, 8)}, "fab-t: x: expected pixels in [0, 1], got [2, 2]"),
        ({"x": torch.ones(4, 3, 8, 8, dtype=torch.uint8)}, "fab-t: x: expected float32 or float64"),
        ({"x": torch.ones(4, 3, 8, 8).half()}, "fab-t: x: expected float32 or float64"),
        ({"y": torch.zeros(3, dtype=torch.int64)}, "fab-t: y: expected int64 (4,), got torch.int64 (3,)"),
        ({"y": torch.full((4,), 10)}, "fab-t: y: expected labels in 0..9, got 10..10"),
        ({"model": nn.Flatten(0)}, "fab-t: model: expected logits (4, K) with K of at least 2, got (768,)"),
    ],
)
def test_bad_input_is_refused_in_one_line(change, message):
    given = {"model": Linear(), "x": images(4), "y": torch.zeros(4, dtype=torch.int64), "eps": 0.1} | change
    with pytest.raises(UserError) as caught:
        fab_t(**given)
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


@pytest.mark.parametrize("norm", NORMS)
def test_no_images_double_precision_and_other_memory_layouts(norm):
    model, x = Linear(), images(6)
    y = model(x).argmax(1)
    empty = fab_t(model, x[:0], y[:0], eps=0.1, norm=norm)
    assert empty.shape == x[:0].shape
    expected = fab_t(model, x, y, eps=1.0, norm=norm, steps=5, minimum=True)
    last = x.contiguous(memory_format=torch.channels_last)
    assert torch.equal(fab_t(model, last, y, eps=1.0, norm=norm, steps=5, minimum=True), expected)
    double = Linear()
    double.weight, double.bias = double.weight.double(), double.bias.double()
    precise = fab_t(double, x.double(), y, eps=1.0, norm=norm, steps=5, minimum=True)
    assert precise.dtype == torch.float64
    assert torch.allclose(precise, expected.double(), atol=1e-3)


@pytest.fixture(scope="module")
def robust():
    """A bundled adversarially trained network, its correctly classified sample images, one thread."""
    folder = Path(__file__).resolve().parents[1] / "submissions"
    model = LocalModel.from_spec(discover([folder]).submissions["fgsm-rs-1222"].spec())
    data = load("cifar10-sample")
    x = torch.from_numpy(np.array(data.images)).permute(0, 3, 1, 2).float().div(255).contiguous()
    y = torch.from_numpy(np.array(data.labels)).long()
    with torch.no_grad():
        right = model(x).argmax(1) == y
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield model, x[right], y[right]
    torch.set_num_threads(threads)


@pytest.mark.parametrize("norm", NORMS)
def test_it_finds_what_pyautoattack_finds_on_a_trained_network(robust, norm):
    fab_pt = pytest.importorskip("pyautoattack.fab_pt")
    model, x, y = robust
    theirs = fab_pt.FABAttack_PT(model, norm=norm, n_iter=25, eps=EPS[norm], targeted=True, device=x.device)
    nearest = torch.full((len(x),), math.inf, dtype=torch.float64)
    with torch.random.fork_rng():
        for theirs.target_class in (2, 3, 4):
            moved = distance(theirs.attack_single_run(x, y, is_targeted=True), x, norm)
            nearest = torch.minimum(nearest, torch.where(moved > 0, moved, math.inf))
    ours = fab_t(model, x, y, eps=EPS[norm], norm=norm, steps=25, targets=3, minimum=True)
    with torch.no_grad():
        assert (model(ours).argmax(1) != y).all()
    ratio = distance(ours, x, norm) / nearest
    assert 0.95 < float(ratio.median()) < 1.01
    bounded = fab_t(model, x, y, eps=EPS[norm], norm=norm, steps=25, targets=3)
    with torch.no_grad():
        survivors = int((model(bounded).argmax(1) == y).sum())
    assert survivors <= int((nearest > EPS[norm]).sum()) + 1
    assert (distance(bounded, x, norm) <= EPS[norm] * (1 + 1e-5)).all()
