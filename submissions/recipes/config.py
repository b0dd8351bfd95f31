"""What a training run is: read from a TOML file, checked field by field."""

import tomllib
from dataclasses import dataclass, field, fields
from fractions import Fraction
from pathlib import Path
from typing import Any


class ConfigError(Exception):
    """A training configuration that cannot be used; the message names the file and the field."""


@dataclass(frozen=True)
class Config:
    """One training run; every field is written into the submission it ends in."""

    id: str
    """Folder name of the submission."""
    title: str
    recipe: str
    """Module of ``submissions.recipes`` whose ``loss`` is minimised."""
    architecture: str = "slim_resnet"
    """Module of ``submissions.architectures`` whose ``build`` makes the network."""
    kwargs: dict[str, Any] = field(default_factory=dict)
    eps: str = "8/255"
    """Training budget in Linf, as an exact fraction."""
    epochs: int = 12
    batch_size: int = 128
    lr: float = 0.2
    """Peak learning rate of the one-cycle schedule."""
    weight_decay: float = 5e-4
    seed: int = 0
    bf16: bool = True
    """bfloat16 autocast in training; validation and the published weights are float32."""
    paper: str = ""
    notes: str = ""

    @property
    def eps_value(self) -> float:
        """``eps`` as a float."""
        return float(Fraction(self.eps))


def read(path: Path) -> Config:
    """Read a configuration; raises ``ConfigError`` with the file and the field when something is wrong."""
    try:
        table = tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: expected a TOML file, got {error}") from None
    known = {item.name: item for item in fields(Config)}
    for name, value in table.items():
        if name not in known:
            raise ConfigError(f"{path}: unknown field {name!r}; known: {', '.join(known)}")
        expected: Any = known[name].type
        accepted: Any = (int, float) if expected is float else expected if isinstance(expected, type) else dict
        if not isinstance(value, accepted) or (isinstance(value, bool) and expected is not bool):
            raise ConfigError(f"{path}: {name}: expected {expected}, got {value!r}")
    missing = [name for name in ("id", "title", "recipe") if name not in table]
    if missing:
        raise ConfigError(f"{path}: missing field {', '.join(missing)}")
    return Config(**table)
