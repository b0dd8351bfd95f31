"""Networks that are one file: TorchScript archives and exported programs, code and weights together."""

import io
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from harness.errors import CheckpointError
from harness.worker.weights import one_line, read_bytes

Content = tuple[Path, io.BytesIO]


def _content(spec: Mapping[str, Any], kind: str) -> Content:
    """The file, from exactly the bytes whose sha256 was checked; ``CheckpointError`` when it is no archive."""
    path = Path(spec["checkpoint"])
    content = io.BytesIO(read_bytes(path, spec.get("checkpoint_sha256") or ""))
    if not zipfile.is_zipfile(content):
        raise CheckpointError(f"checkpoint {path}: expected {kind}, got a file that is no archive, or a truncated one")
    names = zipfile.ZipFile(content).namelist()
    content.seek(0)
    script = any(name.partition("/")[2].startswith("code/") for name in names)
    program = any("serialized_exported_program.json" in name or "/models/" in f"/{name}" for name in names)
    found = "a TorchScript file" if script else "an exported program" if program else "weights alone"
    if found != kind:
        entry = {"a TorchScript file": "torchscript", "an exported program": "exported-program"}.get(
            found, "model.py:build"
        )
        raise CheckpointError(f'checkpoint {path}: expected {kind}, got {found}: write entry = "{entry}"')
    return path, content


def _unreadable(path: Path, kind: str, error: Exception) -> CheckpointError:
    reason = one_line(str(error), 160)
    return CheckpointError(
        f"checkpoint {path}: expected {kind} that torch {torch.__version__} can read, got an error: {reason}"
    )


class Script(nn.Module):
    """A TorchScript archive as a network, run as written: profiling changes the last bits after a few calls."""

    def __init__(self, script: nn.Module) -> None:
        super().__init__()
        self.script = script

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, K) of images (N, C, H, W)."""
        with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
            logits: Tensor = self.script(x)
        return logits


def torchscript(spec: Mapping[str, Any]) -> nn.Module:
    """What ``torch.jit.save`` wrote. ``CheckpointError``."""
    kind = "a TorchScript file"
    path, content = _content(spec, kind)
    try:
        with warnings.catch_warnings():
            # That torch would rather have exported programs is nothing that an archive can change.
            warnings.simplefilter("ignore", FutureWarning)
            script: nn.Module = torch.jit.load(content, map_location="cpu")  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError, OSError, KeyError) as error:
        raise _unreadable(path, kind, error) from error
    return Script(script)


class Program(nn.Module):
    """An exported program as a network; it stays what it was exported as: ``train`` and ``eval`` do nothing.

    A program exported for one size of batch is asked in batches of that size, the last one filled up.
    """

    def __init__(self, graph: nn.Module, batch: int | None) -> None:
        super().__init__()
        self.graph, self.batch = graph, batch
        self.training = False
        for module in graph.modules():
            module.training = False

    def train(self, mode: bool = True) -> Self:
        """Stays as exported."""
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, K) of images (N, C, H, W)."""
        if self.batch is None:
            logits: Tensor = self.graph(x)
            return logits
        rows = torch.arange(-(-len(x) // self.batch) * self.batch, device=x.device) % len(x)
        parts = x[rows].split(self.batch)  # type: ignore[no-untyped-call]
        return torch.cat([self.graph(part) for part in parts])[: len(x)]


def _image_shape(program: torch.export.ExportedProgram) -> list[Any]:
    """The shape of the program's only input; ``ValueError`` when it has another number of inputs."""
    names = program.graph_signature.user_inputs
    if len(names) != 1:
        raise ValueError(f"expected one input, the images, got {len(names)}")
    node = next(node for node in program.graph.nodes if node.name == names[0])
    return list(node.meta["val"].shape)


def exported_program(spec: Mapping[str, Any]) -> nn.Module:
    """What ``torch.export.save`` wrote. ``CheckpointError``."""
    kind = "an exported program"
    path, content = _content(spec, kind)
    try:
        program = torch.export.load(content)
        shape = _image_shape(program)
    except Exception as error:
        raise _unreadable(path, kind, error) from error
    return Program(program.module(), shape[0] if isinstance(shape[0], int) else None)
