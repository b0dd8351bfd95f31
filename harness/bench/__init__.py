"""On this machine, on this submission: our attack against the same attack of other packages, seconds and verdicts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from harness.attacks.inputs import check_labels
from harness.bench.processes import START_TIMEOUT, time_ours, time_reference
from harness.bench.recipes import parse_attack
from harness.bench.references import references
from harness.engine.inspection import classify, within
from harness.engine.layouts import logits_of
from harness.models import ModelWorker, WorkerOptions
from harness.records import ThreatModel

OURS = "ours"


@dataclass(frozen=True)
class Measurement:
    """What one implementation took and found."""

    turns: tuple[float, ...]
    """Seconds of every turn."""
    robust: tuple[bool, ...]
    """Per example: right, and right after the attack, in a fresh forward of the plain network."""

    @property
    def seconds(self) -> float:
        """Mean of the turns."""
        return sum(self.turns) / len(self.turns)

    @property
    def robust_accuracy(self) -> float:
        """Share of robust examples."""
        return sum(self.robust) / len(self.robust)

    def plain(self) -> dict[str, Any]:
        """Plain data for JSON; the turns by themselves where there were several."""
        turns = {"turns": [*self.turns]} if len(self.turns) > 1 else {}
        return {"seconds": self.seconds, "robust_accuracy": self.robust_accuracy} | turns


@dataclass(frozen=True)
class Comparison:
    """Ours beside the references on the same examples."""

    attack: str
    threat: ThreatModel
    n: int
    ours: Measurement
    reference: dict[str, Measurement] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    """Why a package has no measurement."""

    def plain(self) -> dict[str, Any]:
        """Plain data for JSON."""
        mine = self.ours
        return {
            "attack": self.attack,
            "threat_model": str(self.threat),
            "n": self.n,
            "ours": mine.plain(),
            "reference": {
                name: item.plain()
                | {
                    "ratio": item.seconds / mine.seconds,
                    "only_ours_broke": sum(b and not a for a, b in zip(mine.robust, item.robust, strict=True)),
                    "only_it_broke": sum(a and not b for a, b in zip(mine.robust, item.robust, strict=True)),
                }
                for name, item in self.reference.items()
            },
            "failed": self.failed,
        }


def _judge(
    worker: ModelWorker, x: Tensor, y: Tensor, right: Tensor, x_adv: Tensor, threat: ThreatModel, batch: int
) -> tuple[bool, ...]:
    """Per example: ``right`` and still so after, by one judge for all; what left the budget does not count."""
    allowed = within(x_adv - x, threat.norm, threat.value) & x_adv.flatten(1).isfinite().all(1)
    images = torch.where(allowed.view(-1, 1, 1, 1), x_adv, x).clamp(0, 1)
    broken = allowed & (classify(logits_of(worker, images, batch)) != y)
    return tuple((right & ~broken).tolist())


def compare(
    spec: dict[str, Any], x: Tensor, y: Tensor, *, attack: str, threat: ThreatModel, workers: int,
    batch_size: int = 64, reference_batch: int = 128, device: str = "cpu", precision: str = "full",
    memory_limit: int | None = None, turns: int = 1, say: Callable[[str], object] = lambda _: None,
) -> Comparison:  # fmt: skip
    """Run ``attack`` on ``x`` float32 (n, C, H, W) in [0, 1] and ``y`` int64 (n,): ours, then every installed package.

    Ours uses ``workers`` pairs of processes with one thread each; a reference gets one process with all cores, the
    network as its author wrote it and batches of ``reference_batch``. Starting processes and loading the network is
    timed for nobody. With more ``turns`` ours and the others are run so often, one after the other, which evens out
    a machine that is slower at times. Raises ``UserError`` for an unknown attack, one that is not there in this norm
    and labels without a logit, ``WorkerError`` when the network cannot be used.
    """
    family, members = parse_attack(attack, threat)
    packages = references(family, threat.norm, members[-1][1])
    channels, height, width = x.shape[1:]
    options = WorkerOptions(device=device, memory_limit=memory_limit, image_shape=(channels, height, width))
    job = {
        "attack": family, "params": members[-1][1], "norm": threat.norm, "device": device, "eps": threat.value,
        "batch_size": reference_batch, "x": x.numpy(), "y": y.numpy(),
    }  # fmt: skip
    found: dict[str, Measurement] = {}
    failed: dict[str, str] = {}
    with ModelWorker(spec, options) as judge:
        judge.start(START_TIMEOUT)
        logits = logits_of(judge, x, batch_size)
        check_labels(attack, logits, y)
        right = classify(logits) == y

        def note(name: str, seconds: float, x_adv: Tensor) -> None:
            before = found[name].turns if name in found else ()
            found[name] = Measurement((*before, seconds), _judge(judge, x, y, right, x_adv, threat, batch_size))
            say(f"{name}: {seconds:.1f} s, robust {found[name].robust_accuracy:.1%}")

        for _ in range(turns):
            note(OURS, *time_ours(spec, options, precision, members, threat, x, y, workers, batch_size))
            for package in packages:
                if package in failed:
                    continue
                seconds, x_adv, problem = time_reference(spec, workers, job | {"package": package})
                if x_adv is None:
                    failed[package] = problem
                    say(f"{package}: failed: {problem}")
                else:
                    note(package, seconds, x_adv)
    reference = {name: found[name] for name in packages if name in found and name not in failed}
    return Comparison(attack, threat, len(x), found[OURS], reference, failed)
