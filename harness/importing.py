"""Submission cards for the models of RobustBench's zoo, written from the installed package and the published figures.

Works without a network: names come from the package, bibliography and figures from ``leaderboard/robustbench.csv``.
"""

import csv
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from harness.errors import CardError, UserError
from harness.hubs.robustbench import BOARDS, DATASETS, robustbench_names
from harness.submission import CARD
from harness.submission.sources import HOME

FIGURES = HOME / "leaderboard" / "robustbench.csv"
"""The published figures; found by path, since the harness does not import the leaderboard."""

EPS = {"Linf": "8/255", "L2": "0.5"}
"""eps of RobustBench's CIFAR boards, for an entry whose own is not known."""

Row = Mapping[str, str]


@dataclass(frozen=True)
class Imported:
    """One card and what became of it."""

    folder: Path
    made: bool
    """False: a card is there already and was left as it is."""


def figures(path: Path = FIGURES) -> dict[tuple[str, str, str], Row]:
    """The published rows by data set, board and RobustBench's id. ``UserError`` when the file cannot be read."""
    try:
        with open(path, encoding="utf-8", newline="") as file:
            rows = csv.DictReader(line for line in file if not line.startswith("#"))
            return {(row["dataset"], row["threat_model"], row["id"]): row for row in rows}
    except (OSError, KeyError) as error:
        raise UserError(f"{path}: expected RobustBench's published figures, got an error: {error}") from None


def card_id(dataset: str, board: str, name: str) -> str:
    """The id of an imported submission, e.g. ``cifar10-linf-wong2020fast``."""
    return f"{dataset}-{board}-{name}".lower()


def _text(value: str) -> str:
    """A TOML string; JSON's escapes are TOML's."""
    return json.dumps(value, ensure_ascii=False)


def _share(percent: str) -> str:
    """A share as a TOML number with every digit of the percentage."""
    share = Decimal(percent) / 100
    return f"{share:f}" if "." in f"{share:f}" else f"{share:f}.0"


def _claims(row: Row, norm: str, eps: str) -> list[str]:
    """One table for each published robust accuracy; figures that only repeat another are left out."""
    named = {
        "autoattack": "AutoAttack",
        "best_known": "best known (RobustBench)",
        "reported": "as reported by the authors",
    }
    found: list[str] = []
    told: set[Decimal] = set()
    for column, attack in named.items():
        if not row.get(column) or Decimal(row[column]) in told:
            continue
        told.add(Decimal(row[column]))
        lines = ["[[claims]]", f"norm = {_text(norm)}", f"eps = {_text(eps)}"]
        lines += [f"natural_accuracy = {_share(row['clean'])}"] if row.get("clean") else []
        found += ["", *lines, f"robust_accuracy = {_share(row[column])}", f"attack = {_text(attack)}"]
    return found


def _notes(row: Row, board: str) -> str:
    """What the fields of a card have no place for."""
    said = ["Figures published by RobustBench, March 2025, on 10,000 test images."] if row else []
    if row.get("unreliable") == "true":
        said.append("RobustBench flags its AutoAttack figure as potentially unreliable.")
    if board == "corruptions":
        said.append("Made for common corruptions, not for a norm: the threat model is the data set's usual one.")
        if row.get("corruptions"):
            said.append(f"Published mean accuracy over the corruptions: {row['corruptions']} %.")
    return " ".join(said)


def card(dataset: str, board: str, name: str, row: Row) -> str:
    """The text of the card of one entry; ``row`` is empty when nothing is published about it."""
    norm = "Linf" if board == "corruptions" else board
    eps = row.get("eps") or EPS[norm]
    title, architecture = row.get("title") or name, row.get("architecture")
    lines = [
        f"id = {_text(card_id(dataset, board, name))}",
        f"title = {_text(f'{title} ({architecture})' if architecture else title)}",
    ]
    if row.get("authors"):
        lines.append(f"authors = [{', '.join(_text(author.strip()) for author in row['authors'].split(','))}]")
    lines += [
        f"{field} = {_text(row[field])}"
        for field in ("architecture", "paper", "licence", "training_data")
        if row.get(field)
    ]
    venue = row.get("venue", "").removesuffix(row.get("year", "")).partition(",")[0].strip()
    lines += [f"venue = {_text(venue)}"] if venue not in {"", "N/A"} else []
    lines += [f"{field} = {row[field]}" for field in ("year", "forward_passes") if row.get(field)]
    lines += [f"dataset = {_text(dataset)}", f"entry = {_text(f'robustbench:{name}')}"]
    lines += ['kwargs = { board = "corruptions" }'] if board == "corruptions" else []
    lines += [f"notes = {_text(notes)}"] if (notes := _notes(row, board)) else []
    lines += ["", "[[threat_models]]", f"norm = {_text(norm)}", f"eps = {_text(eps)}"]
    lines += _claims(row, norm, eps) if norm == board else []
    return "\n".join(lines) + "\n"


def import_robustbench(dataset: str, board: str, into: Path) -> tuple[Imported, ...]:
    """Make a folder with a card in ``into`` for every entry of one board of the installed package.

    ``board`` is ``Linf``, ``L2`` or ``corruptions``. A card that is there already is left as it is. Nothing is
    downloaded. ``UserError`` when there is no such board or the disk refuses.
    """
    if dataset not in DATASETS or board not in BOARDS:
        raise UserError(
            f"robustbench: expected a data set of {', '.join(DATASETS)} and a norm of {', '.join(BOARDS)}, "
            f"got {dataset} and {board}"
        )
    published = figures()
    found = []
    for name in robustbench_names(dataset, board):
        folder = into / card_id(dataset, board, name)
        text = card(dataset, board, name, published.get((dataset, board, name), {}))
        try:
            made = not (folder / CARD).exists()
            if made:
                folder.mkdir(parents=True, exist_ok=True)
                partial = folder / f".{CARD}.part"
                partial.write_text(text, encoding="utf-8")
                os.replace(partial, folder / CARD)
        except OSError as error:
            raise CardError(f"{folder}: could not be made: {error.strerror or error}") from None
        found.append(Imported(folder, made))
    return tuple(found)
