"""The command line: the only file of the harness that prints or exits."""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from harness import __version__
from harness.commands.arguments import (
    DATA_DIR,
    DEVICE,
    MEMORY,
    RESULTS,
    SOURCES,
    SUBMISSIONS,
    THREADS,
    Threat,
    default_memory_limit,
    precision_note,
    resolve_device,
    submission_roots,
)
from harness.commands.bench import bench
from harness.commands.check import check
from harness.commands.importing import import_
from harness.commands.zoo import zoo
from harness.errors import UserError
from harness.records import ThreatModel

RESUME = "run the same command again to go on"


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="harness")
def app() -> None:
    """Evaluate the adversarial robustness of submissions.

    A submission is a folder with a card (submission.toml). Start with: harness run
    """


@app.command("list")
@SUBMISSIONS
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_(roots: tuple[Path, ...], as_json: bool) -> int:
    """List the submissions found.

    A folder with a card that cannot be used is listed with the reason.
    """
    from harness.submission import discover

    found = discover(submission_roots(roots))
    rows: list[dict[str, Any]] = [
        {
            "id": item.id,
            "title": item.card.title,
            "datasets": list(item.card.datasets),
            "threat_models": [{"norm": threat.norm, "eps": threat.eps} for threat in item.card.threats],
            "folder": str(item.folder),
            "error": None,
        }
        for _, item in sorted(found.submissions.items())
    ]
    rows += [{"id": name, "error": str(error)} for name, error in sorted(found.problems.items())]
    if as_json:
        click.echo(json.dumps(rows, indent=1))
    else:
        width = max((len(str(row["id"])) for row in rows), default=2)
        for row in rows:
            if row["error"]:
                click.echo(f"{row['id']:<{width}}  cannot be used: {row['error']}")
            else:
                threats = " ".join(f"{threat['norm']}:{threat['eps']}" for threat in row["threat_models"])
                click.echo(f"{row['id']:<{width}}  {','.join(row['datasets']):<10} {threats:<14} {row['title']}")
        click.echo(f"{len(found.submissions)} submissions, {len(found.problems)} with problems")
    return 1 if found.problems else 0


@app.command()
@click.argument("id")
@click.option("--into", type=click.Path(path_type=Path), metavar="DIR", help="Folder to make it in.")
@click.option("--dataset", default="cifar10", show_default=True, help="Data set the model is made for.")
def new(id: str, into: Path | None, dataset: str) -> int:
    """Make a folder for a new submission.

    It holds a small network and a commented card, and passes validation as it is.
    """
    from harness.submission import create, default_roots

    folder = create(id, into or default_roots()[0], dataset=dataset)
    extra = f" --submissions {into}" if into else ""
    click.echo(f"made {folder}\nnext: put your network into {folder / 'model.py'}, then: harness validate {id}{extra}")
    return 0


@app.command()
@click.argument("ids", nargs=-1, metavar="[ID]...")
@SUBMISSIONS
@DEVICE
@MEMORY
@click.option("--timeout", default=120.0, show_default=True, type=click.FloatRange(0, min_open=True), help="Seconds.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def validate(
    ids: tuple[str, ...], roots: tuple[Path, ...], device: str, memory_limit: int | None, timeout: float, as_json: bool
) -> int:
    """Check that submissions can be evaluated.

    Takes seconds, and says exactly what to fix. Without an ID every submission is checked.
    """
    from harness.errors import UnknownNameError
    from harness.models import WorkerOptions
    from harness.submission import discover
    from harness.validate import Check
    from harness.validate import validate as examine

    found = discover(submission_roots(roots))
    options = WorkerOptions(device=resolve_device(device), memory_limit=memory_limit or default_memory_limit(1))
    outcome: dict[str, list[Check]] = {}
    for name in ids or sorted([*found.submissions, *found.problems]):
        if name in found.problems:
            outcome[name] = [Check("card", False, str(found.problems[name]))]
        elif name in found.submissions:
            outcome[name] = examine(found.submissions[name], options=options, timeout=timeout)
        else:
            raise UnknownNameError("submission", name, [*found.submissions, *found.problems])
    if as_json:
        click.echo(json.dumps({name: [asdict(item) for item in checks] for name, checks in outcome.items()}, indent=1))
    else:
        for name, checks in outcome.items():
            click.echo(f"{name}: {'valid' if all(item.ok for item in checks) else 'NOT valid'}")
            for item in checks:
                click.echo(f"  {'ok  ' if item.ok else 'FAIL'} {item.name}: {item.message}")
    return 0 if all(item.ok for checks in outcome.values() for item in checks) else 1


@app.command()
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--suite", default="quick", show_default=True, help="quick, standard, corruptions ..., or a TOML file.")
@click.option(
    "--dataset", default="cifar10-sample", show_default=True,
    help="cifar10, cifar100, cifar10-sample, cifar100-sample, mnist, svhn or npz:FILE.",
)  # fmt: skip
@click.option("--limit", type=click.IntRange(1), help="Evaluate the first N examples only.")
@click.option("--threat", "threats", multiple=True, type=Threat(), help="Instead of the card's, e.g. Linf:8/255.")
@click.option("--attack", "only", multiple=True, metavar="TASK", help="Run only this task of the suite, e.g. pgd-20.")
@SUBMISSIONS
@RESULTS
@DATA_DIR
@click.option("--batch-size", default=64, show_default=True, type=click.IntRange(1))
@DEVICE
@click.option("--workers", type=click.IntRange(1), help="Shards run at a time.  [default: one per core]")
@THREADS
@MEMORY
@click.option(
    "--shard-timeout", default=7200.0, show_default=True, type=click.FloatRange(0, min_open=True),
    help="Seconds a shard may take.",
)  # fmt: skip
@click.option(
    "--implementation", type=click.Choice(["own", "reference"]), default="own", show_default=True,
    help="Whose members of AutoAttack: ours, or pyautoattack's.",
)  # fmt: skip
@click.option(
    "--precision", type=click.Choice(["full", "mixed"]), default="full", show_default=True,
    help="mixed: attacks search in bfloat16, every success is decided in float32.",
)  # fmt: skip
@click.option(
    "--corruptions", type=click.Choice(SOURCES), default="auto", show_default=True,
    help="Corrupted images: the official archive (downloads 2.9 GB), drawn ones, or the archive where it is there.",
)  # fmt: skip
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0))
def run(
    ids: tuple[str, ...], suite: str, dataset: str, limit: int | None, threats: tuple[ThreatModel, ...],
    only: tuple[str, ...], roots: tuple[Path, ...], results: Path, data_dir: Path | None, batch_size: int, device: str,
    workers: int | None, threads: int, memory_limit: int | None, shard_timeout: float, implementation: str,
    precision: str, corruptions: str, seed: int,
) -> int:  # fmt: skip
    """Evaluate submissions; run it again to resume.

    Without an ID every submission that fits the data set is evaluated. Shards whose records are there are not run
    again; failed ones are. Exit code: 0 all done, 1 something failed and the rest is done, 2 the command was wrong.
    """
    from harness import run as runs
    from harness.commands.progress import Progress, download_progress
    from harness.commands.telling import judgements, told
    from harness.engine.outcome import Settings

    device = resolve_device(device)
    workers = workers or (runs.default_workers() if device == "cpu" else 1)
    if memory_limit is None and device == "cpu":
        memory_limit = default_memory_limit(workers)
    request = runs.Request(
        ids=ids, suite=suite, dataset=dataset, limit=limit, threats=threats, only=only, roots=submission_roots(roots),
        results=results, data_dir=data_dir, seed=seed,
        workers=workers, implementation=implementation, precision=precision, corruptions=corruptions,
        progress=download_progress(click.echo),
        settings=Settings(batch_size, device, threads, memory_limit, shard_timeout),
    )  # fmt: skip
    prepared = runs.prepare(request)
    for note in filter(None, [*prepared.notes, precision_note(precision, device)]):
        click.echo(f"note: {note}")
    for error in prepared.unusable.values():
        click.echo(f"error: {error}", err=True)
    done = prepared.total - len(prepared.works)
    click.echo(
        f"{len(prepared.manifest.candidates)} submissions, suite {prepared.manifest.suite}, {prepared.manifest.n} of "
        f"{prepared.manifest.full} images of {prepared.manifest.dataset}: {prepared.total} shards, {done} done already"
    )
    progress = Progress(prepared, workers=request.workers, say=click.echo)
    began = time.monotonic()
    try:
        runs.execute(prepared, request, progress, progress.hear)
    except KeyboardInterrupt:
        click.echo(f"\nstopped after {progress.finished} shards; {RESUME}", err=True)
        return 130
    click.echo(progress.table(results))
    for name, threat, judgement in judgements(results, prepared.manifest):
        if judgement is not None:
            click.echo("\n".join(["", *told(f"{name} {threat}", judgement)]))
    failed = progress.failed
    for line in progress.failures():
        click.echo(f"failed: {line}", err=True)
    took = time.monotonic() - began
    click.echo(f"{progress.finished - failed} shards done, {failed} failed in {took:.0f} s; records in {results}")
    click.echo(
        f"next: leaderboard build --results {results}" if not failed else f"to try the failed ones again, {RESUME}"
    )
    return 1 if failed or prepared.unusable else 0


@app.command()
@RESULTS
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def status(results: Path, as_json: bool) -> int:
    """Show how far the runs have come."""
    from harness import store
    from harness.commands.progress import duration
    from harness.plan import State
    from harness.run import standing

    manifests = store.read_manifests(results)
    if not manifests:
        raise UserError(
            f"{results}: expected a results folder with runs in it; make one with: harness run --results {results}"
        )
    rows = []
    for manifest in manifests:
        now = standing(results, manifest)
        rows.append(
            {
                "created": manifest.created,
                "suite": manifest.suite,
                "dataset": manifest.dataset,
                "n": manifest.n,
                "submissions": [candidate.id for candidate in manifest.candidates],
                "counts": {state.value: count for state, count in now.counts.items()},
                "eta_worker_seconds": now.eta_seconds,
                "failures": [
                    {"submission": item.shard.submission, "task": item.shard.task.key, "start": item.shard.start,
                     "kind": item.failure.kind, "message": item.failure.message}
                    for item in now.failures if item.failure
                ],
            }
        )  # fmt: skip
    if as_json:
        click.echo(json.dumps(rows, indent=1))
        return 0
    for row in rows:
        counts: dict[str, int] = row["counts"]  # type: ignore[assignment]
        parts = ", ".join(f"{counts[state.value]} {state.value}" for state in State)
        eta = row["eta_worker_seconds"]
        names = row["submissions"]
        assert isinstance(names, list)
        left = f", about {duration(float(str(eta)))} of one worker left" if eta else ""
        click.echo(f"{row['suite']} on {row['n']} of {row['dataset']}, {len(names)} submissions: {parts}{left}")
        failures = row["failures"]
        assert isinstance(failures, list)
        for failure in failures:
            click.echo(
                f"  failed: {failure['submission']} {failure['task']} from {failure['start']}: {failure['message']}"
            )
    return 0


@app.command()
@click.argument("ids", nargs=-1, metavar="[ID]...")
@SUBMISSIONS
@RESULTS
@DATA_DIR
@click.option(
    "--dataset", "source", help="Where to take the images from, e.g. npz:FILE.  [default: the run's data set]"
)
@DEVICE
@MEMORY
@click.option("--timeout", default=600.0, show_default=True, type=click.FloatRange(0, min_open=True), help="Seconds.")
def verify(
    ids: tuple[str, ...], roots: tuple[Path, ...], results: Path, data_dir: Path | None, source: str | None,
    device: str, memory_limit: int | None, timeout: float,
) -> int:  # fmt: skip
    """Check stored adversarial examples again.

    Predictions, box and norm of every example that lies beside a record of the newest runs.
    """
    from harness import verification
    from harness.models import WorkerOptions

    options = WorkerOptions(device=resolve_device(device), memory_limit=memory_limit or default_memory_limit(1))
    holds = verification.verify_results(
        results, ids=ids, roots=submission_roots(roots), data_dir=data_dir, source=source, options=options,
        timeout=timeout, say=click.echo,
    )  # fmt: skip
    return 0 if holds else 1


app.add_command(bench)
app.add_command(check)
app.add_command(import_, "import")
app.add_command(zoo)


def main(argv: list[str] | None = None) -> int:
    """Run the command line; every problem a user can mend is one line on standard error. Returns the exit code."""
    try:
        code = app.main(args=argv, prog_name="harness", standalone_mode=False)
    except click.ClickException as error:
        hint = ""
        if isinstance(error, click.UsageError) and error.ctx is not None:
            hint = f" (see: {error.ctx.command_path} --help)"
        click.echo(f"error: {error.format_message()}{hint}", err=True)
        return 2
    except UserError as error:
        click.echo(f"error: {error}", err=True)
        return 2
    except BrokenPipeError:
        # The reader of a pipe, e.g. head, has gone; nothing more can be said to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (KeyboardInterrupt, click.Abort):
        # A run says itself that it can go on; here nothing is known to be kept.
        click.echo("stopped; the same command can be run again", err=True)
        return 130
    return int(code or 0)


if __name__ == "__main__":
    sys.exit(main())
