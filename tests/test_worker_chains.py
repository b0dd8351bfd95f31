"""Convolutions and what lies between them, computed in one go: with the same bits, or not at all."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from harness.worker.chains import Chains, Deferred
from harness.worker.chains.plan import Plan, chained
from harness.worker.chains.program import Convolution, Kind, Step
from harness.worker.convolutions import Convolutions, layer
from harness.worker.convolutions.vectors import lanes_for
from harness.worker.network import Network
from harness.worker.optimise import optimise
from harness.worker.weights import frozen

SHAPE = (3, 12, 12)
pytestmark = pytest.mark.skipif(not lanes_for(1), reason="compiled.c was not compiled, or not for this processor")


class Squared(torch.autograd.Function):
    """A function whose gradient is written by hand."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, gradient):
        return 2 * ctx.saved_tensors[0] * gradient


@torch.jit.script
def scripted(x):
    return x * 2


class Residual(nn.Module):
    """Convolutions, ReLUs and sums of three sizes, with something about them changed."""

    def __init__(self, variant="plain", width=12):
        super().__init__()
        torch.manual_seed(0)
        self.variant = variant
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.one, self.two = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.down, self.short = nn.Conv2d(width, 20, 3, 2, 1), nn.Conv2d(width, 20, 1, 2)
        self.three, self.head = nn.Conv2d(20, 20, 3, padding=1), nn.Linear(20, 4)
        self.relu = nn.ReLU(inplace=variant == "in_place")
        self.kept = []
        self.rare = False

    def _between(self, x):
        if self.variant == "function" or self.rare:
            return Squared.apply(x)
        if self.variant == "scripted":
            return scripted(x)
        if self.variant == "checkpoint":
            return checkpoint(lambda value: self.one(value).relu(), x, use_reentrant=False)
        if self.variant == "reentrant":
            return checkpoint(lambda value: self.one(value).relu(), x, use_reentrant=True)
        if self.variant == "detached":
            return x - x.detach() * 0.5
        if self.variant == "quietly":
            with torch.no_grad():
                quiet = self.one(x).relu()
            return x + self.two(quiet)
        if self.variant == "gate":
            return x * x.mean((2, 3), keepdim=True)
        if self.variant == "in_place_view":
            view = x[:, :4]
            view *= 2
            return x.relu_()
        if self.variant == "written":
            later = self.one(x)
            x.mul_(2)
            return later + x
        if self.variant == "named":
            return torch.add(input=F.relu(input=x), other=x)
        if self.variant == "scaled":
            return torch.add(x, x.relu(), alpha=2)
        if self.variant == "moved":
            return x.to("cpu").float().contiguous() if x.device.type == "cpu" and x.dtype is torch.float32 else x * 0
        if self.variant == "inner_gradient":
            with torch.enable_grad():
                inside = x.detach().requires_grad_()
                return x + torch.autograd.grad(self.one(inside).relu().sum(), inside)[0]
        if self.variant == "double":
            return x.double().sin().float()
        if self.variant == "twice":
            return x + x
        return x

    def forward(self, x):
        x = self.relu(self.stem(x - 0.5))
        x = self._between(x)
        y = self.two(self.relu(self.one(x)))
        if self.variant == "in_place":
            y += x
        else:
            y = y + x
        if self.variant == "kept":
            self.kept = [y, x]
        y = self.relu(y)
        z = self.down(y) + self.short(y)
        z = self.three(self.relu(z)) + z
        if self.variant == "features":
            return self.head(z.relu().mean((2, 3))) + self.kept_features(x, y)
        return self.head(self.relu(z).mean((2, 3)))

    @staticmethod
    def kept_features(x, y):
        return (x.mean((1, 2, 3)) + y.mean((1, 2, 3)))[:, None]


def prepared(variant="plain", **options):
    network = Network(frozen(Residual(variant, **options)), micro_batch=16)
    return network, optimise(network, SHAPE)


def asked(network, x):
    x = x.clone().requires_grad_()
    logits = network(x)
    return logits.detach(), torch.autograd.grad(logits.square().sum(), x)[0]


def images(count, seed=1):
    return torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(seed))


def without(network):
    """The same network without chains."""
    other = Network(network.module, micro_batch=network.micro_batch)
    other.layout, other.convolutions, other.sizes = network.layout, network.convolutions, network.sizes
    return other


ALWAYS = ["plain", "in_place", "kept", "detached", "gate", "named", "scaled", "moved", "double", "twice"]


@pytest.mark.parametrize("variant", [*ALWAYS, "inner_gradient"])
def test_every_bit_is_that_of_one_operation_at_a_time(variant) -> None:
    network, done = prepared(variant)
    assert any(item.startswith("chained=") for item in done)
    for count in (1, 7, 40):
        x = images(count)
        for found, expected in zip(asked(network, x), asked(without(network), x), strict=True):
            assert torch.equal(found, expected)
    with torch.no_grad():
        assert torch.equal(network(x), without(network)(x))
    assert network.chains is not None


@pytest.mark.parametrize("variant", ["function", "scripted", "quietly", "checkpoint", "features"])
def test_what_cannot_be_followed_is_computed_one_by_one(variant) -> None:
    network, done = prepared(variant)
    x = images(9)
    exact = Network(frozen(Residual(variant)), micro_batch=9)
    for found, expected in zip(asked(network, x), asked(exact, x), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    chained_too = any(item.startswith("chained=") for item in done)
    assert chained_too == (network.chains is not None)
    assert not chained_too


def test_a_branch_that_comes_later_is_noticed() -> None:
    network, _ = prepared()
    assert network.chains is not None
    network.module.rare = True
    x = images(5)
    for found, expected in zip(asked(network, x), asked(without(network), x), strict=True):
        assert torch.equal(found, expected)
    assert network.chains is None
    assert float(asked(network, x)[1].norm()) > 0


def test_the_networks_own_errors_are_those_of_the_network() -> None:
    network, _ = prepared()
    with pytest.raises(RuntimeError, match="expected input"):
        network(torch.rand(2, 4, 12, 12))
    assert network.chains is not None


def test_values_that_are_kept_are_those_of_the_pass() -> None:
    network, _ = prepared("kept")
    x = images(16)
    asked(network, x)
    kept = [value + 0 for value in network.module.kept]
    asked(without(network), x)
    for found, expected in zip(kept, network.module.kept, strict=True):
        assert torch.equal(found, expected)


def test_hooks_see_what_they_always_saw() -> None:
    network, _ = prepared()
    seen = []
    network.module.one.register_forward_hook(lambda _part, _args, output: seen.append(output.detach().clone()))
    network.module.three.register_forward_hook(lambda _part, _args, output: output * 2)
    x = images(16)
    first = asked(network, x)
    second = asked(without(network), x)
    assert len(seen) == 2
    assert torch.equal(*seen)
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


def test_more_than_one_thread_computes_the_same() -> None:
    network, _ = prepared()
    x = images(11)
    expected = asked(network, x)
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        found = asked(network, x)
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_stand_ins_say_what_they_are_like() -> None:
    net = frozen(Residual())
    convolutions = Convolutions(net.parameters())
    x = images(4).requires_grad_()
    with Chains(convolutions) as chains:
        maps = net.stem(x)
        assert isinstance(maps, Deferred)
        assert maps.shape == (4, 12, 12, 12)
        assert (maps.dtype, maps.device.type, maps.dim()) == (torch.float32, "cpu", 4)
        assert (len(maps), maps.is_cuda) == (4, False)
        assert maps.requires_grad
        assert maps.node.value is None
        assert torch.is_tensor(maps)
        assert maps.grad_fn is not None
        assert isinstance(torch.cat([maps, maps], 1), torch.Tensor)
        with torch.no_grad():
            quiet = net.stem(x)
            assert not quiet.requires_grad
        assert not (quiet + 1).requires_grad
    assert not chains.lost
    assert repr(maps).startswith("tensor(")
    assert float((maps - net.stem(x)).abs().max()) < 1e-5


def test_further_derivatives_are_those_of_the_operations() -> None:
    network, _ = prepared()
    x = images(6).requires_grad_()
    found = []
    for one in (network, without(network)):
        logits = one(x)
        (gradient,) = torch.autograd.grad(logits.square().sum(), x, create_graph=True)
        found.append((gradient.detach(), *torch.autograd.grad(gradient.square().sum(), x)))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)
    assert float(found[0][1].norm()) > 0


def test_values_that_are_not_numbers_stay_so() -> None:
    network, _ = prepared()
    x = images(16)
    x[3, 1, 5, 5] = torch.nan
    x[4, 1, 5, 5] = torch.inf
    found, expected = network(x), without(network)(x)
    assert not found[3].isfinite().all()
    torch.testing.assert_close(found, expected, equal_nan=True, rtol=0, atol=0)


def random_plan(seed):
    """A few convolutions, ReLUs and sums of maps of two sizes, at random, and what to begin with."""
    generator = torch.Generator().manual_seed(seed)

    def below(bound):
        return int(torch.randint(bound, (), generator=generator))

    sizes, steps = [(9, 7, 5), (9, 7, 5)], []
    for number in range(2, 16):
        value = below(number)
        alike = [other for other in range(number) if sizes[other] == sizes[value]]
        kind = (Kind.CONVOLUTION, Kind.ABOVE, Kind.SUM)[below(3)]
        if kind == Kind.CONVOLUTION:
            channels, down = 5 + 6 * below(2), 1 + below(2) * (sizes[value][0] == 9)
            weight = torch.randn(channels, sizes[value][2], 3, 3, generator=generator) / 5
            form = layer.form_for(weight, (down, down), (1, 1), (1, 1), sizes[value][:2])
            bias = torch.randn(channels, generator=generator) if below(2) else None
            steps.append(Step(kind, (value,), number, Convolution(layer.Layer(weight), form, bias, None)))
            sizes.append((*form.made(sizes[value][:2], (3, 3)), channels))
        else:
            other = alike[below(len(alike))]
            steps.append(Step(kind, (value,) if kind == Kind.ABOVE else (value, other), number))
            sizes.append(sizes[value])
    outputs = sorted({15, 2 + below(13)})
    starts = [torch.randn(9, 5, 9, 7, generator=generator).requires_grad_() for _ in range(2)]
    return Plan(steps, sizes, 2, outputs), starts


@pytest.mark.parametrize("seed", range(40))
def test_a_plan_computes_what_its_steps_do(seed) -> None:
    plan, starts = random_plan(seed)
    found, expected = chained(plan, starts), plan.one_by_one(starts)
    weights = [torch.randn(value.shape, generator=torch.Generator().manual_seed(seed)) for value in expected]
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)
    for used in ([0], list(range(len(found)))):
        gradients = [
            torch.autograd.grad(
                [values[at] for at in used], starts, [weights[at] for at in used], retain_graph=True,
                allow_unused=True, materialize_grads=True,
            )
            if any(values[at].requires_grad for at in used) else []
            for values in (found, expected)
        ]  # fmt: skip
        for one, other in zip(*gradients, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        for one, other in zip(chained(plan, starts), expected, strict=True):
            assert torch.equal(one, other)


def test_what_is_written_to_between_two_uses_is_noticed() -> None:
    network, _ = prepared()
    net, chains = network.module, network.chains
    x = images(4)
    with torch.no_grad():
        maps = network.module.stem(x)
        for write in (False, True):
            source = maps.clone(memory_format=torch.channels_last)
            with chains:
                early = net.one(source)
                if write:
                    source.mul_(2)
                chains.computed(early + net.two(source))
            assert chains.lost is write
