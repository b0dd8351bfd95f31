"""One step of each recipe against a second formulation: its loss, its gradient and the network it leaves behind."""

import copy
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import pytest
import recipe_steps
import torch
from recipe_formulas import draws
from recipe_steps import Tiny, boxed, pgd, tiny, uniform
from torch import Tensor

from submissions.recipes.config import Config
from submissions.recipes.method import Batch, Method, method

pytestmark = pytest.mark.usefixtures("one_thread")
EPS = "12/255"
"""Not the default, so that a budget written into a recipe shows."""
LR = 0.1


@dataclass(frozen=True)
class Case:
    """A recipe with settings, and the formula with settings that is its step: the same two where none is given."""

    recipe: str
    settings: dict[str, Any] = field(default_factory=dict)
    progress: float = 1.0
    formula: str = ""
    stated: dict[str, Any] | None = None
    close: float = 1e-7

    def value(self, network: Tiny, x: Tensor, y: Tensor) -> Tensor:
        """The loss by the second formulation."""
        formula = getattr(recipe_steps, self.formula or self.recipe)
        settings = self.settings if self.stated is None else self.stated
        return formula(network, x, y, float(Fraction(EPS)), draws(7), **settings)


SHORT: dict[str, Any] = {"steps": 3, "step_size": "3/255"}
"""Few and short enough steps for the start to show in where they end."""
CASES = [
    Case("natural"),
    Case("uniform_noise"),
    Case("fgsm_at"),
    Case("fgsm_rs"),
    Case("pgd_at"),
    Case("pgd_at", SHORT),
    Case("grad_align", close=1e-5),
    Case("grad_align", {"weight": 2.0}, close=1e-5),
    Case("double_backprop", close=1e-5),
    Case("double_backprop", {"weight": 0.3}, close=1e-5),
    Case("alp"),
    Case("alp", {"weight": 2.0, "reduction": "sum"} | SHORT),
    Case("trades"),
    Case("trades", {"beta": 2.0} | SHORT),
    Case("mart"),
    Case("mart", {"weight": 2.0} | SHORT),
    Case("at_awp"),
    Case("at_awp", {"gamma": 0.2} | SHORT),
    Case("at_awp", {"gamma": 0.0}, formula="pgd_at", stated={}),
    Case("at_awp", {"warmup": 0.5} | SHORT, progress=0.5, formula="pgd_at", stated=SHORT),
    Case("at_awp", {"warmup": 0.5}, progress=0.51, stated={}),
    Case("at_awp", progress=0.001),
    Case("trades_awp"),
    Case("trades_awp", {"beta": 2.0, "gamma": 0.2} | SHORT),
    Case("trades_awp", progress=0.05, formula="trades", stated={"step_size": "2/255"}),
    Case("trades_awp", progress=0.051),
    Case("jarn", {"begin": 0.5}, progress=0.5, formula="uniform_noise", stated={}),
    Case("jarn_at1", {"begin": 0.5}, progress=0.5, formula="fgsm_rs", stated={"stretch": 1.0}),
]


def each(cases: list[Case]) -> pytest.MarkDecorator:
    names = [f"{case.recipe}-{'-'.join(map(str, case.settings.values())) or 'default'}" for case in cases]
    at = [f"-at-{case.progress}" if case.progress < 1 else "" for case in cases]
    return pytest.mark.parametrize("case", cases, ids=map(str.__add__, names, at))


def recipe_of(case: Case, network: Tiny) -> Method:
    config = Config(id="x", title="X", recipe=case.recipe, eps=EPS, lr=LR, settings=case.settings)
    return method(network, torch.optim.SGD(network.parameters(), lr=LR), config)


def batch(case: Case, x: Tensor, y: Tensor) -> Batch:
    return Batch((255 * x).to(torch.uint8), x, y, draws(7), 0, 0, case.progress)


@each(CASES)
def test_a_step_is_that_of_a_second_formulation(case: Case) -> None:
    network, x, y = tiny()
    given, other = x.clone(), copy.deepcopy(network)
    before = [parameter.detach().clone() for parameter in network.parameters()]
    expected = case.value(other, x, y)
    gradients = torch.autograd.grad(expected, list(other.parameters()))
    value = recipe_of(case, network).update(batch(case, x, y))
    assert value == pytest.approx(float(expected.detach()), rel=case.close)
    size = case.close * max(float(gradient.abs().max()) for gradient in gradients)
    for (name, parameter), start, gradient in zip(network.named_parameters(), before, gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=case.close, atol=size, msg=(name + ": {}").format)
        torch.testing.assert_close(parameter.detach(), start - LR * gradient, rtol=case.close, atol=size)
    for (name, found), buffer in zip(network.named_buffers(), other.buffers(), strict=True):
        torch.testing.assert_close(found, buffer, rtol=1e-6, atol=1e-9, msg=(name + ": {}").format)
    assert network.training and all(parameter.requires_grad for parameter in network.parameters())
    assert torch.equal(x, given)


@each([case for case in CASES if not (case.formula or case.recipe).endswith("awp")])
def test_a_second_formulation_has_the_slope_of_its_own_values(case: Case) -> None:
    """But where weights are perturbed: the gradient is taken at other weights than the value is a function of."""
    network, x, y = tiny()
    value = case.value(copied := copy.deepcopy(network), x, y)
    gradients = torch.autograd.grad(value, list(copied.parameters()))
    ways = [torch.randn_like(gradient) for gradient in gradients]
    ends = []
    for sign in (1, -1):
        moved = copy.deepcopy(network)
        with torch.no_grad():
            for parameter, way in zip(moved.parameters(), ways, strict=True):
                parameter.add_(way, alpha=sign * 1e-6)
        ends.append(float(case.value(moved, x, y).detach()))
    along = sum(float((gradient * way).sum()) for gradient, way in zip(gradients, ways, strict=True))
    assert (ends[0] - ends[1]) / 2e-6 == pytest.approx(along, rel=1e-4)


def test_both_phases_of_jarn_at1_train_on_one_projected_step_from_a_random_start() -> None:
    (network, x, y), case, eps = tiny(), Case("jarn_at1"), float(Fraction(EPS))
    expected = pgd(copy.deepcopy(network), x, y, boxed(uniform(x, eps, draws(7))), eps, eps)
    found = recipe_of(case, network).inputs(batch(case, x, y))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-8)
