"""``python -m submissions.recipes CONFIG``: train one configuration and write the submission folder it ends in."""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import torch

from submissions.recipes.config import ConfigError, read
from submissions.recipes.data import DataError, Split, load
from submissions.recipes.publish import publish
from submissions.recipes.trainer import train

HERE = Path(__file__).parent


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    names = sorted(path.stem for path in (HERE / "configs").glob("*.toml"))
    parser = argparse.ArgumentParser(prog="python -m submissions.recipes", description=__doc__)
    parser.add_argument("config", help=f"a TOML file, or one of: {', '.join(names)}")
    parser.add_argument("--data", type=Path, default=Path("data"), help="an .npz file, or torchvision's data folder")
    parser.add_argument("--out", type=Path, default=HERE.parent, help="where the submission folder is written")
    parser.add_argument("--work", type=Path, default=Path("trainings"), help="where checkpoints are kept")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=0, help="0: as many as there are cores")
    parser.add_argument("--smoke", action="store_true", help="512 images, one epoch: does the recipe run at all?")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    arguments = _arguments(argv)
    path = Path(arguments.config)
    if not path.exists() and (HERE / "configs" / f"{path.name}.toml").exists():
        path = HERE / "configs" / f"{path.name}.toml"
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    try:
        config = read(path)
        training, validation = load(arguments.data, seed=0)
    except (ConfigError, DataError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if arguments.smoke:
        config = replace(config, epochs=1, id=f"{config.id}-smoke")
        training = Split(training.images[:512], training.labels[:512])
        validation = Split(validation.images[:128], validation.labels[:128])
    work = arguments.work / config.id
    try:
        model, history = train(config, training, validation, folder=work, device=torch.device(arguments.device))
    except KeyboardInterrupt:
        print(f"stopped; the same command goes on from {work / 'checkpoint.pt'}", file=sys.stderr)
        return 130
    print(f"wrote {publish(model, config, history, out=arguments.out)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
