"""A child process under watch: its output kept to a tail, its memory limited, nothing of it left over."""

import contextlib
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

LOG_BYTES = 1 << 16
"""Bytes of standard output and error that are kept, the last ones."""
TICK = 0.03
"""Seconds between two looks at the memory."""
TREE_TICK = 0.5
"""Seconds between two looks at the memory of the child's own children."""
PATIENCE = 10.0
"""Seconds to wait for a killed process to be gone."""


def _rss(pid: int) -> int:
    """Resident bytes of a process, 0 when it is gone."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        with contextlib.suppress(psutil.Error):
            return int(psutil.Process(pid).memory_info().rss)
        return 0


def _descendants(pid: int) -> list[psutil.Process]:
    with contextlib.suppress(psutil.Error):
        return psutil.Process(pid).children(recursive=True)
    return []


class WatchedProcess:
    """One run of a command in a session of its own; every method may be called from any thread.

    A keeper thread starts the process and outlives it. On Linux a child that asks to die with its parent dies with the
    thread that started it, so that thread must not be one that happens to end early.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str],
        folder: Path,
        fds: Sequence[int],
        memory_limit: int | None,
        on_exit: Callable[[], None],
    ) -> None:
        """Start ``command``; ``OSError`` when that fails. ``on_exit`` is called in the keeper once it has ended."""
        self._command, self._environment, self._folder, self._fds = list(command), dict(environment), folder, fds
        self._limit, self._on_exit = memory_limit, on_exit
        self._log = b""
        self._lock = threading.Lock()
        self._stop = False
        self._reaped = False
        self._sampling = False
        self._sampled = 0
        self._error: OSError | None = None
        self._started, self._gone = threading.Event(), threading.Event()
        self.pid = -1
        self.exit_code: int | None = None
        """Exit code, negative for a signal; None while it runs and when this side ended it."""
        self.over_limit = False
        """Whether it was ended for using more memory than allowed."""
        self._wake_read, self._wake_write = os.pipe()
        self._keeper = threading.Thread(target=self._keep, name="model-worker-keeper", daemon=True)
        self._keeper.start()
        self._started.wait()
        if self._error is not None:
            raise self._error

    @property
    def alive(self) -> bool:
        """Whether the process still runs."""
        return not self._gone.is_set()

    def wait(self, timeout: float) -> bool:
        """Wait until the process has ended; False when it has not after ``timeout`` seconds."""
        return self._gone.wait(timeout)

    def log_tail(self, characters: int = 4000) -> str:
        """The end of what the process wrote to its standard output and error."""
        return self._log.decode(errors="replace")[-characters:]

    def last_line(self) -> str:
        """The last line it wrote that is not blank, or an empty text."""
        lines = [line.strip() for line in self.log_tail().splitlines() if line.strip()]
        return lines[-1] if lines else ""

    def ending(self) -> str:
        """How it ended, e.g. ``ended with exit code 3``."""
        code = self.exit_code
        if code is None:
            return "was ended"
        if code >= 0:
            return f"ended with exit code {code}"
        names = {int(item): item.name for item in signal.Signals}
        return f"was killed by signal {-code} ({names.get(-code, 'unknown')})"

    def kill(self) -> None:
        """End the process, its session, and the descendants that left the session; returns when it is gone."""
        self._stop = True
        self._wake()
        self._gone.wait(PATIENCE)

    def resident(self) -> int:
        """Bytes of memory it holds now."""
        return _rss(self.pid)

    def reset_peak(self) -> None:
        """Forget the peak so far."""
        try:
            with open(f"/proc/{self.pid}/clear_refs", "w") as file:
                file.write("5")
            self._sampling = False
        except OSError:
            self._sampled, self._sampling = self.resident(), True
            self._wake()

    def peak(self) -> int:
        """Most bytes held at once since the last ``reset_peak``, as the system counted them."""
        if not self._sampling:
            with contextlib.suppress(OSError, StopIteration):
                lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
                return int(next(line.split()[1] for line in lines if line.startswith("VmHWM:"))) * 1024
        return max(self._sampled, self.resident())

    def _wake(self) -> None:
        with self._lock:
            if not self._gone.is_set():
                os.write(self._wake_write, b".")

    def _keep(self) -> None:
        log_read, log_write = os.pipe()
        try:
            process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log_write, stderr=log_write, env=self._environment,
                cwd=self._folder, pass_fds=self._fds, start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            self._error = error
            self._gone.set()
            for fd in (log_read, self._wake_read, self._wake_write):
                os.close(fd)
            self._started.set()
            return
        finally:
            os.close(log_write)
        self.pid = process.pid
        os.set_blocking(log_read, False)
        exit_fd = os.pidfd_open(process.pid) if hasattr(os, "pidfd_open") else -1
        self._started.set()
        try:
            self._watch(process, log_read, exit_fd)
        finally:
            self._finish(process, log_read)
            with self._lock:
                for fd in (log_read, self._wake_read, self._wake_write, *([exit_fd] if exit_fd >= 0 else [])):
                    os.close(fd)
                self._gone.set()
            self._on_exit()

    def _watch(self, process: subprocess.Popen[bytes], log_read: int, exit_fd: int) -> None:
        """Return when the process has ended or must."""
        poll = select.poll()
        for fd in (log_read, self._wake_read, *([exit_fd] if exit_fd >= 0 else [])):
            poll.register(fd, select.POLLIN)
        next_look = next_tree = time.monotonic()
        while not self._stop:
            ticking = self._limit is not None or self._sampling or exit_fd < 0
            for fd, _ in poll.poll(TICK * 1000 if ticking else None):
                if fd == exit_fd:
                    return
                if fd == log_read and not self._drain(log_read):
                    poll.unregister(log_read)
                elif fd == self._wake_read:
                    os.read(self._wake_read, 64)
            if exit_fd < 0 and process.poll() is not None:
                return
            now = time.monotonic()
            if ticking and now >= next_look:
                next_look = now + TICK
                used = _rss(process.pid)
                self._sampled = max(self._sampled, used)
                if self._limit is not None and now >= next_tree:
                    next_tree = now + TREE_TICK
                    used += sum(_rss(child.pid) for child in _descendants(process.pid))
                if self._limit is not None and used > self._limit:
                    self.over_limit = True
                    return

    def _drain(self, log_read: int) -> bool:
        """Take what has been written; False at the end of the log."""
        try:
            content = os.read(log_read, LOG_BYTES)
        except BlockingIOError:
            return True
        except OSError:
            return False
        self._log = (self._log + content)[-LOG_BYTES:]
        return bool(content)

    def _finish(self, process: subprocess.Popen[bytes], log_read: int) -> None:
        strays = _descendants(process.pid)
        # Before the process is reaped, so that its number cannot belong to another one yet.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        for stray in strays:
            with contextlib.suppress(psutil.Error):
                stray.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = process.wait(PATIENCE)
            self.exit_code = None if self._stop or self.over_limit else code
        for _ in range(LOG_BYTES // 4096):
            before = self._log
            if not self._drain(log_read) or self._log == before:
                break
