"""The command ``harness check``: the validity battery by itself, and what it says."""

from __future__ import annotations

import json
from pathlib import Path

import click

from harness.commands.arguments import (
    DATA_DIR,
    DEVICE,
    MEMORY,
    RESULTS,
    SUBMISSIONS,
    default_memory_limit,
    resolve_device,
    submission_roots,
)


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
    from harness.commands.progress import Progress
    from harness.commands.telling import judgements, told
    from harness.engine.outcome import Settings
    from harness.errors import UserError
    from harness.judging import clean_absent

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
        for note in prepared.notes:
            click.echo(f"note: {note}", err=as_json)
        progress = Progress(prepared, workers=workers, say=(lambda _: None) if as_json else click.echo)
        try:
            runs.execute(prepared, request, progress, progress.hear)
        except KeyboardInterrupt:
            click.echo(f"\nstopped after {progress.finished} shards; run the same command again to go on", err=True)
            return 130
        failed = failed or progress.failed > 0
    found = []
    for name, threat, judgement in judgements(results, prepared.manifest):
        if judgement is None:
            why = clean_absent(results, prepared.manifest, name)
            click.echo(
                f"{name} {threat}: nothing to judge: clean: {why}" + judge_only * "; run it without --judge-only",
                err=True,
            )
            failed = True
            continue
        found.append({"submission": name, "threat_model": str(threat), **judgement.plain()})
        failed = failed or judgement.verdict.word not in {"verified", "verified-with-note"}
        if not as_json:
            click.echo("\n".join(["", *told(f"{name} {threat}", judgement, verbose=verbose)]))
    if as_json:
        click.echo(json.dumps(found, indent=1))
    return 1 if failed else 0
