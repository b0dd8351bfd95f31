"""From per-example outcomes to accuracies with intervals. Pure; no torch, no disk."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from harness.records import Example

Z95 = 1.959963984540054
"""Two-sided 95 % quantile of the normal distribution."""


@dataclass(frozen=True)
class Accuracy:
    """A share of examples with its 95 % interval; all in [0, 1]."""

    value: float
    low: float
    high: float
    n: int


def proportion(successes: int, n: int) -> Accuracy:
    """``successes`` out of ``n`` with the Wilson score interval (Wilson 1927).

    ``ValueError`` unless 0 <= successes <= n and n > 0.
    """
    if n <= 0 or not 0 <= successes <= n:
        raise ValueError(f"expected 0 <= successes <= n and n > 0, got {successes} of {n}")
    share, z2 = successes / n, Z95**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return Accuracy(share, low, high, n)


def natural_accuracy(rows: Sequence[Example]) -> Accuracy:
    """Mean of 1[f(x) = y]."""
    return proportion(sum(row.correct for row in rows), len(rows))


def robust_accuracy(rows: Sequence[Example]) -> Accuracy:
    """Mean of 1[f(x) = y and f(x') = y]."""
    return proportion(sum(row.robust for row in rows), len(rows))


def consistency_accuracy(rows: Sequence[Example]) -> Accuracy:
    """Mean of 1[f(x') = f(x)]."""
    return proportion(sum(row.consistent for row in rows), len(rows))


def worst_case(columns: Iterable[Sequence[Example]]) -> Accuracy:
    """Share of examples that stay robust in every column; the columns must hold the same examples in the same order."""
    alive: list[bool] = []
    indices: list[int] = []
    for rows in columns:
        if not indices:
            indices, alive = [row.index for row in rows], [row.robust for row in rows]
            continue
        if [row.index for row in rows] != indices:
            raise ValueError("expected the same examples in every column")
        alive = [before and row.robust for before, row in zip(alive, rows, strict=True)]
    return proportion(sum(alive), len(alive))


def per_class(rows: Sequence[Example], *, robust: bool) -> dict[int, Accuracy]:
    """Natural or robust accuracy of every label that occurs."""
    labels = sorted({row.label for row in rows})
    measure = robust_accuracy if robust else natural_accuracy
    return {label: measure([row for row in rows if row.label == label]) for label in labels}


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> float:
    """Two-sided exact p-value that two submissions differ, from paired outcomes (McNemar 1947, binomial form)."""
    only_first = sum(a and not b for a, b in zip(first, second, strict=True))
    only_second = sum(b and not a for a, b in zip(first, second, strict=True))
    n = only_first + only_second
    if n == 0:
        return 1.0
    # Doubled binomial tail at probability one half, summed in logarithms so that large n does not overflow.
    tail = math.fsum(
        math.exp(math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) - n * math.log(2))
        for k in range(min(only_first, only_second) + 1)
    )
    return min(1.0, 2 * tail)
