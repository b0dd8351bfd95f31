"""What a handle holds of the process that it asks: its start and end, messages and answers, shared memory, its log."""

import contextlib
import itertools
import os
import socket
import sys
import time
from pathlib import Path
from typing import Any, Protocol

from harness.worker.channel import Arena, ChannelError, ClosedError, receive, send
from harness.worker.options import KINDS, WorkerError, WorkerOptions, worker_environment
from harness.worker.process import WatchedProcess
from harness.worker.weights import one_line


class Link(Protocol):
    """Somebody who answers about one network; usable once, from ``greet`` to ``close``."""

    arena: Arena
    """Where tensors of a question and of its answer lie."""

    @property
    def pid(self) -> int | None:
        """Process id, where there is a process."""

    @property
    def alive(self) -> bool:
        """Whether there is still somebody to ask."""

    def greet(self, timeout: float) -> None:
        """Wait until questions can be asked. Raises ``WorkerError``."""

    def ask(self, message: dict[str, Any], *, deadline: float | None, timeout: float | None) -> dict[str, Any]:
        """The answer, within ``timeout`` seconds and before ``time.monotonic()`` says ``deadline``.

        Raises ``WorkerError``, after which somebody who did not answer in time or in the agreed form is gone.
        """

    def log_tail(self, characters: int) -> str:
        """The end of what was written to standard output and error."""

    def reset_peak(self) -> None:
        """Start a new peak of memory."""

    def memory(self, which: str) -> int:
        """Bytes: the ``peak`` since ``reset_peak`` or those ``held`` now."""

    def end(self) -> None:
        """No more answers, but the log is kept."""

    def close(self) -> None:
        """Give back everything that was held."""


def nonsense(operation: str) -> WorkerError:
    """The error for an answer out of form."""
    return WorkerError("contract", f"the model's process did not answer {operation!r} in the agreed form")


def _gib(size: int) -> str:
    """Bytes as a person reads them."""
    return f"{size / 2**30:.1f} GiB"


def _hang_up(connection: socket.socket) -> None:
    """Wake whoever waits for a reply of a process that is gone."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


class ProcessLink:
    """A process of its own, started in ``folder`` without the submission: torch imported and warm after ``greet``."""

    def __init__(self, options: WorkerOptions, folder: Path) -> None:
        """Start the process. Raises ``WorkerError``."""
        self._limit = options.memory_limit
        self._numbers = itertools.count(1)
        ours, theirs = socket.socketpair()
        self._connection, self.arena = ours, Arena.create()
        command = [sys.executable, "-P", "-m", "harness.worker"]
        command += [str(theirs.fileno()), str(self.arena.fd), str(os.getpid())]
        try:
            self._process = WatchedProcess(
                command,
                environment=worker_environment(options.threads),
                folder=folder if folder.is_dir() else Path("/"),
                fds=(theirs.fileno(), self.arena.fd),
                memory_limit=options.memory_limit,
                on_exit=lambda: _hang_up(ours),
            )
        except OSError as error:
            ours.close()
            self.arena.close()
            raise WorkerError("died", f"the model's process could not be started: {error}") from error
        finally:
            theirs.close()

    @property
    def pid(self) -> int | None:
        """Process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process.alive

    def log_tail(self, characters: int) -> str:
        """The end of what the process wrote."""
        return self._process.log_tail(characters)

    def reset_peak(self) -> None:
        """Start a new peak, as the system counts it."""
        self._process.reset_peak()

    def memory(self, which: str) -> int:
        """Bytes, as the system counts them."""
        return self._process.peak() if which == "peak" else self._process.resident()

    def end(self) -> None:
        """End the process and everything it started."""
        self._process.kill()

    def close(self) -> None:
        """End the process, and forget its log."""
        self._process.kill()
        self._connection.close()
        self.arena.close()

    def greet(self, timeout: float) -> None:
        """Wait for the process to be warm."""
        self._answer("start", 0, time.monotonic() + timeout)

    def ask(self, message: dict[str, Any], *, deadline: float | None, timeout: float | None) -> dict[str, Any]:
        """Send ``message`` and wait for its answer."""
        if not self.alive:
            raise self._lost()
        number = next(self._numbers)
        limits = [deadline, None if timeout is None else time.monotonic() + timeout]
        sooner = min((limit for limit in limits if limit is not None), default=None)
        return self._answer(message["op"], number, sooner, message | {"seq": number, "arena": self.arena.size})

    def _answer(
        self, operation: str, number: int, deadline: float | None, message: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Send ``message`` if there is one and wait for the reply called ``number``."""
        began = time.monotonic()
        try:
            if message is not None:
                send(self._connection, message, deadline)
            reply = receive(self._connection, deadline)
        except TimeoutError:
            self.end()
            waited = time.monotonic() - began
            raise WorkerError(
                "timeout", f"the time allowed was over while the model was asked to {operation} ({waited:.1f} s waited)"
            ) from None
        except ClosedError:
            raise self._lost() from None
        except ChannelError:
            self.end()
            raise nonsense(operation) from None
        except BaseException:
            # Interrupted half-way: a late answer must not be taken for the next one's.
            self.end()
            raise
        if reply.get("seq") != number:
            self.end()
            raise nonsense(operation)
        if reply.get("ok") is not True:
            kind, text = str(reply.get("kind")), one_line(str(reply.get("message")))
            if kind == "memory":
                self.end()
                limit = self._limit
                text = f"the model asked for more than {_gib(limit)} of memory" if limit else f"out of memory: {text}"
            raise WorkerError(kind if kind in KINDS[2:] else "raised", text)
        return reply

    def _lost(self) -> WorkerError:
        """Why the process is gone."""
        process = self._process
        if not process.wait(2.0):
            process.kill()
            return WorkerError("died", "the model's process closed its connection to the engine")
        log = one_line(process.last_line(), 200)
        if self._limit is not None and (process.over_limit or "bad_alloc" in process.log_tail(500)):
            return WorkerError("memory", f"the model's process used more than {_gib(self._limit)} of memory")
        words = f"; its last words: {log}" if log else ""
        return WorkerError("died", f"the model's process {process.ending()}{words}")
