"""From a submission's spec to a ready network.

Runs the submission's code: call it inside a model worker, or in process for code you trust.
"""

import hashlib
import importlib
import importlib.util
import inspect
import io
import pickle
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from harness.checkpoints import damage

LISTED = 3
"""Names shown of a longer list."""
_CODE = re.compile(r"GLOBAL\s+(?:[`']?)([\w.]+)|Unsupported (?:global|class|operand)", re.IGNORECASE)
_OURS = str(Path(__file__).parent)
_folders: list[str] = []


class LoadError(Exception):
    """A submission that cannot be loaded; ``kind`` is ``checkpoint``, ``contract`` or ``raised``, the text one line."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def one_line(text: str, limit: int = 400) -> str:
    """``text`` without line breaks, control characters and repeated blanks, at most ``limit`` characters."""
    flat = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return flat if len(flat) <= limit else flat[: limit - 3] + "..."


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


def _few(names: Sequence[str]) -> str:
    rest = len(names) - LISTED
    return ", ".join(names[:LISTED]) + (f" and {rest} more" if rest > 0 else "")


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
    if spec["entry"].partition(":")[0].endswith(".py"):
        folder = str(spec["folder"])
        sys.path[:] = [folder, *(entry for entry in sys.path if entry != folder)]
        _folders.append(folder)


def _import(spec: Mapping[str, Any]) -> tuple[ModuleType, str, str]:
    """The entry's module, its name for a person, and the name of the function."""
    source, colon, function = str(spec["entry"]).partition(":")
    if not colon or not source or not function.isidentifier():
        raise LoadError(
            "contract", f"entry: expected 'model.py:build' or 'package.module:function', got {spec['entry']!r}"
        )
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
        raise LoadError("contract", f"entry: {source} has no function {name!r}; it defines {_few(own) or 'none'}")
    return function, f"{source}:{name}"


def build(spec: Mapping[str, Any]) -> nn.Module:
    """Call the entry with the card's kwargs; ``LoadError`` unless it returns an ``nn.Module``."""
    _put_on_path(spec)
    function, name = _entry(spec)
    kwargs = dict(spec.get("kwargs") or {})
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        signature = None
    if signature is not None:
        try:
            signature.bind(**kwargs)
        except TypeError as error:
            raise LoadError("contract", f"kwargs: {name}{one_line(str(signature), 160)}: {error}") from error
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


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that no memory was left; torch's processor allocator has no type of its own for it."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


def _parse(path: Path, content: bytes) -> object:
    """The object in a checkpoint file, from its bytes; code in it is never run."""
    reason = damage(path)
    if reason:
        raise LoadError("checkpoint", f"checkpoint {path}: expected weights: {reason}")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load as unpack

        try:
            return unpack(content)
        except (SafetensorError, ValueError, KeyError) as error:
            raise LoadError("checkpoint", _damaged(path, content, "safetensors", error)) from error
    try:
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        code = _CODE.search(str(error))
        if code is None:
            raise LoadError("checkpoint", _damaged(path, content, "torch.save", error)) from error
        what = f" ({code.group(1)})" if code.group(1) else ""
        raise LoadError(
            "checkpoint",
            f"checkpoint {path}: expected tensors only, got a pickle that would run code{what}, which was not loaded; "
            "save model.state_dict() alone, best as safetensors",
        ) from error
    except (RuntimeError, ValueError, EOFError, KeyError, OSError, AttributeError, TypeError, IndexError) as error:
        if is_out_of_memory(error):
            raise
        raise LoadError("checkpoint", _damaged(path, content, "torch.save", error)) from error


def _damaged(path: Path, content: bytes, written_by: str, error: Exception) -> str:
    return (
        f"checkpoint {path}: expected a whole file written by {written_by}, got {len(content)} bytes that are damaged, "
        f"truncated or something else ({one_line(str(error), 120)})"
    )


def read_state(spec: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of the spec's checkpoint, read from exactly the bytes whose sha256 was checked."""
    path = Path(spec["checkpoint"])
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise LoadError("checkpoint", f"checkpoint {path}: no such file") from None
    except OSError as error:
        raise LoadError("checkpoint", f"checkpoint {path}: cannot be read: {error.strerror}") from error
    digest = hashlib.sha256(content).hexdigest()
    expected = spec.get("checkpoint_sha256") or ""
    if expected and digest != expected.lower():
        # A web page or a cut-off download explains a wrong hash better than the hash itself.
        _parse(path, content)
        raise LoadError("checkpoint", f"checkpoint {path}: expected sha256 {expected}, got {digest}")
    state = _parse(path, content)
    key = spec.get("key") or ""
    if key:
        if not isinstance(state, Mapping) or key not in state:
            held = _few([str(name) for name in state]) if isinstance(state, Mapping) else type(state).__name__
            raise LoadError("checkpoint", f"checkpoint {path}: expected a key {key!r}, it holds {held}")
        state = state[key]
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        held = _few([str(name) for name in state]) if isinstance(state, Mapping) else type(state).__name__
        raise LoadError(
            "checkpoint",
            f"checkpoint {path}: expected a state dict of tensors, got {held}; "
            'name the entry that holds the weights as key = "..." under [checkpoint]',
        )
    prefix = spec.get("strip_prefix") or ""
    named = {str(name): value for name, value in state.items()}
    if prefix:
        if not any(name.startswith(prefix) for name in named):
            raise LoadError(
                "checkpoint",
                f"checkpoint {path}: expected keys that start with strip_prefix {prefix!r}, got {_few(sorted(named))}",
            )
        named = {name.removeprefix(prefix): value for name, value in named.items()}
    return named


def _misfit(network: nn.Module, state: Mapping[str, Tensor], error: Exception) -> str:
    """Why ``state`` does not fit, a few names of each kind."""
    own = network.state_dict()
    # Old checkpoints lack this counter and torch fills it in, so that it is never the reason.
    missing = [name for name in own if name not in state and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in state if name not in own]
    shapes = [
        f"{name} is {tuple(state[name].shape)} in the file and {tuple(value.shape)} in the network"
        for name, value in own.items()
        if isinstance(value, Tensor) and name in state and state[name].shape != value.shape
    ]
    parts = []
    if missing:
        parts.append(f"missing {len(missing)}: {_few(missing)}")
    if unexpected:
        parts.append(f"unexpected {len(unexpected)}: {_few(unexpected)}")
    if shapes:
        parts.append(f"other shapes {len(shapes)}: {_few(shapes)}")
    prefixes = {name.partition(".")[0] for name in unexpected}
    if missing and len(prefixes) == 1 and all(f"{prefix}.{missing[0]}" in state for prefix in prefixes):
        parts.append(f'try strip_prefix = "{prefixes.pop()}." under [checkpoint]')
    return "; ".join(parts) or one_line(str(error))


def load(spec: Mapping[str, Any]) -> nn.Module:
    """Build the network of ``spec``, load its checkpoint strictly, and leave it frozen in eval mode, on the processor.

    ``spec`` is what ``Submission.spec()`` returns: id, folder, search (folders for ``sys.path``), entry, kwargs,
    checkpoint (a path or None), checkpoint_sha256, key, strip_prefix. Raises ``LoadError``.
    """
    network = build(spec)
    if spec.get("checkpoint"):
        state = read_state(spec)
        try:
            network.load_state_dict(state, strict=True)
        except RuntimeError as error:
            message = f"checkpoint {spec['checkpoint']} does not fit the network: {_misfit(network, state, error)}"
            raise LoadError("checkpoint", message) from error
    try:
        return network.eval().requires_grad_(False)
    except BaseException as error:
        raise LoadError("raised", f"eval() raised {describe_exception(error, spec)}") from error
