"""Train one configuration: deterministic by seed, checkpointed and resumable after every epoch."""

import importlib
import os
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from submissions.recipes.config import Config
from submissions.recipes.data import Split, augment
from submissions.recipes.perturb import ascend, attackable, uniform_start

VALIDATION_EPS = 8 / 255
"""Linf budget of the validation attacks."""


def build(config: Config) -> nn.Module:
    """The untrained network of ``config``, initialised from its seed."""
    torch.manual_seed(config.seed)
    module = importlib.import_module(f"submissions.architectures.{config.architecture}")
    model: nn.Module = module.build(**config.kwargs)
    return model


def validate(model: nn.Module, split: Split, *, seed: int, device: torch.device) -> dict[str, float]:
    """Natural accuracy and accuracy under FGSM and PGD-10 (step 2/255, random start) at Linf 8/255, in float32."""
    correct = {"natural": 0, "fgsm": 0, "pgd_10": 0}
    generator = torch.Generator().manual_seed(seed)
    with attackable(model):
        for chosen in torch.split(torch.arange(len(split.labels)), 250):
            images, labels = split.images[chosen], split.labels[chosen]
            x = images.to(device).float().div(255).contiguous(memory_format=torch.channels_last)
            y = labels.to(device)
            start = uniform_start(x, eps=VALIDATION_EPS, generator=generator)
            perturbed = {
                "natural": x,
                "fgsm": ascend(model, x, y, x, eps=VALIDATION_EPS, step_size=VALIDATION_EPS, steps=1),
                "pgd_10": ascend(model, x, y, start, eps=VALIDATION_EPS, step_size=2 / 255, steps=10),
            }
            model.eval()
            with torch.no_grad():
                for name, x_adv in perturbed.items():
                    correct[name] += int((model(x_adv).argmax(1) == y).sum())
    return {name: count / len(split.labels) for name, count in correct.items()}


def learning_rate(config: Config, progress: float) -> float:
    """One cycle: linear from 0 to the peak over the first 40 % of the training, then linear back to 0."""
    return config.lr * (progress / 0.4 if progress < 0.4 else (1 - progress) / 0.6)


def train(
    config: Config,
    training: Split,
    validation: Split,
    *,
    folder: Path,
    device: torch.device,
    say: Callable[[str], None] = print,
) -> tuple[nn.Module, list[dict[str, float]]]:
    """Train and return (network in evaluation mode, one row of figures per epoch).

    ``folder`` receives ``checkpoint.pt`` after every epoch; the same call resumes from it, with the same result as
    a run that was never stopped, because every random draw depends on the seed, the epoch and the step alone.
    """
    loss: Callable[..., Tensor] = importlib.import_module(f"submissions.recipes.{config.recipe}").loss
    model = build(config).to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    optimiser = torch.optim.SGD(groups, lr=config.lr, momentum=0.9)
    history: list[dict[str, float]] = []
    path = folder / "checkpoint.pt"
    if path.exists():
        state = torch.load(path, weights_only=True, map_location=device)
        if state["config"] == asdict(config):
            model.load_state_dict(state["model"])
            optimiser.load_state_dict(state["optimiser"])
            history = state["history"]
            say(f"{config.id}: resumed after epoch {len(history)}")
    steps = len(training.labels) // config.batch_size
    for epoch in range(len(history), config.epochs):
        began, total = time.monotonic(), 0.0
        generator = torch.Generator().manual_seed(config.seed * 100_003 + epoch + 1)
        order = torch.randperm(len(training.labels), generator=generator)
        for step in range(steps):
            chosen = order[step * config.batch_size : (step + 1) * config.batch_size]
            x = augment(training.images[chosen], generator=generator).to(device, memory_format=torch.channels_last)
            y = training.labels[chosen].to(device)
            progress = (epoch + (step + 1) / steps) / config.epochs
            for group in optimiser.param_groups:
                group["lr"] = learning_rate(config, progress)
            with torch.autocast(device.type, torch.bfloat16, enabled=config.bf16):
                value = loss(model, x, y, eps=config.eps_value, generator=generator)
            optimiser.zero_grad(set_to_none=True)
            value.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            total += float(value.detach())
        row = {"epoch": epoch + 1, "loss": total / steps, "seconds": time.monotonic() - began}
        row |= validate(model, validation, seed=config.seed, device=device)
        model.train()
        history.append(row)
        left = sum(item["seconds"] for item in history) / len(history) * (config.epochs - epoch - 1)
        say(
            f"{config.id} epoch {epoch + 1}/{config.epochs}: loss {row['loss']:.3f}, natural {row['natural']:.1%}, "
            f"FGSM {row['fgsm']:.1%}, PGD-10 {row['pgd_10']:.1%}, {row['seconds']:.0f} s, {left / 60:.0f} min left"
        )
        folder.mkdir(parents=True, exist_ok=True)
        state = {"config": asdict(config), "model": model.state_dict(), "optimiser": optimiser.state_dict()}
        torch.save(state | {"history": history}, folder / "checkpoint.tmp")
        os.replace(folder / "checkpoint.tmp", path)
    return model.eval(), history
