"""From results folders to frozen boards and plain tables. No torch, no page."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from harness.metrics import Accuracy
from harness.records import NORMS, Task, ThreatModel
from leaderboard import corruptions
from leaderboard.board import Board, Row, column_order, make_row, name_of
from leaderboard.cells import Cell
from leaderboard.entries import Entry, read_roots
from leaderboard.evidence import same_recipe
from leaderboard.ranking import rank
from leaderboard.validity import findings_object


def _board(entries: Sequence[Entry], threat: ThreatModel) -> Board:
    rows = rank([make_row(entry, threat) for entry in entries])
    tasks: dict[str, list[Task]] = {}
    for row in sorted(rows, key=lambda row: row.entry.runs[0].created, reverse=True):
        for key, item in row.attacks.items():
            known = tasks.setdefault(key, [])
            if not any(same_recipe(item.task, task) for task in known):
                known.append(item.task)
    ordered = column_order(recipes[0] for recipes in tasks.values())
    first = entries[0]
    return Board(
        dataset=first.dataset,
        n=first.n,
        full=max(entry.full for entry in entries),
        threat=threat,
        class_names=first.class_names,
        rows=rows,
        tasks={task.key: tuple(tasks[task.key]) for task in ordered},
    )


def _order(board: Board) -> tuple[Any, ...]:
    return (
        board.dataset.endswith("-sample"),
        board.dataset,
        NORMS.index(board.threat.norm) if board.threat.norm in NORMS else len(NORMS),
        -board.threat.value,
        -board.n,
    )


def load(roots: Sequence[Path]) -> tuple[Board, ...]:
    """The boards of one or several results folders.

    ``ResultsError`` when a folder does not exist, holds no run, or was written by a newer version.
    """
    groups: dict[tuple[str, int, ThreatModel], list[Entry]] = {}
    for entry in read_roots(roots):
        for threat in entry.threats:
            groups.setdefault((entry.dataset, entry.n, threat), []).append(entry)
    boards = [_board(entries, threat) for (_, _, threat), entries in groups.items()]
    return tuple(sorted(boards, key=_order))


def accuracy_object(cell: Cell | None) -> dict[str, Any] | None:
    """``{"value", "low", "high", "n"}``, or None for a cell without a number."""
    if cell is None or cell.accuracy is None:
        return None
    found: Accuracy = cell.accuracy
    return {"value": found.value, "low": found.low, "high": found.high, "n": found.n}


def _states(board: Board, row: Row) -> dict[str, str]:
    """State of every column of ``row`` that has no number."""
    cells = {"clean": row.natural, **{key: row.robust.get(key) for key in board.robust_keys}}
    found = {key: cell.label if cell else "not run" for key, cell in cells.items() if not (cell and cell.complete)}
    for key in board.consistency_keys:
        if key not in row.consistency:
            found.setdefault(key, "not run")
    if row.cost is None or row.cost.footprint is None:
        state = row.cost
        found["cost"] = Cell(state.state, state.text).label if state else "not run"
    return found


def row_object(board: Board, row: Row) -> dict[str, Any]:
    """One row of the JSON export."""
    cost = row.cost.footprint if row.cost else None
    return {
        "rank": row.rank,
        "submission": row.id,
        "natural_accuracy": accuracy_object(row.natural),
        "robust_accuracy": {key: accuracy_object(row.robust.get(key)) for key in board.robust_keys},
        "consistency_accuracy": {key: accuracy_object(row.consistency.get(key)) for key in board.consistency_keys},
        "corrected_accuracy": accuracy_object(row.corrected),
        "corruptions": corruptions.plain(row.entry.corruptions),
        "parameters": cost.parameters if cost else None,
        "macs": cost.macs if cost else None,
        "throughput": {
            "forward": cost.forward.examples_per_second if cost else None,
            "forward_backward": cost.forward_backward.examples_per_second if cost else None,
        },
        "peak_memory_bytes": {
            "inference": cost.peak_inference_bytes if cost else None,
            "attack": cost.peak_attack_bytes if cost else None,
        },
        "verdict": row.verdict,
        "findings": findings_object(row.judgement),
        "states": _states(board, row),
    }


def document(boards: Sequence[Board]) -> dict[str, Any]:
    """The JSON export, schema 1."""
    return {
        "schema": 1,
        "boards": [
            {
                "dataset": board.dataset,
                "norm": board.threat.norm,
                "eps": board.threat.eps,
                "n": board.n,
                "rows": [row_object(board, row) for row in board.rows],
            }
            for board in boards
        ],
    }


def _spread(name: str, value: dict[str, Any] | None) -> dict[str, Any]:
    found = value or {}
    return {name: found.get("value"), f"{name}_low": found.get("low"), f"{name}_high": found.get("high")}


def frame(boards: Sequence[Board]) -> pd.DataFrame:
    """The same rows as one flat table: an accuracy becomes ``name``, ``name_low`` and ``name_high``; missing is NA.

    The threat model has columns of its own, so ``robust_pgd-20`` stands for ``pgd-20`` under that row's threat model.
    """
    rows: list[dict[str, Any]] = []
    for board in boards:
        where = {"dataset": board.dataset, "norm": board.threat.norm, "eps": board.threat.eps, "n": board.n}
        for item in (row_object(board, row) for row in board.rows):
            flat = {**where, "rank": item["rank"], "submission": item["submission"]}
            flat |= _spread("natural_accuracy", item["natural_accuracy"])
            for kind in ("robust", "consistency"):
                for key, value in item[f"{kind}_accuracy"].items():
                    flat |= _spread(f"{kind}_{name_of(key)}", value)
            flat |= _spread("corrected_accuracy", item["corrected_accuracy"])
            flat |= corruptions.flat(item["corruptions"])
            flat |= {"parameters": item["parameters"], "macs": item["macs"]}
            flat |= {f"throughput_{key}": value for key, value in item["throughput"].items()}
            flat |= {f"peak_memory_bytes_{key}": value for key, value in item["peak_memory_bytes"].items()}
            states = "; ".join(f"{key}: {text}" for key, text in item["states"].items())
            rows.append({**flat, "verdict": item["verdict"], "states": states})
    found = pd.DataFrame(rows)
    whole = [name for name in ("rank", "parameters", "macs") if name in found]
    whole += [str(name) for name in found if str(name).startswith("peak_memory_bytes_")]
    return found.astype(dict.fromkeys(whole, "Int64"))
