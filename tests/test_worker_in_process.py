"""The worker without a process: the same answers to the same questions, and the same words when something is wrong."""

import time

import pytest
import torch
from torch import nn

from harness.models import ModelWorker, RemoteModel, WorkerError, WorkerOptions
from harness.submission import default_roots, discover
from harness.worker.in_process import LocalWorker, copies_of
from harness.worker.loading import load

TIMEOUT = 120.0


@pytest.fixture(scope="module")
def pair():
    """A bundled network in a process of its own and in this one."""
    spec = discover(default_roots()).submissions["fgsm-rs-1222"].spec()
    with ModelWorker(spec) as there, LocalWorker(copies_of(load(spec))) as here:
        yield there, here, there.start(TIMEOUT), here.start(TIMEOUT)


@pytest.fixture
def x():
    return torch.rand(21, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def local(network, **options):
    worker = LocalWorker(copies_of(network), WorkerOptions(**options))
    worker.start(TIMEOUT)
    return worker


def test_both_say_the_same_of_the_network(pair):
    _, _, there, here = pair
    assert here == there


def test_logits_gradients_and_derivatives_are_bit_equal(pair, x):
    there, here, _, _ = pair
    first, token = there.forward(x, grad=True)
    second, other = here.forward(x, grad=True)
    assert torch.equal(first, second)
    weights = torch.randn(first.shape, generator=torch.Generator().manual_seed(1))
    assert torch.equal(there.vjp(token, weights), here.vjp(other, weights))
    there.release(token), here.release(other)
    direction = torch.ones_like(x)
    assert torch.equal(there.jvp(x, direction), here.jvp(x, direction))


def test_probes_and_variants_answer_alike(pair, x):
    there, here, _, _ = pair
    for name, given in (
        ("state", {}),
        ("training", {}),
        ("digest", {}),
        ("modes", {}),
        ("macs", {"shape": [3, 32, 32]}),
    ):
        assert here.probe(name, **given) == there.probe(name, **given), name
    assert here.probe("children", x=x[:4]) == there.probe("children", x=x[:4])
    spec = {"kind": "dtype", "dtype": "float64"}
    try:
        number = there.variant(**spec)
    except WorkerError as error:
        with pytest.raises(WorkerError) as caught:
            here.variant(**spec)
        assert (caught.value.kind, str(caught.value)) == (error.kind, str(error))
    else:
        assert torch.equal(here.forward(x, variant=here.variant(**spec))[0], there.forward(x, variant=number)[0])


def test_a_graph_is_forgotten_when_it_is_released(pair, x):
    _, here, _, _ = pair
    model = RemoteModel(here)
    leaf = x.clone().requires_grad_()
    logits = model(leaf)
    assert here.probe("graphs")["graphs"] == 1
    (gradient,) = torch.autograd.grad(logits.sum(), leaf)
    assert gradient.shape == x.shape and bool(gradient.any())
    del logits
    assert here.probe("graphs")["graphs"] == 0


def test_a_second_worker_holds_another_copy(pair, x):
    _, here, _, _ = pair
    with here.another() as other:
        other.start(TIMEOUT)
        assert other.alive and torch.equal(other.forward(x)[0], here.forward(x)[0])
    assert not other.alive and here.alive


def test_the_original_is_neither_changed_nor_followed(x):
    network = nn.Sequential(nn.Flatten(), nn.Linear(3072, 4)).train()
    build = copies_of(network)
    with torch.no_grad():
        network[1].weight.zero_()
    worker = LocalWorker(build)
    worker.start(TIMEOUT)
    assert bool(worker.forward(x)[0].std() > 0.01) and network.training and network[1].weight.requires_grad
    worker.close()
    worker.close()
    assert not worker.alive


class Faulty(nn.Module):
    """Raises, or returns something else than logits, depending on the first pixel."""

    def forward(self, x):
        if float(x[0, 0, 0, 0]) == 1:
            raise ValueError("no thanks")
        return x.mean((2, 3))[:, 0]


def test_failures_have_the_usual_kinds(x):
    worker = local(Faulty(), optimise=False)
    with pytest.raises(WorkerError, match=r"ValueError: no thanks") as caught:
        worker.forward(torch.ones_like(x))
    assert caught.value.kind == "raised"
    with pytest.raises(WorkerError, match=r"expected float logits \(N, K\)") as caught:
        worker.forward(torch.zeros_like(x))
    assert caught.value.kind == "contract"
    with pytest.raises(WorkerError, match="process of its own"):
        worker.resident_memory()
    worker.deadline = time.monotonic() - 1
    with pytest.raises(WorkerError) as caught:
        worker.forward(x)
    assert caught.value.kind == "timeout"
    worker.close()
    with pytest.raises(WorkerError, match="start it first"):
        worker.seed(0)
