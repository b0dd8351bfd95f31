"""``leaderboard build | serve | export | compare``; the only file of this package that prints or exits."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness import store
from harness.errors import ResultsError, UserError
from leaderboard import page, tables
from leaderboard.board import Board
from leaderboard.comparison import SOURCE, compare
from leaderboard.comparison_page import text_of
from leaderboard.confusion import read_matrix
from leaderboard.export import FORMATS
from leaderboard.model_info import write_files
from leaderboard.serve import HOST, make_server

PORT = 8000


def _room() -> Path:
    """The leaderboard folder to read and write: the one of the current checkout, else the one of this package."""
    package, local = Path(__file__).resolve().parent, Path("leaderboard")
    return local if local.is_dir() or "site-packages" in package.parts else package


def default_results() -> list[Path]:
    """The published results, those that came with the package, and ./results; of these the ones that hold a run."""
    found: dict[Path, Path] = {}
    for root in (_room() / "results", Path(__file__).parent / "results", Path("results")):
        if (root / "runs").is_dir() and any((root / "runs").glob("*.json")):
            found.setdefault(root.resolve(), root)
    return list(found.values())


def _boards(given: Sequence[Path] | None) -> tuple[Board, ...]:
    roots = given or default_results()
    if not roots:
        raise ResultsError(
            f"no results: neither {_room() / 'results'} nor ./results holds a run; start with `harness run`, "
            "or name a folder with --results"
        )
    return tables.load(roots)


def _zoo(arguments: argparse.Namespace) -> dict[str, Any] | None:
    """The matrix of the zoo: the file that was named, else the published one; None without either."""
    if arguments.zoo is not None and not arguments.zoo.is_file():
        raise ResultsError(f"--zoo: expected the matrix.json of `harness zoo`, got {arguments.zoo}, which is no file")
    return read_matrix(arguments.zoo or _room() / "zoo" / "matrix.json")


def _build(arguments: argparse.Namespace) -> int:
    page.check_replaceable(arguments.out)
    boards = _boards(arguments.results)
    index = page.build(boards, arguments.out, _zoo(arguments))
    rows = sum(len(board.rows) for board in boards)
    print(f"{len(boards)} boards, {rows} rows: {index}")
    return 0


def _serve(arguments: argparse.Namespace) -> int:
    if arguments.results or not (arguments.out / "index.html").is_file():
        page.check_replaceable(arguments.out)
        page.build(_boards(arguments.results), arguments.out, _zoo(arguments))
    with make_server(arguments.out.absolute(), arguments.port) as server:
        print(f"http://{HOST}:{server.server_port}/  (stop with Ctrl-C)", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()
    return 0


def _export(arguments: argparse.Namespace) -> int:
    boards = _boards(arguments.results)
    if arguments.format == "robustbench" and arguments.output is not None:
        print(f"{write_files(boards, arguments.output)} files below {arguments.output}")
        return 0
    return _told(FORMATS[arguments.format](boards), arguments.output)


def _told(text: str, output: Path | None) -> int:
    if output is None:
        sys.stdout.write(text)
    else:
        store.write_bytes(output, text.encode())
    return 0


def _compare(arguments: argparse.Namespace) -> int:
    boards = _boards(arguments.results)
    table = compare(boards)
    if arguments.format != "text":
        as_json = arguments.format == "json"
        text = table.to_json(orient="records", indent=1) if as_json else table.to_csv(index=False, lineterminator="\n")
        return _told(text + ("\n" if as_json else ""), arguments.output)
    known = "" if len(table) else "No submission here is on RobustBench at the same eps: harness import robustbench\n"
    return _told(f"{text_of(table) if len(table) else known}Published: {SOURCE}\n", arguments.output)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="leaderboard",
        description="Show what `harness run` measured: a static site, a local server, or plain tables.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    results = argparse.ArgumentParser(add_help=False)
    results.add_argument(
        "--results", type=Path, action="append", metavar="DIR",
        help="results folder; may be given several times, boards are then merged "
        "(default: leaderboard/results and ./results, as far as they exist)",
    )  # fmt: skip
    site = argparse.ArgumentParser(add_help=False)
    site.add_argument(
        "--out", type=Path, default=_room() / "site", metavar="DIR", help="folder of the site (default: %(default)s)"
    )

    site.add_argument(
        "--zoo", type=Path, metavar="FILE",
        help="matrix.json of `harness zoo` for the page of the zoo (default: leaderboard/zoo/matrix.json, if it "
        "exists)",
    )  # fmt: skip

    build = commands.add_parser(
        "build", parents=[results, site], help="write the static site",
        description="Write the whole site; it opens from file:// and needs no network. "
        "An earlier site in the same folder is replaced only once the new one is complete.",
    )  # fmt: skip
    build.set_defaults(action=_build)

    serve = commands.add_parser(
        "serve", parents=[results, site], help=f"show the site on {HOST}",
        description=f"Serve the site on {HOST} until Ctrl-C. Builds it first when it is missing or --results is given.",
    )  # fmt: skip
    serve.add_argument(
        "--port", type=int, default=PORT, help="port to listen on; 0 takes a free one (default: %(default)s)"
    )
    serve.set_defaults(action=_serve)

    export = commands.add_parser(
        "export", parents=[results], help="print the same rows as JSON, CSV, LaTeX or RobustBench's files",
        description="Print the rows of every board. JSON and CSV hold fractions of one, LaTeX percentages.",
    )  # fmt: skip
    export.add_argument("--format", choices=sorted(FORMATS), default="json", help="default: %(default)s")
    export.add_argument(
        "--output", type=Path, metavar="FILE",
        help="write to FILE instead of standard output; robustbench: one file per submission below this folder",
    )  # fmt: skip
    export.set_defaults(action=_export)

    beside = commands.add_parser(
        "compare", parents=[results], help="set our figures beside RobustBench's",
        description="One line for each accuracy that RobustBench has published for the same model, data set, norm and "
        "eps: both figures, the difference, and whether theirs lies in our 95 % interval.",
    )  # fmt: skip
    beside.add_argument("--format", choices=["text", "csv", "json"], default="text", help="default: %(default)s")
    beside.add_argument("--output", type=Path, metavar="FILE", help="write to FILE instead of standard output")
    beside.set_defaults(action=_compare)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns 0, or 2 when what the user gave is wrong."""
    arguments = _parser().parse_args(argv)
    try:
        code: int = arguments.action(arguments)
        sys.stdout.flush()
        return code
    except UserError as error:
        print(f"leaderboard: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # The reader of a pipe, e.g. head, has gone; nothing more can be said to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130
