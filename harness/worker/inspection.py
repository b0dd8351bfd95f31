"""What a worker can say about its network beyond logits and gradients; every answer is plain data, and its own word."""

import contextlib
import hashlib
import math
import random
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from harness.worker.digest import digest, places, sizes_of, tensor_bytes
from harness.worker.network import Network, pull_back
from harness.worker.trace import trace

CHILDREN = 300
"""Submodules described, at most."""
LISTED = 50
"""Names listed, at most."""
Calls = dict[str, dict[str, Any]]


def _part(network: Network, x: Tensor) -> Tensor:
    """At most a micro-batch of ``x``, in the network's layout."""
    return x[: network.micro_batch or len(x)].to(network.device).clone(memory_format=network.layout)


def _affine(given: Tensor, x: Tensor) -> dict[str, Any]:
    """Per channel, the line from pixels of ``x`` to values of ``given``; the least share of variance it explains."""
    pixels, values = (tensor.double().transpose(0, 1).flatten(1) for tensor in (x, given))
    mean_x, mean_y = pixels.mean(1, keepdim=True), values.mean(1, keepdim=True)
    spread = (pixels - mean_x).square().sum(1).clamp_min(1e-12)
    scale = ((pixels - mean_x) * (values - mean_y)).sum(1) / spread
    shift = mean_y.squeeze(1) - scale * mean_x.squeeze(1)
    left = (values - scale[:, None] * pixels - shift[:, None]).square().sum(1)
    total = (values - mean_y).square().sum(1).clamp_min(1e-12)
    explained = float((1 - left / total).min())
    if not bool(scale.isfinite().all()) or math.isnan(explained):
        return {"scale": None, "shift": None, "explained": 0.0}
    return {"scale": scale.tolist(), "shift": shift.tolist(), "explained": max(0.0, explained)}


def children(network: Network, x: Tensor) -> dict[str, Any]:
    """The submodules in the order in which their first call ends: path, type, shapes, calls, parameters, outputs.

    ``image`` tells whether the input has the shape of the images; then ``scale`` and ``shift`` (per channel) are the
    affine map from images to it, and ``explained`` the least share of a channel's variance that this map explains.
    Where the output is (N, outputs), ``last`` tells whether it is the network's own answer, and ``first`` names the
    first submodule with the same one.
    """
    x = _part(network, x)
    found: Calls = {}
    answers: dict[str, Tensor] = {}

    def watch(name: str) -> Callable[..., None]:
        def hook(part: nn.Module, args: Any, output: Any) -> None:  # noqa: ANN401
            given = args[0] if args and isinstance(args[0], Tensor) else None
            if name in found:
                found[name]["calls"] += 1
                return
            if len(found) >= CHILDREN:
                return
            entry: dict[str, Any] = {
                "path": name, "type": type(part).__name__, "calls": 1,
                "parameters": sum(item.numel() for item in part.parameters()),
                "input": None if given is None else list(given.shape),
                "output": list(output.shape) if isinstance(output, Tensor) else None,
                "outputs": output.shape[1] if isinstance(output, Tensor) and output.dim() == 2 else None,
                "inputs": len(args),
                "image": given is not None and given.shape == x.shape and given.is_floating_point(),
            }  # fmt: skip
            if entry["image"] and given is not None:
                entry |= _affine(given, x)
            if entry["outputs"] is not None:
                answers[name] = output.detach().clone()
            found[name] = entry

        return hook

    with contextlib.ExitStack() as stack, torch.no_grad():
        for name, part in network.module.named_modules():
            if name:
                with contextlib.suppress(RuntimeError):
                    stack.callback(part.register_forward_hook(watch(name)).remove)
        logits = network.module(x.clone())
    for name, answer in answers.items():
        found[name]["last"] = _same(answer, logits)
        found[name]["first"] = next(other for other, known in answers.items() if _same(answer, known))
    return {"children": list(found.values())}


def _same(first: Tensor, second: object) -> bool:
    return isinstance(second, Tensor) and first.shape == second.shape and torch.equal(first, second)


def _random_states(device: torch.device) -> dict[str, str]:
    states = {"torch": tensor_bytes(torch.get_rng_state()), "python": repr(random.getstate()).encode()}
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        states["numpy"] = repr([str(part) for part in numpy.random.get_state(legacy=True)]).encode()
        states["numpy"] += numpy.random.get_state()[1].tobytes()
    if device.type == "cuda":
        states["cuda"] = tensor_bytes(torch.cuda.get_rng_state(device))
    return {name: hashlib.sha256(state).hexdigest() for name, state in states.items()}


def rng(network: Network, x: Tensor) -> dict[str, Any]:
    """``{"consumed": [...]}``: the global generators whose state a forward pass of ``x`` changes."""
    before = _random_states(network.device)
    with torch.no_grad():
        network(x)
    after = _random_states(network.device)
    return {"consumed": [name for name in after if name in before and before[name] != after[name]]}


def digest_of(network: Network, x: Tensor) -> dict[str, Any]:
    """Short hashes of everything the network can remember; see ``harness.worker.digest``."""
    return dict(digest(network.module))


def modes(network: Network, x: Tensor) -> dict[str, Any]:
    """``{"training": [...], "trainable": n}``: modules in training mode, parameters that ask for a gradient."""
    return {
        "training": [name or "(root)" for name, part in network.module.named_modules() if part.training][:LISTED],
        "trainable": sum(parameter.requires_grad for parameter in network.module.parameters()),
    }


def cross_gradient(network: Network, x: Tensor, rows: int) -> dict[str, Any]:
    """Largest gradient of the first ``rows`` logits with respect to the other images, and to their own.

    The whole batch goes through the network at once. ``cross`` and ``own`` are None when there is no gradient.
    """
    leaf = x.to(network.device).clone(memory_format=network.layout).requires_grad_()
    with torch.enable_grad():
        logits = network.module(leaf * 1)
        weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(2)).to(logits)
        weights[rows:] = 0
        gradient = pull_back(logits, leaf, weights)
    if not logits.requires_grad or not bool(gradient.isfinite().all()):
        return {"cross": None, "own": None}
    return {"cross": float(gradient[rows:].abs().max()), "own": float(gradient[:rows].abs().max())}


def directional(network: Network, x: Tensor, direction: Tensor) -> Tensor | None:
    """Derivative of the logits along ``direction``, (N, K), in forward mode; None where an operation has none."""
    try:
        with torch.no_grad(), forward_ad.dual_level():
            dual = forward_ad.make_dual(x, direction)  # type: ignore[no-untyped-call]
            out = forward_ad.unpack_dual(network(dual))  # type: ignore[no-untyped-call]
            return torch.zeros_like(out.primal) if out.tangent is None else out.tangent.clone()
    except (RuntimeError, NotImplementedError):
        return None


def tables(network: Network, x: Tensor, sizes: list[int]) -> dict[str, Any]:
    """``{"tables": [...]}``: buffers, plain values and containers with exactly one of ``sizes`` entries."""
    found: list[str] = []
    for name, part in network.module.named_modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            continue
        for key, buffer in part.named_buffers(recurse=False):
            if buffer.dim() and len(buffer) in sizes:
                found.append(f"{name or '(root)'}.{key} {tuple(buffer.shape)}")
    for place, held in places(network.module):
        found += [
            f"{place}.{key}: {size} entries" for key, value in list(held.items()) for size in sizes_of(value, sizes)
        ]
    return {"tables": sorted(set(found))[:LISTED]}


INSPECTIONS: dict[str, Callable[..., dict[str, Any]]] = {
    "children": children, "trace": trace, "rng": rng, "digest": digest_of, "modes": modes,
    "cross_gradient": cross_gradient, "tables": tables,
}  # fmt: skip
"""By the name that ``ModelWorker.probe`` is asked for; called with the network, images and the arguments."""
