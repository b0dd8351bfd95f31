"""The compiled part, ``fab_steps.c``. Addresses are numbers, of float32, int64 and bool that lie together."""

def advance(
    points: int,
    x: int,
    gradients: int,
    leads: int,
    rows: int,
    fooled: int,
    shape: tuple[int, int],
    linf: bool,
    alpha_max: float,
    eta: float,
    beta: float,
    results: int,
    keep: int,
    /,
) -> bool:
    """A step of ``shape`` (P, d) points, and who goes on; False, and to be asked anew, if a gradient is not finite."""
