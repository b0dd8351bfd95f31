"""Asks a network about images that differ from known ones in a small window, where that is faster and changes no bit.

The known images' activations are kept (``known``). Whether windows of a side are used for a number of images is found
out once they have come a few times: the answers must be those of a full pass, bit by bit, and faster to get. A kernel
is chosen by the shapes it gets, so what is equal there is equal later; now and then it is looked at again.
"""

import contextlib
import time
from collections import Counter
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from harness.worker.network import MICRO_BATCH, Network
from harness.worker.windows.areas import Area, cut_planes
from harness.worker.windows.known import Known, StaleError, UnsuitedError
from harness.worker.windows.near import NearChains
from harness.worker.windows.partial import Partial, Pass
from harness.worker.windows.rules import RULES

MEMORY = 256 << 20
"""Bytes of activations kept; images for which there is no room left are asked about as always."""
AT_ONCE = MEMORY // 4
"""Bytes that a micro-batch beyond the size of a full pass may take, were all its windows as large as the maps."""
GAIN = 0.9
"""Windows are used when they take at most this part of a full pass's time."""
AGAIN = 512
"""Every so many micro-batches of windows, one is compared with a full pass once more."""
TRIES = 16
"""Times that activations which turn out to be needed are taken down before a network is given up."""
STEP, MOST = 8, 256
"""Sizes of micro-batches are multiples of the one and at most the other."""
OFTEN, FILLED = 6, 4 / 3
"""A size that came at most so often is filled up to a known one, at most so many times its own: to look whether a size
gives the same bits takes a full pass."""
KEPT = MEMORY // 2
"""Bytes of windows kept from the questions before, for a known image that moves to an image asked about there: a search
asks about its next moves in several parts."""
PATIENCE = 12
"""Questions of a kind that come before it is found out what windows bring: a few are answered sooner as always."""
CLEAR = 0.75
"""Windows that take at most this part of a full pass's time when they are first tried, which is slower than later, are
not timed again."""

Numbers = NDArray[np.int64]


class Windows:
    """Known images by number, and questions about images near them."""

    def __init__(self, network: Network) -> None:
        """Nothing is known yet.

        Only a network on a CPU is asked in windows, and one whose bits do not hang on the size of the batch: what draws
        random numbers, or looks at all rows, is asked as always.
        """
        self._network = network
        self.broken = network.device.type != "cpu" or len(network.sizes) == 1
        """Whether all is asked as always."""
        self.used = 0
        """Micro-batches answered from windows."""
        self._most = self._least = network.sizes[0]
        """Rows of a micro-batch: what a full pass takes, more where they are known to need little memory."""
        self._equal: set[tuple[int, int]] = set()
        """Sides of windows and sizes of micro-batches that were seen to give the bits of a full pass."""
        self._came: Counter[tuple[int, int]] = Counter()
        """How often sides and sizes came that were not known to give them then."""
        self._shares: dict[tuple[int, int], float] = {}
        """What part of a full pass's time windows of a side take in micro-batches of a size."""
        self._chains: NearChains | None = None
        """What computes chains of operations on windows in one go."""
        if network.chains is not None and network.convolutions is not None:
            self._chains = NearChains(network.convolutions)
        self._forget(np.empty((0, 0, 0, 0), np.float32))

    def _forget(self, images: NDArray[np.float32]) -> None:
        """Known images are ``images`` (A, C, H, W), whose activations are not there yet."""
        self._images = images
        self._fresh = np.zeros(len(images), dtype=np.bool_)
        """Whose activations are there."""
        self._room = len(images)
        """Known images whose activations fit, as far as it was seen."""
        self._known = Known(self._network.layout, RULES)
        self._last: list[tuple[NDArray[np.float32], Numbers, Pass]] = []
        """Micro-batches of windows since known images last moved: images, the known ones near them, what was found."""

    def place(self, numbers: list[int], images: Tensor) -> None:
        """From now on the known images with these numbers are ``images`` (n, C, H, W)."""
        if self.broken or not numbers:
            return
        count, same = max(numbers) + 1, self._images.shape[1:] == images.shape[1:]
        if count > len(self._images) or not same:
            grown = np.zeros((count, *images.shape[1:]), np.float32)
            if same:
                grown[: len(self._images)] = self._images
            self._forget(grown)
        pixels, these = images.cpu().numpy(), np.asarray(numbers)
        self._fresh[these] &= self._follow(these, pixels)
        self._images[these] = pixels

    def _follow(self, numbers: Numbers, images: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Known images that move to ones just asked about get the activations from there; which of them did."""
        followed = np.zeros(len(numbers), dtype=np.bool_)
        for asked, anchors, work in self._last:
            found = {
                at: row
                for at, number in enumerate(numbers.tolist())
                for row in np.flatnonzero(anchors == number)
                if not followed[at] and np.array_equal(asked[row], images[at])
            }
            if found:
                moved = np.array(list(found))
                self._known.follow(work, numbers[moved], np.array(list(found.values())))
                followed[moved] = True
        self._last.clear()
        return followed

    @torch.no_grad()
    def ask(self, x: Tensor, numbers: list[int]) -> Tensor:
        """Logits (N, K) of images (N, C, H, W), each near the known one of that number; no graph is made."""
        while sum(work.bytes_of_windows() for _, _, work in self._last) > KEPT:
            self._last.pop(0)
        anchors = np.asarray(numbers)
        rows = np.flatnonzero(anchors < self._room)
        if self.broken or not len(rows):
            return self._whole(x)
        pixels = np.ascontiguousarray(x.cpu().numpy())
        if len(rows) < len(x):
            near = self._near(pixels[rows], anchors[rows])
            far = self._whole(x[torch.from_numpy(np.flatnonzero(anchors >= self._room)).to(x.device)])
            logits = far.new_empty(len(x), far.shape[1])
            logits[rows], logits[np.flatnonzero(anchors >= self._room)] = near.to(x.device), far
            return logits
        return self._near(pixels, anchors).to(x.device)

    def _near(self, images: NDArray[np.float32], anchors: Numbers) -> Tensor:
        """Logits of images (N, C, H, W), all of whose known ones have room."""
        corners, sides = _boxes(images, self._images[anchors])
        height, width = images.shape[2:]
        logits = []
        # Parts of about one size: ten rows left over would cost as much as thirty.
        parts = -(-len(images) // self._most)
        size = min(self._most, -(-len(images) // (parts * STEP)) * STEP)
        for start in range(0, len(images), size):
            part = slice(start, start + size)
            side = int(min(max(1, sides[part].max()), height, width))
            area = Area(np.minimum(corners[:, part], [[height - side], [width - side]]), side)
            logits.append(self._micro_batch(images[part], anchors[part], area))
        return torch.cat(logits)

    def _whole(self, x: Tensor) -> Tensor:
        logits: Tensor = self._network(x)
        return logits

    def _micro_batch(self, images: NDArray[np.float32], anchors: Numbers, area: Area) -> Tensor:
        """Logits of at most ``MOST`` images (N, C, H, W)."""
        x, size = torch.from_numpy(images), self._filled(area.side, len(images))
        kind = (area.side, size)
        pays = self._pays(*kind)
        if self.broken or pays is False or (pays is None and self._came[kind] <= PATIENCE):
            return self._whole(x)
        try:
            self._take_down(np.unique(anchors[~self._fresh[anchors]]))
            if anchors.max() >= self._room:
                return self._whole(x)
            began = time.process_time()
            found, work = self._run(images, anchors, area, size)
            self.used += 1
            if kind not in self._equal or self.used % AGAIN == 0:
                return self._compare(found, work, time.process_time() - began, images, anchors, area, size)
        except Exception:
            # Whatever it is that the network cannot do with windows, it can be asked as always.
            self._refused()
            return self._whole(x)
        self._last.append((images, anchors, work))
        return found

    def _refused(self) -> None:
        """From now on windows go through one operation after the other, or, where they did, there are none."""
        self.broken = self._chains is None
        self._chains = None
        self._equal.clear()
        self._shares.clear()
        self._forget(self._images)

    def _pays(self, side: int, size: int) -> bool | None:
        """Whether windows take less time, where that is known: smaller ones pay all the more.

        Fewer at once take at most as long, where a full pass takes its part of the time; more at once at most theirs.
        """
        known = self._shares.items()
        if any(side >= other and size <= than and share > GAIN for (other, than), share in known):
            return False
        return any(side <= other and share * max(1.0, than / size) <= GAIN for (other, than), share in known) or None

    def _filled(self, side: int, count: int) -> int:
        """Size of a micro-batch for ``count`` images: the next one, or a known one while that has hardly come."""
        size = -(-count // STEP) * STEP
        if (side, size) not in self._equal:
            self._came[side, size] += 1
            if self._came[side, size] <= OFTEN:
                most = min(FILLED * size, self._most)
                return min((of for at, of in self._equal if at == side and size < of <= most), default=size)
        return size

    def _compare(
        self, found: Tensor, work: Pass, spent: float, images: NDArray[np.float32], anchors: Numbers, area: Area,
        size: int,
    ) -> Tensor:  # fmt: skip
        """Logits of a full pass; finds out whether windows give the same bits and, the first time, in less time.

        ``spent`` are the processor seconds that ``found`` took.
        """
        x, kind = torch.from_numpy(images), (area.side, size)
        began = time.process_time()
        expected = self._whole(x)
        full = time.process_time() - began
        if not torch.equal(found, expected):
            if kind in self._equal:
                self.broken = True
            elif self._chains is not None:
                self._refused()
            else:
                self._shares[kind] = np.inf
            return expected
        self._equal.add(kind)
        if self._pays(*kind) is None:
            if work.slid and spent > CLEAR * full:
                full, spent = (
                    min(_seconds(ask) for _ in range(2))
                    for ask in (lambda: self._whole(x), lambda: self._run(images, anchors, area, size))
                )
            self._shares[kind] = spent / max(full, 1e-9) if work.slid else np.inf
        return expected

    def _run(self, images: NDArray[np.float32], anchors: Numbers, area: Area, size: int) -> tuple[Tensor, Pass]:
        """Logits from windows, and what was found on the way; filled up to ``size`` with rows of the same question."""
        rows = np.arange(size) % len(images)
        area = Area(area.corners[:, rows], area.side)
        entry = torch.from_numpy(cut_planes(images, rows, area)).contiguous(memory_format=torch.channels_last)
        for _ in range(TRIES):
            work = Pass(self._known, anchors[rows])
            with contextlib.suppress(StaleError):
                logits = self._asked(work.enter(entry, area, images.shape[2:]))
                work.close()
                return logits[: len(images)].float(), work
            self._take_down(np.unique(anchors))
        raise UnsuitedError("activations that are needed were never there")

    def _asked(self, images: Partial) -> Tensor:
        """What the network says of parts of images; ``UnsuitedError`` where chains have lost something."""
        logits = self._network.run(images, self._chains)
        if self._chains is not None and self._chains.lost:
            raise UnsuitedError("something that chains cannot follow")
        return logits

    def _take_down(self, numbers: Numbers) -> None:
        """Keep the activations of some known images, of those for which there is room."""
        start = 0
        for size in self._network.cuts(len(numbers)):
            part = numbers[start : start + size]
            start += size
            images = torch.from_numpy(self._images[part[np.arange(size) % len(part)]])
            work = Pass(self._known)
            images = images.contiguous(memory_format=self._network.layout)
            self._asked(work.enter(images, Area(np.empty((2, 0), np.int64), 1), images.shape[2:]))
            work.close()
            taken = max(1, work.bytes_per_image())
            self._room = min(self._room, MEMORY // taken)
            if self._network.micro_batch >= MICRO_BATCH["cpu"]:
                self._most = max(self._least, min(MOST, AT_ONCE // taken // STEP * STEP))
            kept = np.flatnonzero(part < self._room)
            self._known.keep(work, part[kept], kept, self._room)
            self._fresh[part[kept]] = True


def _seconds(ask: Callable[[], object]) -> float:
    """Processor time that it takes."""
    began = time.process_time()
    ask()
    return time.process_time() - began


def _boxes(images: NDArray[np.float32], known: NDArray[np.float32]) -> tuple[Numbers, Numbers]:
    """Upper left corners (2, N) and larger sides (N,) of what differs between images (N, C, H, W)."""
    off = (images != known).any(1)
    first, length = [], []
    for lines in (off.any(2), off.any(1)):
        start = lines.argmax(1)
        last = lines.shape[1] - 1 - lines[:, ::-1].argmax(1)
        first.append(start)
        length.append(np.where(lines.any(1), last - start + 1, 0))
    return np.stack(first), np.maximum(*length)
