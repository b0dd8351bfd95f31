"""The compiled convolutions with vectors that this processor may not have, which the compiler makes of those it has."""

import importlib.util
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

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


@needs_compiler
@pytest.mark.parametrize("lanes", [16, 8, 4])
@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 1, 1), (3, 2, 1), (1, 2, 0), (5, 1, 2)])
def test_every_kind_of_vectors_computes_the_same(monkeypatch, everything, lanes, kernel, stride, padding):
    for module in (differentiable, direct, vectors, winograd):
        monkeypatch.setattr(module, "compiled", everything)
    monkeypatch.setattr(vectors, "LANES", [kind for kind in (16, 8, 4) if kind <= lanes])
    vectors.lanes_for.cache_clear()
    generator = torch.Generator().manual_seed(0)
    try:
        assert vectors.lanes_for(100) == lanes
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
                for one, other in ((found, expected), (gradient, wanted)):
                    assert float((one - other).abs().max()) <= 5e-6 * float(other.abs().max())
        assert ways == ({True, False} if (kernel, stride) == (3, 1) else {False})
    finally:
        vectors.lanes_for.cache_clear()
