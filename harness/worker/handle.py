"""Handle on the process that holds one submission: starts it, asks it, ends it, and believes nothing it says."""

import itertools
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from harness.environment import processor
from harness.worker.link import Link, ProcessLink, nonsense
from harness.worker.options import Description, WorkerError, WorkerOptions
from harness.worker.weights import one_line

CLASSES = 4096
"""Logits per image for which room is always kept; more are possible for images with more values than that."""
LAUNCH_TIMEOUT = 300.0
"""Seconds for the process to start and import torch."""


class ModelWorker:
    """Handle on the process that holds one submission; may be started again after it was closed or lost."""

    def __init__(self, spec: Mapping[str, Any], options: WorkerOptions | None = None) -> None:
        """Nothing is started yet; ``spec`` is what ``Submission.spec()`` returns."""
        self._spec = dict(spec)
        self._options = options or WorkerOptions()
        self._link: Link | None = None
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
        return self._link.pid if self._link is not None else None

    @property
    def alive(self) -> bool:
        """Whether there is somebody to ask."""
        return self._link is not None and self._link.alive

    def log_tail(self, characters: int = 4000) -> str:
        """The end of what the submission wrote to its standard output and error; empty after ``close``."""
        return self._link.log_tail(characters) if self._link is not None else ""

    def launch(self, timeout: float = LAUNCH_TIMEOUT) -> None:
        """Start the process, without the submission: torch imported and warm. Raises ``WorkerError``."""
        self.close()
        self._link = self._linked()
        self._link.greet(timeout)

    def _linked(self) -> Link:
        return ProcessLink(self._options, Path(self._spec.get("folder") or "/"))

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
        link, self._link = self._link, None
        if link is not None:
            link.close()
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
            self._fill(len(x) * row, x)
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

    def near(self, x: Tensor, numbers: list[int], placed: list[int], images: Tensor, *, variant: int = 0) -> Tensor:
        """Logits (N, K) of float32 (N, C, H, W), each near a known image, found faster by that.

        They are ``forward``'s but for rounding. From now on the known images ``placed`` are ``images`` (n, C, H, W);
        ``numbers`` names one for every row of ``x``, which may be empty in neither case. Raises ``WorkerError`` as
        ``forward`` does.
        """
        if x.dtype != torch.float32 or images.dtype != torch.float32 or not len(x):
            raise ValueError(f"expected one or more float32 images, got {tuple(x.shape)} of {x.dtype}")
        with self._lock:
            row = max(x[0].numel(), CLASSES)
            number, _ = self._variant(variant)
            shape = self._fill(len(x) * row, images, x)
            message = {"op": "near", "shape": list(shape), "row": row, "numbers": numbers, "placed": placed}
            reply = self._request(message | {"variant": number})
            return self._take(self._logits_shape(reply.get("shape"), len(x), row, variant)).to(x.device)

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
            self._fill(shape.numel(), grad_logits)
            self._request({"op": "vjp", "token": token})
            return self._take(shape).to(grad_logits.device)

    def jvp(self, x: Tensor, direction: Tensor, *, variant: int = 0) -> Tensor | None:
        """Derivative of the logits along ``direction`` by forward-mode differentiation, float32 (N, K).

        ``x`` and ``direction`` are float32 (N, C, H, W). None when some operation of the network has none.
        """
        with self._lock:
            number, _ = self._variant(variant)
            row = max(x[0].numel() * 2, CLASSES)
            self._fill(len(x) * row, torch.stack([x, direction]))
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
                self._fill(x.numel(), x)
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
        else:
            self._running().reset_peak()

    def peak_memory(self) -> int:
        """Most bytes held at once since ``reset_peak_memory``: the system's count, or the accelerator's allocator."""
        return self._memory("peak")

    def resident_memory(self) -> int:
        """Bytes held now, counted in the same way."""
        return self._memory("held")

    def _memory(self, which: str) -> int:
        if self._options.device.startswith("cuda"):
            return int(self.probe("cuda_memory")[which])
        return self._running().memory(which)

    def _running(self) -> Link:
        if self._link is None:
            raise WorkerError("died", "the model's process is not running; start it first")
        return self._link

    def _fill(self, room: int, *parts: Tensor) -> torch.Size:
        """Lay ``parts`` into the arena, row after row, which gets space for ``room`` values; their shape together."""
        arena = self._running().arena
        shape = torch.Size((sum(map(len, parts)), *parts[0].shape[1:]))
        try:
            arena.ensure(max(room, shape.numel()) * 4)
        except OSError as error:
            raise WorkerError("memory", f"no shared memory for {room * 4} bytes: {error.strerror}") from error
        rows = arena.tensor(shape).split([len(part) for part in parts])  # type: ignore[no-untyped-call]
        for laid, part in zip(rows, parts, strict=True):
            laid.copy_(part.detach())
        return shape

    def _take(self, shape: tuple[int, ...] | torch.Size) -> Tensor:
        """A copy: the submission could still write to the arena."""
        return self._running().arena.tensor(shape).clone()

    def _logits_shape(self, shape: object, rows: int, limit: int, variant: int) -> tuple[int, int]:
        classes = self._classes.get(variant)
        expected = f"expected logits ({rows}, {classes or 'K of at least 2'})"
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
        if self._link is not None:
            self._link.end()
        return nonsense(operation)

    def _request(self, message: dict[str, Any], timeout: float | None = None) -> dict[str, Any]:
        with self._lock:
            link = self._running()
            released = []
            while link.alive and self._released:
                released.append(self._released.popleft())
                self._shapes.pop(released[-1], None)
            return link.ask(message | {"release": released}, deadline=self.deadline, timeout=timeout)
