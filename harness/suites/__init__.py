"""The standard settings as data: one TOML file per suite, every parameter of every task written out.

A parameter such as ``step_size = "eps/4"`` is resolved for each threat model, so a record holds plain numbers.
"""

import tomllib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

from harness.errors import UnknownNameError, UserError
from harness.records import Task, ThreatModel

_HERE = Path(__file__).parent
_FIELDS = {"name", "kind", "attack", "cascade", "params", "params_L1", "defences", "optional"}
_KINDS = ("attack", "clean", "corruption", "cost", "probe")
SEVERITIES = (1, 2, 3, 4, 5)
"""Of every corruption."""


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
        _check(f"{path}: tasks[{position}]", entry, seen)
        seen.add(entry["name"])
    return Suite(path.stem, str(data.get("description", "")), tuple(entries))


def _check(where: str, entry: dict[str, Any], seen: Collection[str]) -> None:
    """``UserError`` with the field unless ``entry`` is a task whose name is not in ``seen``."""
    unknown = set(entry) - _FIELDS
    if unknown:
        raise UserError(f"{where}: unknown field {sorted(unknown)[0]!r}; known: {', '.join(sorted(_FIELDS))}")
    if not isinstance(entry.get("name"), str) or entry["name"] in seen:
        raise UserError(f"{where}: name: expected a name no other task has, got {entry.get('name')!r}")
    kind = entry.get("kind", "attack")
    if kind not in _KINDS:
        raise UserError(f"{where}: kind: expected {', '.join(_KINDS[:-1])} or {_KINDS[-1]}, got {kind!r}")
    if kind == "attack" and not isinstance(entry.get("attack"), str):
        raise UserError(f"{where}: attack: expected the name of an attack, got {entry.get('attack')!r}")
    kinds = entry.get("defences", [])
    if not isinstance(kinds, list) or not all(isinstance(item, str) for item in kinds):
        raise UserError(f"{where}: defences: expected a list of defence kinds, got {kinds!r}")
    for field in ("params", "params_L1"):
        if not isinstance(entry.get(field, {}), dict):
            raise UserError(f"{where}: {field}: expected a table, got {entry[field]!r}")
    if not isinstance(entry.get("optional", False), bool) or (kind != "corruption" and "optional" in entry):
        raise UserError(f"{where}: optional: expected true or false, of a corruption, got {entry['optional']!r}")
    if kind == "corruption":
        _check_severities(where, entry.get("params", {}))


def _check_severities(where: str, params: dict[str, Any]) -> None:
    """``UserError`` unless the parameters of a corruption are its severities, each once."""
    given = params.get("severities")
    fine = isinstance(given, list) and given and all(type(item) is int and item in SEVERITIES for item in given)
    if not fine or set(params) != {"severities"} or len(set(given or ())) < len(given or ()):
        raise UserError(f"{where}: params: expected {{ severities = [...] }} with some of 1 to 5, got {params!r}")


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


class Probes(Protocol):
    """What a suite needs to know of a probe."""

    @property
    def implementation(self) -> str:
        """Name and version."""
        ...

    @property
    def needs(self) -> tuple[str, ...]:
        """Probes it reads."""
        ...

    @property
    def reads_attacks(self) -> bool:
        """Whether it belongs to a threat model."""
        ...


class Corruptions(Protocol):
    """What a suite needs to know of the corrupted images."""

    @property
    def name(self) -> str:
        """Their data set."""
        ...

    @property
    def implementation(self) -> str:
        """Who made them, with a version."""
        ...


def corruptions_in(suite: Suite, only: Sequence[str] = ()) -> tuple[dict[str, Any], ...]:
    """The entries of ``suite`` that need corrupted images; ``only`` as in ``expand``."""
    return tuple(
        entry for entry in suite.entries if _kind(entry) == "corruption" and (not only or entry["name"] in only)
    )


def expand(
    suite: Suite,
    threats: Sequence[ThreatModel],
    *,
    implementation: Callable[[str, str], str],
    only: Sequence[str] = (),
    probe: Callable[[str], Probes] | None = None,
    corruptions: Corruptions | None = None,
    defence: str = "static",
) -> tuple[Task, ...]:
    """The tasks of ``suite`` for every threat model, in the order they run.

    ``implementation`` names who computes an attack in a norm, ``probe`` describes one; both raise ``UnknownNameError``
    for one that does not exist. Without ``probe`` no probe is planned, without ``corruptions`` no corruption. ``only``
    keeps the named tasks (and ``clean``); a cascade member brings the members before it along, a probe the probes it
    needs. Entries that name ``defences`` are for submissions of that kind only.
    """
    entries = [entry for entry in suite.entries if defence in entry.get("defences", (defence,))]
    wanted = _wanted(suite, entries, only, probe)
    tasks = [
        Task(name=entry["name"], kind="clean", implementation="rampart-clean-1")
        for entry in entries
        if entry["name"] in wanted and _kind(entry) == "clean"
    ]
    attacks = [entry for entry in entries if entry["name"] in wanted and _kind(entry) == "attack"]
    probes = [entry for entry in entries if entry["name"] in wanted and _kind(entry) == "probe"] if probe else []
    for threat in threats:
        tasks += _attacks(attacks, threat, implementation)
    if corruptions:
        for entry in corruptions_in(suite):
            tasks += _cells(entry, corruptions) if entry in entries and entry["name"] in wanted else ()
    if probe:
        tasks += _probes(probes, threats, tasks, probe)
    tasks += [
        Task(name=entry["name"], kind="cost", implementation="rampart-cost-1")
        for entry in entries
        if entry["name"] in wanted and _kind(entry) == "cost"
    ]
    return tuple(tasks)


def _kind(entry: dict[str, Any]) -> str:
    return str(entry.get("kind", "attack"))


def _wanted(
    suite: Suite, entries: Sequence[dict[str, Any]], only: Sequence[str], probe: Callable[[str], Probes] | None
) -> set[str]:
    """Names of the entries that run when ``only`` is asked for."""
    known = [entry["name"] for entry in suite.entries]
    for name in only:
        if name not in known:
            raise UnknownNameError("attack", name, known)
    wanted = set(only) | {"clean"} if only else set(known)
    for entry in reversed(entries):
        if entry["name"] not in wanted:
            continue
        if entry.get("cascade"):
            members = [item["name"] for item in entries if item.get("cascade") == entry["cascade"]]
            wanted |= set(members[: members.index(entry["name"])])
        if _kind(entry) == "probe" and probe:
            wanted |= set(probe(entry["name"]).needs)
    return wanted


def _params(entry: dict[str, Any], threat: ThreatModel) -> dict[str, Any]:
    """Parameters of an entry; ``params_L1`` holds what differs there, as in AutoAttack."""
    return {**entry.get("params", {}), **(entry.get("params_L1", {}) if threat.norm == "L1" else {})}


def _attacks(
    entries: Sequence[dict[str, Any]], threat: ThreatModel, implementation: Callable[[str, str], str]
) -> list[Task]:
    tasks: list[Task] = []
    members_so_far: dict[str, tuple[str, ...]] = {}
    for entry in entries:
        cascade = entry.get("cascade", "")
        task = Task(
            name=entry["name"],
            kind="attack",
            attack=entry["attack"],
            params={key: _resolve(value, threat) for key, value in _params(entry, threat).items()},
            threat=threat,
            implementation=implementation(entry["attack"], threat.norm),
            cascade=cascade,
            after=members_so_far.get(cascade, ()) if cascade else (),
        )
        if cascade:
            members_so_far[cascade] = (*task.after, task.key)
        tasks.append(task)
    return tasks


def _cells(entry: dict[str, Any], corruptions: Corruptions) -> list[Task]:
    """A task for each severity of one corruption."""
    return [
        Task(
            name=f"{entry['name']}-{severity}",
            kind="corruption",
            params={"corruption": entry["name"], "severity": severity, "dataset": corruptions.name},
            implementation=corruptions.implementation,
        )
        for severity in entry["params"]["severities"]
    ]


def _probes(
    entries: Sequence[dict[str, Any]],
    threats: Sequence[ThreatModel],
    tasks: Sequence[Task],
    probe: Callable[[str], Probes],
) -> list[Task]:
    """Probes in the suite's order; those that read attacks once per threat model."""
    planned: list[Task] = []
    for entry in entries:
        info = probe(entry["name"])
        for threat in threats if info.reads_attacks else (None,):
            read = [
                task.key for task in tasks if task.kind == "clean" or (info.reads_attacks and task.threat == threat)
            ]
            read += [task.key for task in planned if task.name in info.needs and task.threat in {None, threat}]
            planned.append(
                Task(
                    name=entry["name"],
                    kind="probe",
                    params=entry.get("params", {}),
                    threat=threat,
                    implementation=info.implementation,
                    after=tuple(read),
                )
            )
    return planned
