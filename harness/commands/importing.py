"""``harness import``: cards for models that others have published."""

from pathlib import Path

import click


@click.command("import")
@click.argument("source", type=click.Choice(["robustbench"]))
@click.option("--dataset", default="cifar10", show_default=True, type=click.Choice(["cifar10", "cifar100"]))
@click.option("--norm", default="Linf", show_default=True, type=click.Choice(["Linf", "L2", "corruptions"]))
@click.option(
    "--into",
    default=Path("imported"),
    show_default=True,
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Folder to make the submissions in.",
)
def import_(source: str, dataset: str, norm: str, into: Path) -> int:
    """Write the submission cards of a model zoo.

    One folder for each model, with the published figures as its claims. Nothing is downloaded: the weights come
    with the first validate or run. Cards that are there already are left as they are.
    """
    from harness.importing import import_robustbench

    found = import_robustbench(dataset, norm, into)
    made = sum(item.made for item in found)
    kept = f", {len(found) - made} were there already" if made < len(found) else ""
    click.echo(f"{source}: made {made} cards in {into}{kept}")
    if found:
        click.echo(f"next: harness validate {found[0].folder.name} --submissions {into}")
    return 0
