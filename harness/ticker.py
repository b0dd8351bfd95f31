"""A bar of one line that says how far an evaluation in this process has come."""

import sys
import time
from collections.abc import Callable, Sequence

from harness.forecast import Forecast
from harness.plan import Work
from harness.records import Record, Shard

WIDTH = 24
"""Characters of the bar."""


class Ticker:
    """Draws ``[####....] 3/12 pgd-20@Linf-8/255 0-100, about 20 s left`` over itself."""

    def __init__(self, works: Sequence[Work], classes: int, say: bool | Callable[[str], object]) -> None:
        """``say`` gets each text; True draws on standard error, False nowhere."""
        self._left = {(work.shard.task.key, work.shard.start): work.shard for work in works}
        self._total = len(works)
        self._forecast = Forecast(classes)
        self._drawn = 0
        self._say: Callable[[str], object] | None = say if callable(say) else (self._draw if say else None)
        self._began = time.monotonic()

    def _draw(self, text: str) -> None:
        # Blanks cover what a longer text before left behind.
        sys.stderr.write(f"\r{text.ljust(self._drawn)}")
        sys.stderr.flush()
        self._drawn = len(text)

    def starts(self, shard: Shard) -> None:
        """Show that ``shard`` is next."""
        if self._say is None:
            return
        done = self._total - len(self._left)
        filled = WIDTH * done // max(1, self._total)
        left = self._forecast.left(self._left.values())
        eta = f", about {left:.0f} s left" if left else ""
        bar = "#" * filled + "." * (WIDTH - filled)
        self._say(f"[{bar}] {done}/{self._total} {shard.task.key} {shard.start}-{shard.stop}{eta}")

    def ended(self, record: Record) -> None:
        """Count a finished shard."""
        self._left.pop((record.shard.task.key, record.shard.start), None)
        self._forecast.learn(record)

    def close(self) -> None:
        """Say how it ended, and leave the line."""
        if self._say is None:
            return
        done = self._total - len(self._left)
        filled = WIDTH * done // max(1, self._total)
        took = time.monotonic() - self._began
        self._say(f"[{'#' * filled}{'.' * (WIDTH - filled)}] {done}/{self._total} in {took:.0f} s")
        if self._drawn:
            sys.stderr.write("\n")
