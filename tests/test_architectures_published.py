"""The papers' networks against the published table: parameters, multiply-accumulates, activations and last maps."""

import importlib

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

MODULES = ("slim_resnet", "jarn_resnet", "resnet18", "preact_resnet18", "vgg16_bn", "alexnet", "vit", "wrn")
SMALL = {
    "resnet18": {"width": 4}, "preact_resnet18": {"width": 4}, "wrn": {"depth": 10, "width": 1},
    "vit": {"dim": 16, "depth": 1, "heads": 2, "head_dim": 8, "mlp": 16},
}  # fmt: skip
STRIDES = {"vgg16_bn": "22222", "alexnet": "2222", "vit": "4", "wrn": "122"}


def build(name: str, **kwargs: object) -> nn.Module:
    return importlib.import_module(f"submissions.architectures.{name}").build(**kwargs)


def measure(name: str, **kwargs: object) -> tuple[float, float, float, int]:
    """Millions of parameters, GFLOPs, millions of activations of the convolutions beside shortcuts, side or tokens."""
    with torch.device("meta"):
        model = build(name, **kwargs).eval()
        image = torch.empty(1, 3, 32, 32)
    activations, shapes = [], []
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size != (1, 1):
            module.register_forward_hook(lambda _module, _inputs, output: activations.append(output.numel()))
    model.pool.register_forward_pre_hook(lambda _module, inputs: shapes.append(inputs[0].shape))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        assert model(image).shape == (1, 10)
    parameters = sum(p.numel() for p in model.parameters())
    side = shapes[0][-1] if len(shapes[0]) == 4 else shapes[0][1] - 1
    return parameters / 1e6, counter.get_total_flops() / 1e9, sum(activations) / 1e6, side


@pytest.mark.parametrize(
    ("name", "kwargs", "parameters", "gflops", "activations", "side"),
    [
        ("resnet18", {"strides": "2222"}, 11.17, 0.282, 0.19, 2),
        ("resnet18", {"strides": "1222"}, 11.17, 1.111, 0.56, 4),
        ("resnet18", {"strides": "1221"}, 11.17, 1.916, 0.66, 8),
        ("resnet18", {"strides": "1212"}, 11.17, 2.721, 0.85, 8),
        ("resnet18", {"strides": "1122"}, 11.17, 3.527, 1.25, 8),
        ("resnet18", {"strides": "1222", "upsample": 2}, 11.17, 4.443, 2.23, 8),
        ("resnet18", {"strides": "1112"}, 11.17, 9.97, 2.42, 16),
        ("resnet18", {"strides": "1111"}, 11.17, 22.85, 4.00, 32),
        ("resnet18", {"strides": "1222", "upsample": 3}, 11.17, 10.0, 5.01, 12),
        ("resnet18", {"strides": "1222", "upsample": 4, "upsample_mode": "bilinear"}, 11.17, 17.8, 8.91, 16),
        ("preact_resnet18", {"strides": "1222"}, 11.17, 1.111, 0.56, 4),
        ("preact_resnet18", {"strides": "1122", "pooling": "max"}, 11.17, 3.527, 1.25, 8),
        ("vgg16_bn", {"strides": "22222"}, 14.92, 0.63, 0.28, 1),
        ("vgg16_bn", {"strides": "11222"}, 14.92, 7.48, 1.67, 4),
        ("vgg16_bn", {"strides": "11122"}, 14.92, 19.26, 3.15, 8),
        ("vgg16_bn", {"strides": "11222", "upsample": 2}, 14.92, 29.9, 6.68, 8),
        ("alexnet", {"strides": "2222"}, 2.85, 0.11, 0.04, 2),
        ("alexnet", {"strides": "1122"}, 2.85, 1.56, 0.45, 7),
        ("alexnet", {"strides": "1112"}, 2.85, 4.45, 1.06, 15),
        ("alexnet", {"strides": "1122", "upsample": 2}, 2.85, 6.59, 1.89, 15),
        ("wrn", {"strides": "122"}, 46.2, 13.3, 2.9, 8),
        ("wrn", {"strides": "112"}, 46.2, 40.4, 6.6, 16),
        ("vit", {}, 9.5, 1.28, None, 64),
        ("vit", {"upsample": 2}, 9.6, 5.7, None, 256),
        ("vit", {"strides": "2"}, 9.6, 5.7, None, 256),
    ],
)
def test_the_published_table(name, kwargs, parameters, gflops, activations, side) -> None:
    found = measure(name, **kwargs)
    assert found[0] == pytest.approx(parameters, rel=0.004, abs=0.006)
    assert found[1] == pytest.approx(gflops, rel=0.03)
    assert activations is None or found[2] == pytest.approx(activations, rel=0.02, abs=0.006)
    assert found[3] == side


def test_upsampling_costs_more_memory_and_compute_than_a_stride_for_the_same_map() -> None:
    shrunk, upsampled = measure("resnet18", strides="1122"), measure("resnet18", strides="1222", upsample=2)
    assert shrunk[3] == upsampled[3] == 8
    assert upsampled[2] / shrunk[2] == pytest.approx(1.78, abs=0.01)
    assert upsampled[1] / shrunk[1] == pytest.approx(1.26, abs=0.01)


def test_the_jarn_network_is_the_slim_one_with_another_entrance() -> None:
    for kwargs in ({"strides": "1222"}, {"strides": "1122", "upsample": 2}):
        assert measure("jarn_resnet", **kwargs) == measure("slim_resnet", **kwargs)


def test_jarn_standardises_each_image_by_itself() -> None:
    from submissions.architectures.jarn_resnet import standardise

    x = torch.rand(3, 3, 8, 8, dtype=torch.float64)
    x[2] = 0.25
    found = standardise(x)
    by_hand = (x[0] - x[0].mean()) / (x[0] - x[0].mean()).norm()
    assert torch.allclose(found[0], by_hand, atol=1e-12)
    assert torch.equal(found[2], torch.zeros_like(found[2]))
    model = build("jarn_resnet", width=4).eval()
    images = torch.rand(2, 3, 32, 32)
    assert torch.allclose(model(images), model(images * 0.5 + 0.2), atol=1e-4)


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("pooling", ["avg", "max"])
def test_every_network_predicts_and_has_gradients(name, pooling) -> None:
    torch.manual_seed(0)
    model = build(name, strides=STRIDES.get(name, "1222"), pooling=pooling, classes=7, **SMALL.get(name, {}))
    x = torch.rand(2, 3, 32, 32, requires_grad=True)
    logits = model.train()(x)
    assert logits.shape == (2, 7)
    logits.square().sum().backward()
    assert torch.isfinite(x.grad).all() and x.grad.abs().sum() > 0
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("name", MODULES)
def test_pooling_is_the_argument(name) -> None:
    torch.manual_seed(0)
    average, maximum = (build(name, pooling=pooling, **SMALL.get(name, {})).eval() for pooling in ("avg", "max"))
    maximum.load_state_dict(average.state_dict())
    features = torch.rand(2, 5, 4, 4) if name != "vit" else torch.rand(2, 16, 5)
    dims = (2, 3) if name != "vit" else (1,)
    assert torch.allclose(average.pool(features).flatten(1), features.mean(dims))
    assert torch.equal(maximum.pool(features).flatten(1), features.amax(dims))


@pytest.mark.parametrize("name", [name for name in MODULES if name not in {"slim_resnet", "jarn_resnet"}])
def test_wrong_arguments_are_refused(name) -> None:
    for kwargs in ({"strides": "9"}, {"pooling": "sum"}, {"upsample": 0}, {"upsample_mode": "cubic"}):
        with pytest.raises(ValueError, match=f"{next(iter(kwargs))}: expected"):
            build(name, **kwargs)


def test_the_depth_of_a_wide_network_is_checked() -> None:
    with pytest.raises(ValueError, match=r"depth: expected 10, 16, 22, 28, 34 \.\.\., got 30"):
        build("wrn", depth=30)


@pytest.mark.parametrize("factor", [2, 3])
def test_nearest_upsampling_repeats_normalised_pixels(factor) -> None:
    from submissions.architectures.parts import entrance

    x = torch.rand(1, 3, 4, 4)
    plain, larger = entrance(1, "nearest")(x), entrance(factor, "nearest")(x)
    assert torch.equal(larger, plain.repeat_interleave(factor, 2).repeat_interleave(factor, 3))
