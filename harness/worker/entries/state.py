"""State dicts that fit a network, and the error of a network that cannot be loaded."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from torch import Tensor, nn

from harness.errors import CheckpointError
from harness.worker.weights import few, misfit

_WRAPPERS = ("module.", "model.", "network.", "normalize.")
_HOLDERS = ("last", "state_dict", "model", "model_state_dict", "net", "best")
"""Names under which training scripts keep the state dict, in the order they are looked for."""

_CONSTANT = re.compile(r"(normalize\.)?(mu|sigma|mean|std)")
"""Normalisation constants, which old checkpoints lack and the architecture sets."""

_UNUSED = re.compile(r"model_preact_hl1\..*|(.*\.)?scores|(.*\.)?num_batches_tracked")
"""What some training scripts kept beside the weights: a second head, pruning scores, counters."""


class LoadError(Exception):
    """A submission that cannot be loaded; ``kind`` is ``checkpoint``, ``contract`` or ``raised``, the text one line."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def load_strictly(network: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Load ``state``; ``CheckpointError`` names what is missing, unexpected or of another shape."""
    try:
        network.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise CheckpointError(f"checkpoint {path} does not fit the network: {misfit(network, state, error)}") from error


def _is_state(value: object) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(isinstance(item, Tensor) for item in value.values())


def find_state(held: object, path: Path) -> dict[str, Tensor]:
    """The state dict in what a training script saved: itself, or below one of the usual names."""
    for _ in range(3):
        if _is_state(held):
            assert isinstance(held, Mapping)
            return {str(name): tensor for name, tensor in held.items()}
        if not isinstance(held, Mapping):
            break
        held = next((held[name] for name in _HOLDERS if isinstance(held.get(name), Mapping)), None)
    raise CheckpointError(f"checkpoint {path}: expected a state dict of tensors, alone or as {few(list(_HOLDERS))}")


def _renamed(state: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """``state``, then without the prefixes that wrappers leave, then with one more."""
    candidates = [state]
    for prefix in ("module.", "model.", "module."):
        last = candidates[-1]
        if any(name.startswith(prefix) for name in last):
            candidates.append({name.removeprefix(prefix): tensor for name, tensor in last.items()})
    yield from candidates
    for prefix in _WRAPPERS:
        yield {prefix + name: tensor for name, tensor in candidates[-1].items()}


def load_renamed(network: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Load ``state`` after taking off, or putting on, the prefix of a wrapper; everything else must fit.

    Normalisation constants may be missing, and a second head, pruning scores and counters superfluous: these are the
    known differences between RobustBench's checkpoints and its architectures. ``CheckpointError`` otherwise.
    """
    own = network.state_dict()

    def differences(candidate: Mapping[str, Tensor]) -> int:
        return len(candidate.keys() ^ own.keys())

    best = min(_renamed(state), key=differences)
    fitting = {name: tensor for name, tensor in best.items() if name in own or not _UNUSED.fullmatch(name)}
    for name, tensor in own.items():
        if name not in fitting and _CONSTANT.fullmatch(name):
            fitting[name] = tensor
    load_strictly(network, fitting, path)
