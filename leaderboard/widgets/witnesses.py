"""Pictures of the adversarial examples that contradict what a column claims."""

import shlex
from typing import Any

from harness.checks import CHECKS
from leaderboard.board import Board, Row, name_of
from leaderboard.shown import judged
from leaderboard.widgets.base import Widget
from leaderboard.witnesses import Witness, png, stretched, witnesses

MOST = 8
"""Witnesses shown, at most."""


def _source(witness: Witness) -> str:
    """Who found it: an attack by its name, a probe by its check."""
    name = witness.source.name
    if witness.source.kind == "attack":
        return name_of(witness.source.key)
    check = next((item for item in map(CHECKS.get, CHECKS.names()) if item.probe == name), None)
    return f"check {check.id}, {check.title}" if check else name


def _plain(board: Board, row: Row, witness: Witness) -> dict[str, Any]:
    def class_of(number: int) -> str:
        return board.class_names[number] if 0 <= number < len(board.class_names) else f"class {number}"

    example = witness.row
    pictures = [("adversarial", witness.adversarial)]
    if witness.original is not None:
        change = stretched(witness.adversarial - witness.original)
        pictures = [("image", witness.original), ("change, stretched", change), *pictures]
    distance = example.distance(board.threat.norm)
    return {
        "index": example.index,
        "pictures": [{"name": name, "source": png(image)} for name, image in pictures],
        "was": class_of(example.clean_prediction),
        "now": class_of(example.adversarial_prediction),
        "column": name_of(witness.column),
        "source": _source(witness),
        "distance": "" if distance is None else f"{board.threat.norm} {judged(distance)}",
        "file": str(witness.file),
    }


def build(board: Board, row: Row) -> dict[str, Any] | None:
    """The pictures, for every flag in turn; None when no column is contradicted or no example is stored here."""
    if row.judgement is None:
        return None
    case = row.judgement.case
    flags = [
        (flag, [at for at, (claim, true) in enumerate(zip(case.columns[flag.key].robust, case.best_known, strict=True))
                if claim and not true])
        for flag in row.judgement.verdict.columns
        if flag.flag != "true" and flag.key in case.columns
    ]  # fmt: skip
    found = witnesses(row.entry, flags, MOST)
    if not found:
        return None
    command = ["harness", "verify", row.id, "--results", str(row.entry.root)]
    return {
        "witnesses": [_plain(board, row, item) for item in found],
        "all": sum(len(broken) for _, broken in flags),
        "command": shlex.join(command),
    }


WIDGET = Widget("witnesses", "Witnesses", build)
