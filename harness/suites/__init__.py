"""The standard settings as data: one TOML file per suite, every parameter of every task written out.

A parameter such as ``step_size = "eps/4"`` is resolved for each threat model, so a record holds plain numbers.
"""

import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from harness.errors import UnknownNameError, UserError
from harness.records import Task, ThreatModel

_HERE = Path(__file__).parent
_FIELDS = {"name", "kind", "attack", "cascade", "params"}


@dataclass(frozen=True)
class Suite:
    """A named list of tasks, not yet bound to a threat model."""

    name: str
    description: str
    entries: tuple[dict[str, Any], ...]
    """Plain tables of the TOML file, in the order they run."""


def names() -> list[str]:
    """Names of the suites that come with the harness."""
    return sorted(path.stem for path in _HERE.glob("*.toml"))


def load(name: str) -> Suite:
    """The suite called ``name``, or the one in the file ``name`` when it ends in ``.toml``.

    ``UnknownNameError`` when there is none, ``UserError`` with the file and the field when the file is wrong.
    """
    path = Path(name) if name.endswith(".toml") else _HERE / f"{name}.toml"
    if not name.endswith(".toml") and name not in names():
        raise UnknownNameError("suite", name, names())
    try:
        data = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"{path}: expected a suite in TOML, got {error}") from None
    entries = data.get("tasks")
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        raise UserError(f"{path}: tasks: expected at least one [[tasks]] table")
    seen: set[str] = set()
    for position, entry in enumerate(entries):
        where = f"{path}: tasks[{position}]"
        unknown = set(entry) - _FIELDS
        if unknown:
            raise UserError(f"{where}: unknown field {sorted(unknown)[0]!r}; known: {', '.join(sorted(_FIELDS))}")
        if not isinstance(entry.get("name"), str) or entry["name"] in seen:
            raise UserError(f"{where}: name: expected a name no other task has, got {entry.get('name')!r}")
        seen.add(entry["name"])
        kind = entry.get("kind", "attack")
        if kind not in {"attack", "clean", "cost"}:
            raise UserError(f"{where}: kind: expected attack, clean or cost, got {kind!r}")
        if kind == "attack" and not isinstance(entry.get("attack"), str):
            raise UserError(f"{where}: attack: expected the name of an attack, got {entry.get('attack')!r}")
        if not isinstance(entry.get("params", {}), dict):
            raise UserError(f"{where}: params: expected a table, got {entry['params']!r}")
    return Suite(path.stem, str(data.get("description", "")), tuple(entries))


def _resolve(value: object, threat: ThreatModel) -> object:
    """``"eps/4"`` or ``"5*eps/4"`` as a float; anything else as it is."""
    if not isinstance(value, str) or "eps" not in value:
        return value
    factor, _, divisor = value.partition("eps")
    try:
        exact = Fraction(factor.rstrip("* ") or 1) * Fraction(threat.eps) / Fraction(divisor.lstrip("/ ") or 1)
    except (ValueError, ZeroDivisionError):
        raise UserError(f"suite: expected a multiple of eps such as 'eps/4', got {value!r}") from None
    return float(exact)


def expand(
    suite: Suite,
    threats: Sequence[ThreatModel],
    *,
    implementation: Callable[[str], str],
    only: Sequence[str] = (),
) -> tuple[Task, ...]:
    """The tasks of ``suite`` for every threat model, in the order they run.

    ``implementation`` names who computes an attack and raises ``UnknownNameError`` for one that does not exist.
    ``only`` keeps the named tasks (and ``clean``); a cascade member brings the members before it along.
    """
    known = [entry["name"] for entry in suite.entries]
    for name in only:
        if name not in known:
            raise UnknownNameError("attack", name, known)
    wanted = set(only) | {"clean"} if only else set(known)
    for entry in suite.entries:
        if entry["name"] in wanted and entry.get("cascade"):
            members = [item["name"] for item in suite.entries if item.get("cascade") == entry["cascade"]]
            wanted |= set(members[: members.index(entry["name"])])
    tasks: list[Task] = []
    for entry in suite.entries:
        if entry["name"] in wanted and entry.get("kind", "attack") == "clean":
            tasks.append(Task(name=entry["name"], kind="clean", implementation="rampart-clean-1"))
    for threat in threats:
        members_so_far: dict[str, tuple[str, ...]] = {}
        for entry in suite.entries:
            if entry["name"] not in wanted or entry.get("kind", "attack") != "attack":
                continue
            cascade = entry.get("cascade", "")
            task = Task(
                name=entry["name"],
                kind="attack",
                attack=entry["attack"],
                params={key: _resolve(value, threat) for key, value in entry.get("params", {}).items()},
                threat=threat,
                implementation=implementation(entry["attack"]),
                cascade=cascade,
                after=members_so_far.get(cascade, ()) if cascade else (),
            )
            if cascade:
                members_so_far[cascade] = (*task.after, task.key)
            tasks.append(task)
    for entry in suite.entries:
        if entry["name"] in wanted and entry.get("kind") == "cost":
            tasks.append(Task(name=entry["name"], kind="cost", implementation="rampart-cost-1"))
    return tuple(tasks)
