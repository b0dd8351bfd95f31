"""The process that holds a submission: ``python -m harness.worker SOCKET ARENA PARENT``.

It is told how to build one network and then answers two questions, the logits of a batch and the vector-Jacobian
product for a given output gradient, and a few about the module itself. It never learns a label, an attack's name or
where results lie. Started by ``harness.models.ModelWorker``; the numbers are two file descriptors and a process id.
"""

import contextlib
import ctypes
import gc
import hashlib
import importlib
import os
import select
import signal
import socket
import sys
import threading
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from harness.worker.channel import Arena, ChannelError, receive, send
from harness.worker.inspection import INSPECTIONS, directional
from harness.worker.loading import LoadError, describe_exception, is_out_of_memory, load, seed_all
from harness.worker.network import MICRO_BATCH, Network, OutputError, pull_back
from harness.worker.optimise import near_form, optimise
from harness.worker.variants import Variants
from harness.worker.weights import frozen
from harness.worker.windows import Windows

PR_SET_PDEATHSIG = 1
SLACK = 256 << 20
"""Bytes of address space beyond the memory limit, for stacks and fragments."""
MAX_LISTED = 50


def _die_with(parent: int, connection: socket.socket) -> None:
    """End this process and its group as soon as the engine is gone."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)

    def watch() -> None:
        hang_up = select.poll()
        hang_up.register(connection, getattr(select, "POLLRDHUP", select.POLLHUP))
        hang_up.poll()
        if os.getpgrp() == os.getpid():
            os.killpg(0, signal.SIGKILL)
        os._exit(1)

    threading.Thread(target=watch, name="watchdog", daemon=True).start()


def _limit_memory(limit: int) -> None:
    """Refuse allocations far beyond ``limit`` bytes, so that one huge request cannot take the machine down."""
    import resource

    held = 0
    with contextlib.suppress(OSError):
        lines = Path("/proc/self/status").read_text().splitlines()
        held = next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmData:")), 0)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_DATA, (held + limit + SLACK, held + limit + SLACK))


def _trim() -> None:
    """Hand freed memory back to the system, so that what the system counts is what is held."""
    gc.unfreeze()
    gc.collect()
    # What is left stays for long: no need to look at all of a network each time that some objects have been made.
    gc.freeze()
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)


def _warm_up() -> None:
    """Let torch set up what any network makes it set up, so that it does not count as the network's memory."""
    importlib.import_module("safetensors.torch")
    layers = [
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.BatchNorm2d(32),
        nn.ReLU(), nn.Conv2d(32, 32, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10),
    ]  # fmt: skip
    module = frozen(nn.Sequential(*layers))
    optimise(Network(module, micro_batch=MICRO_BATCH["cpu"]), (3, 32, 32))


def _dtype(module: nn.Module) -> str:
    """The type most parameters have."""
    counts: Counter[str] = Counter()
    for parameter in module.parameters():
        counts[str(parameter.dtype).removeprefix("torch.")] += parameter.numel()
    return counts.most_common(1)[0][0] if counts else "float32"


def state_hash(module: nn.Module, *, buffers: bool = True) -> str:
    """sha256 over names, types, shapes and bytes of all parameters and, unless left out, buffers."""
    digest = hashlib.sha256()
    for name, tensor in [*module.named_parameters(), *(module.named_buffers() if buffers else ())]:
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def count_macs(network: Network, shape: list[int]) -> int:
    """Multiply-accumulates of the convolutions and matrix products of one forward pass of one image (C, H, W)."""
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network.module(torch.zeros(1, *shape, device=network.device))
    return int(counter.get_total_flops()) // 2


class Answerer:
    """Holds the network and the graphs of the questions that may still be asked about."""

    def __init__(self, arena: Arena) -> None:
        self.arena = arena
        self.spec: Mapping[str, Any] = {}
        self.network: Network | None = None
        self.variants: Variants | None = None
        self.graphs: dict[int, tuple[Tensor, Tensor]] = {}
        self.windows: dict[int, Windows] = {}

    def answer(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """The reply to one message; exceptions of the submission's code pass through."""
        for token in message.get("release", ()):
            self.graphs.pop(token, None)
        self.arena.remap(message.get("arena", 0))
        operation = message["op"]
        if operation == "load":
            return self._load(message)
        if operation in {"trim", "seed"}:
            _trim() if operation == "trim" else seed_all(message["seed"])
            return {}
        return self._asked(operation, message)

    def _asked(self, operation: str, message: Mapping[str, Any]) -> dict[str, Any]:
        """The reply to a question about a loaded network."""
        if operation == "probe":
            return {"result": self._probe(message["name"], message["arguments"], message["shape"])}
        if operation == "variant":
            number, about = self._forms().add(message["spec"])
            return {"id": number, "about": about}
        if operation == "jvp":
            return self._jvp(message["shape"], message["row"], message["variant"])
        if operation == "forward":
            network = self._forms().get(message["variant"])
            return self._forward(network, message["token"], message["shape"], message["row"], grad=message["grad"])
        if operation == "near":
            return self._near(message)
        return self._vjp(message["token"])

    def build(self) -> nn.Module:
        """A new copy of the network, frozen in eval mode, on the processor."""
        return load(self.spec)

    def _load(self, message: Mapping[str, Any]) -> dict[str, Any]:
        self.spec = message["spec"]
        device = message["device"]
        if message["memory_limit"] is not None and device == "cpu":
            _limit_memory(message["memory_limit"])
        module = self.build()
        parameters = sum(parameter.numel() for parameter in module.parameters())
        dtype = _dtype(module)
        training = [name for name, layer in module.named_modules() if layer.training][:MAX_LISTED]
        micro_batch = message["micro_batch"] or MICRO_BATCH["cuda" if device.startswith("cuda") else "cpu"]
        self.network = Network(module, micro_batch=micro_batch, device=device)
        done = optimise(self.network, message["shape"], enabled=message["optimise"])
        self.variants = Variants(self.network, message["shape"], self.build)
        self.windows.clear()
        _trim()
        seed_all(0)
        return {
            "parameters": parameters,
            "training": training,
            "dtype": dtype,
            "hardware": torch.cuda.get_device_name(self.network.device) if device.startswith("cuda") else "",
            "optimisations": list(done),
        }

    def _loaded(self) -> Network:
        if self.network is None:
            raise LoadError("contract", "the network is not loaded")
        return self.network

    def _forms(self) -> Variants:
        self._loaded()
        assert self.variants is not None
        return self.variants

    def _forward(self, network: Network, token: int, shape: list[int], row: int, *, grad: bool) -> dict[str, Any]:
        with torch.set_grad_enabled(grad):
            x = self.arena.tensor(shape).clone().requires_grad_(grad)
            logits = network(x)
            if logits.shape[1] > row:
                raise OutputError(f"expected at most {row} classes, got {logits.shape[1]}")
            with torch.no_grad():
                self.arena.tensor(logits.shape).copy_(logits)
        if grad:
            self.graphs[token] = (x, logits)
        return {"shape": list(logits.shape)}

    def _near(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """Known images come first in the arena, then those that are asked about."""
        variant, placed = message["variant"], message["placed"]
        if variant not in self.windows:
            self.windows[variant] = Windows(near_form(self._forms().get(variant), message["shape"][1:]))
        windows = self.windows[variant]
        images = self.arena.tensor(message["shape"]).clone()
        windows.place(placed, images[: len(placed)])
        logits = windows.ask(images[len(placed) :], message["numbers"])
        if logits.shape[1] > message["row"]:
            raise OutputError(f"expected at most {message['row']} classes, got {logits.shape[1]}")
        self.arena.tensor(logits.shape).copy_(logits)
        return {"shape": list(logits.shape)}

    def _vjp(self, token: int) -> dict[str, Any]:
        x, logits = self.graphs[token]
        gradient = pull_back(logits, x, self.arena.tensor(logits.shape).clone())
        self.arena.tensor(x.shape).copy_(gradient)
        return {}

    def _jvp(self, shape: list[int], row: int, variant: int) -> dict[str, Any]:
        x, direction = self.arena.tensor([2, *shape]).clone()
        change = directional(self._forms().get(variant), x, direction)
        if change is None or change.shape[1] > row:
            return {"shape": None}
        self.arena.tensor(change.shape).copy_(change)
        return {"shape": list(change.shape)}

    def _probe(self, name: str, arguments: Mapping[str, Any], shape: list[int] | None) -> dict[str, Any]:
        if name == "graphs":
            return {"graphs": len(self.graphs)}
        if name == "cuda_memory":
            if arguments.get("reset"):
                torch.cuda.reset_peak_memory_stats()
            return {"held": torch.cuda.memory_allocated(), "peak": torch.cuda.max_memory_allocated()}
        network = self._loaded()
        if name == "macs":
            return {"macs": count_macs(network, arguments["shape"])}
        if name == "state":
            return {"sha256": state_hash(network.module), "parameters": state_hash(network.module, buffers=False)}
        if name == "training":
            return {"training": [key for key, layer in network.module.named_modules() if layer.training][:MAX_LISTED]}
        if name not in INSPECTIONS or (shape is None and name not in {"digest", "modes", "tables"}):
            raise LoadError("contract", f"unknown probe {name!r}, or one that needs images")
        x = torch.empty(0) if shape is None else self.arena.tensor(shape).clone()
        return INSPECTIONS[name](network, x, **arguments)


def failure_of(error: BaseException, spec: Mapping[str, Any]) -> dict[str, Any]:
    """The reply that says what went wrong."""
    if isinstance(error, LoadError):
        return {"kind": error.kind, "message": str(error)}
    if isinstance(error, OutputError):
        return {"kind": "contract", "message": str(error)}
    return {"kind": "memory" if is_out_of_memory(error) else "raised", "message": describe_exception(error, spec)}


def main(arguments: list[str]) -> None:
    """Answer messages until the engine hangs up."""
    connection = socket.socket(fileno=int(arguments[0]))
    arena = Arena(int(arguments[1]), os.fstat(int(arguments[1])).st_size)
    for fd in (connection.fileno(), arena.fd):
        os.set_inheritable(fd, False)
    _die_with(int(arguments[2]), connection)
    threads = int(os.environ.get("OMP_NUM_THREADS", "1"))
    torch.set_num_threads(threads)
    torch.set_num_interop_threads(1)
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    _warm_up()
    _trim()
    answerer = Answerer(arena)
    with contextlib.suppress(ChannelError):
        send(connection, {"seq": 0, "ok": True})
        while True:
            message = receive(connection)
            try:
                reply = answerer.answer(message) | {"ok": True}
            except BaseException as error:
                reply = failure_of(error, answerer.spec) | {"ok": False}
            send(connection, reply | {"seq": message["seq"]})
