"""On this machine, on this submission: our attack against the same attack of other packages, seconds and verdicts."""

from __future__ import annotations

import multiprocessing
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import Tensor

from harness.attacks import find_attack
from harness.attacks.randomness import ExampleGenerators
from harness.engine.inspection import classify, within
from harness.errors import UserError
from harness.models import ModelWorker, RemoteModel, WorkerOptions
from harness.records import ThreatModel
from harness.references import references

AUTOATTACK: tuple[tuple[str, dict[str, Any]], ...] = (
    ("apgd-ce", {"steps": 100}),
    ("apgd-t", {"steps": 100, "targets": 9}),
    ("fab-t", {"steps": 100, "targets": 9}),
    ("square", {"queries": 5000}),
)
"""Members of the standard version, each on the survivors of the one before."""
FAST: tuple[tuple[str, dict[str, Any]], ...] = (
    ("apgd-ce", {"steps": 20}),
    ("apgd-t", {"steps": 30, "targets": 9, "loss": "margin"}),
    ("square", {"queries": 100}),
)
"""Members of the suite ``fast``."""
START_TIMEOUT = 600.0
"""Seconds a process may take to load the network."""


@dataclass(frozen=True)
class Measurement:
    """What one implementation took and found."""

    seconds: float
    robust: tuple[bool, ...]
    """Per example: right, and right after the attack, in a fresh forward of the plain network."""

    @property
    def robust_accuracy(self) -> float:
        """Share of robust examples."""
        return sum(self.robust) / len(self.robust)


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
            "ours": {"seconds": mine.seconds, "robust_accuracy": mine.robust_accuracy},
            "reference": {
                name: {
                    "seconds": item.seconds,
                    "robust_accuracy": item.robust_accuracy,
                    "ratio": item.seconds / mine.seconds,
                    "only_ours_broke": sum(b and not a for a, b in zip(mine.robust, item.robust, strict=True)),
                    "only_it_broke": sum(a and not b for a, b in zip(mine.robust, item.robust, strict=True)),
                }
                for name, item in self.reference.items()
            },
            "failed": self.failed,
        }


def parse_attack(text: str) -> tuple[str, tuple[tuple[str, dict[str, Any]], ...]]:
    """From ``autoattack``, ``fast``, ``pgd-40`` or a member's name to a family and what to run; ``UserError``."""
    if text == "autoattack":
        return text, AUTOATTACK
    if text == "fast":
        return "autoattack", FAST
    name, _, steps = text.rpartition("-")
    if name in {"pgd", "deepfool", "apgd-ce", "apgd-dlr"} and steps.isdigit() and int(steps) > 0:
        return name, ((name, {"steps": int(steps)}),)
    known = {"fgsm": {}, "pgd": {"steps": 40}, "deepfool": {"steps": 50}, "apgd-dlr": {}, **dict(AUTOATTACK)}
    if text not in known:
        raise UserError(f"--attack: expected autoattack, fast, pgd-STEPS or one of {', '.join(known)}, got {text!r}")
    return text, ((text, dict(known[text])),)


@dataclass(frozen=True)
class _Hand:
    """Examples for one process, and what to attack them with; without a member it is only warmed up."""

    x: Any
    y: Any
    indices: list[int]
    """Positions among all examples."""
    member: tuple[str, dict[str, Any]] | None = None


def _attacked(model: RemoteModel, hand: _Hand, threat: ThreatModel, batch_size: int) -> tuple[Any, Any]:
    """What one member makes of a hand: images, and whether each is another class and within the budget."""
    assert hand.member is not None
    (name, params), x, y = hand.member, torch.from_numpy(hand.x), torch.from_numpy(hand.y)
    attack = find_attack(name)
    found = attack.run(
        model, x, y, eps=threat.value, norm=threat.norm, batch_size=batch_size,
        generator=ExampleGenerators.for_examples(0, f"{name}@{threat}", hand.indices), **params,
    )  # fmt: skip
    with torch.no_grad():
        fooled = classify(torch.cat([model(part) for part in torch.split(found, batch_size)])) != y
    if not attack.minimum_norm:
        fooled &= within(found - x, threat.norm, threat.value)
    return found.numpy(), fooled.numpy()


def _serve_ours(
    connection: Connection, spec: dict[str, Any], options: WorkerOptions, precision: str, threat: ThreatModel,
    batch_size: int,
) -> None:  # fmt: skip
    """One process of ours: loads the network, says so, and attacks the hands it is sent."""
    torch.set_num_threads(1)
    with ModelWorker(spec, options) as worker:
        worker.start(START_TIMEOUT)
        model = RemoteModel(worker, search="bfloat16") if precision == "mixed" else RemoteModel(worker)
        connection.send("ready")
        while (hand := connection.recv()) is not None:
            if hand.member is not None:
                connection.send(_attacked(model, hand, threat, batch_size))
                continue
            # The first pass of a batch size is slower than the others: it is not what is compared.
            leaf = torch.from_numpy(hand.x).requires_grad_()
            model(leaf).sum().backward()
            connection.send(None)


def _serve_reference(connection: Connection, spec: dict[str, Any], threads: int, job: dict[str, Any]) -> None:
    """The reference's process: the network as it is, all cores, the package's own loop."""
    from harness.worker.loading import load

    torch.set_num_threads(threads)
    try:
        network = load(spec).eval().to(job["device"])
        run = references(job["attack"], job["norm"], job["params"])[job["package"]]
        x, y = (torch.from_numpy(job[name]).to(job["device"]) for name in ("x", "y"))
        given = {"eps": job["eps"], "norm": job["norm"], "batch_size": job["batch_size"], "seed": 0}
        with torch.no_grad():
            network(x[: job["batch_size"]])
        began = time.perf_counter()
        x_adv = run(network, x, y, **given)
        seconds = time.perf_counter() - began
        connection.send((seconds, x_adv.detach().cpu().float().numpy(), ""))
    except Exception as error:
        line = traceback.format_exception_only(error)[-1].strip()
        connection.send((0.0, None, line[:300]))


def _judge(
    worker: ModelWorker, x: Tensor, y: Tensor, x_adv: Tensor, threat: ThreatModel, batch: int
) -> tuple[bool, ...]:
    """Per example: right before and after, by one judge for all; what left the budget does not count."""

    def right(images: Tensor) -> Tensor:
        return classify(torch.cat([worker.forward(part)[0] for part in torch.split(images, batch)])) == y

    allowed = within(x_adv - x, threat.norm, threat.value) & x_adv.flatten(1).isfinite().all(1)
    broken = allowed & ~right(torch.where(allowed.view(-1, 1, 1, 1), x_adv, x).clamp(0, 1))
    return tuple((right(x) & ~broken).tolist())


def compare(
    spec: dict[str, Any], x: Tensor, y: Tensor, *, attack: str, threat: ThreatModel, workers: int,
    batch_size: int = 64, reference_batch: int = 128, device: str = "cpu", precision: str = "full",
    memory_limit: int | None = None, say: Callable[[str], object] = lambda _: None,
) -> Comparison:  # fmt: skip
    """Run ``attack`` on ``x`` float32 (n, C, H, W) in [0, 1] and ``y`` int64 (n,): ours, then every installed package.

    Ours uses ``workers`` pairs of processes with one thread each; a reference gets one process with all cores, the
    network as its author wrote it and batches of ``reference_batch``. Starting processes and loading the network is
    timed for nobody. Raises ``UserError`` for an unknown attack, ``WorkerError`` when the network cannot be used.
    """
    family, members = parse_attack(attack)
    packages = references(family, threat.norm, members[-1][1])
    options = WorkerOptions(device=device, memory_limit=memory_limit)
    with ModelWorker(spec, options) as judge:
        judge.start(START_TIMEOUT)
        seconds, x_adv = _time_ours(spec, options, precision, members, threat, x, y, workers, batch_size)
        ours = Measurement(seconds, _judge(judge, x, y, x_adv, threat, batch_size))
        say(f"ours: {seconds:.1f} s, robust {ours.robust_accuracy:.1%}")
        reference: dict[str, Measurement] = {}
        failed: dict[str, str] = {}
        for package in packages:
            job = {
                "attack": family, "params": members[-1][1], "package": package, "norm": threat.norm, "device": device,
                "eps": threat.value, "batch_size": reference_batch, "x": x.numpy(), "y": y.numpy(),
            }  # fmt: skip
            seconds, found, problem = _time_reference(spec, workers, job)
            if found is None:
                failed[package] = problem
                say(f"{package}: failed: {problem}")
                continue
            reference[package] = Measurement(seconds, _judge(judge, x, y, found, threat, batch_size))
            say(f"{package}: {seconds:.1f} s, robust {reference[package].robust_accuracy:.1%}")
    return Comparison(attack, threat, len(x), ours, reference, failed)


def _time_ours(
    spec: dict[str, Any], options: WorkerOptions, precision: str, members: Sequence[tuple[str, dict[str, Any]]],
    threat: ThreatModel, x: Tensor, y: Tensor, workers: int, batch_size: int,
) -> tuple[float, Tensor]:  # fmt: skip
    """Seconds and adversarial images of ours; what is left for a member is dealt to the processes like cards."""
    context = multiprocessing.get_context("spawn")
    workers = min(workers, len(x))
    pipes, processes = [], []
    for _ in range(workers):
        near, far = context.Pipe()
        process = context.Process(
            target=_serve_ours, args=(far, spec, options, precision, threat, batch_size), daemon=False
        )
        process.start()
        far.close()
        pipes.append(near)
        processes.append(process)
    try:
        for pipe in pipes:
            _receive(pipe)
        _ask_all(pipes, [_Hand(x[:batch_size].numpy(), y[:batch_size].numpy(), []) for _ in pipes])
        x_adv, alive = x.clone(), torch.arange(len(x))
        began = time.perf_counter()
        for member in members:
            dealt = [alive[start::workers] for start in range(min(workers, len(alive)))]
            hands = [_Hand(x[rows].numpy(), y[rows].numpy(), rows.tolist(), member) for rows in dealt]
            robust = torch.ones(len(x), dtype=torch.bool)
            for rows, (found, fooled) in zip(dealt, _ask_all(pipes, hands), strict=True):
                broken = torch.from_numpy(fooled)
                x_adv[rows[broken]] = torch.from_numpy(found)[broken]
                robust[rows[broken]] = False
            alive = alive[robust[alive]]
        seconds = time.perf_counter() - began
        for pipe in pipes:
            pipe.send(None)
    finally:
        for pipe in pipes:
            pipe.close()
        for process in processes:
            process.join(5)
            process.kill()
    return seconds, x_adv


def _ask_all(pipes: Sequence[Connection], hands: Sequence[_Hand]) -> list[Any]:
    """The answers of the first processes to a hand each, at work at the same time."""
    for pipe, hand in zip(pipes, hands, strict=False):
        pipe.send(hand)
    return [_receive(pipe) for pipe, _ in zip(pipes, hands, strict=False)]


def _receive(pipe: Connection) -> Any:  # noqa: ANN401
    try:
        return pipe.recv()
    except EOFError:
        raise UserError(
            "bench: our process ended early: the submission cannot be attacked; try: harness validate"
        ) from None


def _time_reference(spec: dict[str, Any], threads: int, job: dict[str, Any]) -> tuple[float, Tensor | None, str]:
    context = multiprocessing.get_context("spawn")
    near, far = context.Pipe()
    process = context.Process(target=_serve_reference, args=(far, spec, threads, job), daemon=False)
    process.start()
    far.close()
    try:
        seconds, found, problem = near.recv()
    except EOFError:
        return 0.0, None, "its process ended early"
    finally:
        near.close()
        process.join(5)
        process.kill()
    return float(seconds), None if found is None else torch.from_numpy(found), str(problem)
