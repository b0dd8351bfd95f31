"""From a submission's spec to a ready network.

Runs the submission's code: call it inside a model worker, or in process for code you trust.
"""

import contextlib
import importlib
import importlib.util
import inspect
import random
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from harness.errors import CheckpointError, UserError
from harness.hubs import FORMS, module_of, split
from harness.worker import entries
from harness.worker.entries.functions import Function
from harness.worker.entries.state import LoadError, load_strictly
from harness.worker.weights import few, frozen, is_out_of_memory, one_line, read_state

__all__ = ["LoadError", "build", "describe_exception", "is_out_of_memory", "load", "seed_all"]

_OURS = str(Path(__file__).parent)
_folders: list[str] = []


def _place(error: BaseException, folders: Sequence[str]) -> str:
    """`` (file:line)`` of the innermost frame below one of ``folders``, or an empty text."""
    if isinstance(error, SyntaxError) and error.filename and error.lineno:
        return f" ({Path(error.filename).name}:{error.lineno})"
    found, trace = "", error.__traceback__
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if "site-packages" not in file and not file.startswith(_OURS):
            for folder in folders:
                if Path(file).is_relative_to(folder):
                    found = f" ({Path(file).relative_to(folder)}:{trace.tb_lineno})"
                    break
        trace = trace.tb_next
    return found


def describe_exception(error: BaseException, spec: Mapping[str, Any]) -> str:
    """One line: type, message, and the place in the submission's code."""
    folders = [str(folder) for folder in (spec.get("folder"), *spec.get("search", ())) if folder]
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    return one_line(f"{type(error).__name__}: {text}" if text else type(error).__name__) + _place(error, folders)


def _put_on_path(spec: Mapping[str, Any]) -> None:
    """Make the submission's own modules importable, and forget those of one loaded earlier in this process."""
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if file and any(Path(file).is_relative_to(folder) for folder in _folders):
            del sys.modules[name]
    sys.path[:] = [entry for entry in sys.path if entry not in _folders]
    _folders.clear()
    importlib.invalidate_caches()
    for folder in reversed(spec.get("search", ())):
        if folder not in sys.path:
            sys.path.insert(0, str(folder))
    if module_of(spec["entry"]).endswith(".py"):
        folder = str(spec["folder"])
        sys.path[:] = [folder, *(entry for entry in sys.path if entry != folder)]
        _folders.append(folder)


def _import(spec: Mapping[str, Any]) -> tuple[ModuleType, str, str]:
    """The entry's module, its name for a person, and the name of the function."""
    kind, named = split(str(spec["entry"]))
    source, colon, function = named.partition(":")
    if not colon or not source or not function.isidentifier():
        form = FORMS.get(kind, "'model.py:build' or 'package.module:function'")
        raise LoadError("contract", f"entry: expected {form}, got {spec['entry']!r}")
    try:
        if not source.endswith(".py"):
            return importlib.import_module(source), source, function
        path = Path(spec["folder"]) / source
        if not path.is_file():
            raise LoadError("contract", f"entry: expected a file {path}, found none")
        name = "_submission_" + re.sub(r"\W", "_", str(spec.get("id", path.stem)))
        found = importlib.util.spec_from_file_location(name, path)
        assert found is not None
        assert found.loader is not None
        module = importlib.util.module_from_spec(found)
        sys.modules[name] = module
        found.loader.exec_module(module)
    except LoadError:
        raise
    except ModuleNotFoundError as error:
        if error.name and (source == error.name or source.startswith(error.name + ".")):
            places = ", ".join(str(folder) for folder in spec.get("search", ())) or "the installed packages"
            raise LoadError("contract", f"entry: no module {source!r} in {places}") from error
        raise LoadError("raised", f"{source} could not be imported: {describe_exception(error, spec)}") from error
    except BaseException as error:
        raise LoadError("raised", f"{source} could not be imported: {describe_exception(error, spec)}") from error
    return module, source, function


def _entry(spec: Mapping[str, Any]) -> tuple[Callable[..., object], str]:
    module, source, name = _import(spec)
    function = getattr(module, name, None)
    if not callable(function):
        own = sorted(
            item for item, value in vars(module).items()
            if (inspect.isfunction(value) or inspect.isclass(value)) and value.__module__ == module.__name__
        )  # fmt: skip
        raise LoadError("contract", f"entry: {source} has no function {name!r}; it defines {few(own) or 'none'}")
    return function, f"{source}:{name}"


def _called(function: Callable[..., object], name: str, spec: Mapping[str, Any], images: int = 0) -> dict[str, Any]:
    """The card's kwargs, which must fit ``function`` together with ``images`` positional arguments."""
    kwargs = dict(spec.get("kwargs") or {})
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return kwargs
    try:
        signature.bind(*[None] * images, **kwargs)
    except TypeError as error:
        raise LoadError("contract", f"kwargs: {name}{one_line(str(signature), 160)}: {error}") from error
    return kwargs


def build(spec: Mapping[str, Any]) -> nn.Module:
    """Call the entry with the card's kwargs; ``LoadError`` unless it returns an ``nn.Module``.

    A ``callable`` entry is not called but becomes the network.
    """
    _put_on_path(spec)
    function, name = _entry(spec)
    if split(spec["entry"])[0] == "callable":
        return Function(function, _called(function, name, spec, images=1))
    kwargs = _called(function, name, spec)
    try:
        network = function(**kwargs)
    except MemoryError:
        raise
    except BaseException as error:
        if is_out_of_memory(error):
            raise
        raise LoadError("raised", f"{name} raised {describe_exception(error, spec)}") from error
    if not isinstance(network, nn.Module):
        raise LoadError("contract", f"{name} returned {type(network).__name__}, expected a torch.nn.Module")
    return network


def seed_all(value: int) -> None:
    """Seed the process-wide generators that a network may draw from, when it is built or asked."""
    random.seed(value)
    torch.manual_seed(value)
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed(value % 2**32)


@contextlib.contextmanager
def _seeded(value: int) -> Iterator[None]:
    """Draw from seeded generators inside, and leave the caller's as they were."""
    numpy = sys.modules.get("numpy")
    python, array = random.getstate(), numpy.random.get_state() if numpy is not None else None
    with torch.random.fork_rng(devices=[]):
        try:
            seed_all(value)
            yield
        finally:
            random.setstate(python)
            if numpy is not None:
                numpy.random.set_state(array)


def _outside(spec: Mapping[str, Any]) -> nn.Module:
    """The finished network of an entry that names somebody else's model."""
    kind, _ = split(spec["entry"])
    try:
        return entries.LOADERS[kind](spec)
    except (LoadError, MemoryError):
        raise
    except CheckpointError as error:
        raise LoadError("checkpoint", str(error)) from error
    except UserError as error:
        raise LoadError("contract", str(error)) from error
    except BaseException as error:
        if is_out_of_memory(error):
            raise
        raise LoadError("raised", f"{spec['entry']} raised {describe_exception(error, spec)}") from error


def load(spec: Mapping[str, Any]) -> nn.Module:
    """Build the network of ``spec``, load its checkpoint strictly, and leave it frozen in eval mode, on the processor.

    ``spec`` is what ``Submission.spec()`` returns: id, folder, search (folders for ``sys.path``), entry, kwargs,
    checkpoint (a path or None), checkpoint_sha256, key, strip_prefix; for somebody else's model also what
    ``Submission.spec`` adds. Weights that ``build`` draws at random are the
    same every time. Raises ``LoadError``.
    """
    with _seeded(0):
        network = _outside(spec) if split(spec["entry"])[0] in entries.LOADERS else build(spec)
    if spec.get("checkpoint") and split(spec["entry"])[0] == "":
        try:
            load_strictly(network, read_state(spec), Path(spec["checkpoint"]))
        except CheckpointError as error:
            raise LoadError("checkpoint", str(error)) from error
    try:
        return frozen(network)
    except BaseException as error:
        raise LoadError("raised", f"eval() raised {describe_exception(error, spec)}") from error
