"""The Python files that a submission's network is made of, found by reading import statements; nothing is imported."""

import ast
import hashlib
import importlib.util
import os
from collections.abc import Iterator, Sequence
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

HOME = Path(__file__).resolve().parents[2]
"""The folder that holds the ``harness`` and ``submissions`` packages."""

_OURS = "submissions"
_LIBRARIES = frozenset({"site-packages", "dist-packages"})


def folder_sources(folder: Path) -> dict[str, Path]:
    """Every Python file of a submission's folder, by its path inside; caches and hidden folders left out."""
    found: dict[str, Path] = {}
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "__pycache__")
        for name in sorted(names):
            if name.endswith(".py"):
                path = Path(place) / name
                found[path.relative_to(folder).as_posix()] = path
    return found


def _installed(package: str) -> list[Path]:
    """Folders in which an installed top-level package or module lies."""
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return []
    if spec is None:
        return []
    if spec.submodule_search_locations:
        return [Path(place).parent for place in spec.submodule_search_locations]
    return [Path(spec.origin).parent] if spec.origin and Path(spec.origin).is_file() else []


class Modules:
    """Finds the files of modules on a search path as Python would, for those modules that belong to a submission.

    These are the package that the card's entry names, the ``submissions`` package, and whatever lies in the search
    path's folders, except for folders of installed packages and the harness's own.
    """

    def __init__(self, search: Sequence[Path], entry: str = "") -> None:
        self._named = {entry.partition(".")[0], _OURS}
        self._search = tuple(search)
        self._top = entry.partition(".")[0]

    def _places(self, top: str) -> list[Path]:
        if top in self._named:
            return list(self._search)
        return [place for place in self._search if place.name not in _LIBRARIES and place.resolve() != HOME]

    def files(self, name: str) -> dict[str, Path] | None:
        """Files of the module ``name`` and of the packages around it, by module name; None when it is not found."""
        found = self._find(name, self._places(name.partition(".")[0]))
        if found is None and name.partition(".")[0] == self._top:
            found = self._find(name, _installed(self._top))
        return found

    @staticmethod
    def _find(name: str, places: Sequence[Path]) -> dict[str, Path] | None:
        found: dict[str, Path] = {}
        parts = name.split(".")
        for depth, part in enumerate(parts, 1):
            here = ".".join(parts[:depth])
            portions: list[Path] = []
            for place in places:
                package = place / part / "__init__.py"
                files = [place / f"{part}{suffix}" for suffix in (".py", *EXTENSION_SUFFIXES)]
                module = next((path for path in files if path.is_file()), None)
                if package.is_file():
                    found[f"{here}.__init__"] = package
                    portions = [place / part]
                    break
                if module is not None:
                    found[here] = module
                    return found if depth == len(parts) else None
                if (place / part).is_dir():
                    portions.append(place / part)
            if not portions:
                return None
            places = portions
        return found


def _imports(path: Path, module: str | None) -> Iterator[str]:
    """Names of modules that a file may import, wherever in it; names from a package may be modules or not."""
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                if module is None:
                    continue
                parts = module.split(".")[: -node.level]
                base = ".".join([*parts, base] if base else parts)
            if base:
                yield base
                yield from (f"{base}.{alias.name}" for alias in node.names if alias.name != "*")


def source_files(folder: Path, entry: str, search: Sequence[Path]) -> dict[str, Path] | None:
    """Every file whose code the network of a submission depends on, by a label that does not depend on the machine.

    ``entry`` is the module that the card names, empty when it is a file of ``folder``. Imports made by name at run
    time are not seen. None when ``entry`` is not found.
    """
    modules = Modules(search, entry)
    own = folder_sources(folder)
    found = {f"folder {name}": path for name, path in own.items()}
    queue: list[tuple[Path, str | None]] = [(path, None) for path in own.values()]
    seen = {path.resolve() for path in own.values()}

    def add(files: dict[str, Path]) -> None:
        for name, path in files.items():
            if path.resolve() not in seen:
                seen.add(path.resolve())
                found[f"module {name}"] = path
                if path.suffix == ".py":
                    queue.append((path, name))

    if entry:
        files = modules.files(entry)
        if not files:
            return None
        add(files)
    asked: set[str] = set()
    while queue:
        for name in _imports(*queue.pop()):
            if name not in asked:
                asked.add(name)
                files = modules.files(name)
                # The last part may be a function: then the packages and modules before it are what is imported.
                add(files or {})
    return found


def digest(files: dict[str, Path], settings: str) -> str:
    """sha256 over ``settings`` and the files in the order of their labels; ``OSError`` when one is gone."""
    total = hashlib.sha256(settings.encode())
    for label in sorted(files):
        content = files[label].read_bytes()
        total.update(f"\0{label}\0{len(content)}\0".encode())
        total.update(content)
    return total.hexdigest()
