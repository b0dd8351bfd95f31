"""The command ``harness bench``: our attacks beside those of other packages."""

import json
from pathlib import Path

import click

from harness.commands.arguments import (
    DATA_DIR,
    DEVICE,
    MEMORY,
    SUBMISSIONS,
    Threat,
    precision_note,
    resolve_device,
    submission_roots,
)
from harness.errors import UnknownNameError
from harness.records import ThreatModel


@click.command()
@click.argument("id")
@click.option(
    "--attack", default="autoattack", show_default=True,
    help="autoattack, fast, apgd-ce, apgd-t, fab-t, square, fgsm, deepfool or pgd-STEPS.",
)  # fmt: skip
@click.option("--dataset", default="cifar10-sample", show_default=True, help="As in: harness run --help.")
@click.option("--limit", type=click.IntRange(1), help="Use the first N examples only.")
@click.option("--threat", type=Threat(), help="Instead of the card's first, e.g. L2:0.5.")
@SUBMISSIONS
@DATA_DIR
@DEVICE
@click.option("--workers", type=click.IntRange(1), help="Processes of ours.  [default: one per core]")
@click.option("--batch-size", default=64, show_default=True, type=click.IntRange(1), help="Of ours.")
@click.option("--reference-batch", default=128, show_default=True, type=click.IntRange(1), help="Of the others.")
@click.option("--precision", type=click.Choice(["full", "mixed"]), default="full", show_default=True)
@click.option(
    "--turns", default=1, show_default=True, type=click.IntRange(1),
    help="Run ours and the others so often, in turn: steadier where the machine has other work.",
)  # fmt: skip
@MEMORY
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def bench(
    id: str, attack: str, dataset: str, limit: int | None, threat: ThreatModel | None, roots: tuple[Path, ...],
    data_dir: Path | None, device: str, workers: int | None, batch_size: int, reference_batch: int, precision: str,
    turns: int, memory_limit: int | None, as_json: bool,
) -> int:  # fmt: skip
    """Time an attack of ours against other packages, on this machine.

    The same examples, one after the other: seconds, ratio and verdicts side by side. The other packages run the
    submission's code in a process of ours without its own protection: use it on code you trust.
    """
    from harness import bench as benching
    from harness import datasets
    from harness.bench.recipes import parse_attack
    from harness.models import WorkerError
    from harness.run import default_workers
    from harness.submission import discover

    found = discover(submission_roots(roots))
    if id in found.problems:
        raise found.problems[id]
    if id not in found.submissions:
        raise UnknownNameError("submission", id, [*found.submissions, *found.problems])
    submission = found.submissions[id]
    threat = threat or submission.card.threats[0]
    parse_attack(attack, threat)
    x, y = (data := datasets.load(dataset, data_dir=data_dir, limit=limit)).tensors(0, len(data))
    device = resolve_device(device)
    if note := precision_note(precision, device):
        click.echo(f"note: {note}", err=True)
    try:
        comparison = benching.compare(
            submission.spec(), x, y, attack=attack, threat=threat, device=device,
            workers=workers or (default_workers() if device == "cpu" else 1), batch_size=batch_size,
            reference_batch=reference_batch, precision=precision, memory_limit=memory_limit, turns=turns,
            say=(lambda _: None) if as_json else click.echo,
        )  # fmt: skip
    except WorkerError as error:
        click.echo(f"error: {id}: {error}", err=True)
        return 1
    if as_json:
        click.echo(json.dumps(comparison.plain(), indent=1))
        return 0
    plain = comparison.plain()
    click.echo(f"{attack} on {id}, {comparison.threat}, {comparison.n} images of {data.name}")
    for name, item in plain["reference"].items():
        click.echo(
            f"  ours is {item['ratio']:.2f} times as fast as {name}; broken by ours alone {item['only_ours_broke']}, "
            f"by it alone {item['only_it_broke']}"
        )
    if not plain["reference"]:
        click.echo("  no other package that is installed has this attack in this norm")
    return 0
