"""From per-example outcomes to accuracies with intervals. Pure; no torch, no disk."""

import math
from collections.abc import Iterable, Mapping, Sequence
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
    return _wilson(successes / n, n, n)


def _wilson(share: float, effective: float, n: int) -> Accuracy:
    """Wilson's interval of ``share`` as if it came from ``effective`` independent examples."""
    z2 = Z95**2
    centre = (share + z2 / (2 * effective)) / (1 + z2 / effective)
    half = Z95 / (1 + z2 / effective) * math.sqrt(share * (1 - share) / effective + z2 / (4 * effective * effective))
    low = 0.0 if share == 0 else max(0.0, centre - half)
    high = 1.0 if share == 1 else min(1.0, centre + half)
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


Cells = Mapping[str, Mapping[int, Sequence[bool]]]
"""Corruption -> severity -> whether each example, always the same ones in the same order, was classified correctly."""


def corruption_accuracy(cells: Cells) -> Accuracy:
    """Mean over corruptions of the mean over severities, as RobustBench reports it; ``n`` counts images.

    An image's cells stand or fall together, so the interval takes images as the independent units: Wilson's, with the
    number of examples that would give the variance seen between images (Korn and Graubard 1998), at least the images
    and at most the images times the cells. ``ValueError`` unless every cell holds the same number of examples.
    """
    columns = [
        (1 / (len(cells) * len(severities)), rows) for severities in cells.values() for rows in severities.values()
    ]
    lengths = {len(rows) for _, rows in columns}
    if len(lengths) != 1 or 0 in lengths or not all(cells.values()):
        raise ValueError(f"expected the same examples in every cell, got {sorted(lengths) or 'no cell'}")
    n = lengths.pop()
    shares = [math.fsum(weight for weight, rows in columns if rows[index]) for index in range(n)]
    share = 1.0 if all(all(rows) for _, rows in columns) else math.fsum(shares) / n
    spread = math.fsum((value - share) ** 2 for value in shares) / max(1, n - 1)
    most = n * len(columns)
    effective = n if share in {0.0, 1.0} else min(most, max(n, share * (1 - share) * n / spread if spread else most))
    return _wilson(share, effective, n)


def corruption_error(cells: Cells) -> Accuracy:
    """Mean error over the cells: one minus ``corruption_accuracy``, with its interval."""
    accuracy = corruption_accuracy(cells)
    return Accuracy(1 - accuracy.value, 1 - accuracy.high, 1 - accuracy.low, accuracy.n)


def relative_robustness(corruption: float, natural: float) -> float:
    """Corruption accuracy as a share of natural accuracy (rPC of arXiv 1907.07484); ``ValueError`` when that is 0."""
    if not natural > 0:
        raise ValueError(f"expected a natural accuracy above 0, got {natural}")
    return corruption / natural


def mce(errors: Mapping[str, Sequence[float]], baseline: Mapping[str, Sequence[float]]) -> float:
    """Mean corruption error (arXiv 1903.12261): a corruption's errors over the baseline's, averaged over corruptions.

    ``ValueError`` when the two hold other corruptions or severities, or the baseline makes no error on one. There is no
    published baseline for CIFAR, so a value means something only beside the baseline's name.
    """
    return _ratio(errors, baseline, 0.0, 0.0)


def relative_mce(
    errors: Mapping[str, Sequence[float]], baseline: Mapping[str, Sequence[float]], clean: float, baseline_clean: float
) -> float:
    """``mce`` of what corruption adds to the error on clean images (relative mCE of arXiv 1903.12261)."""
    return _ratio(errors, baseline, clean, baseline_clean)


def _ratio(
    errors: Mapping[str, Sequence[float]], baseline: Mapping[str, Sequence[float]], clean: float, baseline_clean: float
) -> float:
    if not errors or set(errors) != set(baseline):
        raise ValueError(f"expected the corruptions of the baseline, got {sorted(set(errors) ^ set(baseline))}")
    ratios = []
    for name, own in errors.items():
        theirs = baseline[name]
        if len(own) != len(theirs):
            raise ValueError(f"{name}: expected {len(theirs)} severities, got {len(own)}")
        added = math.fsum(theirs) - len(theirs) * baseline_clean
        if not added > 0:
            raise ValueError(f"{name}: expected a baseline that loses accuracy, got {added}")
        ratios.append((math.fsum(own) - len(own) * clean) / added)
    return math.fsum(ratios) / len(ratios)
