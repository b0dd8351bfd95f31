"""The activations of known images, as far as windows of images near them reach (``partial``)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from harness.worker.windows.areas import array_of, windows_of

if TYPE_CHECKING:
    from harness.worker.windows.partial import Pass

Rules = Mapping[Any, Callable[..., Any]]
"""What is done on windows, by the function that a network calls; ``NotImplemented`` for a case that is not known."""


class UnsuitedError(Exception):
    """The network does something that it did not do before, or that windows cannot follow."""


class StaleError(Exception):
    """A window needs the surroundings of an activation that is not there, or not that of its known image any more."""


@dataclass
class _Map:
    """One activation of every known image."""

    constants: Sequence[Tensor]
    """What the operation that makes it works with besides activations."""
    border: int = 0
    """Rows and columns of zeros around it in ``table``: what a convolution sees beyond the border of a map."""
    table: Tensor | None = None
    """(A, H + 2 * border, W + 2 * border, C); None where no window needs it."""
    fresh: NDArray[np.bool_] | None = None
    """(A,): of which known images it is."""
    complete: bool = False
    """Whether of all."""


class Known:
    """The activations of known images, as far as windows reach, by what makes them."""

    def __init__(self, layout: torch.memory_format, rules: Rules) -> None:
        self.layout, self.rules = layout, rules
        self._numbers: dict[tuple[object, ...], int] = {}
        self._maps: dict[int, _Map] = {}
        self._wanted: dict[int, int] = {}
        """Activations that turned out to be needed, and their borders."""
        self._blanks: dict[tuple[tuple[int, ...], torch.dtype], Tensor] = {}

    def blank(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """A tensor of that shape without memory."""
        blank = self._blanks.get((shape, dtype))
        if blank is None:
            blank = torch.empty(shape, dtype=dtype, device="meta", memory_format=self.layout)
            self._blanks[shape, dtype] = blank
        return blank

    def number(self, parts: tuple[object, ...]) -> int:
        """A short name for what makes an activation."""
        return self._numbers.setdefault(parts, len(self._numbers))

    def note(self, key: int, constants: Sequence[Tensor], *, new: bool) -> None:
        """An operation's result is made; ``UnsuitedError`` unless it works with what it worked with before."""
        known = self._maps.get(key)
        if known is None:
            if not new:
                raise UnsuitedError("an operation that was not there before")
            self._maps[key] = _Map(constants)
        elif len(known.constants) != len(constants) or not all(
            one.shape == other.shape and (one.data_ptr() == other.data_ptr() or torch.equal(one, other))
            for one, other in zip(known.constants, constants, strict=True)
        ):
            raise UnsuitedError("an operation whose weights were others before")

    def map(self, key: int, border: int, numbers: NDArray[np.int64]) -> tuple[Tensor, int]:
        """Table and border of an activation of some known images.

        Raises ``StaleError`` if it must be taken down before.
        """
        known = self._maps[key]
        if known.table is None or known.fresh is None or known.border < border:
            self._wanted[key] = max(border, known.border)
            raise StaleError
        if not (known.complete or known.fresh[numbers].all()):
            raise StaleError
        return known.table, known.border

    def keep(self, work: Pass, numbers: NDArray[np.int64], rows: NDArray[np.int64], count: int) -> None:
        """The activations in some rows of a pass are those of the known images ``numbers``, of ``count``."""
        for key, wanted in (work.needed | self._wanted).items():
            whole, known = work.whole[key], self._maps[key]
            _, channels, height, width = whole.shape
            border = max(wanted, known.border)
            if known.table is None or known.border < border:
                known.border, known.fresh = border, np.zeros(count, dtype=np.bool_)
                known.table = whole.new_zeros(count, height + 2 * border, width + 2 * border, channels)
            inside = known.table[:, known.border : known.border + height, known.border : known.border + width]
            inside[torch.from_numpy(numbers)] = whole[torch.from_numpy(rows)].permute(0, 2, 3, 1)
            assert known.fresh is not None
            known.fresh[numbers] = True
            known.complete = bool(known.fresh.all())

    def follow(self, work: Pass, numbers: NDArray[np.int64], rows: NDArray[np.int64]) -> None:
        """Known images become those in some rows of a pass; activations that it did not get to are stale."""
        for key, known in self._maps.items():
            if known.table is None or known.fresh is None:
                continue
            if key not in work.windows:
                known.fresh[numbers] = known.complete = False
                continue
            held, area = work.windows[key]
            corners = area.corners[:, rows] + known.border
            windows, at = windows_of(known.table, numbers, corners, (area.side, area.side))
            windows[at] = array_of(held.permute(0, 2, 3, 1))[rows]
