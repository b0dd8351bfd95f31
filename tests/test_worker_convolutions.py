"""Convolutions of our own: what the definition says, and their derivatives."""

import itertools

import pytest
import torch
from torch.autograd import forward_ad
from torch.nn import functional as F

from harness.worker.convolutions import direct, winograd
from harness.worker.convolutions.differentiable import convolution
from harness.worker.convolutions.layer import Form, Layer, form_for
from harness.worker.convolutions.vectors import LANES, compiled, lanes_for

MAPS = [(4, 4), (8, 8), (16, 16), (7, 7), (9, 13), (1, 5), (32, 3)]
TILED = Form((1, 1), (1, 1), (1, 1), tiled=True)
STRIDED = Form((2, 2), (1, 1), (1, 1), tiled=False)
needs_compiler = pytest.mark.skipif(not lanes_for(1), reason="compiled.c was not compiled, or not for this processor")


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def off(found, expected):
    return float((found.detach().double() - expected.detach()).abs().max() / expected.detach().abs().max())


@needs_compiler
@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (3, 1), (2, 2), (5, 5), (7, 7)])
@pytest.mark.parametrize("stride", [(1, 1), (2, 2), (3, 3), (2, 1)])
def test_it_is_what_the_definition_says_and_so_is_its_gradient(kernel, stride) -> None:
    tried = 0
    for channels, made, padding, dilation in itertools.product((1, 3, 9, 24), (1, 3, 5, 12, 17), (0, 1, 3), (1, 2)):
        weight, bias, x = drawn(made, channels, *kernel), drawn(made, seed=1), drawn(2, channels, 9, 11, seed=2)
        form = form_for(weight, stride, (padding, padding), (dilation, dilation), (9, 11))
        if form is None:
            continue
        tried += 1
        exact = x.double().requires_grad_()
        expected = F.conv2d(exact, weight.double(), bias.double(), stride, padding, dilation)
        found = convolution(x.requires_grad_(), Layer(weight), form, bias)
        assert found.shape == expected.shape
        assert off(found, expected) < 3e-6
        weights = drawn(*found.shape, seed=3)
        (gradient,) = torch.autograd.grad(found, x, weights)
        (wanted,) = torch.autograd.grad(expected, exact, weights.double())
        assert float((gradient - wanted).abs().max()) <= 3e-6 * max(1e-6, float(wanted.abs().max()))
    assert tried > 40


@needs_compiler
@pytest.mark.parametrize("form", [TILED, STRIDED])
@pytest.mark.parametrize("size", MAPS)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_derivatives_of_every_kind(size, layout, form) -> None:
    weight, stride = drawn(24, 40, 3, 3), form.stride
    layer, exact = Layer(weight), weight.double()
    x = drawn(5, 40, *size, seed=1).to(memory_format=layout).requires_grad_()
    found, expected = convolution(x, layer, form), F.conv2d(x.double(), exact, stride=stride, padding=1)
    assert found.shape == expected.shape
    assert off(found, expected) < 3e-6
    weights = drawn(*found.shape, seed=2).requires_grad_()
    (gradient,) = torch.autograd.grad(found, x, weights, create_graph=True)
    (wanted,) = torch.autograd.grad(expected, x, weights.double(), create_graph=True)
    assert off(gradient, wanted) < 3e-6
    other = drawn(*x.shape, seed=3)
    along = F.conv2d(other.double(), exact, stride=stride, padding=1)
    (second,) = torch.autograd.grad(gradient, weights, other)
    assert off(second, along) < 3e-6
    _, moved = torch.func.jvp(lambda image: convolution(image, layer, form), (x.detach(),), (other,))
    assert off(moved, along) < 3e-6
    with forward_ad.dual_level():
        dual = convolution(forward_ad.make_dual(x.detach(), other), layer, form)
        assert off(forward_ad.unpack_dual(dual).tangent, along) < 3e-6
    each = torch.func.vmap(lambda image: convolution(image[None], layer, form)[0])(x.detach())
    assert torch.equal(each, found)


@needs_compiler
@pytest.mark.parametrize("shape", [(128, 256, 16), (12, 12, 32)])
def test_rounding_stays_near_the_direct_forms(shape) -> None:
    made, channels, size = shape
    weight = drawn(made, channels, 3, 3) * 0.02
    x = torch.rand(4, channels, size, size, generator=torch.Generator().manual_seed(0))
    exact = F.conv2d(x.double(), weight.double(), padding=1)
    scale = float(exact.square().mean().sqrt())
    rounding = lambda found: float((found.double() - exact).square().mean().sqrt()) / scale  # noqa: E731
    assert rounding(convolution(x, Layer(weight), TILED)) < 4 * max(rounding(F.conv2d(x, weight, padding=1)), 1e-7)


@needs_compiler
@pytest.mark.parametrize("form", [TILED, STRIDED])
@pytest.mark.parametrize("channels", [12, 128])
def test_a_row_depends_on_neither_batch_nor_place_nor_threads(form, channels) -> None:
    layer = Layer(drawn(24, channels, 3, 3))
    x = drawn(64, channels, 8, 8, seed=1)
    whole = convolution(x, layer, form)
    for size in (1, 4, 7, 16, 20):
        assert torch.equal(torch.cat([convolution(part, layer, form) for part in x.split(size)]), whole)
    assert torch.equal(convolution(x.roll(5, 0), layer, form).roll(-5, 0), whole)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert torch.equal(convolution(x, layer, form), whole)
        assert torch.equal(convolution(x[:2], layer, form), whole[:2])
    finally:
        torch.set_num_threads(before)
    assert convolution(x[:0], layer, form).shape == (0, *whole.shape[1:])


@needs_compiler
@pytest.mark.parametrize("form", [TILED, STRIDED])
@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_what_is_not_finite_stays_with_its_image(form, value) -> None:
    """Also where the gradient has three channels, whose vectors reach over other channels of the image."""
    for channels in (3, 12):
        form = form if channels > 3 else form._replace(tiled=False)
        layer, x = Layer(drawn(12, channels, 3, 3)), drawn(3, channels, 8, 8, seed=1).requires_grad_()
        weights = torch.ones_like(convolution(x, layer, form))
        weights[1, 11, -1, -1] = value
        (gradient,) = torch.autograd.grad(convolution(x, layer, form), x, weights)
        assert gradient[[0, 2]].isfinite().all()
        assert not gradient[1].isfinite().all()
        spoilt = x.detach().clone()
        spoilt[1, 0, 0, 0] = value
        found = convolution(spoilt, layer, form)
        assert found[[0, 2]].isfinite().all()
        assert not found[1].isfinite().all()


@needs_compiler
def test_vectors_that_this_processor_lacks_are_refused() -> None:
    """``test_worker_vectors`` computes with all of them."""
    lacking = [lanes for lanes in LANES if not compiled.has(lanes)]
    assert 0 < len(lacking) < len(LANES)
    for lanes in lacking:
        with pytest.raises(ValueError, match="expected vectors that this processor has"):
            compiled.winograd(lanes, (4, 4, 16), 0, 1, 24, 16)


@pytest.mark.parametrize(
    ("shape", "size", "expected"),
    [
        ((128, 128, 3, 3), (32, 32), True), ((128, 128, 3, 3), (4, 4), True), ((32, 32, 3, 3), (8, 8), True),
        # Tiles that reach far beyond the maps, and few channels on either side.
        ((512, 512, 3, 3), (5, 5), False), ((512, 512, 3, 3), (2, 2), False), ((512, 512, 3, 3), (7, 7), True),
        ((8, 128, 3, 3), (32, 32), True), ((7, 128, 3, 3), (32, 32), False), ((128, 7, 3, 3), (32, 32), False),
    ],
)  # fmt: skip
def test_where_tiles_pay_is_a_matter_of_shapes(shape, size, expected) -> None:
    assert winograd.tiles_pay(torch.empty(shape), size) is expected
    assert winograd.tiles_pay(torch.empty(shape), size, 32) is (expected and min(shape[:2]) >= 32)


def test_where_the_direct_form_pays_is_a_matter_of_shapes() -> None:
    pays = lambda *shape, stride=(1, 1), size=(32, 32): direct.listing_pays(torch.empty(shape), stride, size, size)  # noqa: E731
    assert pays(64, 3, 7, 7, stride=(2, 2))
    assert pays(128, 64, 1, 1)
    assert not pays(128, 128, 1, 1)
    assert not pays(16, 3, 8, 8, stride=(8, 8))
    assert not pays(16, 3, 3, 3, stride=(1, 5))
    assert not pays(16, 16, 3, 3, size=(1 << 14, 1 << 14))
