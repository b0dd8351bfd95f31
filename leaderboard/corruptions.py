"""Accuracy on corrupted images: every cell of a benchmark, their mean, and what follows from it. No torch.

The official archive and drawn corruptions are two sources; nothing here mixes them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.metrics import Accuracy, corruption_accuracy, corruption_error, relative_robustness
from leaderboard.cells import Cell, State, not_asked
from leaderboard.evidence import Evidence

KINDS: dict[str, tuple[str, ...]] = {
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise"),
    "blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    "weather": ("snow", "frost", "fog", "brightness"),
    "digital": ("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
}
"""The fifteen corruptions that are averaged over, by kind, in the paper's order (arXiv 1903.12261)."""
CORRUPTIONS = tuple(name for names in KINDS.values() for name in names)
EXTRA = ("speckle_noise", "gaussian_blur", "spatter", "saturate")
"""The four that the authors hold out; shown, never averaged over."""
SEVERITIES = (1, 2, 3, 4, 5)
GENERATED = "-c-generated"
"""How the name of a source ends whose images were drawn, not taken from an archive."""


@dataclass(frozen=True)
class Benchmark:
    """What one submission does on the corrupted images of one source."""

    source: str
    """Name of the corrupted data set, e.g. ``cifar10-c`` or ``cifar10-sample-c-generated``."""
    cells: dict[str, dict[int, Cell]]
    """Corruption -> severity -> share of its images that are classified as labelled; only what was asked for."""
    natural: float | None
    """Natural accuracy on the same images."""
    mean: Cell
    """Mean over the fifteen corruptions of the mean over the severities; a number only when all 75 cells are."""
    error: Accuracy | None
    """Mean error over the same cells."""
    implementations: tuple[str, ...]
    """Who made the images, with a version."""

    @property
    def official(self) -> bool:
        """Whether the images are those of the published archive."""
        return not self.source.endswith(GENERATED)

    @property
    def relative(self) -> float | None:
        """Mean accuracy as a share of natural accuracy; None without either."""
        if self.mean.accuracy is None or not self.natural:
            return None
        return relative_robustness(self.mean.accuracy.value, self.natural)

    @property
    def names(self) -> tuple[str, ...]:
        """The corruptions that were asked for, in the paper's order, unknown ones last."""
        known = [name for name in (*CORRUPTIONS, *EXTRA) if name in self.cells]
        return (*known, *sorted(set(self.cells) - set(known)))

    def row_mean(self, corruption: str) -> Cell:
        """Mean over the severities of one corruption."""
        return _mean({corruption: self.cells[corruption]})


def benchmarks(evidence: Mapping[str, Evidence]) -> dict[str, Benchmark]:
    """The benchmarks of one submission by source, official ones first; ``evidence`` by task key."""
    found: dict[str, list[Evidence]] = {}
    for item in evidence.values():
        if item.task.kind == "corruption":
            found.setdefault(str(item.task.params["dataset"]), []).append(item)
    clean = next((item for item in evidence.values() if item.task.kind == "clean"), None)
    natural = clean.cell(clean.outcomes.correct if clean.outcomes else None).accuracy if clean else None
    ordered = sorted(found, key=lambda source: (source.endswith(GENERATED), source))
    return {source: _benchmark(source, found[source], natural.value if natural else None) for source in ordered}


def _benchmark(source: str, items: Sequence[Evidence], natural: float | None) -> Benchmark:
    cells: dict[str, dict[int, Cell]] = {}
    for item in items:
        name, severity = str(item.task.params["corruption"]), int(item.task.params["severity"])
        cells.setdefault(name, {})[severity] = item.cell(item.outcomes.right if item.outcomes else None)
    averaged = {name: cells.get(name, {}) for name in CORRUPTIONS}
    mean = _mean(averaged)
    return Benchmark(
        source=source,
        cells=cells,
        natural=natural,
        mean=mean,
        error=corruption_error(_flags(averaged)) if mean.complete else None,
        implementations=tuple(sorted({item.task.implementation for item in items})),
    )


def _flags(cells: Mapping[str, Mapping[int, Cell]]) -> dict[str, dict[int, tuple[bool, ...]]]:
    return {name: {severity: cell.flags for severity, cell in row.items()} for name, row in cells.items()}


def _mean(cells: Mapping[str, Mapping[int, Cell]]) -> Cell:
    """Mean over ``cells`` when every severity of each is a number, else the state of the first that is none."""
    for name, row in cells.items():
        for severity in SEVERITIES:
            cell = row.get(severity)
            if cell is None:
                return not_asked(f"{name} at severity {severity}, which the mean needs")
            if not cell.complete:
                text = f"{name}-{severity}"
                return Cell(cell.state, f"needs {text}", f"Needs {text}, which is {cell.label}. {cell.detail}".strip())
    return Cell(State.NUMBER, accuracy=corruption_accuracy(_flags(cells)))


def _accuracy(found: Accuracy | None) -> dict[str, Any] | None:
    return None if found is None else {"value": found.value, "low": found.low, "high": found.high, "n": found.n}


def plain(found: Mapping[str, Benchmark]) -> dict[str, Any]:
    """The benchmarks by source as plain data for the JSON export; None where there is no number, with its state."""
    return {
        source: {
            "official": item.official,
            "images_by": list(item.implementations),
            "mean_accuracy": _accuracy(item.mean.accuracy),
            "mean_error": _accuracy(item.error),
            "relative_robustness": item.relative,
            "cells": {
                name: {str(severity): _accuracy(cell.accuracy) for severity, cell in sorted(item.cells[name].items())}
                for name in item.names
            },
            "states": {
                f"{name}-{severity}": cell.label
                for name in item.names
                for severity, cell in sorted(item.cells[name].items())
                if not cell.complete
            },
        }
        for source, item in found.items()
    }


def flat(found: Mapping[str, Any]) -> dict[str, Any]:
    """``plain`` as columns: ``cifar10-c_fog_3`` with ``_low`` and ``_high``, ``cifar10-c_mean`` and so on."""
    columns: dict[str, Any] = {}
    for source, item in found.items():
        columns |= _spread(f"{source}_mean", item["mean_accuracy"])
        columns |= _spread(f"{source}_mean_error", item["mean_error"])
        columns[f"{source}_relative_robustness"] = item["relative_robustness"]
        for name, row in item["cells"].items():
            for severity, value in row.items():
                columns |= _spread(f"{source}_{name}_{severity}", value)
    return columns


def _spread(name: str, value: dict[str, Any] | None) -> dict[str, Any]:
    given = value or {}
    return {name: given.get("value"), f"{name}_low": given.get("low"), f"{name}_high": given.get("high")}
