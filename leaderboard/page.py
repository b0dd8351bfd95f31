"""Tables and widgets -> a static site that opens from file:// without a network. Everything is escaped."""

import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from harness import __version__
from harness.checks import CHECKS, load_thresholds
from harness.errors import ResultsError, UserError
from leaderboard import bands, comparison_page, paper_claims
from leaderboard.board import Board
from leaderboard.cells import State
from leaderboard.checks_page import CLASSES, described, limits_of
from leaderboard.confusion import page_data
from leaderboard.export import to_csv, to_json
from leaderboard.formulas import NOTATION
from leaderboard.links import page_path
from leaderboard.ranking import SIGNIFICANCE
from leaderboard.validity import MEANINGS, SIGN_MEANINGS, TITLES
from leaderboard.widgets import WIDGETS
from leaderboard.widgets.board_table import build as board_table
from leaderboard.widgets.board_table import byline

_HERE = Path(__file__).parent
MARKER = ".rampart-site"
"""File that marks a folder as one this module wrote and may replace."""


def _environment() -> Environment:
    # Escaping is on for every template, whatever its file is called; no template switches it off.
    return Environment(
        loader=FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _render_checks(jinja: Environment, folder: Path, common: dict[str, Any], zoo: Mapping[str, Any] | None) -> None:
    """The page of the checks, and that of the zoo where there is one."""
    limits = load_thresholds()
    text = jinja.get_template("checks.html").render(
        **common, root="", page="checks", checks=described(zoo, limits), thresholds=limits.version, zoo=zoo is not None,
        classes=CLASSES, notation=NOTATION, verdict_limits=limits_of("verdict", limits),
    )  # fmt: skip
    _write(folder / "checks.html", text)
    if zoo is None:
        return
    data = page_data(zoo)
    known = {name: CHECKS.get(name).title for name in CHECKS.names()}
    titles = {name: known.get(name, "") for name in data["checks"]}
    text = jinja.get_template("zoo.html").render(**common, root="", page="zoo", zoo=data, titles=titles)
    _write(folder / "zoo.html", text)
    _write(folder / "zoo.json", json.dumps(zoo, indent=1) + "\n")


def render(boards: Sequence[Board], folder: Path, zoo: Mapping[str, Any] | None = None) -> None:
    """Write the whole site into the empty ``folder``; ``zoo`` is the matrix of a zoo run, None without one."""
    jinja = _environment()
    built = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    common: dict[str, Any] = {"version": __version__, "built": built, "zoo_page": zoo is not None}
    beside = comparison_page.build(boards)
    papers = paper_claims.page_data(boards)
    common |= {"comparison_page": beside is not None, "claims_page": papers is not None}
    tables = [board_table(board) for board in boards]
    groups: dict[str, str] = {}
    for table in tables:
        groups |= {name: title for name, title, _ in table["groups"]}
    present = {row.verdict for board in boards for row in board.rows}
    submissions = {row.id for board in boards for row in board.rows}
    index = jinja.get_template("index.html").render(
        **common, root="", page="index", tables=tables, groups=groups, submissions=len(submissions),
        verdicts=[(word, title) for word, title in TITLES.items() if word in present],
    )  # fmt: skip
    _write(folder / "index.html", index)
    reading = jinja.get_template("how_to_read.html").render(
        **common, root="", page="reading", states=list(State), significance=SIGNIFICANCE,
        verdicts=[(word, title, MEANINGS[word]) for word, title in TITLES.items()], signs=SIGN_MEANINGS,
    )  # fmt: skip
    _write(folder / "how-to-read.html", reading)
    _render_checks(jinja, folder, common, zoo)
    if papers is not None:
        text = jinja.get_template("claims.html").render(**common, root="", page="claims", view=papers)
        _write(folder / "claims.html", text)
    if beside is not None:
        text = jinja.get_template("comparison.html").render(**common, root="", page="comparison", view=beside)
        _write(folder / "comparison.html", text)
    template = jinja.get_template("submission.html")
    common["band"] = partial(bands.line, zoo)
    for board in boards:
        for row in board.rows:
            sections = [(widget, values) for widget in WIDGETS if (values := widget.build(board, row)) is not None]
            others = [
                (other.title, other.n, page_path(other.slug, row.id))
                for other in boards
                if other is not board and any(item.id == row.id for item in other.rows)
            ]
            text = template.render(
                **common,
                root="../../",
                page="submission",
                board=board,
                row=row,
                title=str(row.card.get("title") or row.id),
                byline=byline(row.card),
                sections=sections,
                others=others,
            )
            _write(folder / page_path(board.slug, row.id), text)
    _write(folder / "leaderboard.json", to_json(boards))
    _write(folder / "leaderboard.csv", to_csv(boards))
    shutil.copytree(_HERE / "static", folder / "static")
    _write(folder / MARKER, f"{__version__}\n")


def check_replaceable(out: Path) -> None:
    """``UserError`` when ``out`` holds something that this module did not write."""
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise UserError(f"{out}: expected a folder, got something else; choose another --out")
    if out.is_dir() and any(out.iterdir()) and not (out / MARKER).is_file():
        raise UserError(f"{out}: expected an empty folder or an earlier site, got other files; choose another --out")


def build(boards: Sequence[Board], out: Path, zoo: Mapping[str, Any] | None = None) -> Path:
    """Build the site beside ``out`` and swap it in whole; returns the path of its first page.

    ``zoo`` is the matrix of a zoo run; without one its page is left out.

    ``UserError`` when ``out`` holds something else, ``ResultsError`` when the disk refuses; an earlier site then stays.
    """
    out = out.absolute()
    check_replaceable(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent, ignore_cleanup_errors=True) as name:
            fresh, old = Path(name) / "new", Path(name) / "old"
            fresh.mkdir()
            render(boards, fresh, zoo)
            if out.exists():
                os.replace(out, old)
            try:
                os.replace(fresh, out)
            except OSError:
                if old.exists():
                    os.replace(old, out)
                raise
    except OSError as error:
        raise ResultsError(f"{out}: the site could not be written: {error.strerror or error}") from None
    return out / "index.html"
