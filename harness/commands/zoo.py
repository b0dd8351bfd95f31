"""The command ``harness zoo``: the battery on models that are known to be broken or honest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.commands.arguments import (
    DATA_DIR,
    DEVICE,
    MEMORY,
    default_memory_limit,
    resolve_device,
    submission_roots,
)

if TYPE_CHECKING:
    from harness.run import Prepared, Request


@click.command()
@click.option(
    "--zoo", "folder", default=Path("tests/zoo"), show_default=True, type=click.Path(path_type=Path), metavar="DIR",
    help="Folder of models with an expected.toml.",
)  # fmt: skip
@click.option(
    "--only", multiple=True, metavar="NAME", help="Only this model and its base (may be given several times)."
)
@click.option("--suite", default="check", show_default=True, help="check, standard, deep, or a TOML file with probes.")
@click.option("--seeds", default=1, show_default=True, type=click.IntRange(1), help="Runs with seeds 0, 1, ...")
@click.option("--dataset", default="cifar10-sample", show_default=True, help="As in: harness run --help.")
@click.option("--limit", type=click.IntRange(1), help="Use the first N examples only.")
@click.option(
    "--results", default=Path("results-zoo"), show_default=True, type=click.Path(path_type=Path), metavar="DIR",
    help="Where records, matrix.json and matrix.csv are kept.",
)  # fmt: skip
@DATA_DIR
@DEVICE
@click.option("--workers", type=click.IntRange(1), help="Shards run at a time.  [default: one per core]")
@MEMORY
@click.option("--judge-only", is_flag=True, help="Judge the records that are there; run nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the matrix as JSON.")
def zoo(
    folder: Path, only: tuple[str, ...], suite: str, seeds: int, dataset: str, limit: int | None, results: Path,
    data_dir: Path | None, device: str, workers: int | None, memory_limit: int | None, judge_only: bool, as_json: bool,
) -> int:  # fmt: skip
    """Put the validity battery to the test.

    Runs it over a folder of broken and honest models and holds the verdicts against what is known of each: a table of
    models by checks. Run it again to resume. Exit code 0 when every model came out as expected, 1 when one did not.
    """
    from harness import run as runs
    from harness.engine.outcome import Settings
    from harness.zoo.expected import chosen, load_expectations
    from harness.zoo.matrix import write_matrix
    from harness.zoo.running import collect, plan_run, seeds_there

    models = chosen(load_expectations(folder), only)
    failed = False
    if not judge_only:
        device = resolve_device(device)
        workers = workers or (runs.default_workers() if device == "cpu" else 1)
        if memory_limit is None and device == "cpu":
            memory_limit = default_memory_limit(workers)
        request = runs.Request(
            ids=(), suite=suite, dataset=dataset, limit=limit, roots=submission_roots((folder,)), results=results,
            data_dir=data_dir, workers=workers, settings=Settings(device=device, memory_limit=memory_limit),
        )  # fmt: skip
        plans = [plan_run(models, request, seed) for seed in range(seeds)]
        for plan in plans:
            outcome = _run(plan.prepared, plan.request, plan.seed, quiet=as_json)
            if outcome is None:
                click.echo("\nstopped; run the same command again to go on", err=True)
                return 130
            failed = failed or not outcome
    matrix = collect(models, results, seeds_there(results) if judge_only else list(range(seeds)))
    write_matrix(results, matrix)
    if as_json:
        click.echo(json.dumps(matrix.plain(), indent=1))
    else:
        click.echo(f"\n{matrix.text()}\n{matrix.summary()}\nwritten: {results / 'matrix.json'} and matrix.csv")
    return 1 if failed or any(row.deviations for row in matrix.rows) else 0


def _run(prepared: Prepared, request: Request, seed: int, *, quiet: bool) -> bool | None:
    """Run what is left of one seed: whether every shard was done, or None when it was interrupted."""
    from harness import run as runs
    from harness.commands.progress import Progress

    done = prepared.total - len(prepared.works)
    progress = Progress(prepared, workers=request.workers, say=(lambda _: None) if quiet else click.echo)
    if not quiet:
        count = len(prepared.manifest.candidates)
        click.echo(f"seed {seed}: {count} models, {prepared.total} shards, {done} done already")
    try:
        runs.execute(prepared, request, progress, progress.hear)
    except KeyboardInterrupt:
        return None
    for line in progress.failures():
        click.echo(f"failed: {line}", err=True)
    return not progress.failed
