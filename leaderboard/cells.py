"""What one place of a table holds: a number, or one of five different reasons why there is none."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from harness.metrics import Accuracy, proportion


class State(StrEnum):
    """How a cell stands; failed, skipped, stale, not run and zero are different things."""

    NUMBER = "number"
    """Every example has a record that counts."""
    PARTIAL = "partial"
    """Some examples have one, the others are not run or stale."""
    FAILED = "failed"
    """At least one shard ended in an error."""
    SKIPPED = "skipped"
    """At least one shard was not tried, because something it builds on failed."""
    STALE = "stale"
    """There are records, all of another checkpoint, source, data, seed or recipe."""
    NOT_RUN = "not run"
    """There is no record."""


@dataclass(frozen=True)
class Cell:
    """One place of a table."""

    state: State
    text: str = ""
    """A few words beside the state, e.g. ``640 of 1,000``; empty for a number."""
    detail: str = ""
    """One sentence for a person: why there is no number, or what to know about the one there is."""
    accuracy: Accuracy | None = None
    """Set when ``state`` is a number."""
    flags: tuple[bool, ...] = ()
    """The outcome of every example in the data set's order, when ``state`` is a number."""

    @property
    def complete(self) -> bool:
        """There is a number."""
        return self.state is State.NUMBER

    @property
    def label(self) -> str:
        """State and text in one string, e.g. ``partial: 640 of 1,000``."""
        return f"{self.state.value}: {self.text}" if self.text else self.state.value


def number(flags: Sequence[bool], detail: str = "") -> Cell:
    """The share of true ``flags`` with its interval; ``ValueError`` when there are none."""
    return Cell(State.NUMBER, accuracy=proportion(sum(flags), len(flags)), flags=tuple(flags), detail=detail)


def not_asked(what: str) -> Cell:
    """The cell of something that no run of this submission asked for."""
    return Cell(State.NOT_RUN, detail=f"No run of this submission asked for {what}.")
