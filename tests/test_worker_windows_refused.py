"""Networks that windows cannot follow: found out, and asked as always."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from windowed_networks import SHAPE, near, network_of, stack

from harness.worker import windows as module
from harness.worker.windows import Windows
from submissions.architectures import slim_resnet


@pytest.fixture(autouse=True)
def _worth_it(monkeypatch):
    """Small networks and batches gain nothing; here it is the bits that count."""
    monkeypatch.setattr(module, "GAIN", 1e9)
    monkeypatch.setattr(module, "PATIENCE", 0)


class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = slim_resnet.build(width=4)

    def forward(self, x):
        return self.inner(x + 0.01 * torch.randn_like(x))


class Voting(nn.Module):
    """Every row's answer hangs on the whole batch."""

    def __init__(self):
        super().__init__()
        self.inner = slim_resnet.build(width=4)

    def forward(self, x):
        logits = self.inner(x)
        return logits + logits.mean(0)


class Forgetful(nn.Module):
    """Its weights are others at every question from the hundredth on."""

    def __init__(self):
        super().__init__()
        self.conv, self.asked = nn.Conv2d(3, 8, 3, padding=1), 0
        self.rest = stack(nn.ReLU(), features=8)

    def forward(self, x):
        self.asked += 1
        scale = 1 + max(0, self.asked - 100) / 100
        return self.rest(F.conv2d(x, self.conv.weight * scale, self.conv.bias, padding=1))


@pytest.mark.parametrize("build", [Noisy, Voting])
def test_a_network_that_does_not_answer_a_row_by_itself_is_asked_as_always(build):
    network = network_of(build)
    windows = Windows(network)
    assert windows.broken
    images = torch.rand(6, *SHAPE)
    windows.place(list(range(6)), images)
    torch.manual_seed(0)
    found = windows.ask(images, list(range(6)))
    torch.manual_seed(0)
    assert torch.equal(found, network(images))


def through_a_view(write):
    """A network that writes to its input by another name."""

    class Writing(nn.Module):
        def __init__(self):
            super().__init__()
            self.rest = stack(nn.Conv2d(3, 8, 3), nn.ReLU(), features=8)

        def forward(self, x):
            write(x)
            return self.rest(x)

    return Writing


@pytest.mark.parametrize(
    ("write", "followed"),
    [
        (lambda x: x.data.clamp_(max=0.97), True), (lambda x: x.detach().clamp_(max=0.97), True),
        (lambda x: x.float().clamp_(max=0.97), True), (lambda x: x.view(x.shape).clamp_(max=0.97), True),
        (lambda x: x.contiguous().clamp_(max=0.97), False), (lambda x: x.flatten(1).clamp_(max=0.97), False),
        (lambda x: x[:, :2].clamp_(max=0.97), False), (lambda x: x.unbind(1)[0].clamp_(max=0.97), False),
        (lambda x: (x.permute(0, 2, 3, 1), x.clamp_(max=0.97)), False),
    ],
)  # fmt: skip
def test_what_is_written_through_a_view_is_not_lost(write, followed):
    """Nor when it changes nothing at first, while answers are compared."""
    network = network_of(through_a_view(write))
    generator = torch.Generator().manual_seed(11)
    images = 0.9 * torch.rand(6, *SHAPE, generator=generator)
    windows = Windows(network)
    windows.place(list(range(6)), images)
    for brightest in (0.9, 0.9, 1.0, 1.0):
        x, numbers = near(images, 5, generator)
        x = torch.where(x == images[numbers], x, x * brightest)
        assert torch.equal(windows.ask(x.clone(), numbers), network(x.clone()))
    assert windows.broken is not followed


def test_a_network_whose_weights_change_is_not_asked_in_windows_any_more():
    network = network_of(Forgetful)
    generator = torch.Generator().manual_seed(6)
    images = torch.rand(6, *SHAPE, generator=generator)
    windows = Windows(network)
    windows.place(list(range(6)), images)
    for _ in range(3):
        x, numbers = near(images, 3, generator)
        windows.ask(x, numbers)
    assert windows.used
    assert not windows.broken
    network.module.asked = 200
    used = windows.used
    x, numbers = near(images, 3, generator)
    windows.ask(x, numbers)
    assert windows.broken
    assert windows.used == used


def test_a_network_that_looks_at_the_kind_of_its_input_is_found_out(monkeypatch):
    class Suspicious(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.since = slim_resnet.build(width=4), 10**9

        def forward(self, x):
            self.since += 1
            return self.inner(x) + (0.5 if type(x) is not torch.Tensor and self.since > 0 else 0.0)

    monkeypatch.setattr(module, "AGAIN", 4)
    network = network_of(Suspicious)
    images = torch.rand(6, *SHAPE)
    windows = Windows(network)
    windows.place(list(range(6)), images)
    assert torch.equal(windows.ask(images, list(range(6))), network(images))
    assert not any(share < math.inf for share in windows._shares.values())
    # One that starts later is caught the next time that an answer is compared.
    network.module.since = -(10**9)
    windows = Windows(network)
    windows.place(list(range(6)), images)
    windows.ask(images, list(range(6)))
    network.module.since = 0
    for _ in range(4):
        windows.ask(images, list(range(6)))
    assert windows.broken
