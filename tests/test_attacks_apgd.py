"""Our Auto-PGD: exact where the truth is known, level with pyautoattack, the same for every batch and order."""

import importlib
import math
import tomllib
from functools import partial
from pathlib import Path

import pytest
import torch
from attack_models import Linear, RowByRow, distance, images
from oracles import linear_problem, relu_problem
from safetensors.torch import load_file
from torch import nn

from harness import datasets
from harness.attacks import autoattack as reference
from harness.attacks.apgd import NORMS, apgd, apgd_ce, apgd_dlr, apgd_t
from harness.attacks.geometry import Ball, ascent, cut_l1, sparse_ascent
from harness.attacks.losses import dlr, dlr_targeted, margin
from harness.attacks.randomness import ExampleGenerators
from harness.errors import UserError
from submissions.architectures import slim_resnet

apgd_module = importlib.import_module("harness.attacks.apgd")
"""The package has a function of that name as well."""
BUNDLED = Path(__file__).resolve().parents[1] / "submissions" / "fgsm-rs-1222"
BOTH = pytest.mark.parametrize("attack", [apgd_ce, apgd_t], ids=["ce", "t"])
EVERY = pytest.mark.parametrize("norm", NORMS)


def broken(model, x, y):
    logits = model(x)
    return (logits.argmax(1) != y) | ~logits.isfinite().all(1)


def assert_within(x_adv, x, norm, eps):
    assert x_adv.shape == x.shape and x_adv.dtype == x.dtype
    assert x_adv.min() >= 0 and x_adv.max() <= 1
    assert (distance(x_adv, x, norm) <= (eps + 1e-6 if norm == "Linf" else eps * (1 + 1e-5))).all()


@EVERY
@pytest.mark.parametrize("classes", [2, 3, 4, 10, 100])
def test_the_robust_set_of_a_linear_model_is_found_to_the_example(classes, norm):
    for low, high in ((0.4, 0.6), (0.0, 1.0)):
        model, x, y, distances = problem = linear_problem(classes, norm, classes, low=low, high=high)
        for eps in (problem.eps(0.3), problem.eps(0.7)):
            x_adv = apgd_t(model, x, y, eps=eps, norm=norm)
            assert_within(x_adv, x, norm, eps)
            assert torch.equal(broken(model, x_adv, y), distances <= eps)
            untargeted = apgd_dlr(model, x, y, eps=eps, norm=norm, steps=40)
            assert not (broken(model, untargeted, y) & (distances > eps)).any()


@EVERY
def test_two_classes_are_solved_by_every_loss(norm):
    model, x, y, distances = problem = linear_problem(2, norm, 5, n=16)
    eps = problem.eps()
    for attack, losses in ((apgd, ("ce", "dlr", "margin")), (apgd_t, ("dlr", "margin"))):
        for loss in losses:
            x_adv = attack(model, x, y, eps=eps, norm=norm, loss=loss)
            assert torch.equal(broken(model, x_adv, y), distances <= eps)


def test_no_provably_robust_point_of_a_relu_network_is_claimed_and_nearly_all_others_are_found():
    there = found = 0
    for norm in ("Linf", "L1"):
        for seed in range(3):
            model, x, y, exists, eps, _ = relu_problem(seed, norm=norm)
            options = {"eps": eps, "norm": norm}
            points = apgd_ce(model, x, y, restarts=5, **options), apgd_t(model, x, y, **options)
            fell = broken(model, points[0], y) | broken(model, points[1], y)
            assert_within(points[0], x, norm, eps)
            assert not (fell & ~exists).any()
            there, found = there + int(exists.sum()), found + int(fell.sum())
    assert there > 20 and found >= 0.99 * there


@EVERY
@pytest.mark.parametrize("attack", [apgd_ce, apgd_t, partial(apgd_t, narrow=True)], ids=["ce", "t", "narrow"])
def test_batch_size_order_and_the_other_rows_change_no_bit(attack, norm, monkeypatch):
    model, x = RowByRow(), images(64)
    y = model(x).argmax(1)
    options = {"eps": {"Linf": 0.002, "L2": 0.02, "L1": 0.15}[norm], "norm": norm, "steps": 10}
    options |= {"restarts": 2} if attack is apgd_ce else {"targets": 3}

    def cut(order, size, batch_size):
        x_adv = torch.empty_like(x)
        for rows in order.split(size):
            generators = ExampleGenerators.for_examples(7, "task", rows.tolist())
            x_adv[rows] = attack(model, x[rows], y[rows], generator=generators, batch_size=batch_size, **options)
        return x_adv

    whole = cut(torch.arange(64), 64, None)
    assert 0 < int(broken(model, whole, y).sum()) < 64, "a test of nothing"
    for size in (1, 7):
        assert torch.equal(cut(torch.arange(64), 64, size), whole)
    assert torch.equal(cut(torch.randperm(64, generator=torch.Generator().manual_seed(0)), 13, 64), whole)
    assert torch.equal(cut(torch.arange(63, -1, -1)[:8], 1, 7)[56:], whole[56:])
    monkeypatch.setattr(apgd_module, "_PIXELS", 20 * x[0].numel())
    assert torch.equal(cut(torch.arange(64), 64, None), whole)


@EVERY
@pytest.mark.parametrize(
    ("steps", "targets", "passes"),
    [(100, 9, 12 * 9 + 28 * 3 + 60), (100, 2, 12 * 2 + 28 + 60), (30, 4, 3 * 4 + 9 * 2 + 18), (2, 9, 9 + 1), (1, 3, 3)],
)
def test_ever_fewer_classes_are_attacked(norm, steps, targets, passes):
    """Of images that nothing breaks, the passes after every move are counted."""
    asked = []

    class Counted(RowByRow):
        def forward(self, x):
            asked.append(len(x))
            return super().forward(x)

    model, x = Counted(), images(4)
    y = model(x).argmax(1)
    asked.clear()
    x_adv = apgd_t(model, x, y, eps=1e-6, norm=norm, steps=steps, targets=targets, narrow=True)
    assert_within(x_adv, x, norm, 1e-6)
    stages = 2 * (norm == "L1" and steps > 2)
    images_themselves, start, *after = asked
    assert (images_themselves, start) == (4, 4 * targets)
    extra = sum(after) - 4 * passes
    # In L1 a new stage asks about its start, which is no move.
    assert (extra > 0) == (stages > 0) and extra <= 4 * targets * stages
    assert after[-1] == 4 * (targets if steps == 1 else 1)


def test_the_class_that_does_best_goes_on(bundled):
    """Nearly as many images fall as towards all classes for as long, at a quarter of the cost."""
    model, x, y = bundled
    found = {
        narrow: broken(
            model, apgd_t(model, x, y, eps=6 / 255, steps=50, loss="margin", narrow=narrow, batch_size=64,
                          generator=ExampleGenerators.for_examples(0, "task", range(20))), y
        )
        for narrow in (False, True)
    }  # fmt: skip
    assert int(found[False].sum()) - int(found[True].sum()) <= 1
    assert 0 < int(found[True].sum()) < 20, "a test of nothing"


@pytest.fixture(scope="module")
def bundled():
    card = tomllib.loads((BUNDLED / "submission.toml").read_text())
    model = slim_resnet.build(**card.get("kwargs", {}))
    model.load_state_dict(load_file(BUNDLED / card["checkpoint"]["file"]))
    model.eval().requires_grad_(False)
    x, y = datasets.load("cifar10-sample").tensors(0, 20)
    return model, x, y


@pytest.mark.parametrize(("norm", "eps"), [("Linf", 8 / 255), ("L2", 0.5), ("L1", 12.0)])
@pytest.mark.parametrize("name", ["apgd_ce", "apgd_t"])
def test_at_most_one_more_image_survives_than_with_pyautoattack(bundled, name, norm, eps):
    model, x, y = bundled
    options = {"eps": eps, "norm": norm, "steps": 30} | ({"targets": 3} if name == "apgd_t" else {})
    ours = getattr(apgd_module, name)(model, x, y, **options)
    theirs = getattr(reference, name)(model, x, y, **options)
    assert_within(ours, x, norm, eps)
    assert int((~broken(model, ours, y)).sum()) <= int((~broken(model, theirs, y)).sum()) + 1


@EVERY
def test_an_example_costs_one_forward_a_step_and_leaves_with_its_success(norm):
    class Counting(Linear):
        rows = 0

        def forward(self, x):
            self.rows += len(x)
            return super().forward(x)

    model, x = Counting(), images(5)
    y = model(x).argmax(1)
    stages = 3 if norm == "L1" else 1
    model.rows = 0
    apgd(model, x, y, eps=1e-6, norm=norm, steps=10)
    assert model.rows == 5 * (1 + 10 + stages)
    model.rows = 0
    apgd_t(model, x, y, eps=1e-6, norm=norm, steps=10, targets=4)
    assert model.rows == 5 * (1 + 4 * (10 + stages))
    if norm != "L1":
        model.rows = 0
        assert broken(model, apgd_t(model, x, y, eps=20.0, norm=norm, steps=10, targets=4), y).all()
        assert model.rows <= 5 * (1 + 4 * 4 + 1)


class Odd(nn.Module):
    """Ten classes, and one thing wrong."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.inner = kind, Linear()

    def forward(self, x):
        logits = self.inner(x)
        if self.kind == "nan beyond":
            moved = (x.flatten(1).mean(1, keepdim=True) - 0.5).abs() > 0.02
            return torch.where(moved, math.nan, logits)
        if self.kind == "flat":
            return logits.round() * 0 + logits.detach()
        if self.kind == "nan gradient":
            return logits + 0 * (x.flatten(1)[:, :1] - x.flatten(1)[:, :1]).sqrt()
        if self.kind == "tiny":
            return logits * 1e-30
        if self.kind == "huge":
            return logits * 1e37
        return logits.half() if self.kind == "half" else logits.double()


@EVERY
@BOTH
@pytest.mark.parametrize("kind", ["nan beyond", "flat", "nan gradient", "tiny", "huge", "half", "double"])
def test_odd_networks_neither_stop_nor_spoil_the_attack(kind, attack, norm):
    model, x = Odd(kind), images(8)
    y = model(x).argmax(1)
    eps = {"Linf": 0.05, "L2": 0.7, "L1": 2.0}[norm]
    x_adv = attack(model, x, y, eps=eps, norm=norm, steps=20)
    assert_within(x_adv, x, norm, eps)
    fell = broken(model, x_adv, y)
    if kind in {"nan gradient", "half", "double"} or (kind == "tiny" and attack is apgd_t):
        assert fell.all()
    if kind == "flat":
        assert torch.equal(attack(model, x[:0], y[:0], eps=eps, norm=norm), x[:0])


@BOTH
def test_misclassified_and_broken_images_come_back_untouched(attack):
    model, x = Linear(), images(9)
    y = (model(x).argmax(1) + (torch.arange(9) % 3 == 0)) % 10
    x_adv = attack(model, x, y, eps=0.05, steps=5)
    assert torch.equal(x_adv[::3], x[::3]) and (x_adv != x).flatten(1).any(1).sum() == 6
    nowhere = attack(lambda images: model(images) * math.nan, x, y, eps=0.05, steps=5)
    assert torch.equal(nowhere, x)


@BOTH
def test_a_model_in_reduced_precision_is_believed_only_where_it_is_exact(attack):
    class Rough(Linear):
        def forward(self, x):
            logits = super().forward(x)
            return logits.roll(1, 1) if x.requires_grad else logits

        def exact(self, x):
            return super().forward(x)

    model, x = Rough(), images(6)
    y = model.exact(x).argmax(1)
    x_adv = attack(model, x, y, eps=1e-6, steps=4)
    assert_within(x_adv, x, "Linf", 1e-6)
    assert torch.equal(model.exact(x_adv).argmax(1), y)


@BOTH
def test_passes_over_a_random_model_are_averaged(attack):
    class Noisy(Linear):
        """Every other pass says the next class; the other passes say the truth, and louder."""

        passes = 0

        def forward(self, x):
            logits = super().forward(x)
            self.passes += 1
            return logits.roll(1, 1) if self.passes % 2 == 0 else 20 * logits

    x = images(6)
    y = Linear()(x).argmax(1)
    model = Noisy()
    robust = attack(model, x, y, eps=1e-6, steps=4, eot=2)
    assert model.passes == 2 * (1 + 5)
    assert_within(robust, x, "Linf", 1e-6)
    assert not torch.equal(robust, x), "no row was taken for misclassified at the start"
    assert broken(Linear(), attack(Noisy(), x, y, eps=0.1, steps=10, eot=2), y).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"eps": 0.0}, "eps: expected a finite number above 0"),
        ({"eps": math.inf}, "eps: expected a finite number above 0"),
        ({"norm": "L3"}, "norm: expected one of Linf, L2, L1, got 'L3'"),
        ({"steps": 0}, "steps: expected a whole number of at least 1, got 0"),
        ({"eot": 0}, "eot: expected a whole number of at least 1, got 0"),
        ({"batch_size": 0}, "batch_size: expected a whole number of at least 1, got 0"),
        ({"loss": "hinge"}, "loss: expected one of .*, got 'hinge'"),
        ({"x": images(3) + 1}, "x: expected pixels in"),
        ({"x": (255 * images(3)).byte()}, "x: expected float32 or float64"),
        ({"y": torch.tensor([0, 1, 10])}, "y: expected labels in 0..9, got 0..10"),
    ],
)
@BOTH
def test_bad_arguments_are_one_clear_error(attack, changes, message):
    arguments = {"x": images(3), "y": torch.zeros(3, dtype=torch.int64), "eps": 0.1, "steps": 2} | changes
    if attack is apgd_ce and "loss" not in changes:
        arguments["loss"] = "ce"
    with pytest.raises(UserError, match=message):
        (apgd if attack is apgd_ce else attack)(Linear(), arguments.pop("x"), arguments.pop("y"), **arguments)


@EVERY
def test_few_steps_many_targets_and_double_precision_work(norm):
    model, x = Linear(3), images(5)
    y = model(x).argmax(1)
    for steps in (1, 2, 3, 4):
        assert_within(apgd(model, x, y, eps=0.01, norm=norm, steps=steps), x, norm, 0.01)
        assert_within(apgd_t(model, x, y, eps=0.01, norm=norm, steps=steps, targets=50), x, norm, 0.01)
    wide = Odd("double").inner
    wide.weight, wide.bias = wide.weight.double(), wide.bias.double()
    assert_within(apgd_t(wide, x.double(), wide(x.double()).argmax(1), eps=0.05, norm=norm), x.double(), norm, 0.05)


@pytest.mark.parametrize("seed", range(4))
def test_the_l1_projection_is_feasible_and_nothing_feasible_is_closer(seed):
    generator = torch.Generator().manual_seed(seed)

    def rand(*shape):
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    x, delta = rand(200, 20), (2 * rand(200, 20) - 1) * 10 ** (3 * rand(200, 1) - 1.5)
    x[:50] = x[:50].round()
    for eps in (0.05, 0.7, 4.0):
        cut = cut_l1(delta, x, eps)
        assert (cut.abs().sum(1) <= eps * (1 + 1e-9)).all()
        assert (x + cut >= -1e-12).all() and (x + cut <= 1 + 1e-12).all()
        away = delta - cut
        # The projection onto a convex set: no feasible point lies on the far side of the plane through it.
        for _ in range(30):
            other = (2 * rand(200, 20) - 1) * rand(200, 20) ** 8
            other = other * (eps / other.abs().sum(1, keepdim=True)).clamp_max(1)
            other = (x + other).clamp(0, 1) - x
            assert ((away * (other - cut)).sum(1) <= 1e-5 * (1 + away.abs().amax(1)) * eps).all()
        for column in range(20):
            for end in (-eps, eps):
                other = torch.zeros_like(x)
                other[:, column] = end
                other = (x + other).clamp(0, 1) - x
                assert ((away * (other - cut)).sum(1) <= 1e-5 * (1 + away.abs().amax(1)) * eps).all()


def test_l1_steps_go_along_the_largest_entries_and_small_gradients_count():
    grad = torch.tensor([3.0, -5.0, 1.0, 0.0]).view(1, 1, 2, 2).repeat(4, 1, 1, 1)
    grad[2] *= 1e-40
    grad[3] = 0
    assert torch.equal(ascent(grad, "L1")[0].flatten(), torch.tensor([0.0, -1.0, 0.0, 0.0]))
    step = sparse_ascent(grad, torch.tensor([2, 4, 2, 1]))
    assert torch.equal(step[0].flatten(), torch.tensor([0.5, -0.5, 0.0, 0.0]))
    assert torch.allclose(step[1].flatten(), torch.tensor([1.0, -1.0, 1.0, 0.0]) / 3)
    assert torch.equal(step[2], step[0]) and torch.equal(step[3], torch.zeros_like(step[3]))


@pytest.mark.parametrize("norm", ["L2", "L1"])
def test_rounding_pixels_never_leaves_a_small_ball(norm):
    x = images(6)
    ball = Ball(x, norm, 1e-5)
    points = ball.settle_(ball.sample(ExampleGenerators.of(None, 6)))
    assert (distance(points, x, norm) <= 1e-5 * (1 + 1e-5)).all() and (points != x).any()
    copies = Ball(x.repeat_interleave(3, 0), norm, 0.1).sample(ExampleGenerators.of(None, 6), 3)
    assert copies.shape[0] == 18 and not torch.equal(copies[0], copies[1])


def test_losses_are_scale_free_ratios_that_fall_back_where_classes_are_few():
    logits = torch.tensor([[4.0, 3.0, 1.0, 0.0, -9.0], [1.0, 2.0, 5.0, 0.0, 0.0]])
    y, targets = torch.tensor([0, 0]), torch.tensor([1, 4])
    assert torch.allclose(dlr(logits, y), torch.tensor([-1 / 3, 4 / 4]))
    assert torch.allclose(dlr_targeted(logits, y, targets), torch.tensor([-1 / 3.5, -1 / 4.5]))
    assert torch.allclose(dlr(1e-30 * logits, y), dlr(logits, y))
    assert torch.equal(dlr(logits[:, :2], y), margin(logits[:, :2], y))
    assert torch.equal(dlr_targeted(logits[:, :3], y, torch.tensor([1, 2])), torch.tensor([-1.0, 4.0]))
