"""A model worker without a process of its own, for networks that exist already and code you trust."""

import copy
import json
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from harness.worker.channel import Arena
from harness.worker.handle import ModelWorker
from harness.worker.link import Link
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


class LocalLink:
    """Answers by the same code as a worker's process, in a thread of this one."""

    def __init__(self, build: Callable[[], nn.Module], threads: int) -> None:
        self.arena = Arena.create()
        self._answerer: _Holding | None = _Holding(self.arena, build)
        # A thread has a gradient mode and hooks on saved tensors of its own, as a process would, whatever the
        # caller is in the middle of; with the proxy's hooks on it a graph would never be forgotten. Its number of
        # processor threads is its own too: sums of the attack's that were split over threads would depend on the batch.
        self._thread = ThreadPoolExecutor(1, "network", torch.set_num_threads, (threads,))

    @property
    def pid(self) -> int | None:
        """None: there is no process."""
        return None

    @property
    def alive(self) -> bool:
        """Whether there is somebody to ask."""
        return self._answerer is not None

    def greet(self, timeout: float) -> None:
        """Nothing to wait for."""

    def ask(self, message: dict[str, Any], *, deadline: float | None, timeout: float | None) -> dict[str, Any]:
        """The answer; a question cannot be interrupted once it is asked."""
        if self._answerer is None:
            raise WorkerError("died", "the network is not loaded; start it first")
        if deadline is not None and time.monotonic() > deadline:
            raise WorkerError("timeout", "the time allowed was over")
        try:
            reply: Mapping[str, Any] = self._thread.submit(self._answerer.answer, message).result()
        except Exception as error:
            told = failure_of(error, self._answerer.spec)
            raise WorkerError(told["kind"], told["message"]) from error
        # As it would arrive from another process: tuples are lists, keys are text.
        answer: dict[str, Any] = json.loads(json.dumps(reply))
        return answer

    def log_tail(self, characters: int) -> str:
        """Empty: what the network writes goes where this process writes."""
        return ""

    def reset_peak(self) -> None:
        """Nothing is counted."""

    def memory(self, which: str) -> int:
        """Never known."""
        raise WorkerError("contract", "memory is measured only of a network in a process of its own")

    def end(self) -> None:
        """Nothing: the network goes on to answer."""

    def close(self) -> None:
        """Forget the network."""
        self._answerer = None
        self._thread.shutdown(wait=False, cancel_futures=True)
        self.arena.close()


class LocalWorker(ModelWorker):
    """Asked like any ``ModelWorker`` and answers the same, by the same code, but in this process.

    There is no isolation: nothing survives a crash of the network, a question cannot be interrupted at the deadline,
    and memory is not measured.
    """

    def __init__(self, build: Callable[[], nn.Module], options: WorkerOptions | None = None) -> None:
        """``build`` returns a new copy of the network each time; nothing is built yet."""
        super().__init__({"id": "in process"}, options)
        self._build = build

    def _linked(self) -> Link:
        return LocalLink(self._build, self._options.threads)

    def another(self, *, optimise: bool = True) -> "LocalWorker":
        """A handle on a second copy of the same network."""
        return LocalWorker(self._build, replace(self._options, optimise=optimise and self._options.optimise))
