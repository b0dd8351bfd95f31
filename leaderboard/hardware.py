"""On what the cost of a row was measured, and whether the rows of a board can be compared."""

from collections.abc import Sequence
from string import ascii_lowercase

from leaderboard.board import Row


def describe(row: Row) -> str:
    """Everything a throughput depends on besides the network; empty when nothing was measured."""
    if row.cost is None or row.cost.footprint is None or not row.cost.environments:
        return ""
    environment = row.cost.environments[0]
    threads = f"{environment.threads} thread{'' if environment.threads == 1 else 's'}"
    batch = ", ".join(str(size) for size in row.cost.batch_sizes)
    parts = [
        environment.hardware or "unknown hardware",
        environment.device,
        threads,
        environment.dtype or "dtype unknown",
    ]
    return ", ".join([*parts, f"batch size {batch}", f"torch {environment.torch}"])


def machines(rows: Sequence[Row]) -> list[str]:
    """The distinct descriptions, in the order of the rows."""
    return list(dict.fromkeys(text for row in rows if (text := describe(row))))


def marks(rows: Sequence[Row]) -> dict[str, str]:
    """A letter for each row's machine, by submission; empty when all rows were measured on the same one."""
    found = machines(rows)
    if len(found) < 2:
        return {}
    return {row.id: letter(found.index(text)) for row in rows if (text := describe(row))}


def letter(position: int) -> str:
    """``a``, ``b``, ..., ``z``, ``aa``, ..."""
    name = ""
    position += 1
    while position:
        position, rest = divmod(position - 1, len(ascii_lowercase))
        name = ascii_lowercase[rest] + name
    return name
