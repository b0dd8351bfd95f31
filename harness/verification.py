"""Check stored adversarial examples again: predictions, box, norm, and that they are the ones the record speaks of."""

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as unpack

from harness import datasets, plan, store
from harness.datasets import Dataset
from harness.engine.inspection import classify, distance, within
from harness.errors import UnknownNameError, UserError
from harness.models import ModelWorker, WorkerError, WorkerOptions
from harness.plan import State, Work
from harness.records import Candidate, Manifest, Record, Status
from harness.submission import Discovery, discover


@dataclass(frozen=True)
class Verdict:
    """What checking one shard again showed."""

    work: Work
    examples: int
    """Adversarial examples checked."""
    problems: tuple[str, ...]
    """Empty when everything holds."""
    missing: bool = False
    """The record is fine but its adversarial examples are not on this machine."""


def verify(results: Path, work: Work, record: Record, *, dataset: Dataset, worker: ModelWorker) -> Verdict:
    """Check the adversarial examples of one record against the data set, the budget and the network.

    A prediction that a record calls changed must be wrong again, in another batch than the one it was found in.
    """
    shard, task = work.shard, work.shard.task
    if record.status is not Status.OK or not record.adversarial_sha256 or task.threat is None:
        return Verdict(work, 0, ())
    path = store.adversarial_path(results, shard)
    if not path.exists():
        return Verdict(work, 0, (), missing=True)
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != record.adversarial_sha256:
        return Verdict(work, 0, (f"{path.name}: not the file the record was written with (sha256 differs)",))
    try:
        stored = unpack(content)
        indices, x_adv = stored["indices"], stored["x_adv"]
    except (SafetensorError, KeyError) as error:
        return Verdict(work, 0, (f"{path.name}: {type(error).__name__}: {error}",))
    x, _ = dataset.tensors(shard.start, shard.stop)
    rows = indices - shard.start
    problems: list[str] = []
    if not bool(x_adv.isfinite().all()) or float(x_adv.min()) < 0 or float(x_adv.max()) > 1:
        problems.append(f"pixels outside [0, 1]: [{float(x_adv.min()):.9g}, {float(x_adv.max()):.9g}]")
    delta = x_adv - x[rows]
    inside = within(delta, task.threat.norm, task.threat.value)
    claimed = [record.examples[int(row)] for row in rows]
    fallen = torch.tensor([example.adversarial_prediction != example.clean_prediction for example in claimed])
    if bool((fallen & ~inside).any()):
        worst = float(distance(delta, task.threat.norm)[fallen & ~inside].max())
        problems.append(f"{int((fallen & ~inside).sum())} outside the budget, farthest {worst:.9g}")
    recorded = torch.tensor([example.linf for example in claimed], dtype=torch.float64)
    far = (distance(delta, "Linf") - recorded).abs() > 1e-6
    far &= recorded.isfinite()
    if bool(far.any()):
        problems.append(f"{int(far.sum())} recorded distances differ from the stored images")
    try:
        predictions = classify(torch.cat([worker.forward(part)[0] for part in torch.split(x_adv, 50)]))
    except WorkerError as error:
        return Verdict(work, len(rows), (*problems, f"the model failed: {error}"))
    expected = torch.tensor([example.adversarial_prediction for example in claimed])
    wrong = fallen & (predictions != expected)
    if bool(wrong.any()):
        problems.append(f"{int(wrong.sum())} of {int(fallen.sum())} predictions differ from the record")
    return Verdict(work, len(rows), tuple(problems))


def _targets(results: Path, ids: Sequence[str]) -> list[tuple[Manifest, Candidate]]:
    """The newest manifest of every (data set, n, submission), restricted to ``ids``."""
    newest: dict[tuple[str, int, str], list[tuple[Manifest, Candidate]]] = {}
    for manifest in store.read_manifests(results):
        for candidate in manifest.candidates:
            newest.setdefault((manifest.dataset, manifest.n, candidate.id), []).append((manifest, candidate))
    known = {name for _, _, name in newest}
    if not known:
        raise UserError(f"{results}: expected a results folder with runs in it; make one with: harness run")
    for name in ids:
        if name not in known:
            raise UnknownNameError("submission in these results", name, known)
    return [pair for key, pairs in newest.items() if not ids or key[2] in ids for pair in pairs]


def _verify_candidate(
    results: Path,
    manifest: Manifest,
    candidate: Candidate,
    *,
    dataset: Dataset,
    found: Discovery,
    options: WorkerOptions,
    timeout: float,
) -> list[Verdict]:
    works = []
    for work in plan.work_of(manifest, candidate):
        record = store.find_record(results, work.shard)
        if record is not None and plan.state(work, record) is State.DONE:
            works.append((work, record))
    if not works:
        return []
    if candidate.id not in found.submissions:
        return [
            Verdict(
                works[0][0], 0, (f"{candidate.id}: the submission is not there; add its folder with --submissions",)
            )
        ]
    submission = found.submissions[candidate.id]
    if (submission.checkpoint_sha256(), submission.source_sha256()) != (candidate.checkpoint, candidate.source):
        return [Verdict(works[0][0], 0, (f"{candidate.id}: not the submission the records were made with",))]
    verdicts: list[Verdict] = []
    try:
        with ModelWorker(submission.spec(), options) as worker:
            worker.start(timeout)
            for work, record in works:
                worker.deadline = time.monotonic() + timeout
                verdicts.append(verify(results, work, record, dataset=dataset, worker=worker))
    except WorkerError as error:
        verdicts.append(Verdict(works[0][0], 0, (f"{candidate.id}: {error}",)))
    return verdicts


def verify_results(
    results: Path,
    *,
    ids: Sequence[str],
    roots: Sequence[Path],
    data_dir: Path | None,
    source: str | None,
    options: WorkerOptions,
    timeout: float,
    say: Callable[[str], object],
) -> bool:
    """Check every stored adversarial example below ``results``; one line per submission and per problem.

    ``source`` replaces the data set's name where its images lie elsewhere; their hash decides whether they are the
    ones of the run. Returns whether everything held. ``UserError`` when there is nothing to check.
    """
    found = discover(roots)
    everything = True
    for manifest, candidate in _targets(results, ids):
        dataset = datasets.load(source or manifest.dataset, data_dir=data_dir, limit=manifest.n)
        start, stop, digest = manifest.spans[0]
        if dataset.span_sha256(start, stop) != digest:
            raise UserError(f"{source or manifest.dataset}: expected the images of the run in {results}, got others")
        verdicts = _verify_candidate(
            results, manifest, candidate, dataset=dataset, found=found, options=options, timeout=timeout
        )
        say(f"{candidate.id} on {manifest.n} of {manifest.dataset}: {summarise(verdicts)}")
        for verdict in verdicts:
            for problem in verdict.problems:
                everything = False
                say(f"  {verdict.work.shard.task.key} from {verdict.work.shard.start}: {problem}")
    return everything


def summarise(verdicts: Sequence[Verdict]) -> str:
    """One line: how much was checked and whether it holds."""
    checked = sum(verdict.examples for verdict in verdicts)
    bad = sum(bool(verdict.problems) for verdict in verdicts)
    missing = sum(verdict.missing for verdict in verdicts)
    line = f"{checked} adversarial examples of {len(verdicts)} shards checked, {bad} shards with problems"
    return line + (f", {missing} shards without stored examples" if missing else "")
