"""The columns of a board's table. A column is a row of data: what it is called, what it means, how a row fills it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from harness.records import Footprint, Timing
from leaderboard.board import Board, Row, name_of
from leaderboard.cells import Cell, not_asked
from leaderboard.hardware import marks
from leaderboard.recipes import meaning, recipes
from leaderboard.shown import Shown, mebibytes, millions, percent, show_accuracy, show_state, significant
from leaderboard.validity import claimed_of, sign_of

GROUPS = {
    "natural": "Natural",
    "robust": "Robust accuracy",
    "cascade": "Cascade: robust after each member",
    "headline": "Combined",
    "consistency": "Consistency accuracy",
    "corruptions": "Corruptions",
    "cost": "Cost",
}
"""Column groups in table order, and their titles."""


@dataclass(frozen=True)
class Column:
    """One sortable column of figures."""

    key: str
    """Unique within a board."""
    group: str
    """One of ``GROUPS``."""
    label: str
    unit: str
    meaning: str
    """What the figure is, one sentence."""
    recipe: str
    """How it was measured: every parameter and the implementation."""
    show: Callable[[Row], Shown]
    descending: bool = True
    """Whether larger is better, and so what the first click sorts by."""


def _accuracy(pick: Callable[[Row], Cell | None], what: str, row: Row) -> Shown:
    return show_accuracy(pick(row) or not_asked(what))


def _robust(key: str, what: str, row: Row) -> Shown:
    """A robust accuracy with the flag that the validity battery gives its column."""
    shown = show_accuracy(row.robust.get(key) or not_asked(what))
    flag = row.flags.get(key)
    if flag is None or shown.sort is None or row.judgement is None:
        return shown
    hover = f"{shown.hover} {flag.flag.capitalize()}: {flag.sentence}"
    return replace(shown, flag=flag.flag, sign=sign_of(flag, row.judgement.findings), hover=hover)


def show_corrected(row: Row) -> Shown:
    """The best known accuracy, behind the claim it replaces where the battery does not believe that one."""
    shown = show_accuracy(row.corrected)
    if row.judgement is None or shown.sort is None:
        return shown
    verdict = row.judgement.verdict
    claimed = claimed_of(verdict)
    if claimed is None:
        return shown
    struck, hover = percent(claimed, row.entry.n), f"{shown.hover} {verdict.headline} claimed {claimed:.1%}."
    if verdict.word == "attack-invalid":
        hover = f"{hover} Its attack does not work on this network: the true number may be anything up to this one."
        return replace(shown, main=f"≤ {shown.main}", struck=struck, hover=hover)
    return replace(shown, struck=struck, hover=hover)


def _footprint(text: Callable[[Footprint], str], value: Callable[[Footprint], float], row: Row) -> Shown:
    if row.cost is None:
        cell = not_asked("its cost")
        return show_state(cell.state, cell.text, cell.detail)
    found = row.cost.footprint
    if found is None:
        return show_state(row.cost.state, row.cost.text, row.cost.detail)
    return Shown(text(found), hover=f"{value(found):,.0f}", sort=value(found))


def _speed(pick: Callable[[Footprint], Timing], row: Row) -> Shown:
    shown = _footprint(
        lambda found: significant(pick(found).examples_per_second),
        lambda found: pick(found).examples_per_second,
        row,
    )
    if shown.sort is None or row.cost is None or row.cost.footprint is None:
        return shown
    timing = pick(row.cost.footprint)
    low, high = significant(timing.low), significant(timing.high)
    hover = f"median {shown.main} images per second, quartiles {low} to {high}, {timing.repeats} repeats"
    return replace(shown, small=f"{low}–{high}", hover=hover)


def _marked(show: Callable[[Row], Shown], legend: dict[str, str], row: Row) -> Shown:
    """Say on which hardware a cost was measured, where the rows of a board differ."""
    shown = show(row)
    return replace(shown, mark=legend.get(row.id, "")) if shown.sort is not None else shown


COST: tuple[Column, ...] = (
    Column(
        "parameters", "cost", "params", "M", "Learned parameters of the network, in millions.", "counted",
        partial(_footprint, lambda f: millions(f.parameters), lambda f: f.parameters), descending=False,
    ),
    Column(
        "macs", "cost", "MACs", "M", "Multiply-accumulates of one forward pass of one image, in millions.", "counted",
        partial(_footprint, lambda f: millions(f.macs), lambda f: f.macs), descending=False,
    ),
    Column(
        "throughput-forward", "cost", "fwd", "img/s", "Images classified per second: median, with quartiles below.",
        "median of repeated batches after a warm-up", partial(_speed, lambda f: f.forward),
    ),
    Column(
        "throughput-forward-backward", "cost", "fwd+bwd", "img/s",
        "Images per second for a forward pass and the gradient with respect to the input.",
        "median of repeated batches after a warm-up", partial(_speed, lambda f: f.forward_backward),
    ),
    Column(
        "memory-inference", "cost", "mem", "MiB", "Peak memory beyond the libraries while classifying batches.",
        "in a process of its own",
        partial(_footprint, lambda f: mebibytes(f.peak_inference_bytes), lambda f: f.peak_inference_bytes),
        descending=False,
    ),
    Column(
        "memory-attack", "cost", "mem attack", "MiB", "Peak memory beyond the libraries while gradients are computed.",
        "in a process of its own",
        partial(_footprint, lambda f: mebibytes(f.peak_attack_bytes), lambda f: f.peak_attack_bytes), descending=False,
    ),
)  # fmt: skip
"""Columns of every board; the first two do not depend on the hardware."""

CORRECTED = Column(
    "corrected", "headline", "best known (corrected)", "%",
    "Share of all images right after every attack on this board and every adversarial example that the validity checks "
    "found and verified; a claim it replaces is struck through. The ranking follows this column, or the worst case "
    "where no check ran.",
    "the images that the attacks and the witnesses of all probes leave standing, image by image", show_corrected,
)  # fmt: skip
"""The column that the ranking follows."""
MACHINE_DEPENDENT = {column.key for column in COST[2:]}


def _natural() -> Column:
    return Column(
        "natural", "natural", "clean", "%", "Natural accuracy: share of images classified as labelled.",
        "the images as they are", partial(_accuracy, lambda row: row.natural, "clean accuracy"),
    )  # fmt: skip


def _attack_columns(board: Board) -> list[Column]:
    columns: list[Column] = []
    for key, tasks in board.tasks.items():
        task = tasks[0]
        member = bool(task.cascade or task.after)
        what = f"{meaning(task)}. "
        what += (
            f"Share of all images still right after it, cascade {task.cascade}."
            if member
            else "Share of all images right before and after the attack."
        )
        columns.append(
            Column(
                f"robust:{key}", "cascade" if member else "robust", name_of(key), "%", what, recipes(tasks),
                partial(_robust, key, key),
            )
        )  # fmt: skip
    return columns


def _headline_columns(board: Board) -> list[Column]:
    texts = {
        "autoattack": (
            "AutoAttack",
            "Share of all images still right after its four members; comparable with RobustBench.",
            "apgd-ce, apgd-t, fab-t, square, each on the survivors of the one before",
        ),
        "worst-case": (
            "worst case",
            "Share of all images right after every attack on this board.",
            f"all of: {', '.join(name_of(key) for key in board.tasks) or 'no attack'}",
        ),
    }
    found: list[Column] = []
    for key in board.robust_keys:
        if name_of(key) in texts and key not in board.tasks:
            label, what, how = texts[name_of(key)]
            found.append(Column(f"robust:{key}", "headline", label, "%", what, how, partial(_robust, key, label)))
    return [*found, CORRECTED]


def _consistency_columns(board: Board) -> list[Column]:
    return [
        Column(
            f"consistency:{key}", "consistency", name_of(key), "%",
            "Consistency accuracy: share of images whose predicted class the attack did not change, right or wrong.",
            recipes(board.tasks[key]),
            partial(_accuracy, partial(lambda key, row: row.consistency.get(key), key), key),
        )
        for key in board.consistency_keys
    ]  # fmt: skip


def _corruption_columns(board: Board) -> list[Column]:
    """A column for each source of corrupted images: those of an archive and drawn ones are never in one."""
    sources = {source: item for row in board.rows for source, item in row.entry.corruptions.items()}
    ordered = sorted(sources.values(), key=lambda item: (not item.official, item.source))
    return [
        Column(
            f"corruptions:{item.source}", "corruptions",
            "corruptions (mean)" if item.official else "corruptions, drawn (mean)", "%",
            "Accuracy on corrupted images: mean over fifteen corruptions of the mean over five severities"
            + (", the published images." if item.official else ", images drawn anew; not comparable with an archive."),
            f"{item.source}; {', '.join(item.implementations)}",
            partial(_accuracy, partial(_corruption_mean, item.source), f"the corruptions of {item.source}"),
        )
        for item in ordered
    ]  # fmt: skip


def _corruption_mean(source: str, row: Row) -> Cell | None:
    found = row.entry.corruptions.get(source)
    return found.mean if found else None


def columns(board: Board) -> tuple[Column, ...]:
    """Every column of figures of ``board``, in the order of ``GROUPS``."""
    legend = marks(board.rows)
    cost = [
        replace(column, show=partial(_marked, column.show, legend)) if column.key in MACHINE_DEPENDENT else column
        for column in COST
    ]
    attacks = _attack_columns(board)
    others = [*_headline_columns(board), *_consistency_columns(board), *_corruption_columns(board)]
    found = [_natural(), *attacks, *others, *cost]
    order = list(GROUPS)
    return tuple(sorted(found, key=lambda column: order.index(column.group)))


def groups(found: Sequence[Column]) -> list[tuple[str, str, int]]:
    """(name, title, columns) of every group that occurs, in table order."""
    return [
        (name, title, count)
        for name, title in GROUPS.items()
        if (count := sum(column.group == name for column in found))
    ]
