"""The command ``harness check``: the validity battery by itself, and what it says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.arguments import (
    DATA_DIR,
    DEVICE,
    MEMORY,
    RESULTS,
    SUBMISSIONS,
    default_memory_limit,
    resolve_device,
    submission_roots,
)

if TYPE_CHECKING:
    from harness.judging import Judgement
    from harness.records import Manifest

MARKS = {"pass": "ok  ", "warn": "warn", "fail": "FAIL", "unknown": "?   ", "not-applicable": "n/a "}
"""How a finding's verdict is shown."""


@click.command()
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--suite", default="check", show_default=True, help="check, standard, deep, or a TOML file with probes.")
@click.option("--dataset", default="cifar10-sample", show_default=True, help="As in: harness run --help.")
@click.option("--limit", type=click.IntRange(1), help="Use the first N examples only.")
@SUBMISSIONS
@RESULTS
@DATA_DIR
@DEVICE
@click.option("--workers", type=click.IntRange(1), help="Shards run at a time.  [default: one per core]")
@MEMORY
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0))
@click.option("--judge-only", is_flag=True, help="Judge the records that are there; run nothing.")
@click.option("--verbose", "-v", is_flag=True, help="Also show the checks that found nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def check(
    ids: tuple[str, ...], suite: str, dataset: str, limit: int | None, roots: tuple[Path, ...], results: Path,
    data_dir: Path | None, device: str, workers: int | None, memory_limit: int | None, seed: int, judge_only: bool,
    verbose: bool, as_json: bool,
) -> int:  # fmt: skip
    """Put submissions through the validity battery.

    A short run of attacks, then every check: is the number true, and if not, what is? Exit code 0 when every
    submission is verified, 1 when one is not or something failed. New thresholds judge old records: --judge-only.
    """
    from harness import run as runs
    from harness.errors import UserError
    from harness.outcome import Settings
    from harness.progress import Progress

    device = resolve_device(device)
    workers = workers or (runs.default_workers() if device == "cpu" else 1)
    if memory_limit is None and device == "cpu":
        memory_limit = default_memory_limit(workers)
    request = runs.Request(
        ids=ids, suite=suite, dataset=dataset, limit=limit, roots=submission_roots(roots), results=results,
        data_dir=data_dir, seed=seed, workers=workers, settings=Settings(device=device, memory_limit=memory_limit),
    )  # fmt: skip
    prepared = runs.prepare(request)
    if not any(task.kind == "probe" for candidate in prepared.manifest.candidates for task in candidate.tasks):
        raise UserError(f"--suite: expected a suite with probes such as check, got {suite!r}")
    for error in prepared.unusable.values():
        click.echo(f"error: {error}", err=True)
    failed = bool(prepared.unusable)
    if not judge_only:
        progress = Progress(prepared, workers=workers, say=(lambda _: None) if as_json else click.echo)
        try:
            runs.execute(prepared, request, progress, progress.hear)
        except KeyboardInterrupt:
            click.echo(f"\nstopped after {progress.finished} shards; run the same command again to go on", err=True)
            return 130
        failed = failed or progress.failed > 0
    judgements, missing = _judged(results, prepared.manifest)
    for name in missing:
        click.echo(f"{name}: nothing to judge yet", err=True)
    if as_json:
        click.echo(json.dumps([row | judgement.plain() for row, judgement in judgements], indent=1))
    else:
        for row, judgement in judgements:
            _say(f"{row['submission']} {row['threat_model']}", judgement, verbose=verbose)
    sound = all(judgement.verdict.word in {"verified", "verified-with-note"} for _, judgement in judgements)
    return 1 if failed or missing or not sound else 0


def _judged(results: Path, manifest: Manifest) -> tuple[list[tuple[dict[str, str], Judgement]], list[str]]:
    """A judgement for every submission and threat model of a run, and the names of those without records."""
    from harness.judging import judge_candidate, threats_of

    found: list[tuple[dict[str, str], Judgement]] = []
    missing: list[str] = []
    for candidate in manifest.candidates:
        for threat in threats_of(candidate):
            judgement = judge_candidate(results, manifest, candidate, threat)
            if judgement is None:
                missing.append(f"{candidate.id} {threat}")
            else:
                found.append(({"submission": candidate.id, "threat_model": str(threat)}, judgement))
    return found, missing


def _say(name: str, judgement: Judgement, *, verbose: bool) -> None:
    """The verdict, the corrected number, flagged columns and what the checks found."""
    verdict = judgement.verdict
    low, high = verdict.corrected.low, verdict.corrected.high
    click.echo(f"\n{name}: {verdict.word.upper()} ({verdict.passed} of {verdict.total} checks)")
    click.echo(f"  {verdict.sentence}")
    claimed = f"{verdict.claimed:.1%} ({verdict.headline})" if verdict.claimed is not None else "nothing"
    click.echo(f"  claimed {claimed} -> corrected {verdict.corrected.value:.1%} [{low:.1%}, {high:.1%}]")
    for flag in verdict.columns:
        if flag.flag != "true":
            click.echo(f"  {flag.key}: {flag.flag}: {flag.sentence}")
    for item in judgement.findings:
        if verbose or item.verdict not in {"pass", "not-applicable"}:
            click.echo(f"    {MARKS[item.verdict]} {item.check:<6} {item.title}: {item.evidence}")
