"""The page that sets our figures beside RobustBench's: a table per board, a row per model that either of us has."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from harness.metrics import Accuracy
from leaderboard.board import Board, Row
from leaderboard.comparison import (
    CORRUPTIONS,
    PUBLISHED_N,
    SOURCE,
    Published,
    at_eps,
    corruption_counterpart,
    counterpart,
    our_corruptions,
    ours,
    published,
    theirs,
    within,
)
from leaderboard.links import page_path, safe_url
from leaderboard.shown import interval, percent, sentence
from leaderboard.validity import pp

BUDGETED = ("natural", "autoattack", "best-known")
UNBUDGETED = ("natural", "corruptions")
LABELS = {
    "natural": ("Clean", "Natural accuracy; theirs: clean."),
    "autoattack": ("AutoAttack", "After AutoAttack's four members; theirs: AutoAttack."),
    "best-known": (
        "Best known",
        "Ours: right after every attack, less what the checks broke and verified; theirs: the lowest figure they know.",
    ),
    "corruptions": ("Corruptions", "Mean over fifteen corruptions and five severities, images of the archive."),
}


@dataclass(frozen=True)
class Pair:
    """One figure of ours and the published one beside it; texts are empty where there is none."""

    ours: str
    interval: str
    published: str
    difference: str
    verdict: str
    """``within``, ``outside``, or empty where there are not two figures."""
    hover: str


def _pair(found: Accuracy | None, value: float | None) -> Pair:
    inside = within(found, value)
    both = found is not None and value is not None
    return Pair(
        ours=percent(found.value, found.n) if found else "",
        interval=interval(found) if found else "",
        published="" if value is None else f"{100 * value:.2f}",
        difference=pp(found.value - value) if found is not None and value is not None else "",
        verdict={True: "within", False: "outside", None: ""}[inside if both else None],
        hover=f"Ours: {sentence(found)}." if found else "",
    )


def _line(
    item: Published | None, board: Board, row: Row | None, quantities: Sequence[str], found: dict[str, Accuracy | None]
) -> dict[str, Any]:
    values = {name: theirs(item, name) if item else None for name in quantities}
    figures = {name: found.get(name) for name in quantities}
    known = [value for value in (values[quantities[-1]], values[quantities[-2]]) if value is not None]
    own = [accuracy.value for accuracy in (figures[quantities[-1]], figures[quantities[-2]]) if accuracy is not None]
    return {
        "submission": row.id if row else "",
        "href": page_path(board.slug, row.id) if row else "",
        "title": str(row.card.get("title") or row.id) if row else (item.facts["title"] if item else ""),
        "robustbench": item.id if item else "",
        "paper": safe_url(item.facts["paper"]) if item else None,
        "unreliable": bool(item and item.unreliable),
        "pairs": [_pair(figures[name], values[name]) for name in quantities],
        "order": -(known or own or [-1.0])[0],
    }


def _table(
    board: Board, part: str, pairs: Sequence[tuple[Row, Published | None, dict[str, Accuracy | None]]],
    others: Sequence[Published],
) -> dict[str, Any]:  # fmt: skip
    quantities = UNBUDGETED if part == CORRUPTIONS else BUDGETED
    taken = {item.id for _, item, _ in pairs if item}
    lines = [_line(item, board, row, quantities, found) for row, item, found in pairs]
    lines += [_line(item, board, None, quantities, {}) for item in others if item.id not in taken]
    both = sum(bool(line["submission"] and line["robustbench"]) for line in lines)
    eps = "" if part == CORRUPTIONS else board.threat.eps
    return {
        "anchor": f"{board.slug}-{part}".lower(),
        "dataset": board.dataset, "part": part, "eps": eps, "n": board.n, "same_images": board.n == PUBLISHED_N,
        "heads": [LABELS[name] for name in quantities],
        "lines": sorted(lines, key=lambda line: (line["order"], line["submission"], line["robustbench"])),
        "mine": len(pairs), "published": len(others), "both": both,
    }  # fmt: skip


def build(boards: Sequence[Board]) -> dict[str, Any] | None:
    """Tables for the template, one for each board that RobustBench has too; None when there is none."""
    tables: list[dict[str, Any]] = []
    told: set[tuple[str, int]] = set()
    for board in boards:
        here = [item for item in published() if item.dataset == board.dataset]
        norm = [item for item in here if item.board == board.threat.norm and at_eps(item, board.threat.eps)]
        if norm:
            rows = [(row, counterpart(board, row), ours(board, row)) for row in board.rows]
            tables.append(_table(board, board.threat.norm, rows, norm))
        corrupted = [row for row in board.rows if any(item.official for item in row.entry.corruptions.values())]
        if here and corrupted and (board.dataset, board.n) not in told:
            told.add((board.dataset, board.n))
            rows = [(row, corruption_counterpart(board, row), our_corruptions(row)) for row in corrupted]
            tables.append(_table(board, CORRUPTIONS, rows, [item for item in here if item.board == CORRUPTIONS]))
    return {"tables": tables, "source": SOURCE, "published_n": PUBLISHED_N} if tables else None


def text_of(table: Any) -> str:  # noqa: ANN401
    """The lines of ``compare`` for a terminal; percentages, blanks where there is no figure."""
    head = ("submission", "published as", "board", "quantity", "ours", "95 %", "theirs", "diff", "within", "n")
    lines: list[tuple[str, ...]] = [head]
    for line in table.itertuples(index=False):
        there = line.ours == line.ours
        board = " ".join(str(part) for part in (line.dataset, line.norm, line.eps) if isinstance(part, str))
        lines.append((
            line.submission, line.robustbench_id, board, line.quantity,
            f"{100 * line.ours:.2f}" if there else "", f"{100 * line.low:.2f}-{100 * line.high:.2f}" if there else "",
            f"{100 * line.published:.2f}", f"{100 * line.difference:+.2f}" if there else "",
            ("yes" if line.within_interval else "no") + ("" if line.same_images else " (other n)") if there else "",
            str(line.n),
        ))  # fmt: skip
    widths = [max(len(line[at]) for line in lines) for at in range(len(head))]
    rows = (" ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in lines)
    return "\n".join(rows) + "\n"
