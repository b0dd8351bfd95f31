"""Optimisations are kept only where the network stays what it was."""

import random

import pytest
import torch
from torch import nn

from harness.worker.network import Network, OutputError
from harness.worker.optimise import optimise

SHAPE = (3, 8, 8)


def conv_bn(channels_in=3, channels_out=8):
    norm = nn.BatchNorm2d(channels_out)
    with torch.no_grad():
        norm.running_mean.normal_(0, 0.3)
        norm.running_var.uniform_(0.3, 3)
        norm.weight.uniform_(-2, 2)
        norm.bias.normal_()
    return nn.Sequential(nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False), norm)


class Net(nn.Module):
    """Convolution, BatchNorm, pooling, linear, with one thing changed."""

    def __init__(self, variant="plain"):
        super().__init__()
        self.variant, self.block, self.head, self.calls = variant, conv_bn(), nn.Linear(8, 4), 0

    def forward(self, x):
        self.calls += 1
        if self.variant == "branch" and x.mean() > 2:
            return x
        if self.variant == "peek":
            features = self.block[1](self.block[0](x)) + self.block[0](x)
        elif self.variant == "weight":
            features = self.block(x) * self.block[1].weight.mean()
        else:
            features = self.block(x)
        if self.variant == "count":
            features = features / len(x) * 4
        if self.variant == "noise":
            features = features + torch.randn_like(features)
        if self.variant == "random" and random.random() < 0.5:
            features = features * 2
        if self.variant == "view":
            return features.view(x.shape[0], -1)[:, :4]
        return self.head(features.relu().mean((2, 3)))


class BySize(nn.Module):
    """Another last bit of the logits in batches of one size, or a refusal."""

    def __init__(self, odd, refuses=False):
        super().__init__()
        self.net, self.odd, self.refuses, self.seen = Net(), odd, refuses, []

    def forward(self, x):
        self.seen.append(len(x))
        if len(x) == self.odd and self.refuses:
            raise RuntimeError("not so many")
        return self.net(x) * (1 + 2**-20 if len(x) == self.odd else 1)


def prepared(module, micro_batch=4, **options):
    torch.manual_seed(0)
    network = Network(module.eval().requires_grad_(False), micro_batch=micro_batch)
    return network, optimise(network, SHAPE, **options)


def logits_and_gradient(network, x):
    x = x.clone().requires_grad_()
    logits = network(x)
    return logits.detach(), torch.autograd.grad(logits.square().sum(), x)[0]


@pytest.mark.parametrize(
    ("variant", "done"),
    [
        ("plain", {"channels_last", "batchnorm_folded"}),
        ("random", set()),
        ("noise", set()),
        ("view", {"batchnorm_folded"}),
        ("branch", {"channels_last"}),
        ("count", {"channels_last"}),
        ("peek", {"channels_last"}),
        ("weight", {"channels_last"}),
    ],
)
def test_what_is_done_leaves_the_network_as_it_was(variant, done) -> None:
    torch.manual_seed(3)
    random.seed(1)
    module = Net(variant)
    x = torch.rand(10, *SHAPE)
    plain = Network(module.eval().requires_grad_(False), micro_batch=4)
    before = logits_and_gradient(plain, x) if variant not in {"noise", "random"} else None
    network, found = prepared(module)
    assert found[0] == "micro_batch=4"
    assert {name for name in found[1:] if "also" not in name} == done
    if variant in {"random", "noise", "count"}:
        assert network.sizes == (4,)
    assert isinstance(network.module.block[1], nn.Identity) == ("batchnorm_folded" in done)
    if before is not None:
        after = logits_and_gradient(network, x)
        torch.testing.assert_close(after[0], before[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(after[1], before[1], rtol=1e-3, atol=1e-5)


class _Off(torch.autograd.Function):
    """The identity; its gradient is off by a part of its own length where the layout is another."""

    @staticmethod
    def forward(ctx, x, off):
        ctx.off = off if x.is_contiguous(memory_format=torch.channels_last) else 0.0
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        noise = torch.randn(gradient.shape, generator=torch.Generator().manual_seed(0))
        scale = gradient.flatten(1).norm(dim=1) / noise.flatten(1).norm(dim=1)
        return gradient + ctx.off * scale.view(-1, 1, 1, 1) * noise, None


@pytest.mark.parametrize(("off", "kept"), [(0.01, True), (0.05, False)])
def test_a_gradient_may_move_as_far_as_rounding_moves_that_of_a_wide_network(off, kept) -> None:
    class Moved(Net):
        def forward(self, x):
            return super().forward(_Off.apply(x, off))

    _, found = prepared(Moved())
    assert ("channels_last" in found) is kept


def test_the_networks_own_code_keeps_running() -> None:
    network, found = prepared(Net())
    assert "batchnorm_folded" in found
    calls = network.module.calls
    network(torch.rand(4, *SHAPE))
    assert network.module.calls == calls + 1


@pytest.mark.parametrize("refuses", [False, True])
@pytest.mark.parametrize("odd", [8, 24, 64])
def test_only_sizes_that_give_the_same_bits_are_used(odd, refuses) -> None:
    network, found = prepared(BySize(odd, refuses), micro_batch=16)
    assert odd not in network.sizes and {8, 16, 24, 48, 64} - {odd} <= {*network.sizes}
    others = sorted(size for size in network.sizes if size != 16)
    assert found[-1] == "also_micro_batch=" + "/".join(str(size) for size in others)
    network.module.seen.clear()
    x = torch.rand(107, *SHAPE)
    whole = logits_and_gradient(network, x)
    assert set(network.module.seen) <= set(network.sizes)
    parts = [logits_and_gradient(network, part) for part in x.split(3)]
    assert torch.equal(torch.cat([logits for logits, _ in parts]), whole[0])
    assert torch.equal(torch.cat([gradient for _, gradient in parts]), whole[1])


def test_a_network_whose_batches_were_made_small_is_not_tried_with_larger_ones() -> None:
    module = BySize(0)
    network, _ = prepared(module, micro_batch=4)
    assert max(module.seen) == 4 and network.sizes[0] == 4


@pytest.mark.parametrize("sizes", [(16,), (32, 16, 8, 4), (16, 12), (10, 7, 5, 2), (64, 20, 16, 12), (9, 8)])
def test_micro_batches_hold_all_rows_and_only_the_last_is_filled_up(sizes):
    network = Network(nn.Flatten(), micro_batch=sizes[0])
    network.sizes = sizes
    for rows in range(1, 200):
        cuts = network.cuts(rows)
        assert set(cuts) <= set(sizes) and sum(cuts[:-1]) < rows <= sum(cuts)


def test_little_is_filled_up() -> None:
    network = Network(Net().eval(), micro_batch=16)
    assert network.cuts(33) == [16, 16, 16]
    network.sizes = (32, 16, 8)
    assert [network.cuts(rows) for rows in (1, 8, 13, 17, 32, 75)] == [
        [8], [8], [16], [16, 8], [32], [32, 32, 16],
    ]  # fmt: skip


def test_nothing_is_done_unless_asked() -> None:
    network, found = prepared(Net(), enabled=False)
    assert found == ("micro_batch=4",)
    assert isinstance(network.module.block[1], nn.BatchNorm2d)


def test_shared_hooked_and_parametrised_layers_are_left_alone() -> None:
    shared = nn.Sequential(conv_bn(3, 3), nn.ReLU())
    twice = nn.Sequential(shared, shared, nn.Flatten(), nn.Linear(192, 4))
    assert "batchnorm_folded" not in prepared(twice)[1]
    hooked = Net()
    hooked.block[0].register_forward_hook(lambda module, inputs, output: output * 2)
    assert "batchnorm_folded" not in prepared(hooked)[1]
    normed = Net()
    nn.utils.parametrizations.weight_norm(normed.block[0])
    assert "batchnorm_folded" not in prepared(normed)[1]
    training = Net()
    training.block[1].eval = training.block[1].train
    training.block[1].train = lambda mode=True: nn.Module.train(training.block[1], True)
    assert "batchnorm_folded" not in prepared(training)[1]


def test_a_network_for_other_images_is_left_alone() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(7, 4))
    network, found = prepared(module)
    assert found == ("micro_batch=4",)
    assert network(torch.rand(5, 7)).shape == (5, 4)


def test_filler_rows_do_not_spoil_infinite_gradients():
    class Root(nn.Module):
        def forward(self, x):
            return x.sqrt().flatten(1)[:, :4]

    network, x = Network(Root(), micro_batch=4), torch.rand(5, *SHAPE)
    x[:, 0, 0, 0] = 0
    gradients = []
    for rows in (x, x[:4], x[:1]):
        leaf = rows.clone().requires_grad_()
        network(leaf).sum().backward()
        gradients.append(leaf.grad)
    assert bool(gradients[0][:, 0, 0, 0].isposinf().all())
    assert torch.equal(gradients[0][:4], gradients[1]) and torch.equal(gradients[0][:1], gradients[2])
    assert not bool(torch.cat(gradients).isnan().any())


@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("layer", [nn.Linear(3 * 64, 4), nn.Conv2d(3, 4, 8)])
def test_weights_of_another_precision_are_told_in_one_line(layer, precision):
    network = Network(nn.Sequential(nn.Flatten(), layer) if isinstance(layer, nn.Linear) else layer, micro_batch=2)
    network.module.to(precision)
    with pytest.raises(OutputError, match=r"weights that take float32 images, got \w+ ones: convert them with .float"):
        network(torch.rand(2, *SHAPE))


def test_an_error_of_the_networks_own_is_left_as_it_is():
    network = Network(nn.Sequential(nn.Flatten(), nn.Linear(5, 4)), micro_batch=2)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        network(torch.rand(2, *SHAPE))
