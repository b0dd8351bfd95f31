"""The rules between the rooms, read from the imports and tried with torch out of reach."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PURE = (
    "harness.records", "harness.store", "harness.metrics", "harness.plan", "harness.errors", "harness.registry",
    "harness.checks", "harness.judging", "harness.submission", "harness.suites", "harness.environment",
    "leaderboard.cli",
)  # fmt: skip
"""Modules that work without torch installed."""
OWN = {
    "harness.attacks": {"harness.attacks", "harness.registry", "harness.errors"},
    "harness.corruptions": {"harness.corruptions", "harness.errors"},
    "harness.datasets": {
        "harness.datasets",
        "harness.corruptions",
        "harness.registry",
        "harness.errors",
        "harness.download",
    },
    "harness.probes": {"harness.probes", "harness.attacks", "harness.registry", "harness.errors", "harness.records"},
    "harness.checks": {"harness.checks", "harness.metrics", "harness.registry", "harness.errors", "harness.records"},
    "leaderboard": {
        "leaderboard",
        "harness.records",
        "harness.store",
        "harness.metrics",
        "harness.errors",
        "harness.plan",
        "harness.checks",
        "harness.judging",
        "harness.datasets",  # the images beside adversarial examples that records keep
    },
}
"""What a room may import of this project."""


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path, *, top: bool = False) -> set[str]:
    """Modules of this project that a file imports (``top``: when it is itself imported)."""
    tree = ast.parse(path.read_text())
    nodes = tree.body if top else ast.walk(tree)
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.split(".")[0] in {"harness", "leaderboard", "submissions"}}


MODULES = {
    module_name(path): path
    for room in ("harness", "leaderboard", "submissions")
    for path in (ROOT / room).rglob("*.py")
}


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith("harness")])
def test_the_harness_knows_neither_the_page_nor_the_submissions(name) -> None:
    assert not {item for item in imports(MODULES[name]) if item.split(".")[0] in {"leaderboard", "submissions"}}


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith(tuple(OWN))])
def test_a_room_imports_only_what_it_may(name) -> None:
    room = next(room for room in OWN if name.startswith(room))
    known = {item for item in imports(MODULES[name]) if item in MODULES}
    strangers = {item for item in known if item != "harness" and not item.startswith(tuple(OWN[room]))}
    assert not strangers


def test_there_is_no_cycle() -> None:
    graph = {name: {item for item in imports(path, top=True) if item in MODULES} for name, path in MODULES.items()}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join([*trail, name])
        if name not in done:
            for item in graph[name] - {name}:
                visit(item, (*trail, name))
            done.add(name)

    for name in graph:
        visit(name, ())


@pytest.mark.parametrize("name", PURE)
def test_the_pure_rooms_need_no_torch(name) -> None:
    code = f"import sys; sys.modules['torch'] = None; import {name}"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_worker_knows_no_label_attack_or_record() -> None:
    code = "import sys, harness.worker.serve; print(*(name for name in sys.modules if name.startswith('harness.')))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    rooms = {name.split(".")[1] for name in done.stdout.split()}
    assert not rooms & {"attacks", "datasets", "engine", "executors", "plan", "records", "run", "store", "submission"}


def test_importing_everything_imports_no_heavy_package_and_touches_nothing(tmp_path) -> None:
    names = [name for name in MODULES if not name.startswith("submissions") and not name.endswith("__main__")]
    code = (
        "import sys, importlib\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
        "heavy = {'torchvision', 'robustbench', 'foolbox', 'pyautoattack'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False,
        env={"PYTHONPATH": str(ROOT), "HOME": str(tmp_path), "PATH": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []


def test_only_the_command_lines_print_or_exit() -> None:
    for name, path in MODULES.items():
        if name.startswith("submissions") or name.rpartition(".")[2].startswith(("cli", "__main__")):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in {"print", "exit", "quit", "sys.exit"}, f"{path}: {called}"
