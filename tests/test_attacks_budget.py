"""Budget curves against exact distances."""

import pytest
import torch
from attack_models import RowByRow, distance, images
from oracles import linear_problem

from harness.attacks.budget import budget
from harness.attacks.randomness import ExampleGenerators
from harness.errors import UserError


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_on_a_linear_model_the_curve_is_exact_at_every_budget(norm):
    problem = linear_problem(2, norm, seed=3, n=16)
    model, x, y, exact = problem
    budgets = sorted({problem.eps(share, clearance=0.01) for share in (0.25, 0.5, 0.75)})
    fractions = [value / budgets[0] for value in budgets]
    x_adv = budget(model, x, y, eps=budgets[0], norm=norm, fractions=fractions, steps=50)
    moved = distance(x_adv, x, norm)
    fallen = model(x_adv).argmax(1) != y
    for eps in budgets:
        within = fallen & (moved <= eps * (1 + 1e-5) + 1e-6)
        assert torch.equal(within, exact <= eps)
    assert torch.equal(x_adv[~fallen], x[~fallen]) and 0 < int(fallen.sum()) < len(x)


def test_an_outcome_depends_on_neither_batch_size_nor_order():
    model, x = RowByRow(), images(12, low=0.0, high=1.0)
    y = model(x).argmax(1)

    def attacked(rows, batch_size):
        generators = ExampleGenerators.for_examples(0, "budget", rows.tolist())
        return budget(
            model, x[rows], y[rows], eps=0.01, fractions=(0.5, 1.0, 4.0), steps=4,
            generator=generators, batch_size=batch_size,
        )  # fmt: skip

    whole = attacked(torch.arange(12), None)
    sizes = distance(whole, x, "Linf")
    assert len(sizes.unique()) > 2, "a test of nothing"
    for batch_size in (1, 7, 64):
        assert torch.equal(attacked(torch.arange(12), batch_size), whole)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    assert torch.equal(attacked(order, 7), whole[order])


def test_an_image_that_fell_at_a_smaller_budget_is_not_asked_about_again():
    problem = linear_problem(10, "Linf", seed=4, n=8)
    model, x, y, exact = problem
    seen = []

    class Watching(torch.nn.Module):
        def forward(self, z):
            seen.append(len(z))
            return model(z)

    budget(Watching(), x, y, eps=float(exact.max()) * 2, fractions=(1.0, 2.0, 4.0), steps=100)
    all_fell = sum(seen)
    seen.clear()
    budget(Watching(), x, y, eps=float(exact.max()) * 2, fractions=(1.0,), steps=100)
    assert sum(seen) == all_fell


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"eps": 0.0}, "budget: eps: expected a finite number above 0, got 0.0"),
        ({"steps": 0}, "budget: steps: expected a whole number of at least 1, got 0"),
        ({"fractions": ()}, r"budget: fractions: expected rising numbers above 0, got \(\)"),
        ({"fractions": (2.0, 1.0)}, "budget: fractions: expected rising numbers above 0"),
        ({"fractions": (-1.0,)}, "budget: fractions: expected rising numbers above 0"),
        ({"norm": "L3"}, "budget: norm: expected one of Linf, L2, L1, got 'L3'"),
        ({"batch_size": 0}, "budget: batch_size: expected a whole number of at least 1, got 0"),
    ],
)
def test_bad_arguments_are_one_clear_line(changes, message):
    model, x = RowByRow(), images(2)
    with pytest.raises(UserError, match=message):
        budget(model, x, torch.zeros(2, dtype=torch.int64), **({"eps": 0.1} | changes))
