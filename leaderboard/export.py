"""The boards as JSON, CSV, LaTeX or RobustBench's files; the same rows in each."""

import json
from collections.abc import Callable, Sequence

import pandas as pd

from leaderboard.board import Board, Row
from leaderboard.columns import columns
from leaderboard.model_info import to_robustbench
from leaderboard.tables import document, frame

_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "_": r"\_",
    "%": r"\%",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "–": "--",
    "−": "$-$",
    "≤": r"$\leq$",
    "·": r"$\cdot$",
}


def escape_latex(text: str) -> str:
    """``text`` with every character that means something to LaTeX made harmless; control characters become spaces."""
    return "".join(_LATEX.get(char, char if char.isprintable() else " ") for char in text)


def to_json(boards: Sequence[Board]) -> str:
    """Schema 1: ``{"schema", "boards": [{"dataset", "norm", "eps", "n", "rows": [...]}]}``."""
    return json.dumps(document(boards), indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def _inert(value: object) -> object:
    """Text that a spreadsheet would run as a formula, kept as text."""
    return f"'{value}" if isinstance(value, str) and value[:1] in {"=", "+", "-", "@", "\t", "\r"} else value


def to_csv(boards: Sequence[Board]) -> str:
    """One line per row of every board; accuracies as fractions of one, missing values empty."""
    table = frame(boards)
    for name in table.columns[[pd.api.types.is_object_dtype(kind) or pd.api.types.is_string_dtype(kind)
                               for kind in table.dtypes]]:  # fmt: skip
        table[name] = table[name].map(_inert)
    text: str = table.to_csv(index=False, lineterminator="\n")
    return text


def _latex_row(board: Board, row: Row) -> dict[str, str]:
    found = {"Rank": str(row.rank) if row.rank is not None else "--", "Submission": row.id}
    for column in columns(board):
        shown = column.show(row)
        prefix = "cons. " if column.group == "consistency" else ""
        head = f"{prefix}{column.label} [{column.unit}]"
        text = shown.main if shown.sort is not None else shown.state
        found[head] = f"{text} ({shown.small})" if shown.sort is not None and column.unit == "%" else text
    return found | {"Verdict": row.badge.text}


def to_latex(boards: Sequence[Board]) -> str:
    """One ``table`` per board, for the package booktabs; percentages with their 95 % interval."""
    parts: list[str] = []
    for board in boards:
        rows = [{escape_latex(k): escape_latex(v) for k, v in _latex_row(board, row).items()} for row in board.rows]
        table = pd.DataFrame(rows)
        caption = f"{board.title}, n = {board.n}. Accuracies in percent with 95 % intervals."
        parts.append(
            table.to_latex(
                index=False,
                escape=False,
                caption=escape_latex(caption),
                label=f"tab:{board.slug}",
                column_format="rl" + "r" * (len(table.columns) - 3) + "l",
            )
        )
    return "\n".join(parts)


FORMATS: dict[str, Callable[[Sequence[Board]], str]] = {
    "json": to_json,
    "csv": to_csv,
    "latex": to_latex,
    "robustbench": to_robustbench,
}
"""Export formats by name."""
