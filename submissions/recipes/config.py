"""What a training run is: read from a TOML file, checked field by field."""

import tomllib
from dataclasses import dataclass, field, fields
from fractions import Fraction
from pathlib import Path
from typing import Any, get_origin

SCHEDULES = ("one-cycle", "step", "cosine")
"""Learning rates: 0 to the peak and back, divided by 10 at milestones, half a cosine."""
CHOICES = {"schedule": SCHEDULES, "selection": ("last", "best"), "weights": ("float32", "float16")}
"""Fields that take one of a few words."""


class ConfigError(Exception):
    """A training configuration that cannot be used; the message names the file and the field."""


@dataclass(frozen=True)
class Config:
    """One training run; every field is written into the submission it ends in."""

    id: str
    """Folder name of the submission."""
    title: str
    """What the board calls it."""
    recipe: str
    """Module of ``submissions.recipes`` that says how a batch is learnt from."""
    architecture: str = "slim_resnet"
    """Module of ``submissions.architectures`` whose ``build`` makes the network."""
    kwargs: dict[str, Any] = field(default_factory=dict)
    """Arguments of the architecture."""
    eps: str = "8/255"
    """Training budget in Linf, as an exact fraction."""
    epochs: int = 12
    """Passes over the training images."""
    batch_size: int = 128
    """Images per step."""
    lr: float = 0.2
    """Peak learning rate."""
    weight_decay: float = 5e-4
    """Of the weights with two or more dimensions; biases and BatchNorm have none."""
    seed: int = 0
    """Of the initial weights, the order of the images and every random draw."""
    bf16: bool = False
    """bfloat16 autocast in training, for hardware that computes in it; validation and published weights are float32."""
    paper: str = ""
    """Address of the paper, for the card."""
    notes: str = ""
    """A sentence for the card, before the one about the training."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the recipe: weights, steps, schedules of its own."""
    schedule: str = "one-cycle"
    """How the learning rate goes: one of ``SCHEDULES``."""
    milestones: list[int] = field(default_factory=list)
    """Epochs after which the schedule ``step`` divides the learning rate by 10."""
    selection: str = "last"
    """Which epoch is published: the last, or ``best`` by PGD-10 on the validation split."""
    weights: str = "float32"
    """Precision of the published weights: float32 or float16, for networks that would not fit otherwise."""
    dataset: str = "cifar10"
    """What the card says the network is made for; the images come from ``--data``."""

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
        accepted: Any = get_origin(expected) or ((int, float) if expected is float else expected)
        if not isinstance(value, accepted) or (isinstance(value, bool) and expected is not bool):
            raise ConfigError(f"{path}: {name}: expected {expected}, got {value!r}")
        if name in CHOICES and value not in CHOICES[name]:
            raise ConfigError(f"{path}: {name}: expected one of {', '.join(CHOICES[name])}, got {value!r}")
    missing = [name for name in ("id", "title", "recipe") if name not in table]
    if missing:
        raise ConfigError(f"{path}: missing field {', '.join(missing)}")
    return Config(**table)
