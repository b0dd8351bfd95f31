"""The loss over a plane through an image, as small maps of squares (the figure of arXiv 1912.10185)."""

from collections.abc import Mapping
from typing import Any

from leaderboard.charts import usable
from leaderboard.shown import judged

SIDE = 100
"""Width and height of a map's view box."""
MOST = 4
"""Maps shown, at most."""
LEAST = 3
"""Points a side, at least."""


def surfaces(numbers: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any] | None:
    """Plain data of the maps that the landscape probe recorded, all on one scale; None without any.

    A column of squares is a step along the random orthogonal direction, a row one along the adversarial direction,
    rising upwards; the darker, the larger the loss.
    """
    offsets = [value for value in usable(numbers.get("grid_offsets")) if value is not None]
    listed = numbers.get("surfaces")
    grids = []
    for item in (listed if isinstance(listed, list) else [])[:MOST]:
        rows = item.get("loss") if isinstance(item, Mapping) else None
        grid = [[v for v in usable(row) if v is not None] for row in rows] if isinstance(rows, list) else []
        if len(offsets) >= LEAST and len(grid) == len(offsets) and all(len(row) == len(offsets) for row in grid):
            grids.append((item, grid))
    if not grids:
        return None
    values = [value for _, grid in grids for row in grid for value in row]
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    maps = []
    for item, grid in grids:
        step = SIDE / len(grid)
        squares = [
            (round(j * step, 2), round(SIDE - (i + 1) * step, 2), round(0.04 + 0.96 * (value - low) / span, 3))
            for i, row in enumerate(grid)
            for j, value in enumerate(row)
        ]  # fmt: skip
        mark, position = item.get("label"), item.get("position")
        name = names[mark] if isinstance(mark, int) and 0 <= mark < len(names) else f"class {mark}"
        mine = [value for row in grid for value in row]
        says = f"Image {position}, {name}: cross-entropy from {judged(min(mine))} to {judged(max(mine))}"
        maps.append({"name": name, "says": says, "range": f"{judged(min(mine))} to {judged(max(mine))}",
                     "squares": squares, "size": round(step + 0.15, 2)})  # fmt: skip
    reach = judged(max(map(abs, offsets)))
    return {"maps": maps, "low": judged(low), "high": judged(high), "reach": reach, "side": SIDE}
