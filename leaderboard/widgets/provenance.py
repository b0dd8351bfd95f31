"""Everything a number on the page depends on, and the command that measures it again."""

import shlex
from datetime import UTC, datetime
from typing import Any

from harness.records import Environment
from leaderboard.board import Board, Row
from leaderboard.widgets.base import Widget


def command(row: Row, suite: str) -> str:
    """The command line that asks for the same run."""
    entry = row.entry
    words = ["harness", "run", entry.id, "--suite", suite, "--dataset", entry.dataset]
    if entry.n < entry.full:
        words += ["--limit", str(entry.n)]
    words += ["--threat", f"{row.threat.norm}:{row.threat.eps}", "--seed", str(entry.seed)]
    tasks = [item.task for item in entry.evidence.values() if item.task.kind == "attack"]
    if any(task.implementation.startswith("pyautoattack") for task in tasks):
        words += ["--implementation", "reference"]
    if any(task.precision == "mixed" for task in tasks):
        words += ["--precision", "mixed"]
    return shlex.join(words)


def moment(created: str) -> str:
    """An ISO 8601 time as ``2025-01-01 09:30 UTC``; what is not one stays as it is."""
    try:
        found = datetime.fromisoformat(created)
    except ValueError:
        return created
    return found.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")


def build(board: Board, row: Row) -> dict[str, Any]:
    """Identity, runs, environments (with the tasks measured in each) and commands."""
    entry = row.entry
    used: dict[str, tuple[Environment, list[str]]] = {}
    for key, item in entry.evidence.items():
        if item.task.threat in {None, row.threat}:
            for environment in item.environments:
                used.setdefault(repr(environment), (environment, []))[1].append(key)
    environments = [
        {
            "tasks": keys,
            "fields": [
                ("Harness", environment.harness),
                ("Commit", environment.commit or "not a checkout"),
                ("Checkout", "uncommitted changes" if environment.dirty else "clean" if environment.commit else "none"),
                ("Python", environment.python),
                ("torch", environment.torch),
                *sorted(environment.packages.items()),
                ("Platform", environment.platform),
                ("Hardware", environment.hardware),
                ("Device", f"{environment.device}, {environment.threads} threads, {environment.dtype}"),
                ("Optimisations", ", ".join(environment.optimisations) or "none"),
            ],
        }
        for environment, keys in used.values()
    ]
    return {
        "identity": [
            ("Checkpoint sha256", entry.candidate.checkpoint or "no checkpoint file"),
            ("Source sha256", entry.candidate.source),
            ("Seed", str(entry.seed)),
            ("Examples", f"the first {entry.n:,} of {entry.full:,} of {entry.dataset}"),
        ],
        "spans": [{"span": f"{start}–{stop - 1}", "digest": digest} for start, stop, digest in entry.spans],
        "runs": [{"suite": run.suite, "created": moment(run.created)} for run in entry.runs],
        "commands": list(dict.fromkeys(command(row, run.suite) for run in entry.runs)),
        "environments": environments,
    }


WIDGET = Widget("provenance", "Provenance", build)
