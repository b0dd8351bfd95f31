"""The compiled part, ``around.c``: copies of pixels. Addresses are numbers."""

from typing import Any

from numpy.typing import NDArray

def around(
    maps: int,
    shape: tuple[int, int, int],
    pixel: int,
    rows: NDArray[Any],
    corners: NDArray[Any],
    size: tuple[int, int],
    held: int,
    side: int,
    places: NDArray[Any],
    made: int,
    /,
) -> None:
    """Windows of ``size`` at int64 ``corners`` (2, M) of the maps ``rows`` int64 (M,), of ``shape`` (n, H, W).

    A pixel has ``pixel`` bytes. Squares of ``side`` are laid into them at int64 ``places`` (2, M). ``ValueError`` where
    something does not lie inside.
    """
