"""Options and values that several commands of the command line share."""

from pathlib import Path

import click
import psutil

from harness.environment import bfloat16_speed
from harness.errors import UserError
from harness.records import ThreatModel


class Size(click.ParamType[int]):
    """A size such as 4GiB, 800M or 4000000000, in bytes."""

    name = "size"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        text = str(value).strip().lower().removesuffix("b").removesuffix("i")
        factor = {"k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}.get(text[-1:], 1)
        try:
            size = int(float(text.rstrip("kmgt")) * factor)
        except ValueError:
            size = 0
        if size <= 0:
            self.fail(f"expected a size such as 4GiB, got {value!r}", param, ctx)
        return size


class Threat(click.ParamType[ThreatModel]):
    """A threat model such as Linf:8/255."""

    name = "norm:eps"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> ThreatModel:
        if isinstance(value, ThreatModel):
            return value
        norm, colon, eps = str(value).partition(":")
        if not colon:
            self.fail(f"expected NORM:EPS such as Linf:8/255, got {value!r}", param, ctx)
        try:
            return ThreatModel.parse(norm, eps)
        except UserError as error:
            self.fail(str(error), param, ctx)


SUBMISSIONS = click.option(
    "--submissions", "roots", multiple=True, type=click.Path(path_type=Path), metavar="DIR",
    help="Also look for submissions in DIR (may be given several times).",
)  # fmt: skip
RESULTS = click.option(
    "--results", default="results", show_default=True, type=click.Path(path_type=Path), metavar="DIR",
    help="Where records are kept.",
)  # fmt: skip
DATA_DIR = click.option(
    "--data-dir", type=click.Path(path_type=Path), metavar="DIR",
    help="Where data sets lie or are downloaded to.  [default: $RAMPART_DATA, else the user's cache]",
)  # fmt: skip
SOURCES = ("auto", "official", "generated")
"""Where corrupted images can come from; a test holds them to those of ``harness.datasets.corrupted``."""
DEVICE = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
THREADS = click.option("--threads", default=1, show_default=True, type=click.IntRange(1), help="Threads per worker.")
MEMORY = click.option(
    "--memory-limit",
    type=Size(),
    help="Most memory a model's process may hold, e.g. 4GiB.  [default: 80 % of the machine's, shared by the workers]",
)


def submission_roots(roots: tuple[Path, ...]) -> tuple[Path, ...]:
    """The bundled submissions' folder and those given; ``UserError`` when one of these is not there."""
    from harness.submission import default_roots

    for root in roots:
        if not root.is_dir():
            raise UserError(f"--submissions: expected a folder, got {str(root)!r}")
    return (*default_roots(), *roots)


def resolve_device(name: str) -> str:
    """``cpu`` or ``cuda:N`` for what the user gave; ``UserError`` when this machine does not have it."""
    import torch

    available = torch.cuda.is_available()
    if name == "auto":
        return "cuda" if available else "cpu"
    kind, _, number = name.partition(":")
    if kind not in {"cpu", "cuda"} or (number and not number.isdigit()):
        raise UserError(f"--device: expected auto, cpu, cuda or cuda:N, got {name!r}")
    if kind == "cuda" and (not available or int(number or 0) >= torch.cuda.device_count()):
        raise UserError(f"--device: {name!r} is not there: this machine has {torch.cuda.device_count()} CUDA devices")
    return name


def precision_note(precision: str, device: str) -> str:
    """What to say of a precision that makes this machine slower; else empty."""
    if precision != "mixed" or device != "cpu" or (speed := bfloat16_speed()) >= 1:
        return ""
    return (
        f"--precision mixed searches in bfloat16, which this processor computes at {speed:.2f} times the speed of "
        "float32; faster here: --precision full"
    )


def default_memory_limit(workers: int) -> int:
    """Bytes each of ``workers`` model processes may hold so that together they leave the machine a fifth of its own."""
    return int(psutil.virtual_memory().total * 0.8 / workers)
