"""The compiled part, ``compiled.c``: convolutions of float32 maps (N, H, W, C) that lie together.

Addresses are numbers.
"""

def has(lanes: int, /) -> bool:
    """Whether this processor has vectors of so many floats."""

def winograd(
    lanes: int,
    images: int,
    shape: tuple[int, int, int, int],
    kernels: int,
    bias: int,
    padding: int,
    block: int,
    results: int,
    made: int,
    /,
) -> None:
    """Images (N, H, W, C) become ``made`` channels; ``bias`` may be 0; ``block`` tiles are computed together."""

def direct(
    lanes: int,
    images: int,
    count: int,
    image: tuple[int, int],
    kernels: int,
    bias: int,
    sources: int,
    shape: tuple[int, int],
    places: int,
    results: int,
    result: tuple[int, int],
    few: bool,
    /,
) -> None:
    """``sources`` has a ``shape`` of results and taps.

    ``image`` and ``result`` are floats from one to the next, and channels; ``few``: kernels are those of ``by_colour``.
    """
