"""Validation as a user has it: the network in a process of its own, a list of checks, one line each."""

import hashlib
import json
import pickle
import sys
from pathlib import Path

import pytest
import torch

from harness.models import WorkerOptions
from harness.submission import create, discover, read
from harness.trial import BATTERY
from harness.validate import validate

OPTIONS = WorkerOptions()


def submission(root: Path, code: str, *, weights: bytes | None = None, name: str = "weights.pt"):
    folder = create("model", root)
    (folder / "model.py").write_text(code)
    card = folder / "submission.toml"
    text = card.read_text().replace("kwargs = { classes = 10 }", "")
    if weights is not None:
        (folder / name).write_bytes(weights)
        text += f'\n[checkpoint]\nfile = "{name}"\nsha256 = "{hashlib.sha256(weights).hexdigest()}"\n'
    card.write_text(text)
    return read(folder, root)


@pytest.mark.parametrize("dataset", ["cifar10", "npz"])
def test_a_new_submission_is_valid_at_once(tmp_path, capsys, dataset) -> None:
    from harness.cli import main

    before = set(sys.modules)
    assert main(["new", "my-model", "--into", str(tmp_path), "--dataset", dataset]) == 0
    capsys.readouterr()
    code = main(["validate", "my-model", "--submissions", str(tmp_path), "--device", "cpu", "--json"])
    checks = json.loads(capsys.readouterr().out)["my-model"]
    assert [item["name"] for item in checks] == [
        "card", "checkpoint", "build", *[name for name, _ in BATTERY], "rebuild",
    ]  # fmt: skip
    assert all(item["ok"] for item in checks), checks
    assert code == 0
    assert not {name for name in set(sys.modules) - before if "my_model" in name or name == "model"}


BUILD = "import os, time, torch\nfrom torch import nn\ndef build():\n    {}\n"
SAVED = (
    "import torch\nfrom torch import nn\ndef build():\n    return nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))\n"
)


class Bomb:
    def __init__(self, marker) -> None:
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


def packed(value, tmp_path) -> bytes:
    path = tmp_path / "saved.pt"
    torch.save(value, path)
    return path.read_bytes()


BUILDS = {
    "raises": ("raise ValueError('no thanks')", "build", "no thanks"),
    "exits": ("os._exit(3)", "build", "exit code 3"),
    "not-a-network": ("return 5", "build", "expected a torch.nn.Module"),
}


@pytest.mark.parametrize("name", BUILDS)
def test_a_build_that_fails_ends_the_list(tmp_path, name) -> None:
    body, check, message = BUILDS[name]
    checks = validate(submission(tmp_path, BUILD.format(body)), options=OPTIONS, timeout=60)
    assert [item.ok for item in checks] == [True, True, False]
    assert checks[-1].name == check and message in checks[-1].message and "\n" not in checks[-1].message


def test_a_network_that_never_answers_is_given_up(tmp_path) -> None:
    code = BUILD.format("return Slow()") + (
        "class Slow(nn.Module):\n    def forward(self, x):\n        time.sleep(1000)\n"
    )
    checks = validate(submission(tmp_path, code), options=OPTIONS, timeout=5)
    assert (checks[-1].name, checks[-1].ok) == ("shape", False)
    assert [item.name for item in checks if not item.ok] == ["shape"]


def test_weights_drawn_at_random_are_told(tmp_path) -> None:
    body = "torch.seed()\n    return nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))"
    checks = validate(submission(tmp_path, BUILD.format(body)), options=OPTIONS, timeout=60)
    assert [item.name for item in checks if not item.ok] == ["rebuild"]
    assert "build() must not draw weights at random: give a checkpoint" in checks[-1].message


@pytest.mark.parametrize("kind", ["torch.save", "bare"])
def test_a_pickle_with_code_is_never_run(tmp_path, kind) -> None:
    marker = tmp_path / "marker"
    content = packed({"a": Bomb(marker)}, tmp_path) if kind == "torch.save" else pickle.dumps(Bomb(marker))
    checks = validate(submission(tmp_path, SAVED, weights=content), options=OPTIONS, timeout=60)
    assert (checks[-1].name, checks[-1].ok) == ("checkpoint", False)
    assert "pickle" in checks[-1].message and "\n" not in checks[-1].message
    assert not marker.exists()


def test_weights_of_another_network_are_told(tmp_path) -> None:
    content = packed({"other.weight": torch.zeros(2)}, tmp_path)
    checks = validate(submission(tmp_path, SAVED, weights=content), options=OPTIONS, timeout=60)
    assert (checks[-1].name, checks[-1].ok) == ("checkpoint", False)
    assert "1.weight" in checks[-1].message and "other.weight" in checks[-1].message


def test_a_damaged_checkpoint_needs_no_process(tmp_path) -> None:
    found = submission(tmp_path, SAVED, weights=b"weights")
    (found.folder / "weights.pt").write_bytes(b"<!doctype html>")
    checks = validate(found, options=WorkerOptions(device="nowhere"), timeout=60)
    assert [(item.name, item.ok) for item in checks] == [("card", True), ("checkpoint", False)]
    assert "web page" in checks[-1].message


def test_an_entry_without_a_module_needs_no_process(tmp_path) -> None:
    found = submission(tmp_path, SAVED)
    card = found.folder / "submission.toml"
    card.write_text(card.read_text().replace("model.py:build", "nowhere.at_all:build"))
    (check,) = [item for item in validate(read(found.folder, tmp_path), options=OPTIONS, timeout=60) if not item.ok]
    assert check.name == "code" and "nowhere.at_all" in check.message


def test_a_bundled_submission_is_valid() -> None:
    from harness.submission import default_roots

    found = discover(default_roots()).submissions
    if not found:
        pytest.skip("no submission is bundled yet")
    checks = validate(found[min(found)], options=OPTIONS, timeout=120)
    assert len(checks) == 4 + len(BATTERY)
    assert all(item.ok for item in checks), checks
