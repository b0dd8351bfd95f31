"""Every attack against linear models, where the exact answer is known for every example."""

import math

import pytest
import torch
from attack_models import Linear, distance, images

from harness.attacks import ATTACKS
from harness.attacks.randomness import ExampleGenerators

SMALL = {"pgd": {"steps": 60, "loss": "margin"}, "square": {"queries": 50}, "apgd-ce": {"steps": 25}}
"""Parameters that keep the tests fast; the others run as they are by default."""

PAIRS = [(name, norm) for name in ATTACKS.names() for norm in ATTACKS.get(name).norms]


def attacked(name, model, x, y, eps, norm, **params):
    generators = ExampleGenerators.for_examples(0, f"{name}@{norm}", range(len(x)))
    return ATTACKS.get(name).run(model, x, y, eps=eps, norm=norm, generator=generators, **params)


@pytest.mark.parametrize(("name", "norm"), PAIRS)
def test_no_attack_breaks_an_example_that_is_exactly_robust_or_leaves_the_budget(name, norm):
    model, x = Linear(), images(30)
    y = model(x).argmax(1)
    exact = model.exact_distance(x, y, norm)
    eps = model.eps_between(x, y, norm)
    x_adv = attacked(name, model, x, y, eps, norm, **SMALL.get(name, {}))
    assert x_adv.shape == x.shape and x_adv.dtype == x.dtype
    assert x_adv.min() >= 0 and x_adv.max() <= 1
    moved = distance(x_adv, x, norm)
    broken = model(x_adv).argmax(1) != y
    assert broken.any()
    if ATTACKS.get(name).minimum_norm:
        assert (moved[broken] >= exact[broken] * (1 - 1e-4)).all()
    else:
        assert (moved <= (eps + 1e-6 if norm == "Linf" else eps * (1 + 1e-5))).all()
        assert not (broken & (exact > eps)).any()


@pytest.mark.parametrize("classes", [10, 3, 2])
@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("name", ["pgd", "apgd-t", "fab-t"])
def test_targeted_and_margin_attacks_are_exact_to_the_example(name, norm, classes):
    model, x = Linear(classes, seed=classes), images(30)
    y = model(x).argmax(1)
    eps = model.eps_between(x, y, norm)
    params = {"pgd": {"steps": 100, "loss": "margin"}, "fab-t": {"steps": 40}}.get(name, {})
    robust = model(attacked(name, model, x, y, eps, norm, **params)).argmax(1) == y
    assert torch.equal(robust, model.exact_distance(x, y, norm) > eps)
    assert 0 < robust.sum() < len(x)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_deepfool_crosses_the_nearest_boundary_at_the_exact_distance_times_the_overshoot(norm):
    model, x = Linear(), images(100)
    y = model(x).argmax(1)
    exact = model.exact_distance(x, y, norm)
    # Below this, float32 pixels are too coarse to show the distance to a part in a thousand.
    clear = exact > 1e-3
    for overshoot in (0.02, 0.5):
        x_adv = attacked("deepfool", model, x, y, 0.0, norm, overshoot=overshoot)
        assert (model(x_adv).argmax(1) != y).all()
        ratio = distance(x_adv, x, norm) / exact
        assert clear.sum() > 60
        assert torch.allclose(ratio[clear], torch.tensor(1 + overshoot).double(), rtol=2e-3)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_deepfool_without_overshoot_still_crosses_and_stays_close(norm):
    """The first step ends on the boundary itself; the next ones must not creep."""
    model, x = Linear(), images(60)
    y = model(x).argmax(1)
    x_adv = attacked("deepfool", model, x, y, 0.0, norm, overshoot=0.0, steps=3)
    assert (model(x_adv).argmax(1) != y).all()
    assert (distance(x_adv, x, norm) <= model.exact_distance(x, y, norm) + 3e-4).all()


def test_deepfool_with_two_candidates_only_goes_for_the_runner_up():
    model, x = Linear(), images(50)
    # Classes of different sharpness, so that the likeliest other class is not always the nearest.
    model.weight *= torch.linspace(0.3, 3.0, 10)[:, None]
    y = model(x).argmax(1)
    runner_up = model(x).topk(2).indices[:, 1]
    x_adv = attacked("deepfool", model, x, y, 0.0, "L2", candidates=2)
    weight = model.weight.double()
    gap = (model(x).gather(1, y[:, None]) - model(x).gather(1, runner_up[:, None])).squeeze(1).double()
    towards = gap / torch.linalg.vector_norm(weight[y] - weight[runner_up], dim=1)
    first_step = distance(x_adv, x, "L2") / towards
    clear = towards > 1e-3
    assert clear.sum() > 30
    assert torch.allclose(first_step[clear], torch.tensor(1.02).double(), rtol=2e-3)
    assert (towards > 1.1 * model.exact_distance(x, y, "L2")).any()


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_fgsm_is_exact_with_two_classes_and_takes_the_closed_form_step(norm):
    model, x = Linear(2, seed=5), images(60)
    y = model(x).argmax(1)
    eps = model.eps_between(x, y, norm)
    x_adv = attacked("fgsm", model, x, y, eps, norm)
    assert torch.equal(model(x_adv).argmax(1) == y, model.exact_distance(x, y, norm) > eps)
    direction = (model.weight[1 - y] - model.weight[y]).view_as(x)
    unit = direction.sign() if norm == "Linf" else direction / direction.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    assert torch.allclose(x_adv, x + eps * unit, atol=1e-6)


def test_fgsm_with_a_random_start_steps_by_five_quarters_of_eps_and_projects():
    # eps is far too small to break anything, so nobody takes the way out for misclassified starts.
    model, x, eps = Linear(2, seed=5), images(40), 1e-4
    y = model(x).argmax(1)
    keep = model.exact_distance(x, y, "Linf") > 2 * eps
    x, y = x[keep], y[keep]
    generators = ExampleGenerators.for_examples(0, "start", range(len(x)))
    start = x + eps * (2 * ExampleGenerators.for_examples(0, "start", range(len(x))).uniform(x.shape[1:]) - 1)
    x_adv = ATTACKS.get("fgsm").run(model, x, y, eps=eps, norm="Linf", random_start=True, generator=generators)
    direction = (model.weight[1 - y] - model.weight[y]).view_as(x).sign()
    expected = torch.max(torch.min(start + 1.25 * eps * direction, x + eps), x - eps)
    assert torch.allclose(x_adv, expected, atol=1e-7)
    assert ((x_adv - (x + eps * direction)).abs() > eps / 10).any()


@pytest.mark.parametrize("name", ["pgd", "apgd-t", "fab-t"])
def test_large_logits_do_not_blind_the_attacks_that_look_at_margins(name):
    """With logits times 1,000 the cross-entropy saturates; a margin does not."""
    model, x = Linear(10, scale=1000.0), images(30)
    y = model(x).argmax(1)
    eps = model.eps_between(x, y, "L2")
    params = {"pgd": {"steps": 100, "loss": "margin"}, "fab-t": {"steps": 40}}.get(name, {})
    robust = model(attacked(name, model, x, y, eps, "L2", **params)).argmax(1) == y
    assert torch.equal(robust, model.exact_distance(x, y, "L2") > eps)


def test_the_box_is_respected_where_it_binds():
    model = Linear()
    x = images(40, low=0.0, high=1.0).round()
    y = model(x).argmax(1)
    for name, norm in PAIRS:
        x_adv = attacked(name, model, x, y, 0.3 if norm == "Linf" else 2.0, norm, **SMALL.get(name, {}) | (
            {"steps": 10} if name in {"apgd-t", "fab-t"} else {}
        ))  # fmt: skip
        assert x_adv.min() >= 0 and x_adv.max() <= 1, name
        assert math.isfinite(float(x_adv.sum()))
