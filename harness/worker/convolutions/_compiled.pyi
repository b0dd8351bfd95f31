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
    shape: tuple[int, int, int, int],
    beside: tuple[int, int],
    phases: tuple[tuple[int, int, tuple[int, int, int], int], ...],
    bias: int,
    results: int,
    result: tuple[int, int],
    few: bool,
    /,
) -> None:
    """Images of ``shape`` (N, H, W, C), with columns of zeros ``beside`` them where the lists of the phases want them.

    Of a phase: kernels, sources, how many (pixels, taps, channels that lie together), places. ``result`` is floats from
    one to the next, and channels; ``few``: kernels are those of ``by_colour``.
    """
