"""Write a trained network as a submission folder: card, weights, and the figures of its training."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from submissions.recipes.config import Config


def _toml(value: object) -> str:
    """A string, number or flat table as TOML; JSON's strings and numbers are TOML's too."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + " }"
    return json.dumps(value, ensure_ascii=False)


def publish(model: nn.Module, config: Config, history: list[dict[str, float]], *, out: Path) -> Path:
    """Write card, ``weights.safetensors`` and ``training.json`` into ``out/<id>/``; returns that folder."""
    folder = out / config.id
    folder.mkdir(parents=True, exist_ok=True)
    state = {
        name: tensor.detach().float().cpu().contiguous()
        for name, tensor in model.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    tracked = {
        name: tensor.cpu() for name, tensor in model.state_dict().items() if name.endswith("num_batches_tracked")
    }
    weights = folder / "weights.safetensors"
    save_file(state | tracked, weights)
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    seconds = sum(row["seconds"] for row in history)
    last = history[-1]
    budget = "" if config.recipe == "natural" else f", Linf eps {config.eps}"
    training = (
        f"{config.recipe}{budget}, {config.epochs} epochs, batch {config.batch_size}, one-cycle "
        f"lr {config.lr}, weight decay {config.weight_decay}, seed {config.seed}, "
        f"{'bf16 autocast' if config.bf16 else 'fp32'}; last epoch, no selection"
    )
    lines = [
        f"id = {_toml(config.id)}",
        f"title = {_toml(config.title)}",
        'authors = ["Rampart"]',
        f"paper = {_toml(config.paper)}" if config.paper else "",
        'licence = "MIT"',
        'dataset = "cifar10"',
        f"entry = {_toml(f'submissions.architectures.{config.architecture}:build')}",
        f"kwargs = {_toml(config.kwargs)}" if config.kwargs else "",
        'training_data = "none"',
        'defence = "static"',
        f"notes = {_toml(' '.join(filter(None, (config.notes, 'Training: ' + training + '.'))))}",
        "",
        "[[threat_models]]",
        'norm = "Linf"',
        'eps = "8/255"',
        "",
        "[checkpoint]",
        'file = "weights.safetensors"',
        f"sha256 = {_toml(digest)}",
    ]
    (folder / "submission.toml").write_text("\n".join(line for line in lines if line or line == "") + "\n")
    record = {
        "config": asdict(config),
        "torch": torch.__version__,
        "seconds": round(seconds, 1),
        "validation": {name: last[name] for name in ("natural", "fgsm", "pgd_10")},
        "history": history,
    }
    (folder / "training.json").write_text(json.dumps(record, indent=1) + "\n")
    return folder
