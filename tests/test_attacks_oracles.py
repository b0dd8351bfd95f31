"""The oracles themselves, each against a second way to the same number."""

import numpy as np
import pytest
import torch
from oracles import halfspace_distance, highest_margin, highest_margin_by_patterns, linear_problem, relu_problem
from scipy.optimize import linprog, minimize


def problem(seed, size=9):
    rng = np.random.default_rng(seed)
    x, slope = rng.random(size), rng.normal(size=size)
    reach = np.abs(slope) @ np.where(slope > 0, 1 - x, x)
    return x, slope, rng.uniform(0.05, 0.95) * reach


@pytest.mark.parametrize("seed", range(12))
def test_linear_distances_in_linf_and_l1_are_the_optimum_of_a_linear_program(seed):
    x, slope, gap = problem(seed)
    n = len(x)
    unit = np.eye(n)
    # Variables: d, and its length t (Linf) or the lengths of its entries (L1).
    for norm, sizes, cost in (("Linf", np.ones((n, 1)), [1.0]), ("L1", unit, [1.0] * n)):
        matrix = np.vstack([np.hstack([unit, -sizes]), np.hstack([-unit, -sizes])])
        solved = linprog(
            [0.0] * n + cost, matrix, np.zeros(2 * n), np.concatenate([slope, np.zeros(len(cost))])[None], [gap],
            bounds=[*zip(-x, 1 - x, strict=True), *[(0, None)] * len(cost)],
        )  # fmt: skip
        assert halfspace_distance(slope, x, gap, norm) == pytest.approx(solved.fun, rel=1e-7)


@pytest.mark.parametrize("seed", range(6))
def test_linear_distances_in_l2_are_the_optimum_of_a_quadratic_program(seed):
    x, slope, gap = problem(seed)
    solved = minimize(
        lambda d: d @ d, np.clip(slope, -x, 1 - x), jac=lambda d: 2 * d, bounds=list(zip(-x, 1 - x, strict=True)),
        constraints={"type": "eq", "fun": lambda d: slope @ d - gap, "jac": lambda d: slope},
        method="SLSQP", options={"ftol": 1e-14, "maxiter": 500},
    )  # fmt: skip
    assert halfspace_distance(slope, x, gap, "L2") == pytest.approx(solved.fun**0.5, rel=1e-5)


def test_what_cannot_be_reached_is_infinitely_far_and_a_free_pixel_gives_the_dual_norm():
    x, slope = np.full(4, 0.5), np.array([1.0, -2.0, 0.5, 0.0])
    for norm, dual in (("Linf", 3.5), ("L2", (1 + 4 + 0.25) ** 0.5), ("L1", 2.0)):
        assert halfspace_distance(slope, x, 0.1, norm) == pytest.approx(0.1 / dual)
        assert halfspace_distance(slope, x, 1.76, norm) == np.inf


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_a_budget_of_a_linear_problem_splits_the_images_with_room_on_both_sides(norm):
    model, x, y, distances = found = linear_problem(4, norm, 0)
    assert torch.equal(model(x).argmax(1), y) and distances.dtype == torch.float64
    for share in (0.3, 0.7):
        eps = found.eps(share)
        assert abs(float((distances <= eps).double().mean()) - share) < 0.1
        assert ((distances / eps - 1).abs() > 1e-3).all()


@pytest.mark.parametrize("norm", ["Linf", "L1"])
def test_a_relu_networks_best_margin_is_that_of_all_activation_patterns_and_never_beaten_by_chance(norm):
    model, x, y, exists, eps, margins = relu_problem(0, norm=norm, n=4)
    assert torch.equal(model(x).argmax(1), y) and torch.equal(exists, margins > 0)
    for row, label, margin in zip(x[:2], y[:2].tolist(), margins[:2].tolist(), strict=True):
        assert highest_margin_by_patterns(model, row, label, norm, eps) == pytest.approx(margin, abs=1e-5)
    generator = torch.Generator().manual_seed(1)
    noise = 2 * torch.rand(500, *x.shape[1:], generator=generator) - 1
    if norm == "L1":
        noise = noise / noise.abs().sum((1, 2, 3), keepdim=True)
    logits = model((x[0] + eps * noise).clamp(0, 1))
    others = [k for k in range(logits.shape[1]) if k != int(y[0])]
    assert float((logits[:, others].amax(1) - logits[:, y[0]]).max()) <= float(margins[0]) + 1e-5
    assert highest_margin(model, x[0], int(y[0]), norm, 1e-9) == pytest.approx(
        float((model(x[:1])[:, others].amax(1) - model(x[:1])[0, y[0]]).item()), abs=1e-4
    )
