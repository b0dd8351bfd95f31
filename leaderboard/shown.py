"""How a value looks on the page: main figure, small print, hover text, sort key. Never what it means."""

from dataclasses import dataclass

from harness.metrics import Accuracy
from leaderboard.cells import Cell, State

HEAT_STEPS = 10
"""Shades an accuracy's background can have."""


@dataclass(frozen=True)
class Shown:
    """One table cell, ready for a template."""

    main: str
    small: str = ""
    hover: str = ""
    sort: float | str | None = None
    """Key to sort by; None for a missing value, which comes last."""
    state: str = State.NUMBER.value
    heat: int | None = None
    """0 to ``HEAT_STEPS``: how dark the background is."""
    mark: str = ""
    """Footnote mark."""
    struck: str = ""
    """The claim that ``main`` replaces, to be shown struck through."""
    flag: str = ""
    """What the validity checks say of the column: ``note``, ``suspect`` or ``overestimated``; empty when true."""
    sign: str = ""
    """The flag as a superscript."""

    @property
    def css(self) -> str:
        """Class names."""
        names = [f"state-{self.state.replace(' ', '-')}"]
        if self.heat is not None:
            names.append(f"heat-{self.heat}")
        return " ".join(names)


def decimals(n: int) -> int:
    """Decimals of a percentage that ``n`` examples can carry."""
    return 1 if n <= 1000 else 2


def percent(value: float, n: int) -> str:
    """``0.626`` of 1,000 as ``62.6``."""
    return f"{100 * value:.{decimals(n)}f}"


def interval(accuracy: Accuracy) -> str:
    """``59.6–65.5``."""
    return f"{percent(accuracy.low, accuracy.n)}–{percent(accuracy.high, accuracy.n)}"


def sentence(accuracy: Accuracy) -> str:
    """Value, interval and n in words."""
    low, high = percent(accuracy.low, accuracy.n), percent(accuracy.high, accuracy.n)
    return f"{percent(accuracy.value, accuracy.n)} %, 95 % interval {low} to {high}, n = {accuracy.n:,}"


def show_accuracy(cell: Cell) -> Shown:
    """An accuracy in percent with its interval, or the state of the cell."""
    if cell.accuracy is None:
        return show_state(cell.state, cell.text, cell.detail)
    accuracy = cell.accuracy
    hover = f"{sentence(accuracy)}. {cell.detail}".strip(". ") + "."
    return Shown(
        percent(accuracy.value, accuracy.n),
        interval(accuracy),
        hover,
        accuracy.value,
        heat=round(accuracy.value * HEAT_STEPS),
    )


def show_state(state: State, text: str, detail: str) -> Shown:
    """A cell without a number."""
    return Shown(state.value, text, f"{state.value}: {detail or text or 'no number'}", state=state.value)


def significant(value: float) -> str:
    """Three significant digits, thousands separated: ``0.178``, ``20.1``, ``1,930``."""
    if value == 0:
        return "0"
    digits = max(0, 2 - _magnitude(value))
    return f"{value:,.{digits}f}" if value >= 1000 else f"{value:.{digits}f}"


def judged(value: float) -> str:
    """A number that a check looked at: ``8``, ``0.178``, ``4.8e−07``, ``−1.42``."""
    whole = float(value).is_integer() and abs(value) < 1e6
    tiny = value != 0 and (abs(value) < 1e-3 or abs(value) >= 1e6)
    return (f"{value:,.0f}" if whole else f"{value:.2g}" if tiny else significant(value)).replace("-", "−")


def _magnitude(value: float) -> int:
    return int(f"{value:.2e}".partition("e")[2])


def millions(count: int) -> str:
    """A count in millions, e.g. parameters."""
    return significant(count / 1e6)


def mebibytes(count: int) -> str:
    """Bytes in MiB."""
    return significant(count / 2**20)


def seconds(value: float) -> str:
    """A duration: ``42 s``, ``3 min 20 s``, ``2 h 5 min``."""
    whole = round(value)
    if whole < 60:
        return f"{value:.1f} s" if value < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
