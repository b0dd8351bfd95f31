"""Entries ``robustbench:NAME``: the installed package's architecture with its published weights."""

import argparse
import importlib
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from harness.errors import CheckpointError
from harness.hubs import split
from harness.hubs.robustbench import build
from harness.worker.entries.state import find_state, load_renamed
from harness.worker.weights import read_object

_scalar = importlib.import_module("numpy._core.multiarray").scalar
_HARMLESS: list[Any] = [
    argparse.Namespace,
    np.ndarray,
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("float32", "float64", "int64", "bool")),
    (_scalar, "numpy.core.multiarray.scalar"),
    (_scalar, "numpy._core.multiarray.scalar"),
]
"""What training scripts keep beside the weights and what runs no code when it is unpickled: options and figures."""


def _read(path: Path, sha256: str) -> object:
    with torch.serialization.safe_globals(_HARMLESS):
        return read_object(path, sha256)


def _member(network: nn.Module, name: str, number: int) -> nn.Module:
    """The part of an ensemble that its file ``number`` holds."""
    holder: Any = network
    if name.startswith("Bai2023Improving"):
        return nn.ModuleDict({"model": holder.comp_model.policy_net, "bn": holder.comp_model.bn}) if number == 2 else (
            holder.comp_model.models[number]
        )  # fmt: skip
    if name.startswith("Bai2024MixedNUTS"):
        found: nn.Module = (holder.std_model, holder.rob_model)[number]
        return found
    member: nn.Module = holder.models[number]
    return member


def _both(held: object, path: Path) -> dict[str, dict[str, Tensor]]:
    """The two state dicts of the file of a mixing network: its policy and the BatchNorm behind it."""
    inner = held.get("state_dict", held) if isinstance(held, Mapping) else held
    if not isinstance(inner, Mapping) or not {"model", "bn"} <= inner.keys():
        raise CheckpointError(f"checkpoint {path}: expected the state dicts 'model' and 'bn' of a mixing network")
    return {name: find_state(inner[name], path) for name in ("model", "bn")}


def load(spec: Mapping[str, Any]) -> nn.Module:
    """The network of ``spec`` with its weights. ``CheckpointError``, ``UserError``, or what the package raises.

    Beside the usual fields ``spec`` has ``dataset`` (``cifar10`` or ``cifar100``), ``board`` (``Linf``, ``L2``,
    ``corruptions``) and ``files``, each with ``path`` and ``sha256``, in the package's order.
    """
    _, name = split(spec["entry"])
    network = build(spec["dataset"], spec["board"], name)
    files = [(Path(file["path"]), file["sha256"]) for file in spec["files"]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number, (path, sha256) in enumerate(files):
            held = _read(path, sha256)
            part = network if len(files) == 1 else _member(network, name, number)
            if isinstance(part, nn.ModuleDict):
                for key, state in _both(held, path).items():
                    load_renamed(part[key], state, path)
            else:
                load_renamed(part, _adapted(part, find_state(held, path)), path)
    return network


def _adapted(network: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """``state`` as timm names it today, for the one family of entries that timm holds."""
    inner = getattr(network, "model", network)
    if type(inner).__name__ != "Xcit":
        return state
    found: dict[str, Tensor] = importlib.import_module("timm.models.xcit").checkpoint_filter_fn(state, inner)
    return found
