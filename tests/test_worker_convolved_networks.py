"""Where a network's convolutions are computed by us, and where they stay what they are."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from windowed_networks import near

from harness.models import LocalModel
from harness.worker import convolutions as module
from harness.worker.convolutions import Convolutions, differentiable, vectors, winograd
from harness.worker.convolutions.vectors import lanes_for
from harness.worker.network import Network
from harness.worker.optimise import optimise
from harness.worker.options import WorkerOptions
from harness.worker.weights import frozen
from harness.worker.windows import Windows

SHAPE = (3, 8, 8)
needs_compiler = pytest.mark.skipif(not lanes_for(1), reason="compiled.c was not compiled, or not for this processor")


def off(found, expected):
    return float((found.detach().double() - expected.detach()).abs().max() / expected.detach().abs().max())


class Repeated(nn.Module):
    """129 channels of three, without a convolution."""

    def forward(self, x):
        return x.repeat(1, 43, 1, 1)


class Wide(nn.Module):
    """A wide layer, which is computed in tiles or by torch, with something about it changed; there are no kinks."""

    def __init__(self, variant="plain"):
        super().__init__()
        torch.manual_seed(0)
        self.variant = variant
        self.first, self.head = Repeated(), nn.Linear(129, 4)
        extra = {
            "strided": {"stride": 2}, "pairs": {"stride": (1, 2)}, "dilated": {"dilation": 2, "padding": 2},
            "grouped": {"groups": 3}, "unpadded": {"padding": 0}, "same": {"padding": "same"},
            "one": {"padding": (1, 0)},
            "reflected": {"padding_mode": "reflect"}, "bare": {"bias": False},
            "tuple": {"stride": (1, 1), "padding": (1, 1)},
        }.get(variant, {})  # fmt: skip
        kernel = 5 if variant == "five" else 3
        self.wide = nn.Conv2d(129, 129, kernel, **({"padding": 1} | extra))
        self.scale = nn.Parameter(torch.ones(1))

    def _wide(self, x):
        if self.variant == "made":
            return F.conv2d(x, self.wide.weight * self.scale, self.wide.bias, padding=1)
        if self.variant == "named":
            return F.conv2d(input=x, weight=self.wide.weight, padding=1)
        if self.variant == "double":
            return F.conv2d(x.double(), self.wide.weight.double(), padding=1).float()
        if self.variant == "autocast":
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return self.wide(x).float()
        if self.variant == "one_image":
            return torch.stack([self.wide(image) for image in x])
        if self.variant == "mapped":
            return torch.func.vmap(self.wide)(x.unsqueeze(1)).squeeze(1)
        if self.variant == "checkpoint":
            return checkpoint(self.wide, x, use_reentrant=False)
        if self.variant == "operator":
            return torch.ops.aten.conv2d.default(x, self.wide.weight, self.wide.bias, [1, 1], [1, 1])
        return self.wide(x)

    def forward(self, x):
        return self.head(torch.tanh(self._wide(self.first(x))).mean((2, 3)))


def prepared(net, **options):
    network = Network(frozen(net), micro_batch=options.pop("micro_batch", 16))
    return network, optimise(network, SHAPE, **options)


def logits_and_gradient(network, x):
    x = x.clone().requires_grad_()
    logits = network(x)
    return logits.detach(), torch.autograd.grad(logits.square().sum(), x)[0]


@needs_compiler
@pytest.mark.parametrize("variant", ["plain", "bare", "tuple", "same", "named", "mapped", "checkpoint"])
def test_wide_layers_are_computed_this_way(variant) -> None:
    network, done = prepared(Wide(variant))
    assert "winograd=1" in done
    x = torch.rand(19, *SHAPE, generator=torch.Generator().manual_seed(1))
    found = logits_and_gradient(network, x)
    exact = logits_and_gradient(Network(frozen(Wide(variant)).double(), micro_batch=19), x.double())
    for one, other in zip(found, exact, strict=True):
        assert off(one, other.double()) < 1e-5
    network.convolutions = None
    assert not torch.equal(found[0], network(x))


class Narrow(nn.Module):
    """Narrow layers of every kind that is computed by us, and a grouped one."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.grouped = nn.Conv2d(3, 12, 3, padding=1), nn.Conv2d(12, 12, 3, padding=1, groups=3)
        self.deep, self.short = nn.Conv2d(12, 32, 3, 2, 1, bias=False), nn.Conv2d(12, 32, 1, 2, bias=False)
        self.tiled, self.same = nn.Conv2d(32, 32, 3, padding=1), nn.Conv2d(32, 32, 5, padding="same", dilation=2)
        self.head = nn.Linear(32, 4)

    def forward(self, x):
        x = self.grouped(self.first(x).tanh()).tanh()
        x = (self.deep(x) + self.short(x)).tanh()
        return self.head((self.tiled(x).tanh() + self.same(x)).mean((2, 3)))


@needs_compiler
def test_narrow_layers_are_computed_by_us() -> None:
    network, done = prepared(Narrow())
    assert {"winograd=1", "direct=4"} <= {*done}
    x = torch.rand(19, *SHAPE, generator=torch.Generator().manual_seed(1))
    found = logits_and_gradient(network, x)
    exact = logits_and_gradient(Network(frozen(Narrow()).double(), micro_batch=19), x.double())
    for one, other in zip(found, exact, strict=True):
        assert off(one, other.double()) < 1e-5


def test_without_a_compiler_torch_computes_as_always(monkeypatch) -> None:
    monkeypatch.setattr(vectors, "compiled", None)
    lanes_for.cache_clear()
    try:
        network, done = prepared(Narrow())
    finally:
        lanes_for.cache_clear()
    assert not any(name.startswith(("winograd", "direct")) for name in done)
    assert network.convolutions is None
    assert network(torch.rand(2, *SHAPE)).isfinite().all()


@pytest.mark.parametrize(
    "variant",
    [
        "strided", "pairs", "dilated", "grouped", "unpadded", "one", "five", "reflected", "made", "double",
        "autocast", "one_image", "operator",
    ],
)  # fmt: skip
def test_other_convolutions_stay_what_they_are(variant) -> None:
    network, done = prepared(Wide(variant))
    assert not [name for name in done if name.startswith(("winograd", "direct"))]
    assert network.convolutions is None
    x = torch.rand(16, *SHAPE)
    logits, gradient = logits_and_gradient(network, x)
    plain = Network(frozen(Wide(variant)), micro_batch=16)
    plain.layout = network.layout
    if network.layout is torch.channels_last:
        plain.module.to(memory_format=torch.channels_last)
    expected, slope = logits_and_gradient(plain, x)
    assert torch.equal(logits, expected)
    assert torch.equal(gradient, slope)


@needs_compiler
def test_what_rounds_too_much_is_taken_back(monkeypatch) -> None:
    whole = differentiable.convolved
    monkeypatch.setattr(differentiable, "convolved", lambda *asked: whole(*asked) * 1.01)
    network, done = prepared(Wide())
    assert network.convolutions is None
    assert "winograd=1" not in done
    monkeypatch.setattr(differentiable, "convolved", lambda *_: 1 / 0)
    network, done = prepared(Wide())
    assert network.convolutions is None
    assert network(torch.rand(1, *SHAPE)).isfinite().all()


@needs_compiler
def test_equal_values_stay_equal_before_max_pooling() -> None:
    """In tiles the pixels of a flat image get last bits of their own, and with them another one the gradient."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(512, 4))
    network, done = prepared(net)
    assert "direct=2" in done
    flat = torch.full((16, *SHAPE), 0.5)
    plain = Network(frozen(net), micro_batch=16)
    gradients = [logits_and_gradient(one, flat)[1] for one in (network, plain)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)
    network.convolutions, network.chains = Convolutions(net.parameters()), None
    tiled = logits_and_gradient(network, flat)[1]
    assert float((tiled - gradients[1]).norm()) > 0.01 * float(gradients[1].norm())


@needs_compiler
def test_it_is_left_out_where_it_may_not_be_or_memory_is_short() -> None:
    assert "winograd=1" not in prepared(Wide(), enabled=False)[1]
    assert "winograd=1" not in prepared(Wide(), micro_batch=8)[1]
    assert "winograd=1" in prepared(Wide(), micro_batch=32)[1]


@needs_compiler
def test_kernels_beyond_the_memory_are_left_out(monkeypatch) -> None:
    net = nn.Sequential(
        Wide().first, *(nn.Conv2d(129, 129, 3, padding=1) for _ in range(3)), nn.Flatten(1), nn.Linear(129 * 64, 4)
    )
    monkeypatch.setattr(module, "MEMORY", 2 * winograd.bytes_of(torch.empty(129, 129, 3, 3), lanes_for(129)))
    network, done = prepared(net)
    assert "winograd=2" in done
    assert network(torch.rand(1, *SHAPE)).isfinite().all()


@needs_compiler
def test_weights_that_change_are_noticed() -> None:
    network, _ = prepared(Wide())
    x = torch.rand(16, *SHAPE)
    with torch.no_grad():
        network.module.wide.weight.mul_(2)
        found = network(x)
        network.convolutions = None
        assert torch.equal(found, network(x))


@needs_compiler
def test_only_parameters_that_came_in_time_are_known() -> None:
    early, late = (nn.Conv2d(128, 128, 3, padding=1).requires_grad_(False) for _ in range(2))
    trained = nn.Conv2d(128, 128, 3, padding=1)
    x = torch.rand(1, 128, 8, 8)
    with Convolutions([*early.parameters(), *late.parameters(), *trained.parameters()]) as known:
        early(x)
        trained(x)
        known.settled()
        late(x)
        F.conv2d(x, torch.rand(128, 128, 3, 3), padding=1)
    assert known.told() == ["winograd=1"]


@needs_compiler
def test_whoever_looks_at_the_module_sees_its_own_convolutions() -> None:
    model = LocalModel(Wide(), WorkerOptions(image_shape=SHAPE))
    assert "winograd=1" in model.optimisations
    x = torch.rand(16, *SHAPE)
    plain = model.network.module(x.to(memory_format=model.network.layout))
    assert not torch.equal(model(x), plain)
    torch.testing.assert_close(model(x), plain, rtol=1e-4, atol=1e-5)
    # Other callers and other batches get the same bits, so that differences are the network's.
    assert torch.equal(model.variant(kind="context", mode="no_grad")(x), model(x))
    assert torch.equal(model.variant(kind="context", mode="thread")(x), model(x))
    assert torch.equal(model.variant(kind="raw")(x), model(x))
    exact = Network(frozen(Wide()).double(), micro_batch=16)(x.double())
    torch.testing.assert_close(model.variant(kind="dtype", dtype="float64")(x), exact)


def tower():
    """Two convolutions in tiles, one of them with a stride after it, on maps that windows are small parts of."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 24, 3, 2, 1), nn.ReLU(), nn.Conv2d(24, 24, 1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 4),
    )  # fmt: skip


@needs_compiler
@pytest.mark.parametrize("size", [32, 30])
def test_windows_have_the_bits_of_a_full_pass(monkeypatch, size) -> None:
    """Tiles too, which a window must begin with; maps that tiles do not divide are computed whole from there on."""
    monkeypatch.setattr("harness.worker.windows.GAIN", 1e9)
    monkeypatch.setattr("harness.worker.windows.PATIENCE", 0)
    network = Network(frozen(tower()), micro_batch=16)
    assert {"winograd=2", "direct=3"} <= {*optimise(network, (3, size, size))}
    images = torch.rand(6, 3, size, size)
    windows = Windows(network)
    windows.place(list(range(6)), images)
    for turn, side in enumerate((3, 2, 5, 2, 1, 2, 3, 9)):
        x, numbers = near(images, side, torch.Generator().manual_seed(turn))
        assert torch.equal(windows.ask(x, numbers), network(x))
    assert windows.used == 8
    assert not windows.broken
