"""Who is ranked, and where: complete rows on the same examples under the same attacks, ties shared."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from harness.metrics import mcnemar
from harness.records import Task
from leaderboard.board import Row, name_of
from leaderboard.validity import protocol_reason

SIGNIFICANCE = 0.05
"""Two rows whose paired outcomes differ with a p-value of at least this share a rank."""

Recipes = dict[str, str]
"""Task key -> its parameters, in one spelling."""


def _parameters(task: Task) -> str:
    return json.dumps([task.attack, task.params, task.after], sort_keys=True)


def _recipes(row: Row) -> Recipes:
    return {key: _parameters(item.task) for key, item in row.attacks.items()}


def _outside(row: Row) -> str:
    """Why the battery takes the row out of the ranking, in words; empty when it does not."""
    if row.judgement is None:
        return ""
    if row.verdict == "protocol":
        return f"outside the protocol: {protocol_reason(row.judgement.findings)}"
    return "its attacks do not work on it, the true number is unknown" if row.verdict == "attack-invalid" else ""


def _incomplete(row: Row) -> str:
    """The first accuracy without a number, in words; empty when there is none."""
    if not row.natural.complete:
        return f"clean {row.natural.label}"
    for key, cell in row.robust.items():
        if not cell.complete and name_of(key) not in {"autoattack", "worst-case"}:
            return f"{name_of(key)} {cell.label}"
    return "" if row.worst.complete else f"worst-case {row.worst.label}"


def _common(rows: Sequence[Row]) -> Recipes:
    """The attacks that most rows went through; of equally common ones the larger set, then the newer."""
    keys = {row.id: json.dumps(sorted(_recipes(row).items())) for row in rows}
    count = Counter(keys.values())

    def weight(row: Row) -> tuple[int, int, str]:
        return count[keys[row.id]], len(_recipes(row)), row.entry.runs[0].created

    return _recipes(max(rows, key=weight))


def _majority_images(rows: Sequence[Row]) -> Row:
    """A row that was measured on the images most rows were measured on."""
    count = Counter(row.entry.spans for row in rows)
    return max(rows, key=lambda row: (count[row.entry.spans], row.entry.runs[0].created))


def _labels(row: Row) -> tuple[int, ...]:
    return next((item.outcomes.labels for item in row.entry.evidence.values() if item.outcomes), ())


def _same_images(first: Row, second: Row) -> bool:
    """Whether two rows were measured on the same examples: equal digests where the spans are, else equal labels."""
    mine = {(start, stop): digest for start, stop, digest in first.entry.spans}
    shared = [(mine[start, stop], digest) for start, stop, digest in second.entry.spans if (start, stop) in mine]
    return all(a == b for a, b in shared) and (bool(shared) or _labels(first) == _labels(second))


def _difference(row: Row, wanted: Recipes) -> str:
    """How the attacks of ``row`` fall short of ``wanted``, in words; empty when they do not. More are welcome."""
    have = _recipes(row)
    missing = [name_of(key) for key in wanted if key not in have]
    if missing:
        return f"not run: {', '.join(missing)}"
    other = [name_of(key) for key, value in wanted.items() if have[key] != value]
    return f"other parameters than the rest of the board: {', '.join(other)}" if other else ""


def _order(row: Row) -> tuple[float, float, str]:
    worst, natural = row.standing.accuracy, row.natural.accuracy
    return -(worst.value if worst else -1), -(natural.value if natural else -1), row.id


def rank(rows: Sequence[Row]) -> tuple[Row, ...]:
    """Rank by worst-case accuracy, corrected where the battery ran; a row not significantly below the best of its group
    shares that one's rank.

    The test is McNemar's on the same examples. Rows that are incomplete or not comparable follow, with the reason, then
    those outside of the protocol.
    """
    reasons = {row.id: _outside(row) or _incomplete(row) for row in rows}
    complete = [row for row in rows if not reasons[row.id]]
    if complete:
        wanted = _common(complete)
        images = _majority_images(complete)
        for row in complete:
            other = "" if _same_images(images, row) else "measured on other images than the rest of the board"
            reasons[row.id] = other or _difference(row, wanted)
    ranked: list[Row] = []
    for row in sorted((row for row in complete if not reasons[row.id]), key=_order):
        leader = next((item for item in ranked if item.rank == ranked[-1].rank), None) if ranked else None
        if leader and mcnemar(leader.standing.flags, row.standing.flags) >= SIGNIFICANCE:
            ranked.append(replace(row, rank=leader.rank))
        else:
            ranked.append(replace(row, rank=len(ranked) + 1))
    shared = Counter(row.rank for row in ranked)
    ranked = [replace(row, tied=shared[row.rank] > 1) for row in ranked]
    rest = [replace(row, reason=reasons[row.id]) for row in rows if reasons[row.id]]
    return (
        *ranked,
        *sorted(rest, key=lambda row: (row.verdict == "protocol", row.natural.accuracy is None, *_order(row))),
    )
