"""A submission that searches its whole process for the labels of the images it is shown finds none.

It knows the sha256 of every stretch of eight labels, so that it carries no label itself. It looks through every living
object, the variables of all threads' frames, all modules, the environment, the command line and the files it may read.
"""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from harness import datasets

WINDOW = 8
"""Labels in a row that are told from chance: one in a hundred million."""

WALKER = '''
import array, gc, hashlib, os, sys, threading
import torch
from torch import nn

WINDOW = 8

def stretches(values, known):
    """Whether eight whole numbers in a row are labels."""
    for start in range(max(0, len(values) - WINDOW + 1)):
        part = bytes(values[start : start + WINDOW])
        if len(set(part)) > 2 and hashlib.sha256(part).hexdigest()[:16] in known:
            return True
    return False

def numbers(value):
    """A value as whole numbers from 0 to 9, or nothing."""
    if isinstance(value, torch.Tensor):
        if value.is_meta or value.numel() < WINDOW or value.numel() > 20000 or value.layout is not torch.strided:
            return []
        flat = value.detach().flatten()
        fine = (flat == flat.round()) & (flat >= 0) & (flat <= 9)
        return flat.to(torch.int64).tolist() if bool(fine.all()) else []
    if isinstance(value, (list, tuple)) and WINDOW <= len(value) <= 20000:
        return list(value) if all(type(item) is int and 0 <= item <= 9 for item in value) else []
    if isinstance(value, (str, bytes, bytearray)) and len(value) <= 2_000_000:
        text = value if isinstance(value, str) else bytes(value).decode("latin1")
        digits = [ord(char) - 48 for char in text if char in "0123456789"]
        raw = list(value) if not isinstance(value, str) and len(value) <= 20000 and max(value, default=10) < 10 else []
        return digits + [0] * WINDOW + raw
    if type(value).__module__ == "numpy" and hasattr(value, "ravel") and WINDOW <= getattr(value, "size", 0) <= 20000:
        try:
            return numbers(value.ravel().tolist())
        except Exception:
            return []
    if isinstance(value, array.array):
        return numbers(list(value))
    return []

def everything():
    """Every place and value that code in this process can come by."""
    for frame in sys._current_frames().values():
        while frame is not None:
            yield from ((f"variable {name} of {frame.f_code.co_name}", item) for name, item in frame.f_locals.items())
            frame = frame.f_back
    for name, module in list(sys.modules.items()):
        yield from ((f"{name}.{key}", item) for key, item in list(getattr(module, "__dict__", {}).items()))
    for item in gc.get_objects():
        yield f"a {type(item).__name__}", item
        if isinstance(item, dict):
            yield from ((f"key {key!r} of a dict", inner) for key, inner in list(item.items()))
    yield from ((f"environment {name}", text) for name, text in os.environ.items())
    for place in ("/proc/self/cmdline", "/proc/self/environ"):
        yield place, open(place, "rb").read()
    for name in os.listdir("."):
        if os.path.isfile(name) and name != "known.txt":
            yield f"file {name}", open(name, "rb").read()

def search(known):
    """The first place where labels were found, or nothing."""
    seen = set()
    for place, value in everything():
        if id(value) in seen:
            continue
        seen.add(id(value))
        try:
            found = numbers(value)
        except (RuntimeError, ReferenceError):
            continue
        if found and stretches(found, known):
            return place
    return ""
'''

MODEL = (
    WALKER
    + """
class Walking(nn.Module):
    def __init__(self, known, report):
        super().__init__()
        self.known, self.report, self.asked = frozenset(known), report, 0
        self.linear = nn.Linear(3072, 10)

    def forward(self, x):
        self.asked += 1
        if self.asked & (self.asked - 1) == 0:
            with open(self.report, "a") as file:
                file.write((search(self.known) or "nothing") + "\\n")
        return self.linear(x.flatten(1))

def build(known, report):
    return Walking(known, report)
"""
)

CARD = """
id = "walking"
title = "walking"
dataset = "cifar10"
entry = "model.py:build"
kwargs = {{ known = {known}, report = "{report}" }}
[[threat_models]]
norm = "Linf"
eps = "8/255"
"""

SUITE = """
[[tasks]]
name = "clean"
kind = "clean"

[[tasks]]
name = "pgd-2"
attack = "pgd"
params = { steps = 2, step_size = "eps/4", restarts = 1, loss = "ce" }

[[tasks]]
name = "d1-memory"
kind = "probe"

[[tasks]]
name = "c3-callers"
kind = "probe"
params = { examples = 16, queries = 16, attacked_examples = 4, steps = 1 }
"""


def digests(labels: list[int]) -> list[str]:
    """Of every stretch of eight labels."""
    parts = [bytes(labels[start : start + WINDOW]) for start in range(len(labels) - WINDOW + 1)]
    return [hashlib.sha256(part).hexdigest()[:16] for part in parts]


@pytest.fixture(scope="module")
def known() -> list[str]:
    return digests(datasets.load("cifar10-sample").tensors(0, 20)[1].tolist())


PLANTS = (
    "labels = torch.tensor({labels})", "labels = dict(y={labels})", "os.environ['PLAN'] = ','.join(map(str, {labels}))",
    "sys.modules['hashlib'].hidden = bytes({labels})", "import numpy; labels = numpy.array({labels})",
)  # fmt: skip
"""Where labels could be lying about, as code."""


def test_the_search_finds_labels_where_there_are_some(known) -> None:
    labels = datasets.load("cifar10-sample").tensors(0, 20)[1].tolist()
    functions = [f"def plant{number}():\n    {code}\n    print(search(KNOWN))\n" for number, code in enumerate(PLANTS)]
    undo = "os.environ.pop('PLAN', None); vars(hashlib).pop('hidden', None)"
    calls = "".join(f"plant{number}()\n{undo}\n" for number in range(len(PLANTS)))
    # The labels themselves come from outside, so that they lie nowhere but where they are planted.
    code = f"{WALKER}\nKNOWN = frozenset({known!r})\n" + "".join(functions).format(labels="eval(sys.stdin.readline())")
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nprint(search(KNOWN))\n{calls}"], capture_output=True, text=True, timeout=300,
        check=False, input=f"{labels}\n" * len(PLANTS),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    nothing, *found = done.stdout.splitlines()
    assert not nothing
    assert len(found) == len(PLANTS) and all(found)


def test_no_label_reaches_the_process_of_a_network(tmp_path, known) -> None:
    folder, report = tmp_path / "root" / "walking", tmp_path / "report.txt"
    folder.mkdir(parents=True)
    (folder / "model.py").write_text(MODEL)
    (folder / "submission.toml").write_text(CARD.format(known=json.dumps(known), report=report))
    (tmp_path / "suite.toml").write_text(SUITE)
    command = [sys.executable, "-m", "harness", "run", "walking", "--submissions", str(tmp_path / "root"), "--workers"]
    command += ["1", "--suite", str(tmp_path / "suite.toml"), "--results", str(tmp_path / "results")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = Path(report).read_text().splitlines()
    assert len(found) >= 5
    assert set(found) == {"nothing"}
