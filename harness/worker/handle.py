"""Handle on the process that holds one submission: starts it, asks it, ends it, and believes nothing it says."""

import contextlib
import itertools
import os
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from harness.environment import processor
from harness.worker.channel import Arena, ChannelError, ClosedError, receive, send
from harness.worker.options import KINDS, Description, WorkerError, WorkerOptions, worker_environment
from harness.worker.process import WatchedProcess
from harness.worker.weights import one_line

CLASSES = 4096
"""Logits per image for which room is always kept; more are possible for images with more values than that."""
LAUNCH_TIMEOUT = 300.0
"""Seconds for the process to start and import torch."""


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"


def _hang_up(connection: socket.socket) -> None:
    """Wake whoever waits for a reply of a process that is gone."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


class ModelWorker:
    """Handle on the process that holds one submission; may be started again after it was closed or lost."""

    def __init__(self, spec: Mapping[str, Any], options: WorkerOptions | None = None) -> None:
        """Nothing is started yet; ``spec`` is what ``Submission.spec()`` returns."""
        self._spec = dict(spec)
        self._options = options or WorkerOptions()
        self._process: WatchedProcess | None = None
        self._connection: socket.socket | None = None
        self._arena: Arena | None = None
        self._lock = threading.RLock()
        self._numbers = itertools.count(1)
        self._shapes: dict[int, tuple[torch.Size, torch.Size]] = {}
        self._released: deque[int] = deque()
        self._classes: dict[int, int] = {}
        self._variants: list[dict[str, Any]] = [{}]
        self._made: dict[int, tuple[int, dict[str, Any]]] = {}
        self.deadline: float | None = None
        """``time.monotonic()`` after which a pending or new request ends the process; None: never."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """Process id; None before the first start and after ``close``."""
        return self._process.pid if self._process is not None else None

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.alive

    def log_tail(self, characters: int = 4000) -> str:
        """The end of what the submission wrote to its standard output and error; empty after ``close``."""
        return self._process.log_tail(characters) if self._process is not None else ""

    def launch(self, timeout: float = LAUNCH_TIMEOUT) -> None:
        """Start the process, without the submission: torch imported and warm. Raises ``WorkerError``."""
        self.close()
        ours, theirs = socket.socketpair()
        self._connection, self._arena = ours, Arena.create()
        folder = Path(self._spec.get("folder") or "/")
        command = [sys.executable, "-P", "-m", "harness.worker"]
        command += [str(theirs.fileno()), str(self._arena.fd), str(os.getpid())]
        try:
            self._process = WatchedProcess(
                command,
                environment=worker_environment(self._options.threads),
                folder=folder if folder.is_dir() else Path("/"),
                fds=(theirs.fileno(), self._arena.fd),
                memory_limit=self._options.memory_limit,
                on_exit=lambda: _hang_up(ours),
            )
        except OSError as error:
            self.close()
            raise WorkerError("died", f"the model's process could not be started: {error}") from error
        finally:
            theirs.close()
        self._receive("start", 0, timeout)

    def load(self, timeout: float) -> Description:
        """Build the submission in the launched process, within ``timeout`` seconds. Raises ``WorkerError``."""
        options = self._options
        reply = self._request(
            {
                "op": "load", "spec": self._spec, "device": options.device, "memory_limit": options.memory_limit,
                "micro_batch": options.micro_batch, "optimise": options.optimise, "shape": list(options.image_shape),
            },
            timeout,
        )  # fmt: skip
        try:
            return Description(
                parameters=int(reply["parameters"]),
                training=tuple(one_line(str(name)) for name in reply["training"]),
                hardware=one_line(str(reply["hardware"])) or processor(),
                dtype=one_line(str(reply["dtype"])),
                optimisations=tuple(one_line(str(name)) for name in reply["optimisations"]),
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise self._nonsense("load") from error

    def start(self, timeout: float) -> Description:
        """``launch`` and ``load``; ``timeout`` seconds for the submission to be built. Raises ``WorkerError``."""
        self.launch()
        return self.load(timeout)

    restart = start

    def close(self) -> None:
        """End the process and everything it started; harmless when there is none."""
        process, connection, arena = self._process, self._connection, self._arena
        self._process = self._connection = self._arena = None
        if process is not None:
            process.kill()
        if connection is not None:
            connection.close()
        if arena is not None:
            arena.close()
        self._shapes.clear()
        self._released.clear()
        self._classes.clear()
        self._made.clear()

    def another(self, *, optimise: bool = True) -> "ModelWorker":
        """A handle on a second process of the same submission; not started yet.

        Without ``optimise`` its network is asked nothing before the first question.
        """
        return ModelWorker(self._spec, replace(self._options, optimise=optimise and self._options.optimise))

    def variant(self, **spec: object) -> int:
        """Another form of the network, as a number for ``forward`` and ``jvp``; see ``harness.worker.variants``.

        The number stays good when the process is started again. Raises ``WorkerError`` of kind ``contract`` when there
        is no such form of this network.
        """
        with self._lock:
            for number, known in enumerate(self._variants):
                if number and known == spec:
                    break
            else:
                number = len(self._variants)
                self._variants.append(dict(spec))
            self._variant(number)
            return number

    def about(self, variant: int) -> dict[str, Any]:
        """What the process says about a variant: ``{"level", "modules", "reaches", "note"}`` of a repaired one, ..."""
        return dict(self._variant(variant)[1])

    def _variant(self, number: int) -> tuple[int, dict[str, Any]]:
        """The process's own number of a variant, and what it says about it."""
        if number == 0:
            return 0, {}
        if number not in self._made:
            reply = self._request({"op": "variant", "spec": self._variants[number]})
            own, about = reply.get("id"), reply.get("about")
            if type(own) is not int or not isinstance(about, dict):
                raise self._nonsense("variant")
            self._made[number] = (own, about)
        return self._made[number]

    def forward(self, x: Tensor, *, grad: bool = False, variant: int = 0) -> tuple[Tensor, int]:
        """Logits float32 (N, K) of float32 (N, C, H, W) in [0, 1], and a token for ``vjp`` (0 without ``grad``).

        Raises ``WorkerError``; kind ``contract`` when what comes back is not logits, or K is not what it was before
        for the same ``variant``.
        """
        if x.dim() < 2 or x.dtype != torch.float32:
            raise ValueError(f"expected float32 images (N, C, H, W), got {x.dtype} {tuple(x.shape)}")
        with self._lock:
            if len(x) == 0:
                if variant not in self._classes:
                    self.forward(x.new_zeros((1, *x.shape[1:])), variant=variant)
                return x.new_zeros((0, self._classes[variant])), 0
            row = max(x[0].numel(), CLASSES)
            number, _ = self._variant(variant)
            token = next(self._numbers) if grad else 0
            self._fill(x, len(x) * row)
            reply = self._request(
                {
                    "op": "forward", "shape": list(x.shape), "row": row, "grad": grad, "token": token,
                    "variant": number,
                }
            )  # fmt: skip
            try:
                logits = self._take(self._logits_shape(reply.get("shape"), len(x), row, variant)).to(x.device)
            except WorkerError:
                self.release(token)
                raise
            if grad:
                self._shapes[token] = (x.shape, logits.shape)
            return logits, token

    def vjp(self, token: int, grad_logits: Tensor) -> Tensor:
        """Gradient (N, C, H, W) of ``(logits * grad_logits).sum()``; may be asked several times for one token.

        Zeros when the logits do not depend on the images in a way that can be differentiated.
        """
        with self._lock:
            if token not in self._shapes:
                raise ValueError(f"token {token}: expected one that is not released, of a process that still runs")
            shape, expected = self._shapes[token]
            if grad_logits.shape != expected:
                raise ValueError(f"expected a gradient {tuple(expected)}, got {tuple(grad_logits.shape)}")
            self._fill(grad_logits, shape.numel())
            self._request({"op": "vjp", "token": token})
            return self._take(shape).to(grad_logits.device)

    def jvp(self, x: Tensor, direction: Tensor, *, variant: int = 0) -> Tensor | None:
        """Derivative of the logits along ``direction`` by forward-mode differentiation, float32 (N, K).

        ``x`` and ``direction`` are float32 (N, C, H, W). None when some operation of the network has none.
        """
        with self._lock:
            number, _ = self._variant(variant)
            row = max(x[0].numel() * 2, CLASSES)
            self._fill(torch.stack([x, direction]), len(x) * row)
            reply = self._request({"op": "jvp", "shape": list(x.shape), "row": row, "variant": number})
            if reply.get("shape") is None:
                return None
            return self._take(self._logits_shape(reply.get("shape"), len(x), row, variant)).to(x.device)

    def release(self, token: int) -> None:
        """Forget the graph behind a token; takes effect with the next request. Safe from any thread and finaliser."""
        if token:
            self._released.append(token)

    def seed(self, value: int) -> None:
        """Seed the global generators of the process, from which a stochastic network may draw."""
        self._request({"op": "seed", "seed": value})

    def probe(self, name: str, *, x: Tensor | None = None, **arguments: object) -> dict[str, Any]:
        """Ask about the module, where the question needs it about its forward pass of images ``x``.

        ``macs`` (shape=[C, H, W]) -> {"macs"}; ``state`` -> {"sha256", "parameters": sha256 without buffers};
        ``training`` -> {"training": names}; ``graphs`` -> {"graphs": number of live graphs}; and those of
        ``harness.worker.inspection``. What comes back is the submission's word.
        """
        with self._lock:
            if x is not None:
                self._fill(x, x.numel())
            shape = None if x is None else list(x.shape)
            reply = self._request({"op": "probe", "name": name, "arguments": arguments, "shape": shape})
        result = reply.get("result")
        if not isinstance(result, dict):
            raise self._nonsense(f"probe {name}")
        return result

    def reset_peak_memory(self) -> None:
        """Start a new peak; freed memory is given back to the system first."""
        self._request({"op": "trim"})
        if self._options.device.startswith("cuda"):
            self.probe("cuda_memory", reset=True)
        elif self._process is not None:
            self._process.reset_peak()

    def peak_memory(self) -> int:
        """Most bytes held at once since ``reset_peak_memory``: the system's count, or the accelerator's allocator."""
        return self._memory("peak")

    def resident_memory(self) -> int:
        """Bytes held now, counted in the same way."""
        return self._memory("held")

    def _memory(self, which: str) -> int:
        if self._options.device.startswith("cuda"):
            return int(self.probe("cuda_memory")[which])
        if self._process is None:
            raise WorkerError("died", "the model's process is not running; start it first")
        return self._process.peak() if which == "peak" else self._process.resident()

    def _fill(self, tensor: Tensor, room: int) -> None:
        """Lay ``tensor`` into the arena, which gets space for ``room`` values."""
        if self._arena is None:
            raise WorkerError("died", "the model's process is not running; start it first")
        try:
            self._arena.ensure(max(room, tensor.numel()) * 4)
        except OSError as error:
            raise WorkerError("memory", f"no shared memory for {room * 4} bytes: {error.strerror}") from error
        self._arena.tensor(tensor.shape).copy_(tensor.detach())

    def _take(self, shape: tuple[int, ...] | torch.Size) -> Tensor:
        """A copy: the submission could still write to the arena."""
        assert self._arena is not None
        return self._arena.tensor(shape).clone()

    def _logits_shape(self, shape: object, rows: int, limit: int, variant: int) -> tuple[int, int]:
        classes = self._classes.get(variant)
        expected = f"expected logits ({rows}, {classes or 'K'})"
        if (
            not isinstance(shape, list)
            or len(shape) != 2
            or not all(type(size) is int for size in shape)
            or shape[0] != rows
            or not 2 <= shape[1] <= limit
        ):
            raise WorkerError("contract", f"{expected}, got {one_line(str(shape), 80)}")
        if classes not in {None, shape[1]}:
            raise WorkerError("contract", f"{expected} as before, got ({rows}, {shape[1]})")
        self._classes[variant] = shape[1]
        return rows, shape[1]

    def _nonsense(self, operation: str) -> WorkerError:
        self._end()
        return WorkerError("contract", f"the model's process did not answer {operation!r} in the agreed form")

    def _end(self) -> None:
        """End the process but keep its log and the handle."""
        if self._process is not None:
            self._process.kill()

    def _request(self, message: dict[str, Any], timeout: float | None = None) -> dict[str, Any]:
        with self._lock:
            if self._connection is None or self._arena is None or not self.alive:
                raise self._lost() if self._process is not None else WorkerError(
                    "died", "the model's process is not running; start it first"
                )  # fmt: skip
            released = []
            while self._released:
                released.append(self._released.popleft())
                self._shapes.pop(released[-1], None)
            number = next(self._numbers)
            message |= {"seq": number, "release": released, "arena": self._arena.size}
            return self._receive(message["op"], number, timeout, message)

    def _receive(
        self, operation: str, number: int, timeout: float | None, message: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Send ``message`` if there is one and wait for the reply called ``number``."""
        assert self._connection is not None
        began = time.monotonic()
        limits = [limit for limit in (self.deadline, None if timeout is None else began + timeout) if limit is not None]
        deadline = min(limits) if limits else None
        try:
            if message is not None:
                send(self._connection, message, deadline)
            reply = receive(self._connection, deadline)
        except TimeoutError:
            self._end()
            waited = time.monotonic() - began
            raise WorkerError(
                "timeout", f"the time allowed was over while the model was asked to {operation} ({waited:.1f} s waited)"
            ) from None
        except ClosedError:
            raise self._lost() from None
        except ChannelError:
            raise self._nonsense(operation) from None
        except BaseException:
            # Interrupted half-way: a late answer must not be taken for the next one's.
            self._end()
            raise
        if reply.get("seq") != number:
            raise self._nonsense(operation)
        if reply.get("ok") is not True:
            kind, text = str(reply.get("kind")), one_line(str(reply.get("message")))
            if kind == "memory":
                self._end()
                limit = self._options.memory_limit
                text = f"the model asked for more than {_gib(limit)} of memory" if limit else f"out of memory: {text}"
            raise WorkerError(kind if kind in KINDS[2:] else "raised", text)
        return reply

    def _lost(self) -> WorkerError:
        """Why the process is gone."""
        process = self._process
        assert process is not None
        if not process.wait(2.0):
            process.kill()
            return WorkerError("died", "the model's process closed its connection to the engine")
        limit = self._options.memory_limit
        log = one_line(process.last_line(), 200)
        if limit is not None and (process.over_limit or "bad_alloc" in process.log_tail(500)):
            return WorkerError("memory", f"the model's process used more than {_gib(limit)} of memory")
        words = f"; its last words: {log}" if log else ""
        return WorkerError("died", f"the model's process {process.ending()}{words}")
