"""The slim network against the published grammar: parameters, multiply-accumulates and map sizes (METHODS of RCM)."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from submissions.architectures.slim_resnet import build


@pytest.mark.parametrize(
    ("kwargs", "gflops", "side"),
    [
        ({"width": 12, "strides": "1222"}, 0.018, 4),
        ({"width": 12, "strides": "1122"}, 0.056, 8),
        ({"width": 12, "strides": "1222", "upsample": 2}, 0.073, 8),
        ({"width": 12, "strides": "1112"}, 0.155, 16),
        ({"width": 16, "strides": "1222", "pooling": "max"}, 0.032, 4),
        ({"width": 16, "strides": "1222", "upsample": 2, "upsample_mode": "bilinear"}, 0.129, 8),
    ],
)
def test_cost_and_map_before_pooling(kwargs, gflops, side) -> None:
    model = build(**kwargs).eval()
    sides = []
    model.stages.register_forward_hook(lambda _module, _inputs, output: sides.append(output.shape[-1]))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        logits = model(torch.rand(1, 3, 32, 32))
    assert logits.shape == (1, 10)
    assert sides == [side]
    assert counter.get_total_flops() / 1e9 == pytest.approx(gflops, rel=0.05)


@pytest.mark.parametrize(("width", "millions"), [(12, 0.174), (16, 0.309), (24, 0.692)])
def test_parameters(width, millions) -> None:
    assert sum(p.numel() for p in build(width=width).parameters()) / 1e6 == pytest.approx(millions, abs=0.001)


@pytest.mark.parametrize(
    "kwargs", [{"strides": "122"}, {"strides": "1232"}, {"pooling": "sum"}, {"upsample": 0}, {"upsample_mode": "cubic"}]
)
def test_impossible_arguments_are_refused(kwargs) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(kwargs))}: expected"):
        build(**kwargs)
