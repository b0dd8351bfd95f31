"""What every attack asks of its arguments; each breach is one line that says what was expected."""

import math
from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from harness.errors import UserError


def check_batch(attack: str, x: Tensor, y: Tensor) -> None:
    """``UserError`` unless ``x`` is float (N, C, H, W) in [0, 1] and ``y`` int64 (N,)."""
    if x.ndim != 4:
        raise UserError(f"{attack}: x: expected images (N, C, H, W), got shape {tuple(x.shape)}")
    if x.dtype not in {torch.float32, torch.float64}:
        raise UserError(f"{attack}: x: expected float32 or float64 in [0, 1], got {x.dtype}: convert it first")
    if len(x) and not bool(((x.amin() >= 0) & (x.amax() <= 1)).item()):
        raise UserError(f"{attack}: x: expected pixels in [0, 1], got [{float(x.min()):g}, {float(x.max()):g}]")
    if y.dtype is not torch.int64 or y.shape != x.shape[:1]:
        raise UserError(f"{attack}: y: expected int64 ({len(x)},), got {y.dtype} {tuple(y.shape)}")


def check_norm(attack: str, norm: str, norms: Sequence[str]) -> None:
    """``UserError`` unless ``norm`` is one of ``norms``."""
    check_choice(attack, norms, norm=norm)


def check_choice(attack: str, choices: Collection[str], **values: str) -> None:
    """``UserError`` unless every value is one of ``choices``."""
    for name, value in values.items():
        if not isinstance(value, str) or value not in choices:
            raise UserError(f"{attack}: {name}: expected one of {', '.join(choices)}, got {value!r}")


def check_switch(attack: str, **values: bool) -> None:
    """``UserError`` unless every value is true or false."""
    for name, value in values.items():
        if not isinstance(value, bool):
            raise UserError(f"{attack}: {name}: expected true or false, got {value!r}")


def check_positive(attack: str, **values: float) -> None:
    """``UserError`` unless every value is a finite number above 0."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not (math.isfinite(value) and value > 0):
            raise UserError(f"{attack}: {name}: expected a finite number above 0, got {value!r}")


def check_count(attack: str, *, least: int = 1, **values: int) -> None:
    """``UserError`` unless every value is a whole number of at least ``least``."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise UserError(f"{attack}: {name}: expected a whole number of at least {least}, got {value!r}")


def check_labels(attack: str, logits: Tensor, y: Tensor) -> None:
    """``UserError`` unless ``logits`` are (N, K), K at least 2, and every label of ``y`` has one."""
    if logits.ndim != 2 or len(logits) != len(y) or logits.shape[1] < 2:
        raise UserError(
            f"{attack}: model: expected logits ({len(y)}, K) with K of at least 2, got {tuple(logits.shape)}"
        )
    if len(y) and not bool(((y.amin() >= 0) & (y.amax() < logits.shape[1])).item()):
        raise UserError(f"{attack}: y: expected labels in 0..{logits.shape[1] - 1}, got {int(y.min())}..{int(y.max())}")


def check_batch_size(attack: str, batch_size: int | None) -> None:
    """``UserError`` unless ``batch_size`` is None or a whole number of at least 1."""
    if batch_size is not None:
        check_count(attack, batch_size=batch_size)
