"""The compiled part, ``compiled.c``: convolutions of float32 maps (N, H, W, C) that lie together, and chains of them.

Addresses are numbers.
"""

def has(lanes: int, /) -> bool:
    """Whether this processor has vectors of so many floats."""

def winograd(lanes: int, shape: tuple[int, int, int], kernels: int, padding: int, block: int, made: int, /) -> bytes:
    """A job for images of ``shape`` (H, W, C), to ``made`` channels; ``block`` tiles are computed together."""

def direct(
    lanes: int,
    shape: tuple[int, int, int],
    beside: tuple[int, int],
    phases: tuple[tuple[int, int, tuple[int, int, int], int], ...],
    result: tuple[int, int],
    few: bool,
    /,
) -> bytes:
    """A job for images of ``shape`` (H, W, C), with columns of zeros ``beside`` them where the phases' lists want them.

    Of a phase: kernels, sources, how many (pixels, taps, channels that lie together), places. ``result`` is floats from
    one to the next, and channels; ``few``: kernels are those of ``by_colour``.
    """

def run(job: bytes, images: int, bias: int, results: int, count: int, /) -> None:
    """Do a job for ``count`` images; ``bias`` may be 0."""

def chain(
    lanes: int,
    steps: int,
    length: int,
    values: int,
    floats: tuple[int, int],
    given: int,
    bits: int,
    image_bits: int,
    cuts: int,
    start: int,
    count: int,
    /,
) -> None:
    """Take ``count`` images from ``start`` on through ``length`` steps; ``chains.program`` makes the tables.

    ``floats`` of room: for each image, and for those that are computed together. ``given`` are the addresses of
    the tensors that are read and written; ``bits`` may be 0, an image's are ``image_bits`` bytes. ``cuts`` are for
    windows of known maps; ``ValueError`` where one is not inside its map.
    """
