"""FAB's steps in C and in torch: the same steps, whatever the gradients are."""

import sys

import pytest
import torch
from oracles import linear_problem

from harness.attacks import fab_steps
from harness.attacks.fab import fab_t

FAB = sys.modules["harness.attacks.fab"]
RULE = {"alpha_max": 0.1, "eta": 1.05, "beta": 0.9}
needs_compiler = pytest.mark.skipif(fab_steps.compiled is None, reason="fab_steps.c was not compiled")


def in_torch(points, x, rows, gradient, lead, fooled, norm):
    """What ``fab_steps.advanced`` answers, by torch's operations."""
    search = FAB._Search.__new__(FAB._Search)
    search.x, search.rule = x, FAB._Rule(norm, **RULE)
    return search._advanced(FAB._Pairs(rows, rows, rows, points), gradient, lead, fooled)


def drawn(pixels, pairs=60):
    """Points near images, some of them in corners of the box or at the image itself, and gradients of all sizes."""
    generator = torch.Generator().manual_seed(pixels)
    x = torch.rand(9, pixels, generator=generator)
    x[:2] = x[:2].round()
    rows = torch.randint(0, len(x), (pairs,), generator=generator)
    points = (x[rows] + 0.05 * torch.randn(pairs, pixels, generator=generator)).clamp(0, 1)
    points[:5] = x[rows[:5]]
    gradient = torch.randn(pairs, pixels, generator=generator) * 10 ** (2 * torch.randn(pairs, 1, generator=generator))
    gradient[10:20] *= torch.rand(10, pixels, generator=generator) < 0.1
    lead = 3 * torch.randn(pairs, generator=generator)
    lead[20:30] *= 1000
    lead[30] = 0
    return points, x, rows, gradient, lead, lead > 0


@needs_compiler
@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("pixels", [1, 7, 48, 300, 3072])
def test_a_step_is_that_of_torch(norm, pixels) -> None:
    given = drawn(pixels)
    found, goes_on = fab_steps.advanced(*given, norm=norm, **RULE)
    expected, expected_on = in_torch(*given, norm)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-6)
    assert torch.equal(goes_on, expected_on)
    assert 0 <= found.min() <= found.max() <= 1


@needs_compiler
@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_what_is_not_finite_or_leads_nowhere_is_taken_as_torch_does(norm) -> None:
    points, x, rows, gradient, lead, fooled = drawn(48)
    gradient[3], gradient[40] = 0, 0
    gradient[41, 0], gradient[42, 0], gradient[43, 1] = float("nan"), float("inf"), float("-inf")
    lead[44], lead[45] = float("inf"), float("nan")
    found, goes_on = fab_steps.advanced(points, x, rows, gradient, lead, fooled, norm=norm, **RULE)
    expected, expected_on = in_torch(points, x, rows, gradient, lead, fooled, norm)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-6)
    assert torch.equal(goes_on, expected_on)
    assert not goes_on[3]
    assert goes_on[40:46].all()


@needs_compiler
@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_a_row_does_not_hang_on_its_company(norm) -> None:
    points, x, rows, gradient, lead, fooled = drawn(300)
    whole, goes_on = fab_steps.advanced(points, x, rows, gradient, lead, fooled, norm=norm, **RULE)
    for part in (slice(0, 1), slice(7, 20), slice(59, 60)):
        alone = fab_steps.advanced(
            points[part], x, rows[part], gradient[part], lead[part], fooled[part], norm=norm, **RULE
        )
        assert torch.equal(alone[0], whole[part])
        assert torch.equal(alone[1], goes_on[part])
    gradient[30, 3] = float("nan")
    spoilt = fab_steps.advanced(points, x, rows, gradient, lead, fooled, norm=norm, **RULE)[0]
    others = torch.arange(len(points)) != 30
    assert torch.equal(spoilt[others], whole[others])


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_without_a_compiler_a_search_ends_as_well(monkeypatch, norm) -> None:
    model, x, y, _ = linear_problem(4, norm, seed=4, n=12)
    ends = []
    for compiled in (fab_steps.compiled, None):
        monkeypatch.setattr(fab_steps, "compiled", compiled)
        x_adv = fab_t(model, x, y, eps=1.0, norm=norm, steps=40, targets=3, minimum=True)
        assert (model(x_adv).argmax(1) != y).all()
        ends.append(x_adv)
    torch.testing.assert_close(*ends, rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("norm", "points"), [("L1", torch.zeros(1, 3)), ("L2", torch.zeros(1, 3, dtype=torch.float64))]
)
def test_what_it_does_not_take_is_left_to_torch(norm, points) -> None:
    assert not fab_steps.known(points, norm)
