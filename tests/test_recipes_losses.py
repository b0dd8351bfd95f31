"""Each recipe's loss against a second formulation, written from the paper, on random tensors."""

import math

import pytest
import torch
from recipe_formulas import Smooth, draws, images, kl, probabilities
from torch import nn
from torch.nn import functional as F

from submissions.architectures import slim_resnet
from submissions.recipes import alp, awp, double_backprop, fat, grad_align, mart, trades, uniform_noise
from submissions.recipes.perturb import ascend, ascend_from_clean, divergence

EPS = 8 / 255


@pytest.fixture(autouse=True)
def _seeded(one_thread):
    torch.manual_seed(0)


def test_divergence_by_hand() -> None:
    p, q = torch.randn(5, 10, dtype=torch.float64), torch.randn(5, 10, dtype=torch.float64)
    by_hand = [kl(a, b) for a, b in zip(probabilities(p), probabilities(q), strict=True)]
    assert divergence(p, q).tolist() == pytest.approx(by_hand, rel=1e-12)


def test_trades_by_hand_with_gradients_through_both_sides() -> None:
    logits, logits_adv = (torch.randn(4, 10, dtype=torch.float64, requires_grad=True) for _ in range(2))
    y = torch.tensor([1, 2, 3, 4])
    answers = {0: logits, 1: logits_adv}
    value = trades.objective(lambda key: answers[key], 0, 1, y, 6.0)
    p, q = probabilities(logits.detach()), probabilities(logits_adv.detach())
    by_hand = sum(-math.log(p[i][int(y[i])]) + 6 * kl(p[i], q[i]) for i in range(4)) / 4
    assert float(value.detach()) == pytest.approx(by_hand, rel=1e-12)
    value.backward()
    p, q = torch.tensor(p, dtype=torch.float64), torch.tensor(q, dtype=torch.float64)
    expected = 6 * (q - p) / 4
    assert torch.allclose(logits_adv.grad, expected, atol=1e-12)
    assert float((logits.grad - (p - F.one_hot(y, 10)) / 4).abs().max()) > 1e-3


def test_the_inner_problem_of_trades_moves_away_from_the_clean_answer() -> None:
    model, (x, _) = slim_resnet.build(width=4).eval(), images()
    start = (x + 0.001).clamp(0, 1)
    x_adv = ascend_from_clean(model, x, start, eps=EPS, step_size=2 / 255, steps=3)
    with torch.no_grad():
        before, after = (divergence(model(x), model(place)).mean() for place in (start, x_adv))
    assert after > 10 * before
    assert float((x_adv - x).abs().max()) <= EPS + 1e-6


def test_mart_by_hand_in_float64() -> None:
    logits, logits_adv = torch.randn(5, 10, dtype=torch.float64), 3 * torch.randn(5, 10, dtype=torch.float64)
    y = torch.tensor([0, 1, 2, 3, 9])
    p, q = probabilities(logits), probabilities(logits_adv)
    total = 0.0
    for i, label in enumerate(y.tolist()):
        other = max(value for k, value in enumerate(q[i]) if k != label)
        boosted = -math.log(q[i][label]) - math.log(1.0001 - other)
        total += boosted + 5 * kl(p[i], q[i]) * (1.0000001 - p[i][label])
    assert float(mart.objective(logits, logits_adv, y, 5.0)) == pytest.approx(total / 5, rel=1e-9)


def test_mart_stays_finite_on_certain_answers() -> None:
    logits = torch.tensor([[200.0, 0, 0], [0, 200.0, 0]], requires_grad=True)
    value = mart.objective(logits, logits.flip(0), torch.tensor([0, 1]), 5.0)
    value.backward()
    assert torch.isfinite(value) and torch.isfinite(logits.grad).all()


def test_logit_pairing_names_its_reduction() -> None:
    a, b = torch.randn(4, 10), torch.randn(4, 10)
    by_hand = sum((float(a[i, k]) - float(b[i, k])) ** 2 for i in range(4) for k in range(10))
    assert float(alp.pairing(a, b, "mean")) == pytest.approx(by_hand / 40, rel=1e-5)
    assert float(alp.pairing(a, b, "sum")) == pytest.approx(by_hand / 4, rel=1e-5)
    with pytest.raises(ValueError, match="reduction: expected 'mean' or 'sum', got 'max'"):
        alp.pairing(a, b, "max")
    model, (x, y) = slim_resnet.build(width=2).eval(), images()
    found = [
        alp.loss(model, x, y, eps=EPS, generator=draws(), weight=weight, steps=1).detach() for weight in (0.0, 0.5, 1.0)
    ]
    assert float(found[1] - found[0]) == pytest.approx(float(found[2] - found[0]) / 2, rel=1e-3) and found[1] > found[0]


def test_uniform_noise_is_cross_entropy_at_noise_inside_the_ball() -> None:
    seen, (x, y) = [], images()

    def model(place: torch.Tensor) -> torch.Tensor:
        seen.append(place)
        return place.flatten(1)[:, :10]

    value = uniform_noise.loss(model, x, y, eps=EPS, generator=draws())
    moved = (seen[0] - x).abs()
    assert EPS * 0.95 < float(moved.max()) <= EPS + 1e-6 and float(moved.mean()) == pytest.approx(EPS / 2, rel=0.05)
    assert float(value) == pytest.approx(float(F.cross_entropy(seen[0].flatten(1)[:, :10], y)))


def differences(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Gradient of each image's cross-entropy by central differences."""
    gradient, step = torch.zeros_like(x), 1e-5
    with torch.no_grad():
        for index in range(x[0].numel()):
            shift = torch.zeros_like(x).flatten(1)
            shift[:, index] = step
            up, down = (F.cross_entropy(model(x + s * shift.view_as(x)), y, reduction="none") for s in (1, -1))
            gradient.view(len(x), -1)[:, index] = (up - down) / (2 * step)
    return gradient


def test_the_penalty_of_double_backprop_by_finite_differences() -> None:
    model, x, y = Smooth(), torch.rand(3, 3, 8, 8, dtype=torch.float64), torch.tensor([1, 5, 9])
    options = {"eps": EPS, "generator": draws()}
    plain, penalised = (double_backprop.loss(model, x, y, weight=weight, **options) for weight in (0.0, 2.0))
    assert float(plain.detach()) == pytest.approx(float(F.cross_entropy(model(x).float(), y).detach()), rel=1e-6)
    by_hand = differences(model, x, y).square().sum(dim=(1, 2, 3)).mean()
    assert float((penalised - plain).detach()) == pytest.approx(2 * float(by_hand), rel=1e-4)
    penalised.backward()
    assert model.conv.weight.grad.abs().sum() > 0


def test_gradient_alignment_by_hand() -> None:
    model, x, y = Smooth(), torch.rand(3, 3, 8, 8, dtype=torch.float64), torch.tensor([1, 5, 9])
    eps = 0.5  # so far apart that one minus the cosine is well above what float32 resolves
    noise = (torch.rand(x.shape, generator=draws()) * 2 * eps - eps).double()
    here, there = differences(model, x, y), differences(model, x + noise, y)
    cosines = [float((a * b).sum() / (a.norm() * b.norm())) for a, b in zip(here, there, strict=True)]
    at = F.cross_entropy(model((x + eps * here.sign()).clamp(0, 1)), y)
    value = grad_align.loss(model, x, y, eps=eps, generator=draws(), weight=10.0)
    assert float(value - at) == pytest.approx(10 * (1 - sum(cosines) / 3), rel=1e-3)
    assert float(grad_align.misalignment(here, -here)) == pytest.approx(2.0)
    assert float(grad_align.misalignment(here, 3 * here)) == pytest.approx(0.0, abs=1e-9)


def test_weights_are_perturbed_by_gamma_times_their_norm_and_restored_exactly() -> None:
    model, (x, y) = slim_resnet.build(width=4).train(), images(8)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def objective() -> torch.Tensor:
        return F.cross_entropy(model(x), y)

    gradients = dict(
        zip(dict(model.named_parameters()), torch.autograd.grad(objective(), model.parameters()), strict=True)
    )
    model.load_state_dict(before)
    low = objective().detach()
    model.load_state_dict(before)
    with awp.perturbed(model, objective, gamma=0.01):
        assert objective() > low
        for name, parameter in model.named_parameters():
            change = parameter.detach() - before[name]
            if parameter.ndim == 1:
                assert not change.any()
                continue
            assert float(change.norm()) == pytest.approx(0.01 * float(before[name].norm()), rel=1e-3)
            assert float(F.cosine_similarity(change.flatten(), gradients[name].flatten(), 0)) > 0.999
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name])


def test_finding_the_perturbation_leaves_the_statistics_alone_and_errors_restore_too() -> None:
    model, (x, y) = slim_resnet.build(width=4).train(), images(8)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(RuntimeError, match="inside"):  # noqa: SIM117 - the order is the test
        with awp.perturbed(model, lambda: F.cross_entropy(model(x), y), gamma=0.5):
            raise RuntimeError("inside")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


class Threshold(nn.Module):
    """Class 1 when the mean pixel exceeds a bound of each image's own, by its first pixel's position in ``bounds``."""

    def __init__(self, bound: float) -> None:
        super().__init__()
        self.bound = bound

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        level = x.mean(dim=(1, 2, 3)) - self.bound
        return torch.stack([-level, level], 1) * 50


@pytest.mark.parametrize("tau", [0, 1, 2])
def test_friendly_training_stops_each_image_tau_steps_after_its_success(tau) -> None:
    levels = torch.tensor([0.50, 0.48, 0.40, 0.55])
    x = levels.view(-1, 1, 1, 1).expand(4, 3, 8, 8).contiguous()
    y = torch.zeros(4, dtype=torch.int64)
    found = fat.early_stopped(
        Threshold(0.505), x, y, x, eps=0.06, step_size=0.01, steps=10, tau=tau, omega=0.0, generator=draws()
    )
    moved = (found - x).mean(dim=(1, 2, 3)) / 0.01
    assert moved.tolist() == pytest.approx([1 + tau, 3 + tau, 6, tau], abs=1e-3)


def test_friendly_training_without_success_is_pgd() -> None:
    x, y = torch.full((2, 3, 8, 8), 0.2), torch.zeros(2, dtype=torch.int64)
    model = Threshold(0.9)
    options = {"eps": EPS, "step_size": 2 / 255, "steps": 7}
    found = fat.early_stopped(model, x, y, x, tau=0, omega=0.0, generator=draws(), **options)
    assert torch.equal(found, ascend(model, x, y, x, **options))


def test_friendly_training_adds_its_noise_beside_the_step() -> None:
    # The gradient's sign is one everywhere, so the path is the noise's; Zhang et al.'s code adds it unscaled.
    x, y, omega = torch.full((2, 3, 8, 8), 0.2), torch.zeros(2, dtype=torch.int64), 0.004
    found = fat.early_stopped(
        Threshold(0.9), x, y, x, eps=0.02, step_size=0.003, steps=4, tau=0, omega=omega, generator=draws()
    )
    replay, place = draws(), x
    for _ in range(4):
        moved = place + 0.003 + omega * torch.randn(x.shape, generator=replay)
        place = x + (moved - x).clamp(-0.02, 0.02)
    assert torch.allclose(found, place, atol=1e-6)
    assert float((found - x).std()) > 0.002
