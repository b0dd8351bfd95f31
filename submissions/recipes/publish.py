"""Write a trained network as a submission folder: card, weights, and the figures of its training."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from submissions.recipes.config import Config
from submissions.recipes.cost import cost
from submissions.recipes.provenance import commit, hardware

NO_BUDGET = {"natural", "double_backprop"}
"""Recipes that do not look at ``eps``."""
FORMS = {"pixels": "training images", "jpeg": "JPEG copies of training images"}
"""What the card calls them."""


def _toml(value: object) -> str:
    """A string, number or flat table as TOML; JSON's strings and numbers are TOML's too."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + " }"
    return json.dumps(value, ensure_ascii=False)


def picked(config: Config, history: Sequence[dict[str, float]]) -> dict[str, float]:
    """The row of the epoch that is published: the last, or the last of the best by validation PGD-10."""
    if config.selection == "last":
        return history[-1]
    return max(history, key=lambda row: (row["pgd_10"], row["epoch"]))


def _weights(model: nn.Module, precision: str) -> dict[str, Tensor]:
    """The state dict on the CPU: numbers with a point in ``precision``, counters as they are."""
    target = torch.float16 if precision == "float16" else torch.float32
    return {
        name: (tensor.detach().to(target) if tensor.is_floating_point() else tensor).cpu().contiguous()
        for name, tensor in model.state_dict().items()
    }


def _told(config: Config, data: Mapping[str, Any], chosen: dict[str, float], spent: dict[str, float]) -> str:
    """The training in a sentence for the card."""
    rate = f"lr {config.lr}" + (f" x0.1 at {config.milestones}" if config.schedule == "step" else "")
    selection = "last epoch, no selection"
    if config.selection == "best":
        selection = f"epoch {chosen['epoch']:.0f}, best by PGD-10 on {data['validation']:,} held-out training images"
    parts = [
        config.recipe,
        "" if config.recipe in NO_BUDGET else f"Linf eps {config.eps}",
        ", ".join(f"{name} {value}" for name, value in config.settings.items()),
        f"{data['training']:,} {FORMS[data['form']]}",
        f"{config.epochs} epochs",
        f"batch {config.batch_size}",
        f"{config.schedule} {rate}",
        f"weight decay {config.weight_decay}",
        f"seed {config.seed}",
        "bf16 autocast" if config.bf16 else "fp32",
    ]
    passes = f"{spent['forward_equivalents']:.1f} forward-equivalents per image and epoch"
    return ", ".join(filter(None, parts)) + f"; {selection}; {passes}, {spent['seconds'] / 60:.0f} min on {hardware()}"


def publish(
    model: nn.Module,
    config: Config,
    history: list[dict[str, float]],
    *,
    out: Path,
    data: Mapping[str, Any],
    figures: dict[str, float] | None = None,
) -> Path:
    """Write card, ``weights.safetensors`` and ``training.json`` into ``out/<id>/``; returns that folder.

    ``data`` is what it was trained on, as ``data.described`` says it; ``figures`` are the validation accuracies of the
    weights as written, by default those of the picked epoch.
    """
    folder = out / config.id
    folder.mkdir(parents=True, exist_ok=True)
    weights = folder / "weights.safetensors"
    weights.write_bytes(save(_weights(model, config.weights)))
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    chosen, spent = picked(config, history), cost(history)
    notes = (config.notes, f"Training: {_told(config, data, chosen, spent)}.")
    lines = [
        f"id = {_toml(config.id)}",
        f"title = {_toml(config.title)}",
        'authors = ["Rampart"]',
        f"paper = {_toml(config.paper)}" if config.paper else "",
        'licence = "MIT"',
        f"dataset = {_toml(config.dataset)}",
        f"entry = {_toml(f'submissions.architectures.{config.architecture}:build')}",
        f"kwargs = {_toml(config.kwargs)}" if config.kwargs else "",
        'training_data = "none"',
        'defence = "static"',
        f"notes = {_toml(' '.join(filter(None, notes)))}",
        "",
        "[[threat_models]]",
        'norm = "Linf"',
        'eps = "8/255"',
        "",
        "[checkpoint]",
        'file = "weights.safetensors"',
        f"sha256 = {_toml(digest)}",
    ]
    (folder / "submission.toml").write_text("\n".join(lines) + "\n")
    found = figures or chosen
    record = {
        "recipe": config.recipe,
        "seed": config.seed,
        "config": asdict(config),
        "data": dict(data),
        "commit": commit(),
        "torch": torch.__version__,
        "seconds": round(spent["seconds"], 1),
        "cost": spent | {"hardware": hardware(), "threads": torch.get_num_threads()},
        "selection": {"by": config.selection, "epoch": chosen["epoch"]},
        "validation": {name: found[name] for name in ("natural", "fgsm", "pgd_10")},
        "history": history,
    }
    (folder / "training.json").write_text(json.dumps(record, indent=1) + "\n")
    return folder
