"""What the battery must make of every model of a zoo of broken and honest ones: ``expected.toml``, read and checked."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.checks import CHECKS
from harness.checks.verdict import WORDS
from harness.errors import UnknownNameError, UserError

EXPECTED = "expected.toml"
KINDS = ("broken", "harmless", "honest")


@dataclass(frozen=True)
class Expectation:
    """What a model of the zoo is, and what the battery must make of it."""

    id: str
    title: str
    kind: str
    """``broken``, ``honest``, or ``harmless``: tries to cheat and finds nothing to cheat with."""
    spec: str = ""
    base: str = ""
    """The model it is built around; empty for none."""
    truth: str = "unknown"
    """Its true robust accuracy: ``base``, ``zero`` or ``unknown``."""
    decision_identical: bool = False
    tolerance: float = 0.01
    """Largest distance of the corrected number from the truth, in [0, 1]; never less than one image."""
    must_fire: tuple[str, ...] = ()
    """At least one of these checks must warn or fail."""
    may_fire: tuple[str, ...] | None = None
    """Unless None: no others than these and ``must_fire`` may."""
    must_not_fire: tuple[str, ...] = ()
    verdicts: tuple[str, ...] = ()
    """Words it may end with."""


def load_expectations(folder: Path) -> dict[str, Expectation]:
    """Read ``expected.toml`` of a zoo; ``UserError`` naming what is wrong with it."""
    path = folder / EXPECTED
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"--zoo: expected a folder with {EXPECTED}, got {folder}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: expected TOML, got an error: {error}") from None
    defaults = data.get("defaults", {})
    common = {key: value for key, value in defaults.items() if not isinstance(value, dict)}
    found = {}
    for name, model in data.get("models", {}).items():
        kind = model.get("kind")
        if kind not in KINDS:
            raise UserError(f"{path}: {name}.kind: expected one of {', '.join(KINDS)}, got {kind!r}")
        found[name] = _expectation(path, name, {**common, **defaults.get(kind, {}), **model})
    for item in found.values():
        if item.base and item.base not in found:
            raise UserError(f"{path}: {item.id}.base: expected a model of the zoo, got {item.base!r}")
    if not found:
        raise UserError(f"{path}: expected tables [models.NAME], got none")
    return found


def _expectation(path: Path, name: str, model: dict[str, Any]) -> Expectation:
    names: dict[str, Any] = {
        key: tuple(model[key]) for key in ("must_fire", "may_fire", "must_not_fire", "verdicts") if key in model
    }
    for key, values in names.items():
        known = WORDS if key == "verdicts" else CHECKS.names()
        for value in values:
            if value not in known:
                raise UserError(f"{path}: {name}.{key}: expected some of {', '.join(known)}, got {value!r}")
    if model.get("truth", "unknown") not in {"base", "zero", "unknown"}:
        raise UserError(f"{path}: {name}.truth: expected base, zero or unknown, got {model['truth']!r}")
    own: dict[str, Any] = {key: value for key, value in model.items() if key in Expectation.__dataclass_fields__}
    own.update(names, id=name)
    return Expectation(**own)


def chosen(expected: Mapping[str, Expectation], only: Sequence[str]) -> dict[str, Expectation]:
    """The named models and the bases they are held against; all of them without names."""
    for name in only:
        if name not in expected:
            raise UnknownNameError("model of the zoo", name, list(expected))
    wanted = {*only, *(expected[name].base for name in only)} if only else set(expected)
    return {name: item for name, item in expected.items() if name in wanted}
