"""Entries ``timm:NAME`` and ``hf:ORG/REPO@COMMIT``: timm's architectures, with images in [0, 1] made what they take."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from harness.errors import CheckpointError, UserError
from harness.hubs import split
from harness.hubs.timm_models import OWN, create
from harness.worker.entries.state import find_state, load_strictly
from harness.worker.weights import read_bytes, read_object, read_state


class Prepared(nn.Module):
    """``network`` for images in [0, 1]: resized to ``size`` x ``size`` where they are not, then normalised."""

    mean: Tensor
    std: Tensor

    def __init__(
        self, network: nn.Module, mean: Sequence[float], std: Sequence[float], size: int | None, mode: str
    ) -> None:
        super().__init__()
        self.network, self.size, self.mode = network, size, mode
        self.register_buffer("mean", torch.tensor(list(mean)).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(list(std)).view(1, -1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, K) of images (N, C, H, W)."""
        if self.size is not None and tuple(x.shape[-2:]) != (self.size, self.size):
            x = functional.interpolate(x, (self.size, self.size), mode=self.mode, align_corners=False)
        logits: Tensor = self.network((x - self.mean) / self.std)
        return logits


def _prepared(network: nn.Module, given: Mapping[str, Any], known: Mapping[str, Any]) -> Prepared:
    """``network`` with the card's ``mean``, ``std`` and ``resize``, or else the configuration's."""
    values = {name: given.get(name, known.get(name)) for name in ("mean", "std")}
    for name, value in values.items():
        if not isinstance(value, list | tuple) or not value or not all(isinstance(item, int | float) for item in value):
            raise UserError(f"kwargs.{name}: expected the {name} of each channel, e.g. [0.5, 0.5, 0.5], got {value!r}")
    size = given.get("resize", (known.get("input_size") or [None])[-1])
    if size is not None and (not isinstance(size, int) or size < 1):
        raise UserError(f"kwargs.resize: expected the side of an image in pixels, got {size!r}")
    mode = "bicubic" if known.get("interpolation") == "bicubic" else "bilinear"
    return Prepared(network, values["mean"], values["std"], size, mode)


def load(spec: Mapping[str, Any]) -> nn.Module:
    """An architecture of timm with the card's checkpoint, or with timm's own weights when it has none.

    Beside the usual fields ``spec`` has ``classes``, and ``files`` when the weights are timm's own. The card's kwargs
    go to ``timm.create_model``, but for ``mean``, ``std`` (per channel) and ``resize`` (pixels).
    """
    _, name = split(spec["entry"])
    kwargs = dict(spec.get("kwargs") or {})
    network, known = create(name, {key: kwargs[key] for key in kwargs if key not in OWN}, spec["classes"])
    prepared = _prepared(network, kwargs, known if spec.get("files") else {})
    if spec.get("files"):
        path = Path(spec["files"][0]["path"])
        load_strictly(network, find_state(read_object(path, spec["files"][0]["sha256"]), path), path)
    else:
        load_strictly(network, read_state(spec), Path(spec["checkpoint"]))
    return prepared


def _configuration(path: Path, sha256: str) -> dict[str, Any]:
    """A timm ``config.json``. ``CheckpointError`` when it is something else."""
    try:
        found = json.loads(read_bytes(path, sha256))
    except ValueError as error:
        raise CheckpointError(f"{path}: expected JSON, got an error: {error}") from error
    if not isinstance(found, dict) or not isinstance(found.get("architecture"), str):
        kind = f" of {found['model_type']!r}" if isinstance(found, dict) and "model_type" in found else ""
        raise CheckpointError(
            f"{path}: expected a timm configuration with 'architecture', got another one{kind}: write model.py:build, "
            "and the weights' address as checkpoint.url"
        )
    return found


def load_hugging_face(spec: Mapping[str, Any]) -> nn.Module:
    """A timm model of a Hugging Face repository; ``spec["files"]`` are its config.json and model.safetensors."""
    configuration, weights = ((Path(file["path"]), file["sha256"]) for file in spec["files"])
    found = _configuration(*configuration)
    kwargs = dict(spec.get("kwargs") or {})
    pretrained = found.get("pretrained_cfg") or {}
    classes = found.get("num_classes", pretrained.get("num_classes"))
    if spec["classes"] is not None and classes != spec["classes"]:
        raise UserError(f"{configuration[0]}: expected a network of {spec['classes']} classes, got {classes}")
    arguments = {**(found.get("model_args") or {}), **{key: kwargs[key] for key in kwargs if key not in OWN}}
    network, _ = create(found["architecture"], arguments, classes)
    prepared = _prepared(network, kwargs, pretrained)
    path, sha256 = weights
    load_strictly(network, find_state(read_object(path, sha256), path), path)
    return prepared
