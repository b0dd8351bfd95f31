"""A checkpoint file's state dict: read once, its hash checked, code in it never run, its misfits named."""

import hashlib
import io
import pickle
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from harness.checkpoints import damage
from harness.errors import CheckpointError

LISTED = 3
"""Names shown of a longer list."""
_CODE = re.compile(r"GLOBAL [`']?([\w.]+)")
_REASON = re.compile(r"WeightsUnpickler error:\s*(.+)")


def one_line(text: str, limit: int = 400) -> str:
    """``text`` without line breaks, control characters and repeated blanks, at most ``limit`` characters."""
    flat = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return flat if len(flat) <= limit else flat[: limit - 3] + "..."


def frozen(network: nn.Module) -> nn.Module:
    """``network`` in eval mode, its parameters without gradients; TorchScript modules refuse ``requires_grad_``."""
    network.eval()
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    return network


def few(names: Sequence[str]) -> str:
    """The first names and how many more there are."""
    rest = len(names) - LISTED
    return ", ".join(names[:LISTED]) + (f" and {rest} more" if rest > 0 else "")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that no memory was left; torch's processor allocator has no type of its own for it."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


def _parse(path: Path, content: bytes) -> object:
    """The object in a checkpoint file, from its bytes; code in it is never run."""
    reason = damage(path)
    if reason:
        raise CheckpointError(f"checkpoint {path}: expected weights: {reason}")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load as unpack

        try:
            return unpack(content)
        except (SafetensorError, ValueError, KeyError) as error:
            raise CheckpointError(_damaged(path, content, "safetensors", error)) from error
    try:
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        code = _CODE.search(str(error))
        if code is None:
            raise CheckpointError(_damaged(path, content, "torch.save", error)) from error
        raise CheckpointError(
            f"checkpoint {path}: expected tensors only, got a pickle that would run code ({code.group(1)}), "
            "which was not loaded; save model.state_dict() alone, best as safetensors"
        ) from error
    except (RuntimeError, ValueError, EOFError, KeyError, OSError, AttributeError, TypeError, IndexError) as error:
        if is_out_of_memory(error):
            raise
        raise CheckpointError(_damaged(path, content, "torch.save", error)) from error


def _damaged(path: Path, content: bytes, written_by: str, error: Exception) -> str:
    reason = _REASON.search(str(error))
    return (
        f"checkpoint {path}: expected a whole file written by {written_by}, got {len(content)} bytes that are damaged, "
        f"truncated or something else ({one_line(reason.group(1) if reason else str(error), 120)})"
    )


def read_bytes(path: Path, expected: str) -> bytes:
    """A checkpoint's bytes, whose sha256 is ``expected`` unless that is empty. ``CheckpointError``."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise CheckpointError(f"checkpoint {path}: no such file") from None
    except OSError as error:
        raise CheckpointError(f"checkpoint {path}: cannot be read: {error.strerror}") from error
    digest = hashlib.sha256(content).hexdigest()
    if expected and digest != expected.lower():
        # A web page or a cut-off download explains a wrong hash better than the hash itself.
        _parse(path, content)
        raise CheckpointError(f"checkpoint {path}: expected sha256 {expected}, got {digest}")
    return content


def read_object(path: Path, expected: str) -> object:
    """What a checkpoint holds, read from exactly the bytes whose sha256 was checked; code in it is never run."""
    return _parse(path, read_bytes(path, expected))


def read_state(spec: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of the spec's checkpoint. ``CheckpointError`` when the file does not hold one."""
    path = Path(spec["checkpoint"])
    state = read_object(path, spec.get("checkpoint_sha256") or "")
    key = spec.get("key") or ""
    if key:
        if not isinstance(state, Mapping) or key not in state:
            held = few([str(name) for name in state]) if isinstance(state, Mapping) else type(state).__name__
            raise CheckpointError(f"checkpoint {path}: expected a key {key!r}, it holds {held}")
        state = state[key]
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        held = few([str(name) for name in state]) if isinstance(state, Mapping) else type(state).__name__
        raise CheckpointError(
            f"checkpoint {path}: expected a state dict of tensors, got {held}; "
            'name the entry that holds the weights as key = "..." under [checkpoint]',
        )
    prefix = spec.get("strip_prefix") or ""
    named = {str(name): value for name, value in state.items()}
    if prefix:
        if not any(name.startswith(prefix) for name in named):
            raise CheckpointError(
                f"checkpoint {path}: expected keys that start with strip_prefix {prefix!r}, got {few(sorted(named))}",
            )
        named = {name.removeprefix(prefix): value for name, value in named.items()}
    return named


def misfit(network: nn.Module, state: Mapping[str, Tensor], error: Exception) -> str:
    """Why ``state`` does not fit, a few names of each kind."""
    own = network.state_dict()
    # Old checkpoints lack this counter and torch fills it in, so that it is never the reason.
    missing = [name for name in own if name not in state and not name.endswith("num_batches_tracked")]
    unexpected = sorted(name for name in state if name not in own)
    shapes = [
        f"{name} is {tuple(state[name].shape)} in the file and {tuple(value.shape)} in the network"
        for name, value in own.items()
        if isinstance(value, Tensor) and name in state and state[name].shape != value.shape
    ]
    parts = []
    if missing:
        parts.append(f"missing {len(missing)}: {few(missing)}")
    if unexpected:
        parts.append(f"unexpected {len(unexpected)}: {few(unexpected)}")
    if shapes:
        parts.append(f"other shapes {len(shapes)}: {few(shapes)}")
    prefixes = {name.partition(".")[0] for name in unexpected}
    if missing and len(prefixes) == 1 and all(f"{prefix}.{missing[0]}" in state for prefix in prefixes):
        parts.append(f'try strip_prefix = "{prefixes.pop()}." under [checkpoint]')
    return "; ".join(parts) or one_line(str(error))
