"""What a network remembers: a short hash of every tensor and of every plain value that its code can reach."""

import collections
import hashlib
import inspect
import random
import sys
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

DEPTH = 5
"""Containers and objects inside each other that are looked into."""
ITEMS = 20_000
"""Values hashed in one container."""
SAMPLED = 100
"""Values of a container that are looked into for longer ones."""
ENTRIES = 6_000
"""Names reported; the rest shares one hash."""
_SKIPPED = {
    "_parameters", "_buffers", "_modules", "_non_persistent_buffers_set", "_backward_pre_hooks", "_backward_hooks",
    "_is_full_backward_hook", "_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called",
    "_forward_pre_hooks", "_forward_pre_hooks_with_kwargs", "_state_dict_hooks", "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks", "__doc__", "__dict__", "__weakref__", "__builtins__",
    "__annotations__", "__warningregistry__", "__cached__", "__static_attributes__", "__firstlineno__",
}  # fmt: skip


def tensor_bytes(tensor: Tensor) -> bytes:
    """The values of a dense tensor, as they lie in memory."""
    flat = tensor.detach().cpu().contiguous().flatten()
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


def _state_of(value: Any) -> object:  # noqa: ANN401
    """What a generator, or a function under ``functools.lru_cache``, says of itself; None for anything else.

    What such a function holds is out of reach, how much it holds is not.
    """
    if isinstance(value, random.Random):
        return value.getstate()
    count = None if isinstance(value, type) else getattr(value, "cache_info", None)
    return count() if callable(count) else None


class _Hasher:
    """Feeds values into one hash; each object is looked into once."""

    def __init__(self) -> None:
        self.hash = hashlib.sha256()
        self._seen: set[int] = set()

    def feed(self, value: Any, depth: int = DEPTH) -> bool:  # noqa: ANN401
        """Whether anything that can be compared was found in ``value``."""
        if value is None or isinstance(value, bool | int | float | complex | str | bytes | torch.dtype | torch.device):
            self.hash.update(f"{type(value).__name__}:{value!r}\n".encode())
            return True
        if id(value) in self._seen or depth == 0:
            return False
        self._seen.add(id(value))
        if isinstance(value, Tensor):
            self.hash.update(f"tensor {value.dtype} {tuple(value.shape)}\n".encode())
            if value.layout is torch.strided and not value.is_meta:
                self.hash.update(tensor_bytes(value))
            return True
        if isinstance(value, torch.Generator):
            self.hash.update(tensor_bytes(value.get_state()))
            return True
        told = _state_of(value)
        if told is not None:
            self.hash.update(repr(told).encode())
            return True
        return self._feed_container(value, depth)

    def _feed_container(self, value: Any, depth: int) -> bool:  # noqa: ANN401
        if isinstance(value, Mapping):
            items = list(value.items())[:ITEMS]
            self.hash.update(f"mapping {len(value)}\n".encode())
            for key, item in items:
                self.feed(key, depth - 1)
                self.feed(item, depth - 1)
            return True
        if isinstance(value, list | tuple | collections.deque):
            self.hash.update(f"sequence {len(value)}\n".encode())
            for item in list(value)[:ITEMS]:
                self.feed(item, depth - 1)
            return True
        if isinstance(value, set | frozenset):
            self.hash.update(f"set {len(value)} {sorted(map(repr, value))[:ITEMS]}\n".encode())
            return True
        if isinstance(value, bytearray) or (type(value).__module__ == "numpy" and hasattr(value, "tobytes")):
            self.hash.update(bytes(value) if isinstance(value, bytearray) else value.tobytes())
            return True
        if isinstance(value, nn.Module | type) or inspect.ismodule(value) or inspect.isroutine(value):
            return False
        held = getattr(value, "__dict__", None)
        return self.feed(held, depth - 1) if isinstance(held, dict) else False


def _foreign(name: str) -> bool:
    """Whether a Python module belongs to a library, not to the submission."""
    file = getattr(sys.modules.get(name), "__file__", None) or ""
    return not file or "site-packages" in file or "/lib/python" in file or name.startswith("harness.")


def places(root: nn.Module) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Where a network's code can leave something: its modules, their classes, and the globals of their source files."""
    sources: set[str] = set()
    classes: set[type] = set()
    for name, module in root.named_modules():
        yield name or "(root)", vars(module)
        for kind in type(module).__mro__:
            if kind.__module__ not in {"builtins"} and not _foreign(kind.__module__):
                classes.add(kind)
                sources.add(kind.__module__)
    for kind in sorted(classes, key=lambda item: item.__qualname__):
        yield f"class {kind.__qualname__}", vars(kind)
    for source in sorted(sources):
        yield f"globals of {source}", vars(sys.modules[source])


def _closures(value: Any) -> list[Any]:  # noqa: ANN401
    """What a function carries with it: its cells, defaults and attributes."""
    if not inspect.isfunction(value):
        return []
    cells = []
    for cell in value.__closure__ or ():
        try:
            cells.append(cell.cell_contents)
        except ValueError:
            continue
    return [*cells, value.__defaults__, vars(value)]


def sizes_of(value: Any, sizes: Collection[int], depth: int = 3) -> set[int]:  # noqa: ANN401
    """Which of ``sizes`` is the length of ``value``, or of something in it."""
    found: set[int] = set()
    if isinstance(value, str | bytes | nn.Module | type) or depth == 0:
        return found
    if isinstance(value, Tensor):
        return {len(value)} & set(sizes) if value.dim() else found
    if isinstance(value, Collection) or type(value).__module__ == "numpy":
        try:
            found |= {len(value)} & set(sizes)
        except TypeError:
            return found
        inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
        for item in list(inner)[:SAMPLED]:
            found |= sizes_of(item, sizes, depth - 1)
        return found
    for item in _closures(value):
        found |= sizes_of(item, sizes, depth - 1)
    return found


def digest(root: nn.Module) -> dict[str, dict[str, str]]:
    """16 hexadecimal digits for every parameter and buffer (``tensors``) and for every attribute (``attributes``)."""
    tensors: dict[str, str] = {}
    for name, tensor in [*root.named_parameters(), *root.named_buffers()]:
        tensors[name] = hashlib.sha256(f"{tensor.dtype}".encode() + tensor_bytes(tensor)).hexdigest()[:16]
    attributes: dict[str, str] = {}
    rest = hashlib.sha256()
    for place, held in places(root):
        for key, value in list(held.items()):
            if key in _SKIPPED:
                continue
            hasher = _Hasher()
            carried = _closures(value) or [value]
            found_any = [hasher.feed(item) for item in carried]
            if not any(found_any):
                continue
            found = hasher.hash.hexdigest()[:16]
            if len(attributes) < ENTRIES:
                attributes[f"{place}.{key}"] = found
            else:
                rest.update(found.encode())
    attributes["(rest)"] = rest.hexdigest()[:16]
    return {"tensors": tensors, "attributes": attributes}
