"""Which moves of the Square Attack are asked about next, when every row goes through the plan at its own pace."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from harness.attacks.randomness import ExampleGenerators
from harness.attacks.square_moves import Moves
from harness.attacks.square_shapes import Draws, draw

EARLY = 10
"""Moves of a row that are asked about one at a time: one in four of them is taken."""
FULL = 96
"""Candidates that make a batch of a good size: where few rows are left, almost twice as many moves of each are
proposed."""
BLOCK = 256
"""Moves whose random numbers are drawn at once: one call per example and block, not per example and query."""

Rows = NDArray[np.int64]


class Tray:
    """How far every row is in the plan, and the random numbers of the moves that come next.

    A move is decided when it was taken or refused. Most are refused, so the next few of every row are proposed at once,
    as if the ones before them were refused; those after one that is taken are proposed again, from the new point. A
    row's numbers are drawn in blocks of the plan, when it comes to one, and nothing is proposed beyond its block. What
    is proposed depends on a row's own moves alone. The bookkeeping is numpy's, whose small operations cost less.
    """

    def __init__(self, moves: Moves, plan: list[int], shape: torch.Size, device: torch.device, n: int) -> None:
        """``plan`` is the side of every move's window, ``shape`` (C, H, W) that of an image; ``n`` rows."""
        self._moves, self._plan, self._shape, self._device = moves, plan, shape, device
        self._sides = np.asarray(plan, dtype=np.int64)
        self._decided = np.zeros(n, dtype=np.int64)
        self._block = self._decided - 1
        self._draws: Draws | None = None
        self._asked, self._ahead = np.zeros(n, dtype=np.int64), np.zeros(0, dtype=np.int64)

    def propose(self, generators: ExampleGenerators) -> tuple[Rows, Tensor]:
        """Rows (m,) and their candidates (m, C * H * W): every row's next move first, then every row's second, ..."""
        self._draw(generators)
        moves, kinds = self._moves, self._moves.kinds
        left = np.minimum((self._block + 1) * BLOCK, len(self._plan)) - self._decided
        ahead = max(moves.ahead, min(2 * moves.ahead - 1, FULL // max(1, len(left))))
        self._asked = np.minimum(left, np.where(self._decided < EARLY, 1, ahead))
        self._ahead, who = np.nonzero(np.arange(ahead)[:, None] < self._asked)
        if not len(who):
            return who, moves.best[:0]
        assert self._draws is not None
        now = self._decided[who]
        move = now + self._ahead
        kind = move % kinds
        lots = self._sides[move] * kinds + kind
        parts = [(lot, np.flatnonzero(lots == lot)) for lot in np.unique(lots).tolist()]
        found = []
        for lot, part in parts:
            side, of = divmod(lot, kinds)
            rows = self._tensor(who[part])
            refused = self._tensor(_turns(now[part], move[part], kinds, of))
            draws = self._draws.pairs(self._tensor(move[part] % BLOCK), rows)
            found.append(moves.propose(rows, draws, side, of, refused))
        if len(parts) == 1:
            return who, found[0]
        asked = moves.best.new_empty(len(who), moves.best.shape[1])
        for (_, part), candidates in zip(parts, found, strict=True):
            asked[self._tensor(part)] = candidates
        return who, asked

    def decide(self, first: Rows) -> None:
        """``first`` (n,) is the position of the candidate of every row that was taken, beyond them all if none was."""
        taken = first < len(self._ahead)
        refused = self._asked.copy()
        refused[taken] = self._ahead[first[taken]]
        ended, kinds = self._decided + refused, self._moves.kinds
        if kinds > 1:
            turns = [_turns(self._decided, ended, kinds, kind) for kind in range(kinds)]
            self._moves.settle(self._tensor(np.stack(turns, 1)), self._tensor(np.where(taken, ended % kinds, -1)))
        self._decided = ended + taken

    def keep(self, rows: Tensor) -> None:
        """Forget all rows but some."""
        chosen = rows.cpu().numpy()
        self._decided, self._block = self._decided[chosen], self._block[chosen]
        self._draws = self._draws and self._draws.select(rows)

    def _draw(self, generators: ExampleGenerators) -> None:
        """New blocks for the rows that have come to the end of theirs."""
        block = self._decided // BLOCK
        need = (block != self._block) & (self._decided < len(self._plan))
        for number in np.unique(block[need]).tolist():
            rows = self._tensor(np.flatnonzero(need & (block == number)))
            sides = (self._plan[number * BLOCK : (number + 1) * BLOCK] + BLOCK * [1])[:BLOCK]
            draws = draw(generators.select(rows), sides, self._shape, self._moves.windows, self._device)
            if self._draws is None:
                self._draws = draws
            else:
                self._draws.put(rows, draws)
        self._block[need] = block[need]

    def _tensor(self, values: Rows) -> Tensor:
        return tensor(values, self._device)


def tensor(values: Rows, device: torch.device) -> Tensor:
    """``values`` as a tensor there."""
    return torch.from_numpy(values).to(device)


def _turns(begun: Rows, ended: Rows, kinds: int, kind: int) -> Rows:
    """Moves of a kind from ``begun`` up to ``ended``, when kinds take turns."""
    return (ended + kinds - 1 - kind) // kinds - (begun + kinds - 1 - kind) // kinds
