"""The thresholds of the checks: one versioned file, each value with its source."""

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import UserError

_FILE = Path(__file__).with_name("thresholds.toml")


@dataclass(frozen=True)
class Thresholds:
    """Values by check and name."""

    version: str
    values: dict[str, dict[str, Any]]
    """``values["C2"]["flip"]`` is ``{"value": 0.0001, "source": "..."}``."""

    def __call__(self, check: str, name: str) -> float:
        """The value called ``name`` of ``check``."""
        return float(self.values[check][name]["value"])

    def text(self, check: str, name: str) -> str:
        """Value and source, for a finding's ``threshold``."""
        entry = self.values[check][name]
        return f"{name.replace('_', ' ')} {entry['value']:g} ({entry['source']})"


def load_thresholds(path: Path | None = None) -> Thresholds:
    """Read the file; ``UserError`` with the field when it is wrong."""
    place = path or _FILE
    try:
        data = tomllib.loads(place.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"{place}: expected thresholds in TOML, got {error}") from None
    version = data.pop("version", None)
    if not isinstance(version, str):
        raise UserError(f"{place}: version: expected a text such as '2026.1', got {version!r}")
    for check, entries in data.items():
        for name, entry in entries.items():
            if (
                not isinstance(entry, dict)
                or not isinstance(entry.get("value"), int | float)
                or not entry.get("source")
            ):
                raise UserError(f"{place}: {check}.{name}: expected {{ value = NUMBER, source = TEXT }}, got {entry!r}")
    return Thresholds(version, data)
