"""The processes that attack for ``harness bench``: ours, which are dealt the examples, and one for another package."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import Tensor

from harness.attacks import find_attack
from harness.attacks.randomness import ExampleGenerators
from harness.bench.recipes import Members
from harness.bench.references import references
from harness.engine.inspection import classify, within
from harness.errors import UserError
from harness.models import ModelWorker, RemoteModel, WorkerError, WorkerOptions
from harness.records import ThreatModel

START_TIMEOUT = 600.0
"""Seconds a process may take to load the network."""
PATIENCE = 5.0
"""Seconds a process that is done may take to end."""


@dataclass(frozen=True)
class _Hand:
    """Examples for one process, and what to attack them with; without a member it is only warmed up."""

    x: Any
    y: Any
    indices: list[int]
    """Positions among all examples."""
    member: tuple[str, dict[str, Any]] | None = None


@dataclass(frozen=True)
class _Problem:
    """Why one process of ours cannot go on: the text of a ``WorkerError`` with its kind, or of what else was raised."""

    text: str
    kind: str = ""


def _attacked(model: RemoteModel, hand: _Hand, threat: ThreatModel, batch_size: int) -> tuple[Any, Any]:
    """What one member makes of a hand: images, and whether each is another class and within the budget."""
    assert hand.member is not None
    (name, params), x, y = hand.member, torch.from_numpy(hand.x), torch.from_numpy(hand.y)
    attack = find_attack(name)
    found = attack.run(
        model, x, y, eps=threat.value, norm=threat.norm, batch_size=batch_size,
        generator=ExampleGenerators.for_examples(0, f"{name}@{threat}", hand.indices), **params,
    )  # fmt: skip
    decide = model.exact or model
    with torch.no_grad():
        fooled = classify(torch.cat([decide(part) for part in torch.split(found, batch_size)])) != y
    if not attack.minimises(params):
        fooled &= within(found - x, threat.norm, threat.value)
    return found.numpy(), fooled.numpy()


def _serve_ours(
    connection: Connection, spec: dict[str, Any], options: WorkerOptions, precision: str, threat: ThreatModel,
    batch_size: int,
) -> None:  # fmt: skip
    """One process of ours: loads the network, says so, attacks the hands it is sent, or says what the problem is."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    # Whoever sends the hands may be gone.
    with contextlib.suppress(EOFError, OSError):
        problem = _answer_hands(connection, spec, options, precision, threat, batch_size)
        if problem:
            connection.send(problem)


def _answer_hands(
    connection: Connection, spec: dict[str, Any], options: WorkerOptions, precision: str, threat: ThreatModel,
    batch_size: int,
) -> _Problem | None:  # fmt: skip
    """Answer hands until there are no more, or a problem ends it."""
    try:
        with ModelWorker(spec, options) as worker:
            worker.start(START_TIMEOUT)
            model = RemoteModel(worker, search="bfloat16" if precision == "mixed" else "")
            connection.send("ready")
            while (hand := connection.recv()) is not None:
                if hand.member is not None:
                    connection.send(_attacked(model, hand, threat, batch_size))
                    continue
                # The first pass of a batch size is slower than the others: it is not what is compared.
                leaf = torch.from_numpy(hand.x).requires_grad_()
                model(leaf).sum().backward()
                connection.send(None)
    except WorkerError as error:
        return _Problem(str(error), error.kind)
    except UserError as error:
        return _Problem(str(error))
    return None


def _serve_reference(connection: Connection, spec: dict[str, Any], threads: int, job: dict[str, Any]) -> None:
    """The reference's process: the network as it is, all cores, the package's own loop."""
    from harness.worker.loading import load

    signal.signal(signal.SIGINT, signal.SIG_IGN)
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


def time_ours(
    spec: dict[str, Any], options: WorkerOptions, precision: str, members: Members,
    threat: ThreatModel, x: Tensor, y: Tensor, workers: int, batch_size: int,
) -> tuple[float, Tensor]:  # fmt: skip
    """Seconds and adversarial images of ours; what is left for a member is dealt to the processes like cards.

    Raises ``WorkerError`` when the network cannot be used, ``UserError`` when an attack refuses what it is given.
    """
    context = multiprocessing.get_context("spawn")
    workers = min(workers, len(x))
    pipes, processes, patience = [], [], 0.0
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
        patience = PATIENCE
    finally:
        for pipe in pipes:
            pipe.close()
        for process in processes:
            process.join(patience)
            process.kill()
    return seconds, x_adv


def _ask_all(pipes: Sequence[Connection], hands: Sequence[_Hand]) -> list[Any]:
    """The answers of the first processes to a hand each, at work at the same time."""
    for pipe, hand in zip(pipes, hands, strict=False):
        pipe.send(hand)
    return [_receive(pipe) for pipe, _ in zip(pipes, hands, strict=False)]


def _receive(pipe: Connection) -> Any:  # noqa: ANN401
    try:
        answer = pipe.recv()
    except EOFError:
        raise UserError(
            "bench: our process ended early: the submission cannot be attacked; try: harness validate"
        ) from None
    if isinstance(answer, _Problem):
        raise WorkerError(answer.kind, answer.text) if answer.kind else UserError(answer.text)
    return answer


def time_reference(spec: dict[str, Any], threads: int, job: dict[str, Any]) -> tuple[float, Tensor | None, str]:
    """Seconds and adversarial images of another package, or None and why there are none."""
    context = multiprocessing.get_context("spawn")
    near, far = context.Pipe()
    process = context.Process(target=_serve_reference, args=(far, spec, threads, job), daemon=False)
    process.start()
    far.close()
    patience = 0.0
    try:
        seconds, found, problem = near.recv()
        patience = PATIENCE
    except EOFError:
        return 0.0, None, "its process ended early"
    finally:
        near.close()
        process.join(patience)
        process.kill()
    return float(seconds), None if found is None else torch.from_numpy(found), str(problem)
