"""What passes between the engine and a model worker: JSON messages in a socket, float32 tensors in shared memory.

Nothing is ever unpickled, and neither side can make the other read past what both agreed on.
"""

import contextlib
import fcntl
import json
import math
import mmap
import os
import socket
import struct
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

MESSAGE_LIMIT = 1 << 20
"""Longest message in bytes; a longer one is nonsense."""
VIEWS = 256
"""Shapes whose view of the arena is kept for the next question of the same size."""
_LENGTH = struct.Struct("!I")
_PAGE = 1 << 16


class ChannelError(Exception):
    """What the other side sent is not a message."""


class ClosedError(ChannelError):
    """The other side is gone."""


def send(connection: socket.socket, message: dict[str, Any], deadline: float | None = None) -> None:
    """Send one message; ``deadline`` is a ``time.monotonic()``. Raises ``TimeoutError`` or ``ChannelError``."""
    content = json.dumps(message).encode()
    if len(content) > MESSAGE_LIMIT:
        raise ChannelError(f"expected a message of at most {MESSAGE_LIMIT} bytes, got {len(content)}")
    _arm(connection, deadline)
    try:
        connection.sendall(_LENGTH.pack(len(content)) + content)
    except TimeoutError:
        raise
    except OSError as error:
        raise ClosedError(f"cannot send: {error}") from error


def receive(connection: socket.socket, deadline: float | None = None) -> dict[str, Any]:
    """Wait for one message, asleep; ``deadline`` as in ``send``. Raises ``TimeoutError`` or ``ChannelError``.

    The two sides take turns, so nothing may follow the message before it is answered.
    """
    content = _read(connection, deadline)
    while len(content) < _LENGTH.size:
        content += _read(connection, deadline)
    (length,) = _LENGTH.unpack_from(content)
    if length > MESSAGE_LIMIT:
        raise ChannelError(f"expected a message of at most {MESSAGE_LIMIT} bytes, got {length}")
    while len(content) < _LENGTH.size + length:
        content += _read(connection, deadline)
    if len(content) > _LENGTH.size + length:
        raise ChannelError("expected one message, got more")
    try:
        message = json.loads(content[_LENGTH.size :])
    except (ValueError, RecursionError) as error:
        raise ChannelError("expected a JSON message, got something else") from error
    if not isinstance(message, dict):
        raise ChannelError(f"expected a JSON object, got {type(message).__name__}")
    return message


def _arm(connection: socket.socket, deadline: float | None) -> None:
    if deadline is None:
        connection.settimeout(None)
        return
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("the deadline has passed")
    connection.settimeout(left)


def _read(connection: socket.socket, deadline: float | None) -> bytes:
    _arm(connection, deadline)
    try:
        part = connection.recv(_PAGE)
    except TimeoutError:
        raise
    except OSError as error:
        raise ClosedError(f"cannot receive: {error}") from error
    if not part:
        raise ClosedError("the connection is closed")
    return part


class Arena:
    """A piece of memory that two processes share; float32 tensors are laid at its beginning.

    On Linux it is sealed against shrinking, because reading a page that the other side cut off would kill the reader.
    """

    def __init__(self, fd: int, size: int) -> None:
        """Map the first ``size`` bytes behind ``fd``."""
        self.fd = fd
        self.size = size
        self._map = mmap.mmap(fd, size)
        self._views: dict[tuple[int, ...], Tensor] = {}

    @classmethod
    def create(cls, size: int = _PAGE) -> "Arena":
        """A new arena of ``size`` bytes, for the side that decides how large it gets."""
        if hasattr(os, "memfd_create"):
            fd = os.memfd_create("arena", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            # F_SEAL_SEAL: the other side may not add a seal against growing.
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL)
        else:
            fd, path = tempfile.mkstemp()
            Path(path).unlink()
        os.ftruncate(fd, size)
        return cls(fd, size)

    def ensure(self, size: int) -> None:
        """Grow to at least ``size`` bytes; ``OSError`` when the machine refuses."""
        if size > self.size:
            size = -(-size // _PAGE) * _PAGE
            os.ftruncate(self.fd, size)
            self.remap(size)

    def remap(self, size: int) -> None:
        """Follow the other side's growth."""
        if size > self.size:
            # The old map is left to the garbage collector: tensors may still look at it.
            self._map, self.size = mmap.mmap(self.fd, size), size
            self._views.clear()

    def tensor(self, shape: Sequence[int]) -> Tensor:
        """A float32 view of the beginning, without a copy; ``ValueError`` when it does not fit."""
        key = tuple(shape)
        view = self._views.get(key)
        if view is None:
            count = math.prod(key)
            if count * 4 > self.size:
                raise ValueError(f"expected at most {self.size // 4} values, got {key}")
            if count == 0:
                return torch.empty(key)
            view = torch.frombuffer(self._map, dtype=torch.float32, count=count).view(key)
            if len(self._views) >= VIEWS:
                self._views.clear()
            self._views[key] = view
        return view

    def close(self) -> None:
        """Give the memory back; views of it stay usable until they are dropped."""
        self._views.clear()
        with contextlib.suppress(BufferError):
            self._map.close()
        with contextlib.suppress(OSError):
            os.close(self.fd)
