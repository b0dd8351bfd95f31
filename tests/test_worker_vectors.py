"""The compiled convolutions with vectors that this processor may not have, which the compiler makes of those it has."""

import importlib.util
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from harness.worker.chains import program
from harness.worker.chains.plan import Plan, chained
from harness.worker.chains.program import Convolution, Kind, Step
from harness.worker.convolutions import differentiable, direct, vectors, winograd
from harness.worker.convolutions.differentiable import convolution
from harness.worker.convolutions.layer import Layer, form_for

SOURCE = Path(vectors.__file__).with_name("compiled.c")
COMPILER = (sysconfig.get_config_var("CC") or "cc").split()[0]
CHANNELS = (1, 3, 8, 12, 20, 24, 40)
needs_compiler = pytest.mark.skipif(shutil.which(COMPILER) is None, reason=f"no C compiler {COMPILER!r} here")


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    """The module with every kind of vectors."""
    built = tmp_path_factory.mktemp("vectors") / "_compiled.so"
    flags = ["-O1", "-w", "-Wno-psabi", "-fPIC", "-shared", "-DANY_PROCESSOR", f"-I{sysconfig.get_path('include')}"]
    subprocess.run([COMPILER, *flags, str(SOURCE), "-o", str(built)], check=True)
    spec = importlib.util.spec_from_file_location("_compiled", built)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(params=[16, 8, 4])
def lanes(request, monkeypatch, everything):
    """Floats of a vector; wider ones are not there."""
    for module in (differentiable, direct, program, vectors, winograd):
        monkeypatch.setattr(module, "compiled", everything)
    monkeypatch.setattr(vectors, "LANES", [kind for kind in (16, 8, 4) if kind <= request.param])
    vectors.lanes_for.cache_clear()
    assert vectors.lanes_for(100) == request.param
    yield request.param
    vectors.lanes_for.cache_clear()


def differ(one, other):
    """The largest difference, relative to the largest value."""
    return float((one - other).abs().max()) / float(other.abs().max())


@needs_compiler
@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 1, 1), (3, 2, 1), (1, 2, 0), (5, 1, 2)])
def test_every_kind_of_vectors_computes_the_same(lanes, kernel, stride, padding):
    generator = torch.Generator().manual_seed(0)
    ways = set()
    for made in CHANNELS:
        for channels in CHANNELS:
            weight, x = (
                torch.randn(shape, generator=generator)
                for shape in ((made, channels, kernel, kernel), (2, channels, 8, 12))
            )
            bias = torch.randn(made, generator=generator)
            form = form_for(weight, (stride, stride), (padding, padding), (1, 1), (8, 12))
            ways.add(form.tiled)
            found = convolution(x.requires_grad_(), Layer(weight), form, bias)
            exact = x.detach().double().requires_grad_()
            expected = F.conv2d(exact, weight.double(), bias.double(), stride, padding)
            weights = torch.randn(found.shape, generator=generator)
            (gradient,) = torch.autograd.grad(found, x, weights)
            (wanted,) = torch.autograd.grad(expected, exact, weights.double())
            assert differ(found, expected) <= 5e-6
            assert differ(gradient, wanted) <= 5e-6
    assert ways == ({True, False} if (kernel, stride) == (3, 1) else {False})


@needs_compiler
@pytest.mark.parametrize("size", [(8, 12), (5, 7)])
@pytest.mark.parametrize("channels", CHANNELS)
def test_every_kind_of_vectors_has_the_same_chains(lanes, channels, size):
    """Two layers with ReLUs and a sum; of small maps of few channels nothing fills a vector."""
    generator = torch.Generator().manual_seed(0)
    steps = []
    for inputs, made in ((0, 1), (2, 3)):
        weight = torch.randn(channels, channels, 3, 3, generator=generator)
        form = form_for(weight, (1, 1), (1, 1), (1, 1), size)
        steps.append(Step(Kind.CONVOLUTION, (inputs,), made, Convolution(Layer(weight), form, None, None)))
        steps.append(Step(Kind.ABOVE, (1,), 2) if made == 1 else Step(Kind.SUM, (3, 0), 4))
    steps.append(Step(Kind.ABOVE, (4,), 5))
    plan = Plan(steps, [(*size, channels)] * 6, 1, [5])
    x = torch.randn(9, channels, *size, generator=generator).requires_grad_()
    weights = torch.randn(9, channels, *size, generator=generator)
    answers = []
    for (found,) in (chained(plan, [x]), plan.one_by_one([x])):
        answers.append((found, *torch.autograd.grad(found, x, weights)))
    for one, other in zip(*answers, strict=True):
        assert torch.equal(one, other)
        assert 0.2 < float((found > 0).float().mean()) < 0.8
