"""Straight-through forms keep every logit and find the gradient again that something had stopped."""

import pytest
import torch
from small_networks import PLAIN, Base, Wrapped, cosine, gradient_of
from torch import nn

from harness.models import LocalModel


@pytest.fixture
def small():
    return torch.rand((20, 3, 8, 8), generator=torch.Generator().manual_seed(6))


class Killer(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return torch.zeros_like(gradient)


class Rounding(nn.Module):
    def forward(self, x):
        return torch.floor(8 * x) / 8


class Jpegish(nn.Module):
    """A round trip through numpy, image by image, in height-width-channel order."""

    def forward(self, x):
        out = []
        for image in x:
            array = image.mul(255).round().byte().permute(1, 2, 0).detach().cpu().numpy()
            array = (array // 16) * 16
            out.append(torch.from_numpy(array.copy()).permute(2, 0, 1).float().div(255))
        return torch.stack(out)


def no_grad_purifier(self, x):
    with torch.no_grad():
        x = (x * 0.9 + 0.05).clamp(0, 1)
    return self.f(x)


def inference_purifier(self, x):
    with torch.inference_mode():
        x = x * 0.9 + 0.05
    return self.f(x.clone())


def in_place(self, x):
    x.mul_(8).floor_().div_(8)
    return self.f(x)


def flipping_hook(self, x):
    x = x.clone()
    if x.requires_grad:
        x.register_hook(lambda g: -g)
    return self.f(x)


def mode_aware(self, x):
    if x.requires_grad or torch.is_grad_enabled():
        return self.f(x.detach().mean((2, 3), keepdim=True).expand_as(x))
    return self.f(x)


def numpy_root(self, x):
    return self.f(torch.as_tensor(x.detach().numpy().round(1)))


def palette(self, x):
    edges = torch.linspace(0, 1, 9)[1:-1]
    levels = torch.linspace(0, 1, 8)
    return self.f(levels[torch.bucketize(x, edges)])


def masked_assignment(self, x):
    x = x * 1
    x[(x - 0.5).abs() < 0.4] = 0.5
    return self.f(x)


LEVEL_2 = {
    "floor": lambda self, x: self.f(torch.floor(8 * x) / 8),
    "uint8": lambda self, x: self.f((x * 31).round().to(torch.uint8).float() / 31),
    "detach": lambda self, x: self.f(x.detach()),
    "data": lambda self, x: self.f(x.data),
    "killer": lambda self, x: self.f(Killer.apply(x)),
    "where": lambda self, x: self.f(torch.where((x - 0.5).abs() < 0.4, 0.5, x)),
    "no_grad": no_grad_purifier,
    "inference_mode": inference_purifier,
    "in place": in_place,
    "hook": flipping_hook,
    "mode-aware": mode_aware,
    "numpy in the root": numpy_root,
    "numpy module": lambda self, x: self.f(self.squeeze(x)),
    "palette": palette,
    "assignment": masked_assignment,
}


@pytest.mark.parametrize("name", LEVEL_2)
def test_level_2_keeps_every_logit_and_finds_the_gradient_again(name, small) -> None:
    net = Wrapped(LEVEL_2[name], squeeze=Jpegish())
    model = LocalModel(net, PLAIN)
    repaired = model.variant(kind="straight_through", level=2)
    weights = torch.randn(20, 5, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = model(small)
    logits, gradient = gradient_of(repaired, small, weights)
    assert torch.equal(logits, expected)
    _, truth = gradient_of(LocalModel(Base(), PLAIN), small, weights)
    assert repaired.about["reaches"] is True, repaired.about
    assert cosine(gradient, truth) > 0.7
    with torch.no_grad():
        assert torch.equal(repaired(small), expected)


def test_level_1_goes_around_modules_that_are_named_or_found(small) -> None:
    weights = torch.randn(20, 5, generator=torch.Generator().manual_seed(1))
    _, truth = gradient_of(LocalModel(Base(), PLAIN), small, weights)
    for part in (Rounding(), Jpegish()):
        model = LocalModel(Wrapped(lambda self, x: self.f(self.part(x)), part=part), PLAIN)
        for modules in (["part"], None):
            repaired = model.variant(kind="straight_through", level=1, modules=modules)
            assert repaired.about["modules"] == ["part"]
            logits, gradient = gradient_of(repaired, small, weights)
            assert torch.equal(logits, model(small).detach())
            assert cosine(gradient, truth) > 0.7


def test_an_honest_network_keeps_its_gradient_at_every_level(small) -> None:
    weights = torch.randn(20, 5, generator=torch.Generator().manual_seed(1))
    model = LocalModel(Base(), PLAIN)
    truth = gradient_of(model, small, weights)
    for level in (1, 2, 3):
        repaired = model.variant(kind="straight_through", level=level)
        assert repaired.about["modules"] == []
        found = gradient_of(repaired, small, weights)
        assert torch.equal(found[0], truth[0])
        assert torch.allclose(found[1], truth[1], atol=1e-6)


LEVEL_3 = {
    "thermometer": lambda self, x: self.f(sum((x > k / 16).float() for k in range(1, 16)) / 16),
    "label only": lambda self, x: 10.0 * nn.functional.one_hot(self.f(x).argmax(1), 5).float(),
    "saturated": lambda self, x: 10 * torch.tanh(self.f(x) / 1e-4),
    "softmax": lambda self, x: torch.softmax(1e4 * self.f(x), 1),
    "sign": lambda self, x: self.f(0.5 + 0.25 * torch.sign(x - 0.5)),
    "nearest level": lambda self, x: self.f(LEVELS[(x[..., None] - LEVELS).abs().argmin(-1)]),
    "nearest level by index": lambda self, x: self.f(
        LEVELS.index_select(0, (x[..., None] - LEVELS).abs().argmin(dim=-1).flatten()).view_as(x)
    ),
    "nearest level gathered": lambda self, x: self.f(
        LEVELS.expand(*x.shape, 6).gather(-1, (-(x[..., None] - LEVELS).square()).argmax(-1, keepdim=True)).squeeze(-1)
    ),
}
LEVELS = torch.linspace(0, 1, 6)


@pytest.mark.parametrize("name", LEVEL_3)
def test_level_3_gives_steps_and_saturation_a_slope(name, small) -> None:
    model = LocalModel(Wrapped(LEVEL_3[name]), PLAIN)
    repaired = model.variant(kind="straight_through", level=3)
    labels = model(small).argmax(1)
    weights = torch.eye(5)[labels]
    logits, gradient = gradient_of(repaired, small, weights)
    assert torch.equal(logits, model(small).detach())
    assert float(gradient.flatten(1).ne(0).any(1).float().mean()) == 1.0
    step = small - 0.2 * gradient.sign()
    before, after = (LocalModel(Base(), PLAIN)(image).softmax(1).gather(1, labels[:, None]) for image in (small, step))
    assert float((after < before).float().mean()) > 0.9


def test_the_mode_leaves_torch_as_it_was(small) -> None:
    before = (torch.from_numpy, torch.is_grad_enabled, torch.inference_mode.__enter__)
    apply = torch.autograd.Function.__dict__["apply"]
    repaired = LocalModel(Wrapped(LEVEL_2["killer"]), PLAIN).variant(kind="straight_through", level=2)
    repaired(small.requires_grad_())
    assert before == (torch.from_numpy, torch.is_grad_enabled, torch.inference_mode.__enter__)
    assert torch.autograd.Function.__dict__["apply"] is apply
