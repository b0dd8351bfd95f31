"""FAB's projections onto a hyperplane within the box, against general solvers."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import linprog, minimize

from harness.attacks.hyperplane import NORMS, project


def shortest(point, weight, offset, norm):
    """The length of the shortest way, by a general solver; None where the hyperplane does not meet the box."""
    n = len(point)
    up, down = 1 - point, point
    if norm == "L2":
        reach = np.where(np.sign(weight) * np.sign(offset) > 0, up, down) @ np.abs(weight)
        if reach < abs(offset):
            return None
        found = minimize(
            lambda delta: delta @ delta, np.zeros(n), jac=lambda delta: 2 * delta, method="SLSQP",
            bounds=list(zip(-down, up, strict=True)), options={"ftol": 1e-14, "maxiter": 1000},
            constraints={"type": "eq", "fun": lambda delta: weight @ delta - offset, "jac": lambda _: weight},
        )  # fmt: skip
        assert found.success
        return math.sqrt(found.fun)
    if norm == "L1":
        bounds = [(0, high) for high in up] + [(0, high) for high in down]
        found = linprog(np.ones(2 * n), A_eq=np.concatenate([weight, -weight])[None], b_eq=[offset], bounds=bounds)
    else:
        unit, one = np.eye(n), np.ones((n, 1))
        sides = np.block([[unit, -one], [-unit, -one]])
        bounds = [*zip(-down, up, strict=True), (0, 1)]
        equal = np.append(weight, 0.0)[None]
        found = linprog(np.append(np.zeros(n), 1), sides, np.zeros(2 * n), equal, [offset], bounds)
    return found.fun if found.status == 0 else None


def hyperplanes(seed, pixels, share):
    """Points with many pixels on the border, weights with zeros, and offsets of either sign around ``share``."""
    generator = torch.Generator().manual_seed(seed)
    points = (1.6 * torch.rand(12, 2, pixels, generator=generator) - 0.3).clamp(0, 1)
    weight = torch.randn(12, pixels, generator=generator) ** (1 + 2 * (seed % 2))
    weight[:, :2] = 0
    weight /= weight.abs().amax(1, keepdim=True)
    offset = share * weight.abs().sum(1, keepdim=True) * torch.randn(12, 2, generator=generator)
    return points, weight, offset


@pytest.mark.parametrize("share", [0.01, 0.2, 0.6])
@pytest.mark.parametrize("norm", NORMS)
def test_the_projection_is_the_one_a_general_solver_finds(norm, share):
    met = 0
    for seed in range(2):
        points, weight, offset = hyperplanes(seed, 10, share)
        delta = project(points, weight, offset, norm)
        assert (points + delta).min() >= 0 and (points + delta).max() <= 1
        assert (delta[..., :2] == 0).all()
        for row, column in np.ndindex(12, 2):
            moved, normal = delta[row, column].double(), weight[row].double()
            wanted = float(offset[row, column])
            length = shortest(points[row, column].double().numpy(), normal.numpy(), wanted, norm)
            if length is None:
                corner = (normal * wanted > 0).float()
                end = (points + delta)[row, column]
                assert torch.equal(end[2:], corner[2:]), "the corner that comes closest"
                assert abs(float(normal @ moved)) <= abs(wanted)
            else:
                met += 1
                assert float(normal @ moved) == pytest.approx(wanted, rel=2e-6, abs=1e-6)
                ours = float(torch.linalg.vector_norm(moved, ord={"Linf": math.inf, "L2": 2, "L1": 1}[norm]))
                assert ours == pytest.approx(length, rel=2e-5, abs=1e-6)
    assert met > (10 if share > 0.5 else 36)
    assert met < 48 or share < 0.5


@pytest.mark.parametrize("norm", NORMS)
def test_the_projection_of_large_images_reaches_the_plane_and_does_not_depend_on_the_other_rows(norm):
    for share in (0.001, 0.1, 0.45):
        points, weight, offset = hyperplanes(5, 3072, share)
        delta = project(points, weight, offset, norm)
        side = (weight[:, None] * offset[..., None]).sign()
        most = (weight.abs()[:, None] * torch.where(side > 0, 1 - points, points)).double().sum(2)
        reached = (weight[:, None].double() * delta.double()).sum(2)
        assert torch.allclose(reached.abs(), torch.minimum(most, offset.abs().double()), rtol=2e-6)
        for row in range(12):
            alone = project(points[row : row + 1], weight[row : row + 1], offset[row : row + 1], norm)
            assert torch.equal(alone[0], delta[row])
        for column in range(2):
            assert torch.equal(project(points[:, [column]], weight, offset[:, [column]], norm)[:, 0], delta[:, column])


@pytest.mark.parametrize("norm", NORMS)
def test_no_offset_no_weight_and_huge_offsets_have_projections_too(norm):
    points, weight, offset = hyperplanes(1, 200, 0.2)
    assert (project(points, weight, torch.zeros_like(offset), norm) == 0).all()
    assert (project(points, torch.zeros_like(weight), offset, norm) == 0).all()
    for size in (1e30, math.inf):
        end = points + project(points, weight, torch.full_like(offset, -size), norm)
        assert torch.equal(end[..., 2:], (weight < 0).float()[:, None, 2:].expand(-1, 2, -1))
