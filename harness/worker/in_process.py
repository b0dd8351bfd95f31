"""A model worker without a process of its own, for networks that exist already and code you trust."""

import copy
import json
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from torch import nn

from harness.worker.channel import Arena
from harness.worker.handle import LAUNCH_TIMEOUT, ModelWorker
from harness.worker.options import WorkerError, WorkerOptions
from harness.worker.serve import Answerer, failure_of
from harness.worker.weights import frozen


class _Holding(Answerer):
    """Answers about networks that ``build`` returns instead of those that a spec describes."""

    def __init__(self, arena: Arena, build: Callable[[], nn.Module]) -> None:
        super().__init__(arena)
        self._own = build

    def build(self) -> nn.Module:
        """A network in eval mode, frozen, that nobody else holds."""
        return frozen(self._own())


def copies_of(network: nn.Module) -> Callable[[], nn.Module]:
    """A function that returns a copy of ``network`` as it is now, however the copies or the original change later."""
    kept = copy.deepcopy(network)
    return lambda: copy.deepcopy(kept)


class LocalWorker(ModelWorker):
    """Asked like any ``ModelWorker`` and answers the same, by the same code, but in this process.

    There is no isolation: nothing survives a crash of the network, a question cannot be interrupted at the deadline,
    and memory is not measured.
    """

    def __init__(self, build: Callable[[], nn.Module], options: WorkerOptions | None = None) -> None:
        """``build`` returns a new copy of the network each time; nothing is built yet."""
        super().__init__({"id": "in process"}, options)
        self._build = build
        self._answerer: _Holding | None = None
        self._thread: ThreadPoolExecutor | None = None

    @property
    def alive(self) -> bool:
        """Whether there is somebody to ask."""
        return self._answerer is not None

    def launch(self, timeout: float = LAUNCH_TIMEOUT) -> None:
        """Get ready to load the network."""
        self.close()
        self._arena = Arena.create()
        self._answerer = _Holding(self._arena, self._build)
        self._thread = ThreadPoolExecutor(1, "network")

    def close(self) -> None:
        """Forget the network; harmless when there is none."""
        if self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)
        self._answerer = self._thread = None
        super().close()

    def another(self, *, optimise: bool = True) -> "LocalWorker":
        """A handle on a second copy of the same network."""
        return LocalWorker(self._build, replace(self._options, optimise=optimise and self._options.optimise))

    def _memory(self, which: str) -> int:
        raise WorkerError("contract", "memory is measured only of a network in a process of its own")

    def _request(self, message: dict[str, Any], timeout: float | None = None) -> dict[str, Any]:
        with self._lock:
            if self._answerer is None:
                raise WorkerError("died", "the network is not loaded; start it first")
            if self.deadline is not None and time.monotonic() > self.deadline:
                raise WorkerError("timeout", "the time allowed was over")
            released = []
            while self._released:
                released.append(self._released.popleft())
                self._shapes.pop(released[-1], None)
            assert self._thread is not None
            try:
                # A thread has a gradient mode and hooks on saved tensors of its own, as a process would, whatever the
                # caller is in the middle of; with the proxy's hooks on it a graph would never be forgotten.
                asked = self._thread.submit(self._answerer.answer, message | {"release": released})
                reply: Mapping[str, Any] = asked.result()
            except Exception as error:
                told = failure_of(error, self._answerer.spec)
                raise WorkerError(told["kind"], told["message"]) from error
            # As it would arrive from another process: tuples are lists, keys are text.
            answer: dict[str, Any] = json.loads(json.dumps(reply))
            return answer
