"""Train one configuration: deterministic by seed, checkpointed and resumable after every epoch."""

import importlib
import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from submissions.recipes.config import Config, ConfigError
from submissions.recipes.cost import Operations, forward_operations
from submissions.recipes.data import Split, augment, fingerprint
from submissions.recipes.layout import training_layout
from submissions.recipes.method import Batch, Method, method, sgd
from submissions.recipes.perturb import ascend, attackable, uniform_start

VALIDATION_EPS = 8 / 255
"""Linf budget of the validation attacks."""
QUIET_SECONDS = 30.0
"""Longest time without a line of progress."""

History = list[dict[str, float]]


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
    """The rate after the share ``progress`` of the training.

    ``one-cycle``: linear from 0 to the peak over the first 40 %, then linear back to 0; ``step``: a tenth after each
    milestone; ``cosine``: half a cosine from the peak to 0.
    """
    if config.schedule == "step":
        return config.lr * 0.1 ** sum(progress * config.epochs > epoch for epoch in config.milestones)
    if config.schedule == "cosine":
        return config.lr * (1 + math.cos(math.pi * progress)) / 2
    return config.lr * (progress / 0.4 if progress < 0.4 else (1 - progress) / 0.6)


class Run:
    """A training under way: what a checkpoint holds, and how it is written and read back."""

    def __init__(self, config: Config, *, folder: Path, device: torch.device, data: str = "") -> None:
        self.config, self.device, self.path, self.data = config, device, folder / "checkpoint.pt", data
        model = build(config)
        self.layout = training_layout(model, device)
        self.model = model.to(device, memory_format=self.layout).train()  # type: ignore[call-overload]
        self.optimiser = sgd(self.model, lr=config.lr, weight_decay=config.weight_decay)
        self.method: Method = method(self.model, self.optimiser, config)
        self.history: History = []
        self.best: dict[str, Tensor] = {}

    def restore(self) -> bool:
        """Go back to the checkpoint if there is one; ``ConfigError`` when it is of another configuration or data."""
        if not self.path.exists():
            return False
        state = torch.load(self.path, weights_only=True, map_location=self.device)
        found, mine = asdict(Config(**state["config"])), asdict(self.config)
        other = [f"{name} {found[name]!r}, now {mine[name]!r}" for name in mine if found[name] != mine[name]]
        if state.get("data", self.data) != self.data:
            other.append("other training images")
        if other:
            raise ConfigError(
                f"{self.path}: expected a checkpoint of this training, got one with {'; '.join(other)}: delete it to "
                "start over, or choose another folder with --work"
            )
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.method.load_state_dict(state.get("method", {}))
        self.history, self.best = state["history"], state.get("best", {})
        return True

    def save(self) -> None:
        """Write the checkpoint under another name first, so that a stop leaves the old one whole."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        state = {"config": asdict(self.config), "data": self.data, "model": self.model.state_dict()}
        state |= {"optimiser": self.optimiser.state_dict(), "method": self.method.state_dict()}
        torch.save(state | {"history": self.history, "best": self.best}, self.path.with_suffix(".tmp"))
        os.replace(self.path.with_suffix(".tmp"), self.path)

    def record(self, row: dict[str, float]) -> None:
        """Add an epoch's figures and remember the network if it is the best so far."""
        self.history.append(row)
        if self.config.selection == "best" and row["pgd_10"] == max(item["pgd_10"] for item in self.history):
            state = self.method.published().state_dict()
            self.best = {name: tensor.detach().clone() for name, tensor in state.items()}

    def result(self) -> nn.Module:
        """The network to publish, in evaluation mode."""
        model = self.method.published()
        if self.best:
            model.load_state_dict(self.best)
        if self.config.weights == "float16":
            for tensor in model.state_dict().values():
                tensor.copy_(tensor.half()) if tensor.is_floating_point() else None
        return model.eval()

    def batch(self, training: Split, epoch: int, steps: int, step: int, chosen: Tensor, draw: torch.Generator) -> Batch:
        """The augmented images of one step, with the optimiser's learning rate set for it."""
        images = training.images[chosen]
        x = augment(images, generator=draw).to(self.device, memory_format=self.layout)
        progress = (epoch + (step + 1) / steps) / self.config.epochs
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.config, progress)
        y = training.labels[chosen].to(self.device)
        return Batch(images, x, y, draw, epoch, epoch * steps + step, progress)

    def passes(self, batch: Batch) -> tuple[float, float]:
        """Learn from ``batch`` and count: (loss, operations in units of one forward pass per image)."""
        with Operations() as counter:
            value = self.method.update(batch)
        return value, counter.total / (forward_operations(self.model, batch.x) * len(batch.x))


def _epoch(run: Run, training: Split, epoch: int, say: Callable[[str], None]) -> dict[str, float]:
    config, began, total, passes = run.config, time.monotonic(), 0.0, 0.0
    steps, said = len(training.labels) // config.batch_size, time.monotonic()
    generator = torch.Generator().manual_seed(config.seed * 100_003 + epoch + 1)
    torch.manual_seed(config.seed * 100_003 + epoch + 1)
    order = torch.randperm(len(training.labels), generator=generator)
    for step in range(steps):
        chosen = order[step * config.batch_size : (step + 1) * config.batch_size]
        batch = run.batch(training, epoch, steps, step, chosen, generator)
        if step == min(1, steps - 1):
            value, passes = run.passes(batch)
        else:
            value = run.method.update(batch)
        total += value
        if time.monotonic() - said > QUIET_SECONDS and step + 1 < steps:
            said = time.monotonic()
            left = (said - began) / (step + 1) * (steps * (config.epochs - epoch) - step - 1)
            say(f"{config.id} epoch {epoch + 1}/{config.epochs}, step {step + 1}/{steps}: {left / 60:.0f} min left")
    return {
        "epoch": epoch + 1, "loss": total / steps, "forward_equivalents": round(passes, 2),
        "seconds": time.monotonic() - began,
    } | run.method.figures()  # fmt: skip


def train(
    config: Config,
    training: Split,
    validation: Split,
    *,
    folder: Path,
    device: torch.device,
    say: Callable[[str], None] = print,
) -> tuple[nn.Module, History]:
    """Train and return (network in evaluation mode, one row of figures per epoch).

    ``folder`` receives ``checkpoint.pt`` after every epoch; the same call resumes from it. Every random draw depends on
    the seed, the epoch and the step alone, so on a processor, with as many threads, the result is that of a run that
    was never stopped. ``ConfigError`` when the checkpoint is of another configuration or other images.
    """
    if config.batch_size > len(training.labels):
        raise ConfigError(
            f"batch_size: expected at most {len(training.labels):,} training images, got {config.batch_size}"
        )
    run = Run(config, folder=folder, device=device, data=fingerprint(training, validation))
    if run.restore():
        say(f"{config.id}: resumed after epoch {len(run.history)}")
    for epoch in range(len(run.history), config.epochs):
        row = _epoch(run, training, epoch, say)
        run.method.end_epoch(epoch + 1, _draws(run, training))
        row |= validate(run.method.published(), validation, seed=config.seed, device=device)
        run.model.train()
        run.record(row)
        left = sum(item["seconds"] for item in run.history) / len(run.history) * (config.epochs - epoch - 1)
        say(
            f"{config.id} epoch {epoch + 1}/{config.epochs}: loss {row['loss']:.3f}, natural {row['natural']:.1%}, "
            f"FGSM {row['fgsm']:.1%}, PGD-10 {row['pgd_10']:.1%}, {row['seconds']:.0f} s, {left / 60:.0f} min left"
        )
        run.save()
    return run.result(), run.history


def _draws(run: Run, training: Split) -> Callable[[int], Tensor]:
    def draw(index: int) -> Tensor:
        generator = torch.Generator().manual_seed(run.config.seed * 100_003 + index)
        chosen = torch.randint(0, len(training.labels), (run.config.batch_size,), generator=generator)
        return augment(training.images[chosen], generator=generator).to(run.device, memory_format=run.layout)

    return draw
