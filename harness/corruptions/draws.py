"""Random numbers of a corruption: every image has its own stream, whatever batch it comes in."""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
"""Numbers of 32 bits, where nothing else is said."""


Number = TypeVar("Number", bound=np.generic)


class Draws:
    """Streams for the images ``indices``, fixed by (``seed``, ``recipe``, index).

    The generator is counter-based (Philox): the key names the stream and the fourth word of the counter the call, so
    that going from one image to the next costs a few microseconds and streams never overlap.
    """

    def __init__(self, seed: int, recipe: str, indices: Sequence[int]) -> None:
        digest = hashlib.sha256(f"{seed} {recipe}".encode()).digest()
        self._indices = indices
        self._bits = np.random.Philox(key=[int.from_bytes(digest[:8], "little"), 0])
        self._fresh = self._bits.state
        self._generator = np.random.Generator(self._bits)
        self._calls = 0

    def each(self, draw: Callable[[np.random.Generator], NDArray[Number]]) -> NDArray[Number]:
        """``draw(generator)`` of every image, stacked: (n, ...)."""
        parts = []
        for index in self._indices:
            self._fresh["state"]["key"][1] = index
            self._fresh["state"]["counter"][3] = self._calls
            self._bits.state = self._fresh
            parts.append(draw(self._generator))
        self._calls += 1
        return np.stack(parts)

    def normal(self, *shape: int) -> Floats:
        """Standard normal numbers, float32 (n, *shape)."""
        return self.each(lambda generator: generator.standard_normal(shape, dtype=np.float32))

    def uniform(self, *shape: int) -> Floats:
        """Uniform numbers in [0, 1), float32 (n, *shape)."""
        return self.each(lambda generator: np.asarray(generator.random(shape, dtype=np.float32)))

    def integers(self, stop: int, *shape: int) -> NDArray[np.int64]:
        """Integers from 0 to ``stop - 1``, int64 (n, *shape)."""
        return self.each(lambda generator: np.asarray(generator.integers(stop, size=shape)))
