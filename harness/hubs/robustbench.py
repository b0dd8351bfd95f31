"""RobustBench's model zoo, imported in the one way that works: its boards, its networks, where its weights are.

The package asks for a module ``autoattack`` that PyPI does not have; what it means is ``pyautoattack``, under its
other name. Only the zoo and its architectures are used: ``robustbench.benchmark`` expects an older interface.
"""

import contextlib
import importlib
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from harness.checkpoints import Source, cache_dir
from harness.errors import UnknownNameError, UserError

if TYPE_CHECKING:
    from torch import nn

BOARDS = ("Linf", "L2", "corruptions")
"""Boards of RobustBench, by the name of their threat model."""

DATASETS = ("cifar10", "cifar100")
"""Data sets whose entries are adapted."""

DRIVE = "https://drive.usercontent.google.com/download?id={id}&export=download&confirm=t"
"""Where Google Drive serves a public file without asking a person."""

DRIVE_PAGE = "https://drive.google.com/file/d/{id}/view"
"""Where a person downloads the same file."""


def _package(name: str) -> ModuleType:
    """A module of the package, with the alias that its imports need."""
    import pyautoattack

    sys.modules.setdefault("autoattack", pyautoattack)
    with warnings.catch_warnings():
        # Its own imports are deprecated ones; a user can do nothing about that.
        warnings.simplefilter("ignore")
        return importlib.import_module(f"robustbench.{name}")


def _zoo() -> dict[str, dict[str, dict[str, dict[str, Any]]]]:
    """From data set and threat to the zoo's entries, by name; plain strings instead of the package's enumerations."""
    return {
        str(dataset.value): {str(threat.value): dict(entries) for threat, entries in threats.items()}
        for dataset, threats in _package("model_zoo").model_dicts.items()
    }


def _board(dataset: str, board: str) -> dict[str, dict[str, Any]]:
    zoo = _zoo()
    boards = [f"{name} {norm}" for name, threats in zoo.items() for norm in threats]
    if f"{dataset} {board}" not in boards:
        raise UserError(f"robustbench: expected one of {', '.join(sorted(boards))}, got {dataset} {board}")
    return zoo[dataset][board]


def robustbench_names(dataset: str, threat: str) -> list[str]:
    """Names of RobustBench's entries for ``cifar10`` or ``cifar100`` and ``Linf``, ``L2`` or ``corruptions``.

    ``UserError`` when the zoo has no such board.
    """
    return sorted(_board(dataset, threat))


def entry(dataset: str, board: str, name: str) -> dict[str, Any]:
    """The package's own table of one entry; ``UserError`` says which board has it instead, or the nearest name."""
    entries = _board(dataset, board)
    if name in entries:
        return entries[name]
    others = [other for other, found in _zoo()[dataset].items() if name in found]
    if others:
        raise UserError(
            f"robustbench: {name} is not on the {dataset} {board} board but on {' and '.join(others)}: "
            f'write kwargs = {{ board = "{others[0]}" }}'
        )
    raise UnknownNameError(f"robustbench entry on {dataset} {board}", name, entries)


def _timm_name(dataset: str, board: str, name: str) -> str:
    """The name under which timm holds an entry that has no address of its own."""
    return f"{name.lower().replace('-', '_')}_{dataset}_{board.lower()}"


def folder(dataset: str, board: str) -> Path:
    """Where the weights of a board lie, in RobustBench's own layout, so that its ``models`` folder can be copied."""
    return cache_dir() / "robustbench" / dataset / board


def weights(dataset: str, board: str, name: str) -> tuple[Source, ...]:
    """Where the files of an entry are, in the package's order; an ensemble has several."""
    known = entry(dataset, board, name)["gdrive_id"]
    place = folder(dataset, board)
    if known is None:
        configurations = _package("model_zoo.architectures.xcit").default_cfgs
        given = configurations.get(_timm_name(dataset, board, name))
        if given is None or not given.get("url"):
            raise UserError(f"robustbench:{name}: the installed package knows no address of its weights")
        return (Source(str(given["url"]), place / f"{name}.pt"),)
    ids = known if isinstance(known, list) else [known]
    names = [f"{name}.pt"] if ids is not known else [f"{name}.pt_m{number}.pt" for number in range(len(ids))]
    return tuple(
        Source(DRIVE.format(id=file), place / called, DRIVE_PAGE.format(id=file))
        for file, called in zip(ids, names, strict=True)
    )


@contextlib.contextmanager
def _without_accelerator() -> Iterator[None]:
    """Let ``tensor.cuda()`` in a constructor mean "stay" where there is no GPU; the network is moved later anyway."""
    import torch

    if torch.cuda.is_available():
        yield
        return
    original = torch.Tensor.cuda
    torch.Tensor.cuda = lambda tensor, *_, **__: tensor  # type: ignore[method-assign]
    try:
        yield
    finally:
        torch.Tensor.cuda = original  # type: ignore[method-assign]


def _hold_constants(network: "nn.Module") -> None:
    """Make tensors that are plain attributes buffers, so that they move with the network; the state dict stays."""
    import torch

    for module in network.modules():
        for name, value in list(vars(module).items()):
            if isinstance(value, torch.Tensor):
                delattr(module, name)
                module.register_buffer(name, value.detach(), persistent=False)


def build(dataset: str, board: str, name: str) -> "nn.Module":
    """The architecture of an entry with random weights; its own exceptions pass through."""
    found = entry(dataset, board, name)
    with warnings.catch_warnings(), _without_accelerator():
        warnings.simplefilter("ignore")
        if found["gdrive_id"] is None:
            # The package's own lambda asks timm for "...2020light_xcit_s_..." where it registers "2022" and "s12".
            timm = importlib.import_module("timm")
            network: nn.Module = timm.create_model(_timm_name(dataset, board, name), pretrained=False)
        else:
            network = found["model"]()
    _hold_constants(network)
    return network
