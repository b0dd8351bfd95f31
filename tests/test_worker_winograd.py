"""Convolutions in fewer multiplications: the direct form's results, and only where it is meant."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from windowed_networks import near

from harness.models import LocalModel
from harness.worker import winograd as module
from harness.worker.network import Network
from harness.worker.optimise import optimise
from harness.worker.options import WorkerOptions
from harness.worker.weights import frozen
from harness.worker.windows import Windows
from harness.worker.winograd import Kernels, Winograd, convolution, pays

SHAPE = (3, 8, 8)
MAPS = [(4, 4), (8, 8), (16, 16), (7, 7), (9, 13), (1, 5), (32, 3)]


def direct(x, weight):
    return F.conv2d(x.double(), weight.double(), padding=1)


def off(found, expected):
    return float((found.detach().double() - expected.detach()).abs().max() / expected.detach().abs().max())


@pytest.mark.parametrize("size", MAPS)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_it_is_a_convolution_and_its_derivatives_too(size, layout) -> None:
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    weight = draw(24, 40, 3, 3)
    kernels = Kernels(weight)
    x = draw(5, 40, *size).to(memory_format=layout).requires_grad_()
    found, expected = convolution(x, kernels), direct(x, weight)
    assert found.shape == expected.shape
    assert off(found, expected) < 3e-6
    weights = draw(*found.shape).requires_grad_()
    (gradient,) = torch.autograd.grad(found, x, weights, create_graph=True)
    (wanted,) = torch.autograd.grad(expected, x, weights.double(), create_graph=True)
    assert off(gradient, wanted) < 3e-6
    other = draw(*x.shape)
    (second,) = torch.autograd.grad(gradient, weights, other)
    assert off(second, direct(other, weight)) < 3e-6
    _, along = torch.func.jvp(lambda image: convolution(image, kernels), (x.detach(),), (other,))
    assert off(along, direct(other, weight)) < 3e-6


def test_rounding_stays_near_the_direct_forms_in_a_wide_layer() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(128, 256, 3, 3, generator=generator) * 0.02
    x = torch.rand(4, 256, 16, 16, generator=generator).to(memory_format=torch.channels_last)
    exact = direct(x, weight)
    scale = float(exact.square().mean().sqrt())
    rounding = lambda found: float((found.double() - exact).square().mean().sqrt()) / scale  # noqa: E731
    assert rounding(convolution(x, Kernels(weight))) < 4 * max(rounding(F.conv2d(x, weight, padding=1)), 1e-7)


def test_rows_do_not_depend_on_the_batch() -> None:
    generator = torch.Generator().manual_seed(0)
    kernels = Kernels(torch.randn(128, 128, 3, 3, generator=generator))
    x = torch.randn(64, 128, 8, 8, generator=generator)
    whole = convolution(x, kernels)
    for size in (4, 8, 16, 20, 32):
        assert torch.equal(torch.cat([convolution(part, kernels) for part in x.split(size)]), whole)


@pytest.mark.parametrize(
    ("shape", "size", "expected"),
    [
        ((128, 128, 3, 3), (32, 32), True), ((128, 128, 3, 3), (4, 4), True), ((640, 640, 3, 3), (8, 8), True),
        # Tiles that reach far beyond the maps, and few channels on either side.
        ((512, 512, 3, 3), (5, 5), False), ((512, 512, 3, 3), (2, 2), False), ((512, 512, 3, 3), (7, 7), True),
        ((64, 128, 3, 3), (32, 32), False), ((128, 64, 3, 3), (32, 32), False), ((128, 3, 3, 3), (32, 32), False),
    ],
)  # fmt: skip
def test_where_it_pays_is_a_matter_of_shapes(shape, size, expected) -> None:
    assert pays(torch.empty(shape), size) is expected


class Wide(nn.Module):
    """Wide layers with something about their convolutions changed."""

    def __init__(self, variant="plain"):
        super().__init__()
        torch.manual_seed(0)
        self.variant = variant
        self.first, self.head = nn.Conv2d(3, 128, 3, padding=1), nn.Linear(128, 4)
        extra = {
            "strided": {"stride": 2}, "pairs": {"stride": (1, 2)}, "dilated": {"dilation": 2, "padding": 2},
            "grouped": {"groups": 2}, "unpadded": {"padding": 0}, "same": {"padding": "same"},
            "one": {"padding": (1, 0)},
            "reflected": {"padding_mode": "reflect"}, "bare": {"bias": False},
            "tuple": {"stride": (1, 1), "padding": (1, 1)},
        }.get(variant, {})  # fmt: skip
        kernel = 5 if variant == "five" else 3
        self.wide = nn.Conv2d(128, 128, kernel, **({"padding": 1} | extra))
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
        return self.head(self._wide(self.first(x).relu()).relu().mean((2, 3)))


def prepared(net, **options):
    network = Network(frozen(net), micro_batch=options.pop("micro_batch", 16))
    return network, optimise(network, SHAPE, **options)


def logits_and_gradient(network, x):
    x = x.clone().requires_grad_()
    logits = network(x)
    return logits.detach(), torch.autograd.grad(logits.square().sum(), x)[0]


@pytest.mark.parametrize("variant", ["plain", "bare", "tuple", "same", "named", "mapped", "checkpoint"])
def test_wide_layers_are_computed_this_way(variant) -> None:
    network, done = prepared(Wide(variant))
    assert "winograd=1" in done
    x = torch.rand(19, *SHAPE, generator=torch.Generator().manual_seed(1))
    found = logits_and_gradient(network, x)
    exact = logits_and_gradient(Network(frozen(Wide(variant)).double(), micro_batch=19), x.double())
    for one, other in zip(found, exact, strict=True):
        assert off(one, other.double()) < 1e-5
    network.winograd = None
    assert not torch.equal(found[0], network(x))


@pytest.mark.parametrize(
    "variant",
    [
        "strided", "pairs", "dilated", "grouped", "unpadded", "one", "five", "reflected", "made", "double",
        "autocast", "one_image", "operator",
    ],
)  # fmt: skip
def test_other_convolutions_stay_what_they_are(variant) -> None:
    network, done = prepared(Wide(variant))
    assert not [name for name in done if name.startswith("winograd")]
    assert network.winograd is None
    x = torch.rand(16, *SHAPE)
    logits, gradient = logits_and_gradient(network, x)
    plain = Network(frozen(Wide(variant)), micro_batch=16)
    plain.layout = network.layout
    if network.layout is torch.channels_last:
        plain.module.to(memory_format=torch.channels_last)
    expected, slope = logits_and_gradient(plain, x)
    assert torch.equal(logits, expected)
    assert torch.equal(gradient, slope)


def test_what_rounds_too_much_is_taken_back(monkeypatch) -> None:
    whole = module._convolved
    monkeypatch.setattr(module, "_convolved", lambda x, kernels, *, back: whole(x, kernels, back=back) * 1.01)
    network, done = prepared(Wide())
    assert network.winograd is None
    assert "winograd=1" not in done

    def by_place(x, kernels, *, back):
        return whole(x, kernels, back=back) * (1 + 2e-7 * torch.arange(len(x)).view(-1, 1, 1, 1))

    monkeypatch.setattr(module, "_convolved", by_place)
    network, done = prepared(Wide())
    assert network.winograd is None, "an image's bits depend on its place"
    monkeypatch.setattr(module, "_convolved", lambda *_, **__: 1 / 0)
    network, done = prepared(Wide())
    assert network.winograd is None
    assert network(torch.rand(1, *SHAPE)).isfinite().all()


def test_it_is_left_out_where_it_may_not_be_or_memory_is_short() -> None:
    assert "winograd=1" not in prepared(Wide(), enabled=False)[1]
    assert "winograd=1" not in prepared(Wide(), micro_batch=8)[1]
    assert "winograd=1" in prepared(Wide(), micro_batch=32)[1]


def test_kernels_beyond_the_memory_are_left_out(monkeypatch) -> None:
    net = nn.Sequential(
        Wide().first, *(nn.Conv2d(128, 128, 3, padding=1) for _ in range(3)), nn.Flatten(1), nn.Linear(8192, 4)
    )
    monkeypatch.setattr(module, "MEMORY", 2 * 36 * 128 * 128 * 4)
    network, done = prepared(net)
    assert "winograd=2" in done
    assert network(torch.rand(1, *SHAPE)).isfinite().all()


def test_weights_that_change_are_noticed() -> None:
    network, _ = prepared(Wide())
    x = torch.rand(16, *SHAPE)
    with torch.no_grad():
        network.module.wide.weight.mul_(2)
        found = network(x)
        network.winograd = None
        assert torch.equal(found, network(x))


def test_only_parameters_that_came_in_time_are_known() -> None:
    early, late = (nn.Conv2d(128, 128, 3, padding=1).requires_grad_(False) for _ in range(2))
    trained = nn.Conv2d(128, 128, 3, padding=1)
    x = torch.rand(1, 128, 8, 8)
    with Winograd([*early.parameters(), *late.parameters(), *trained.parameters()]) as known:
        early(x)
        trained(x)
        known.settled()
        late(x)
        F.conv2d(x, torch.rand(128, 128, 3, 3), padding=1)
    assert known.layers == 1


def test_whoever_looks_at_the_module_sees_its_own_convolutions() -> None:
    model = LocalModel(Wide(), WorkerOptions(image_shape=SHAPE))
    assert "winograd=1" in model.optimisations
    x = torch.rand(16, *SHAPE)
    plain = model.network.module(x.to(memory_format=model.network.layout))
    assert not torch.equal(model(x), plain)
    torch.testing.assert_close(model(x), plain, rtol=1e-4, atol=1e-5)
    assert torch.equal(model.variant(kind="context", mode="no_grad")(x), plain)
    exact = Network(frozen(Wide()).double(), micro_batch=16)(x.double())
    torch.testing.assert_close(model.variant(kind="dtype", dtype="float64")(x), exact)


def test_windows_have_the_bits_of_a_full_pass(monkeypatch) -> None:
    monkeypatch.setattr("harness.worker.windows.GAIN", 1e9)
    monkeypatch.setattr("harness.worker.windows.PATIENCE", 0)
    net = nn.Sequential(
        Wide().first, nn.ReLU(), Wide().wide, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 4)
    )
    network, done = prepared(net)
    assert "winograd=1" in done
    images = torch.rand(6, *SHAPE)
    windows = Windows(network)
    windows.place(list(range(6)), images)
    for side in (3, 2, 2, 2):
        x, numbers = near(images, side, torch.Generator().manual_seed(side))
        assert torch.equal(windows.ask(x, numbers), network(x))
    assert windows.used
