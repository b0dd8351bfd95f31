"""Evaluate a network that you hold in your hands: ``evaluate(model, x, y)`` in a script or a notebook.

The network runs in this process, so it must be code you trust. Everything else is what ``harness run`` does: the same
suites, engine and records, example for example. Cost is not measured, since that needs a process of its own.
"""

from __future__ import annotations

import datetime
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import pandas as pd
from torch import Tensor, nn

from harness import metrics, plan, suites
from harness.attacks import find_attack
from harness.datasets import Corrupted, Dataset
from harness.engine.corrupting import choose
from harness.engine.outcome import Settings
from harness.errors import InputError, UserError
from harness.executors.shard_process import Job, run_job
from harness.judging import Judgement, judge_candidate, threats_of
from harness.metrics import Accuracy
from harness.own import LocalHolder, check_images, check_model, dataset_of, device_of, isolated
from harness.probes import PROBES
from harness.records import DEFENCES, NORMS, Candidate, Manifest, Record, Status, Task, ThreatModel
from harness.tables import example_frame, measure_of, task_frame
from harness.ticker import Ticker
from harness.worker.in_process import copies_of

NAME = "model"
"""What the network is called in the records."""


@dataclass(frozen=True)
class Evaluation:
    """What came out; a notebook shows ``frame``."""

    frame: pd.DataFrame
    """A row per task in the order they ran: ``harness.tables.TASK_COLUMNS``; accuracies in [0, 1], NA without one."""
    examples: pd.DataFrame
    """A row per task and example: ``task`` and the fields of ``harness.records.Example``."""
    records: tuple[Record, ...]
    """What ``harness run`` would have written to disk, in order."""
    natural_accuracy: Accuracy
    """Share of examples classified as labelled."""
    robust_accuracy: Accuracy | None
    """Share that stays right under every attack of the suite; None when there was none or one has failed."""
    judgement: Judgement | None
    """What the validity battery found; None when the suite has no probes."""

    def __str__(self) -> str:
        lines = [f"natural accuracy {_told(self.natural_accuracy)}"]
        if self.robust_accuracy is not None:
            lines.append(f"robust accuracy  {_told(self.robust_accuracy)}")
        if self.judgement is not None:
            verdict = self.judgement.verdict
            lines.append(f"verdict          {verdict.word}: {verdict.sentence}")
        shown = self.frame[["task", "status", "accuracy", "low", "high", "n", "seconds"]]
        return "\n".join([*lines, shown.to_string(index=False)])

    def _repr_html_(self) -> str:
        html: str = self.frame.to_html(index=False)
        return html


def _told(found: Accuracy) -> str:
    return f"{found.value:.1%} [{found.low:.1%}, {found.high:.1%}], n = {found.n:,}"


def evaluate(
    model: nn.Module | Callable[[Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    eps: float | str | Fraction = Fraction(8, 255),
    norm: str = "Linf",
    suite: str = "quick",
    *,
    batch_size: int = 64,
    seed: int = 0,
    device: str | None = None,
    threads: int = 1,
    defence: str = "static",
    progress: bool | Callable[[str], object] = True,
) -> Evaluation:
    """Put ``model`` through ``suite`` on the images ``x`` with labels ``y``.

    ``model`` maps float32 images (N, C, H, W) in [0, 1] to logits (N, K), normalisation inside; a copy of it is used,
    in eval mode and frozen, and the global random generators are left as they were. ``x`` is float32 (N, C, H, W) in
    [0, 1], ``y`` integer (N,). ``eps`` is the budget in ``norm`` (``Linf``, ``L2``, ``L1``): ``8/255``, ``"8/255"`` or
    a ``Fraction``. ``suite`` is a name or a TOML file, ``device`` the network's own unless given, ``threads`` the
    processor threads of the network (one, as in ``harness run``: another number may change last bits). ``defence`` is
    the kind a submission card would name. ``progress`` shows a bar on standard error, or is called with its text.

    A task that fails is a row that says why. ``InputError``, a ``ValueError``, when an argument is wrong.
    """
    x = x.detach() if isinstance(x, Tensor) else x
    check_images(x, y)
    threat = _threat(norm, eps)
    for name, value, least in (("batch_size", batch_size, 1), ("threads", threads, 1), ("seed", seed, 0)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise InputError(f"{name}: expected a whole number of at least {least}, got {value!r}")
    if defence not in DEFENCES:
        raise InputError(f"defence: expected one of {', '.join(DEFENCES)}, got {defence!r}")
    where = device_of(model, device)
    network = check_model(model, x, y, where)
    data = dataset_of(x, y, classes=network.classes)
    settings = Settings(batch_size=batch_size, device=where, threads=threads, shard_timeout=float("inf"))
    planned = _planned(suite, threat, data, seed, defence)
    with tempfile.TemporaryDirectory(prefix="rampart-") as folder, isolated():
        root = Path(folder)
        manifest = _manifest(planned, data, suite, seed, network.digest)
        ticker = Ticker(plan.wanted(manifest), data.classes, progress)
        holder = LocalHolder(settings, data, copies_of(network.module))
        try:
            records = []
            for work in plan.wanted(manifest):
                ticker.starts(work.shard)
                reply = run_job(Job(work, {"id": NAME}), holder, (data, planned.corrupted), root)
                records.append(reply.record)
                ticker.ended(reply.record)
        finally:
            ticker.close()
            holder.drop()
        judgement = _judged(root, manifest)
    return _evaluation(planned.tasks, tuple(records), judgement)


@dataclass(frozen=True)
class _Planned:
    tasks: tuple[Task, ...]
    corrupted: Corrupted | None
    threat: ThreatModel


def _planned(suite: str, threat: ThreatModel, data: Dataset, seed: int, defence: str) -> _Planned:
    """The tasks of the suite that can be done in this process under this norm."""
    loaded = suites.load(suite)
    entries = suites.corruptions_in(loaded)
    corrupted = None
    if entries:
        required = not all(entry.get("optional") for entry in entries)
        corrupted, _ = choose(data, source="auto", required=required, of_a_file=True, seed=seed)
    tasks = suites.expand(
        loaded, (threat,), implementation=lambda name, norm: find_attack(name).implementation(norm),
        probe=PROBES.get, corruptions=corrupted, defence=defence,
    )  # fmt: skip
    kept = []
    for task in tasks:
        if task.kind == "cost":
            continue
        if task.attack:
            attack = find_attack(task.attack)
            if threat.norm not in attack.norms:
                continue
            attack.check_params(task.params, eps=threat.value, norm=threat.norm)
        kept.append(task)
    if not any(task.kind == "clean" for task in kept):
        raise InputError(f"suite: expected a task of the kind clean in {suite}, got none")
    return _Planned(tuple(kept), corrupted, threat)


def _manifest(planned: _Planned, data: Dataset, suite: str, seed: int, checkpoint: str) -> Manifest:
    card = {
        "id": NAME,
        "title": NAME,
        "dataset": [data.name],
        "threat_models": [{"norm": planned.threat.norm, "eps": planned.threat.eps}],
    }
    spans = tuple((start, stop, data.span_sha256(start, stop)) for start, stop in plan.spans(len(data)))
    return Manifest(
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        suite=suite,
        dataset=data.name,
        classes=data.classes,
        n=len(data),
        full=data.full,
        spans=spans,
        seed=seed,
        candidates=(Candidate(NAME, card, checkpoint, "in process", planned.tasks),),
        class_names=data.class_names,
    )


def _judged(root: Path, manifest: Manifest) -> Judgement | None:
    (candidate,) = manifest.candidates
    threats = threats_of(candidate)
    return judge_candidate(root, manifest, candidate, threats[0]) if threats else None


def _evaluation(tasks: Sequence[Task], records: tuple[Record, ...], judgement: Judgement | None) -> Evaluation:
    by_task = {task.key: [item for item in records if item.shard.task.key == task.key] for task in tasks}
    whole = {
        key: [row for record in found for row in record.examples]
        for key, found in by_task.items()
        if all(record.status is Status.OK for record in found)
    }
    if "clean" not in whole:
        failure = next(item.failure for item in by_task["clean"] if item.failure)
        raise InputError(f"model: {failure.message}")
    attacks = [task.key for task in tasks if task.kind == "attack"]
    complete = bool(attacks) and all(key in whole for key in attacks)
    return Evaluation(
        frame=task_frame(tasks, by_task),
        examples=example_frame(records),
        records=records,
        natural_accuracy=measure_of("clean")(whole["clean"]),
        robust_accuracy=metrics.worst_case(whole[key] for key in attacks) if complete else None,
        judgement=judgement,
    )


def _threat(norm: object, eps: float | str | Fraction) -> ThreatModel:
    if not isinstance(norm, str):
        raise InputError(f"norm: expected one of {', '.join(NORMS)}, got {norm!r}")
    text = _exact(eps)
    try:
        return ThreatModel.parse(norm, text)
    except UserError as error:
        raise InputError(str(error)) from None


def _exact(eps: float | str | Fraction) -> str:
    """A budget as the text of a fraction: the float 8/255 is the fraction 8/255, 0.031 the decimal."""
    if isinstance(eps, bool) or not isinstance(eps, float | int | str | Fraction):
        raise InputError(f"eps: expected a positive number such as 8/255, got {eps!r}")
    if not isinstance(eps, float):
        return str(eps)
    if not 0 < eps < float("inf"):
        raise InputError(f"eps: expected a positive number such as 8/255, got {eps}")
    near = Fraction(eps).limit_denominator(25_500)
    return str(near) if float(near) == eps else repr(eps)
