"""Every CIFAR entry of the installed robustbench: built with random weights, saved, loaded through the adapter, asked.

Run by hand, an hour or two on one core, one model in memory at a time, the largest ones last; what is done is kept, and
the same command goes on where it was stopped:

    nice -n 19 python tests/zoo_census.py [--table docs/robustbench-census.md] [--rows census.jsonl] [--only NAME]
        [--part K/N]

An entry counts as held when the network that the adapter loads from the saved files gives, on two of the sample's
images, the logits of the network that was saved, and finite logits of the right shape on all twenty.
"""

import argparse
import hashlib
import json
import multiprocessing
import os
import resource
import sys
import tempfile
import time
import traceback
from importlib import metadata
from pathlib import Path

TOLERANCE = 1e-4
"""Largest difference of a logit, relative to the largest logit."""

LARGE = ("70_16", "70-16", "94-16", "106_16", "82-8", "Bai2023", "Bai2024", "34_20", "A4", "L12", "ResNest152", "70-20")
"""Parts of the names of entries that take minutes."""

WAITING: dict[str, object] = {"reason": "not run yet"}


def saved(network, dataset: str, board: str, name: str, folder: Path) -> list[dict[str, str]]:
    """Write the files that RobustBench would publish for ``network``; weights wrapped as training scripts do."""
    import torch

    from harness.hubs.robustbench import weights
    from harness.worker.entries.robustbench import _member

    files = []
    wanted = weights(dataset, board, name)
    for number, source in enumerate(wanted):
        part = network if len(wanted) == 1 else _member(network, name, number)
        if isinstance(part, torch.nn.ModuleDict):
            held = {key: value.state_dict() for key, value in part.items()}
        else:
            inner = part.model if type(getattr(part, "model", None)).__name__ == "Xcit" else part
            held = {"state_dict": {f"module.{key}": value for key, value in inner.state_dict().items()}}
        path = folder / source.target.name
        torch.save(held, path)
        with open(path, "rb") as file:
            files.append({"path": str(path), "sha256": hashlib.file_digest(file, "sha256").hexdigest()})
    return files


def settled(network):
    """``network`` in eval mode with finite, uneven BatchNorm statistics, so that losing one of them shows."""
    import torch

    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, buffer in network.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0, 0.1, generator=generator)
            elif name.endswith("running_var"):
                buffer.uniform_(0.8, 1.25, generator=generator)
    return network.eval().requires_grad_(False)


def entry(dataset: str, board: str, name: str) -> dict[str, object]:
    """Build, save, load and ask one entry; the facts of the table's row."""
    import torch

    from harness.datasets import load as images_of
    from harness.hubs.robustbench import build
    from harness.worker.loading import load

    torch.set_num_threads(1)
    torch.manual_seed(0)
    data = images_of("cifar10-sample")
    x = torch.tensor(data.images).permute(0, 3, 1, 2).float() / 255
    began = time.perf_counter()
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        network = settled(build(dataset, board, name))
        parameters = sum(parameter.numel() for parameter in network.parameters())
        expected = network(x[:2].clone())
        files = saved(network, dataset, board, name, Path(folder))
        del network
        spec = {
            "id": name, "folder": folder, "search": [], "entry": f"robustbench:{name}", "kwargs": {},
            "checkpoint": None, "dataset": dataset, "board": board, "files": files,
        }  # fmt: skip
        loaded = load(spec)
        logits = loaded(x.clone())
    classes = {"cifar10": 10, "cifar100": 100}[dataset]
    if tuple(logits.shape) != (20, classes) or not logits.isfinite().all():
        raise ValueError(f"expected finite logits (20, {classes}), got {tuple(logits.shape)}")
    off = float((logits[:2] - expected).abs().max() / expected.abs().max())
    if not off <= TOLERANCE:
        raise ValueError(f"expected the logits of the saved network, got a relative difference of {off:.2g}")
    return {
        "parameters": parameters, "seconds": round(time.perf_counter() - began, 1), "files": len(files),
        "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 1), "difference": off,
    }  # fmt: skip


def child(pipe, *names: str) -> None:
    try:
        pipe.send(entry(*names))
    except BaseException as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        text = " ".join(str(error).split())[:200]
        pipe.send({"reason": f"{type(error).__name__}: {text} ({Path(place.filename).name}:{place.lineno})"})


def alone(*names: str) -> dict[str, object]:
    """``entry`` in a process of its own, forked from this one so that nothing is imported again."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=child, args=(theirs, *names))
    process.start()
    theirs.close()
    try:
        return dict(ours.recv())
    except EOFError:
        return {"reason": "the process was killed, most likely for its memory"}
    finally:
        process.join()


def table(rows: list[tuple[tuple[str, str, str], dict[str, object]]]) -> str:
    held = [row for _, row in rows if "reason" not in row]
    waiting = sum(row == WAITING for _, row in rows)
    lines = [
        "# Census of RobustBench's CIFAR entries", "",
        "Every CIFAR-10 and CIFAR-100 entry of the installed package, built with random weights, saved, loaded through",
        "the adapter `robustbench:NAME` and asked for the logits of the 20 sample images; the first two images' logits",
        f"are those of the network that was saved (within {TOLERANCE:g} of the largest logit). Made by",
        "`python tests/zoo_census.py`; weights are random, so this says nothing about accuracy or about the published",
        "files themselves.", "",
        f"robustbench {metadata.version('robustbench')}, timm {metadata.version('timm')}, "
        f"torch {metadata.version('torch')}, Python {sys.version.split()[0]}, one processor thread; "
        f"{time.strftime('%Y-%m-%d', time.gmtime())}.", "",
        f"{len(held)} of {len(rows)} entries held, {waiting} not run yet.", "",
        "| dataset | board | entry | parameters | files | seconds | peak GB | result |",
        "|---|---|---|--:|--:|--:|--:|---|",
    ]  # fmt: skip
    for (dataset, board, name), row in rows:
        if "reason" in row:
            lines.append(f"| {dataset} | {board} | {name} | | | | | {str(row['reason']).replace('|', '/')} |")
        else:
            figures = f"{row['parameters']:,} | {row['files']} | {row['seconds']} | {row['peak_gb']}"
            lines.append(f"| {dataset} | {board} | {name} | {figures} | held |")
    return "\n".join(lines) + "\n"


def done(file: Path) -> dict[tuple[str, str, str], dict[str, object]]:
    """Rows of earlier and of other processes, by data set, board and name."""
    lines = file.read_text().splitlines() if file.exists() else []
    return {tuple(names): row for names, row in map(json.loads, lines)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", type=Path, default=Path("docs/robustbench-census.md"))
    parser.add_argument("--rows", type=Path, default=Path("census.jsonl"), help="what is done, kept for the next time")
    parser.add_argument("--only", default="", help="only entries whose name holds this text")
    parser.add_argument("--part", default="1/1", help="K/N: every N-th entry, for processes side by side on one --rows")
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from harness.hubs.robustbench import BOARDS, DATASETS, _zoo

    zoo = _zoo()
    wanted = [
        (dataset, board, name) for dataset in DATASETS for board in BOARDS for name in zoo[dataset].get(board, {})
    ]
    wanted = [names for names in wanted if arguments.only in names[2]]
    part, parts = map(int, arguments.part.split("/"))
    ordered = sorted(wanted, key=lambda names: any(part in names[2] for part in LARGE))
    for names in ordered[part - 1 :: parts]:
        if names not in done(arguments.rows):
            row = alone(*names)
            with open(arguments.rows, "a") as file:
                file.write(json.dumps([names, row]) + "\n")
            sys.stdout.write(f"{names} {json.dumps(row)}\n")
            sys.stdout.flush()
    rows = done(arguments.rows)
    arguments.table.parent.mkdir(exist_ok=True)
    arguments.table.write_text(table([(item, rows.get(item, WAITING)) for item in wanted]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
