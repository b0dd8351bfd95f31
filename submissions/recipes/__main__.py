"""``python -m submissions.recipes NAME [--config FILE]``: train, and write the submission folder it ends in.

NAME is a configuration, or a recipe, which then runs its default configuration or the one in FILE.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import torch

from submissions.recipes import method
from submissions.recipes.config import Config, ConfigError, read
from submissions.recipes.data import DataError, Split, described, load
from submissions.recipes.publish import publish
from submissions.recipes.trainer import train, validate

HERE = Path(__file__).parent
CONFIGS = HERE / "configs"


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    names = sorted(path.stem for path in CONFIGS.glob("*.toml"))
    parser = argparse.ArgumentParser(prog="python -m submissions.recipes", description=__doc__)
    parser.add_argument("name", metavar="NAME", help=f"a recipe, a TOML file, or one of: {', '.join(names)}")
    parser.add_argument("--config", type=Path, metavar="FILE", help="the configuration to train the recipe NAME with")
    parser.add_argument("--data", type=Path, default=Path("data"), help="an .npz file, or torchvision's data folder")
    parser.add_argument("--out", type=Path, default=HERE.parent, help="where the submission folder is written")
    parser.add_argument("--work", type=Path, default=Path("trainings"), help="where checkpoints are kept")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=0, help="0: as many as there are cores")
    parser.add_argument("--seed", type=int, help="another seed than the configuration's: the submission is NAME-sSEED")
    parser.add_argument("--subset", type=int, metavar="N", help="N training images only: the submission is NAME-nN")
    parser.add_argument("--smoke", action="store_true", help="512 images, one epoch: does the recipe run at all?")
    return parser.parse_args(argv)


def find(name: str, file: Path | None) -> Config:
    """The configuration that NAME and --config mean; raises ``ConfigError`` when there is none."""
    recipe = name.replace("-", "_")
    if file is not None:
        config = read(file)
        if name not in {config.id, config.recipe} and recipe != config.recipe:
            raise ConfigError(f"{file}: recipe: expected {name!r} as on the command line, got {config.recipe!r}")
        return config
    if Path(name).is_file():
        return read(Path(name))
    for candidate in (name, name.removesuffix(".toml"), recipe.replace("_", "-"), f"{recipe.replace('_', '-')}-1222"):
        if (CONFIGS / f"{candidate}.toml").is_file():
            return read(CONFIGS / f"{candidate}.toml")
    configs = [read(path) for path in sorted(CONFIGS.glob("*.toml"))]
    for config in configs:
        if config.recipe == recipe:
            return config
    known = sorted({config.recipe for config in configs})
    raise ConfigError(f"NAME: expected a TOML file, a configuration or one of {', '.join(known)}, got {name!r}")


def adjust(config: Config, arguments: argparse.Namespace) -> Config:
    """What the flags change, the id included, so that no published submission is overwritten."""
    if arguments.seed is not None and arguments.seed != config.seed:
        config = replace(config, seed=arguments.seed, id=f"{config.id}-s{arguments.seed}")
    if arguments.subset is not None:
        if arguments.subset < config.batch_size:
            raise ConfigError(f"--subset: expected at least one batch of {config.batch_size}, got {arguments.subset}")
        config = replace(config, id=f"{config.id}-n{arguments.subset}")
        config = replace(config, notes=f"{config.notes} Trained on {arguments.subset} images only.".strip())
    if arguments.smoke:
        config = replace(config, epochs=1, batch_size=min(config.batch_size, 128), id=f"{config.id}-smoke")
    method.check(config)
    return config


def _first(split: Split, count: int) -> Split:
    return Split(split.images[:count], split.labels[:count])


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    arguments = _arguments(argv)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    try:
        config = adjust(find(arguments.name, arguments.config), arguments)
        training, validation = load(arguments.data, seed=0)
    except (ConfigError, DataError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if arguments.subset is not None:
        training = _first(training, arguments.subset)
    if arguments.smoke:
        training, validation = _first(training, 512), _first(validation, 128)
    work, device = arguments.work / config.id, torch.device(arguments.device)
    if arguments.smoke:
        (work / "checkpoint.pt").unlink(missing_ok=True)
    try:
        model, history = train(config, training, validation, folder=work, device=device)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"stopped; the same command goes on from {work / 'checkpoint.pt'}", file=sys.stderr)
        return 130
    figures = None if config.weights == "float32" else validate(model, validation, seed=config.seed, device=device)
    data = described(arguments.data, training, validation)
    print(f"wrote {publish(model, config, history, out=arguments.out, data=data, figures=figures)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
