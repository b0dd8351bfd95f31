"""What makes a network faster and leaves it what it is: memory layout, folded BatchNorm, fewer multiplications, sizes.

Small micro-batches waste less on filler, large ones are faster; they are used where they give the same bits.
"""

import contextlib
import copy
import time
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from harness.worker.chains import Chains
from harness.worker.convolutions import Convolutions
from harness.worker.convolutions.winograd import CHANNELS, CHANNELS_NEAR
from harness.worker.network import MICRO_BATCH, Network, pull_back

LOGITS_TOLERANCE = 1e-4
"""Largest difference of the logits after an optimisation, relative to the largest logit."""
GRADIENT_TOLERANCE = 2e-2
"""L2 difference of an image's gradient, relative to the gradient.

Rounding by a part r of an activation takes about the share r of all ReLUs over their kink, which moves a gradient by
the square root of that: for r near 1e-6 by 1e-3 in a layer. WideResNet-28-10 has images at 1e-2 after a change of the
memory layout alone, and at 6e-3 when the last bit of its pixels is changed. What is done is exact but for rounding: the
comparison is for networks where it should not have been done.
"""
GRADIENT_SHARE = 0.9
"""Share of the images that must hold it: in a small network one ReLU that is taken over its kink moves it further."""
LARGE = 0.5
"""Processor seconds for two micro-batches from which on only the half is tried: the other sizes gain little."""
SMALL = 0.1
"""The same up to which sizes up to four times its own are tried: in bfloat16 they are up to a quarter faster."""
FEW = 1 << 22
"""Parameters up to which narrow convolutions are computed in tiles: a second set of kernels, for questions about images
near known ones, then takes little room and time."""
TURN = 5
"""Places by which rows are moved to see whether the place matters; micro-batches of that many are rare."""


Answers = list[tuple[Tensor, Tensor]]


def _answers(network: Network, batches: Sequence[Tensor], times: int = 1, turned: int = 0) -> Answers:
    """Logits, and gradient of their fixed random combination, for every batch, which is asked about ``times`` over.

    ``turned``: as many places further down; those at the end come first.
    """
    found: Answers = []
    with torch.enable_grad():
        for x in batches:
            leaf = x.repeat(times, 1, 1, 1).roll(turned, 0).requires_grad_()
            logits = network(leaf)
            weights = torch.randn((len(x), *logits.shape[1:]), generator=torch.Generator().manual_seed(1))
            weights = weights.repeat(times, *[1] * (logits.dim() - 1)).roll(turned, 0)
            gradient = pull_back(logits, leaf, weights.to(logits.device))
            found.append((logits.detach(), gradient.detach()))
    return found


def _same(before: Answers, after: Answers) -> bool:
    for (logits, gradient), (other_logits, other_gradient) in zip(before, after, strict=True):
        if logits.shape != other_logits.shape or not logits.isfinite().all() or not gradient.isfinite().all():
            return False
        if not bool((logits - other_logits).abs().max() <= LOGITS_TOLERANCE * logits.abs().max()):
            return False
        off = (gradient - other_gradient).flatten(1).norm(dim=1)
        held = off <= GRADIENT_TOLERANCE * gradient.flatten(1).norm(dim=1)
        if float(held.float().mean()) < GRADIENT_SHARE:
            return False
    return True


def equal_sizes(network: Network, shape: Sequence[int]) -> tuple[int, ...]:
    """Sizes of micro-batches, the largest first, whose logits and gradients are those of the network's own, bit by bit.

    Quarters of its own one up to its double are tried on images of ``shape`` (C, H, W), of a small network up to its
    fourfold, so that a batch hardly ever needs two small ones; of a large one the half alone, and nothing larger than
    an own one that is below ``MICRO_BATCH``, which was made small to save memory. A kernel is chosen by the shapes it
    gets, so what is equal on these images is equal on others.
    """
    own = network.micro_batch
    images = [torch.cat(probe_batches(shape, own, network.device))]
    sizes = {own}
    began = time.process_time()
    expected = _answers(network, images)
    spent = time.process_time() - began
    quarters = (2,) if spent > LARGE else range(1, 17 if spent <= SMALL else 9)
    most = 4 * own if own >= MICRO_BATCH.get(network.device.type, own) else own
    for size in sorted({own * quarter // 4 for quarter in quarters} - {own}):
        if not 0 < size <= most:
            continue
        network.sizes = (size,)
        times = -(-size // len(images[0]))
        # A size that it does not take is none to use.
        with contextlib.suppress(Exception):
            if _equal(_turned(expected, times), _answers(network, images, times, TURN)):
                sizes |= set(network.sizes)
    network.sizes = (own,)
    return tuple(sorted(sizes, reverse=True))


def _turned(answers: Answers, times: int = 1) -> Answers:
    """What the same batches should give ``times`` over and turned by ``TURN``."""
    return [
        (logits.repeat(times, 1).roll(TURN, 0), gradient.repeat(times, 1, 1, 1).roll(TURN, 0))
        for logits, gradient in answers
    ]


def _equal(before: Answers, after: Answers) -> bool:
    return all(
        torch.equal(one, other)
        for pair, others in zip(before, after, strict=True)
        for one, other in zip(pair, others, strict=True)
    )


def same_bits(one: Network, other: Network, images: Tensor) -> bool:
    """Whether two networks give the same logits and gradients of ``images`` (N, C, H, W), bit by bit."""
    return _equal(_answers(one, [images]), _answers(other, [images]))


def probe_batches(shape: Sequence[int], rows: int, device: torch.device) -> list[Tensor]:
    """A batch of noise and one of smooth ramps and flat images, in [0, 1]."""
    noise = torch.rand((rows, *shape), generator=torch.Generator().manual_seed(0))
    height = torch.linspace(0, 1, shape[1]).view(1, 1, -1, 1)
    width = torch.linspace(0, 1, shape[2]).view(1, 1, 1, -1)
    level = torch.linspace(0, 1, rows).view(-1, 1, 1, 1)
    smooth = (level * height + (1 - level) * width).expand(rows, *shape).clone()
    smooth[: rows // 4] = level[: rows // 4]
    return [noise.to(device), smooth.to(device)]


def _single_use(modules: dict[str, nn.Module]) -> set[str]:
    """Names of the modules that no hook, parametrisation or second owner of a parameter could notice changing."""
    owners: dict[int, int] = {}
    for module in modules.values():
        for parameter in module.parameters(recurse=False):
            owners[id(parameter)] = owners.get(id(parameter), 0) + 1
    return {
        name
        for name, module in modules.items()
        if not (module._forward_hooks or module._forward_pre_hooks or module._backward_hooks)
        and not nn.utils.parametrize.is_parametrized(module)
        and all(owners[id(parameter)] == 1 for parameter in module.parameters(recurse=False))
    }


def _pairs(module: nn.Module) -> list[tuple[str, str]]:
    """Names of (convolution, BatchNorm) where the one feeds the other and nothing else touches either."""
    # Tracing runs the network's own Python code on stand-ins, which may leave some behind: trace a copy.
    graph = fx.Tracer().trace(copy.deepcopy(module))
    modules = dict(module.named_modules())
    free = _single_use(modules)
    calls: dict[str, int] = {}
    touched: set[str] = set()
    for node in graph.nodes:
        if node.op == "call_module":
            calls[str(node.target)] = calls.get(str(node.target), 0) + 1
        elif node.op == "get_attr":
            touched.add(str(node.target).rpartition(".")[0])
    found = []
    for node in graph.nodes:
        if node.op != "call_module" or not isinstance(node.args[0] if node.args else None, fx.Node):
            continue
        before, names = node.args[0], (str(node.args[0].target), str(node.target))
        conv, norm = modules.get(names[0]), modules.get(names[1])
        if (
            before.op == "call_module"
            and len(before.users) == 1
            and type(conv) is nn.Conv2d
            and type(norm) is nn.BatchNorm2d
            and not norm.training
            and norm.running_mean is not None
            and all(calls[name] == 1 and name in free and name not in touched for name in names)
        ):
            found.append(names)
    return found


def _replace(root: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(root.get_submodule(parent), child, module)


@contextlib.contextmanager
def _undo_unless(kept: list[bool], root: nn.Module, names: Sequence[str]) -> Iterator[None]:
    """Put the modules called ``names`` back at the end unless ``kept`` has been filled."""
    saved = {name: root.get_submodule(name) for name in names}
    try:
        yield
    finally:
        if not kept:
            for name, module in saved.items():
                _replace(root, name, module)


def _folded(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    """A convolution that does what ``conv`` and ``norm`` in eval mode do one after the other."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    weight, bias = fuse_conv_bn_weights(
        conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )
    layer = copy.deepcopy(conv)
    layer.weight = nn.Parameter(weight.detach(), requires_grad=False)
    layer.bias = nn.Parameter(bias.detach(), requires_grad=False)
    return layer


def _convolutions(network: Network, before: Answers, batches: Sequence[Tensor]) -> list[str]:
    """Compute convolutions ourselves; what is computed how, nothing where it was taken back.

    Tiles round in another way at each of their places: before max-pooling over flat parts of an image, another of the
    equal values may then get the gradient. Such a network is computed without them. Nothing is where micro-batches were
    made small to save memory: transformed kernels take eight times the weights'.
    """
    if network.device.type != "cpu" or network.micro_batch < MICRO_BATCH["cpu"]:
        return []
    few = sum(parameter.numel() for parameter in network.module.parameters()) <= FEW
    for least in (*([CHANNELS] if few else []), CHANNELS_NEAR, None):
        with contextlib.suppress(Exception):
            network.convolutions = Convolutions(network.module.parameters(), least=least)
            after = _answers(network, batches)
            network.convolutions.settled()
            told = network.convolutions.told()
            if told and _same(before, after):
                return told
    network.convolutions = None
    return []


def _chains(network: Network, batches: Sequence[Tensor]) -> list[str]:
    """Compute our convolutions together with what lies between, and say so; not where one bit changes."""
    if network.convolutions is None:
        return []
    with contextlib.suppress(Exception):
        one_by_one = _answers(network, batches)
        network.chains = chains = Chains(network.convolutions)
        if _equal(one_by_one, _answers(network, batches)) and network.chains is not None and chains.told():
            return chains.told()
    network.chains = None
    return []


def near_form(network: Network, shape: Sequence[int]) -> Network:
    """``network`` as it is asked about images near known ones; ``shape`` is (C, H, W) of an image.

    Its narrow convolutions are computed as they are defined, not in tiles, so that its logits may be others in their
    last bits; the network itself where there are none, where that makes another network of it, or where its bits hang
    on the size of the batch.
    """
    if network.convolutions is None or len(network.sizes) == 1 or not network.convolutions.narrow_tiles():
        return network
    other = Network(network.module, micro_batch=network.micro_batch, device=str(network.device))
    other.layout = network.layout
    try:
        batches = probe_batches(shape, network.micro_batch, network.device)
        other.convolutions = Convolutions(network.module.parameters(), least=CHANNELS_NEAR)
        faithful = _same(_answers(network, batches), _answers(other, batches))
        other.convolutions.settled()
        _chains(other, batches)
        other.sizes = equal_sizes(other, shape)
    except Exception:
        faithful = False
    return other if faithful else network


def optimise(network: Network, shape: Sequence[int], *, enabled: bool = True) -> tuple[str, ...]:
    """Make a frozen network in eval mode faster in place, and say what was done; ``shape`` is (C, H, W) of an image.

    Every step is tried on two batches and taken back unless logits and input gradients stay as they were
    (``LOGITS_TOLERANCE``, ``GRADIENT_TOLERANCE``); whatever goes wrong, the network still answers as before. The
    network's own code keeps running (only layers are exchanged), so what is random or stateful in it stays so.
    """
    done = [f"micro_batch={network.micro_batch}"]
    if not enabled:
        return tuple(done)
    try:
        batches = probe_batches(shape, network.micro_batch, network.device)
        before = _answers(network, batches)
        if not _same(before, _answers(network, batches)):
            return tuple(done)
    except Exception:
        # It does not take such images: nothing can be compared. The first real request will say what is wrong.
        return tuple(done)
    module = network.module
    if any(isinstance(layer, nn.Conv2d) for layer in module.modules()):
        try:
            network.layout = torch.channels_last
            module.to(memory_format=torch.channels_last)
            faithful = _same(before, _answers(network, batches))
        except Exception:
            faithful = False
        if faithful:
            done.append("channels_last")
        else:
            network.layout = torch.contiguous_format
            module.to(memory_format=torch.contiguous_format)
    with contextlib.suppress(Exception):
        pairs = _pairs(module)
        kept: list[bool] = []
        with _undo_unless(kept, module, [name for pair in pairs for name in pair]):
            for conv_name, norm_name in pairs:
                conv, norm = module.get_submodule(conv_name), module.get_submodule(norm_name)
                assert isinstance(conv, nn.Conv2d)
                assert isinstance(norm, nn.BatchNorm2d)
                _replace(module, conv_name, _folded(conv, norm))
                _replace(module, norm_name, nn.Identity().eval())
            if pairs and _same(before, _answers(network, batches)):
                kept.append(True)
                done.append("batchnorm_folded")
    done += _convolutions(network, before, batches)
    done += _chains(network, batches)
    with contextlib.suppress(Exception):
        network.sizes = equal_sizes(network, shape)
        others = sorted({*network.sizes} - {network.micro_batch})
        done += [f"also_micro_batch={'/'.join(map(str, others))}"] if others else []
    return tuple(done)
