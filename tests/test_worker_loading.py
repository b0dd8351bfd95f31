"""From a spec to a network: what is loaded is what was pinned, and every mistake is named in one line."""

import hashlib
import os
import pickle
import sys

import pytest
import torch
from safetensors.torch import save_file
from worker_submissions import LINEAR, TIMEOUT, hand_made

from harness.models import ModelWorker, RemoteModel, WorkerError
from harness.worker.loading import LoadError, load
from harness.worker.weights import one_line


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "linear"


def state(**changes):
    generator = torch.Generator().manual_seed(1)
    tensors = {
        "linear.weight": torch.randn(4, 192, generator=generator), "linear.bias": torch.randn(4, generator=generator)
    }  # fmt: skip
    return {name: tensor for name, tensor in (tensors | changes).items() if tensor is not None}


def pinned(folder, path, **fields):
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return hand_made(folder, LINEAR, checkpoint=str(path), checkpoint_sha256=digest, **fields)


def refusal(spec):
    before = list(sys.path)
    with pytest.raises(LoadError) as caught:
        load(spec)
    sys.path[:] = before
    assert "\n" not in str(caught.value)
    return caught.value.kind, str(caught.value)


def save_plain(path, tensors):
    save_file(tensors, path) if path.suffix == ".safetensors" else torch.save(tensors, path)


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pt", "weights.pth"])
def test_a_checkpoint_is_loaded_and_the_network_frozen(folder, tmp_path, name) -> None:
    save_plain(tmp_path / name, state())
    network = load(pinned(folder, tmp_path / name))
    assert torch.equal(network.linear.weight, state()["linear.weight"])
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.parametrize("how", ["script(Net(classes))", "trace(Net(classes), torch.zeros(2, 3, 8, 8))"])
def test_a_compiled_network_is_frozen_and_answers(folder, how) -> None:
    code = LINEAR.replace("return Net(classes)", f"return torch.jit.{how}")
    x, y = torch.rand(5, 3, 8, 8), torch.arange(5) % 4
    assert not any(parameter.requires_grad for parameter in load(hand_made(folder, code)).parameters())
    with ModelWorker(hand_made(folder, code)) as worker:
        worker.start(TIMEOUT)
        leaf = x.clone().requires_grad_()
        (grad,) = torch.autograd.grad(RemoteModel(worker)(leaf).gather(1, y[:, None]).sum(), leaf)
    assert grad.abs().sum() > 0


def test_a_nested_and_prefixed_state_dict(folder, tmp_path) -> None:
    path = tmp_path / "weights.pt"
    torch.save({"epoch": 3, "ema": {f"module.{name}": tensor for name, tensor in state().items()}}, path)
    network = load(pinned(folder, path, key="ema", strip_prefix="module."))
    assert torch.equal(network.linear.bias, state()["linear.bias"])


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return (os.mkdir, (self.marker,))


def write_bad(path, case, marker):
    """Write the file of one bad case at ``path``."""
    if case in {"truncated safetensors", "truncated header"}:
        save_file(state(), path)
        path.write_bytes(path.read_bytes()[: 20 if case == "truncated header" else -100])
    elif case == "truncated torch":
        torch.save(state(), path)
        path.write_bytes(path.read_bytes()[:-400])
    elif case == "html":
        path.write_text("\n<!DOCTYPE html><html><body>Sign in to download</body></html>")
    elif case == "empty":
        path.write_bytes(b"")
    elif case == "noise":
        path.write_bytes(bytes(range(256)) * 20)
    elif case == "code in a zip":
        torch.save({"linear.weight": Bomb(marker)}, path)
    elif case == "code in a pickle":
        path.write_bytes(pickle.dumps({"linear.weight": Bomb(marker)}, protocol=2))
    elif case == "whole network":
        torch.save(torch.nn.Linear(2, 2), path)
    elif case == "nested":
        torch.save({"epoch": 3, "state_dict": state()}, path)


@pytest.mark.parametrize(
    ("case", "name", "parts"),
    [
        ("missing", "w.safetensors", ["no such file"]),
        ("truncated safetensors", "w.safetensors", ["truncated"]),
        ("truncated header", "w.safetensors", ["truncated"]),
        ("truncated torch", "w.pt", ["truncated"]),
        ("html", "w.safetensors", ["web page (HTML)"]),
        ("html", "w.pth", ["web page (HTML)"]),
        ("empty", "w.pt", ["empty"]),
        ("noise", "w.pt", ["damaged, truncated or something else"]),
        ("noise", "w.safetensors", ["damaged, truncated or something else"]),
        ("code in a zip", "w.pt", ["a pickle that would run code (posix.mkdir)", "not loaded", "state_dict()"]),
        ("code in a pickle", "w.pth", ["a pickle that would run code (posix.mkdir)"]),
        ("whole network", "w.pt", ["a pickle that would run code (torch.nn.modules.linear.Linear)"]),
        ("nested", "w.pt", ["got epoch, state_dict", 'key = "..." under [checkpoint]']),
    ],
)
@pytest.mark.parametrize("hashed", [True, False])
def test_bad_files(folder, tmp_path, case, name, parts, hashed) -> None:
    path, marker = tmp_path / name, tmp_path / "executed"
    write_bad(path, case, marker)
    digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else "0" * 64
    kind, message = refusal(hand_made(folder, LINEAR, checkpoint=str(path), checkpoint_sha256=digest if hashed else ""))
    assert kind == "checkpoint"
    assert str(path) in message
    assert [part for part in parts if part not in message] == []
    assert not marker.exists()


def test_the_bomb_would_have_gone_off(tmp_path) -> None:
    write_bad(tmp_path / "w.pt", "code in a zip", tmp_path / "executed")
    torch.load(tmp_path / "w.pt", weights_only=False)
    assert (tmp_path / "executed").exists()


def test_another_file_than_the_pinned_one(folder, tmp_path) -> None:
    path = tmp_path / "w.safetensors"
    save_file(state(), path)
    spec = pinned(folder, path)
    save_file(state(**{"linear.bias": torch.zeros(4)}), path)
    kind, message = refusal(spec)
    assert kind == "checkpoint"
    assert f"{path}: expected sha256 {spec['checkpoint_sha256']}, got " in message
    path.write_text("<html>")
    assert "web page" in refusal(spec)[1]


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"linear.bias": None}, ["missing 1: linear.bias"]),
        ({"head.weight": torch.zeros(1)}, ["unexpected 1: head.weight"]),
        (
            {"linear.weight": torch.zeros(10, 192)},
            ["other shapes 1: linear.weight is (10, 192) in the file and (4, 192) in the network"],
        ),
        (
            {"linear.weight": None, "linear.bias": None, "net.linear.weight": torch.zeros(4, 192),
             "net.linear.bias": torch.zeros(4)},
            ["missing 2: linear.weight, linear.bias", "unexpected 2:", 'try strip_prefix = "net."'],
        ),
        ({f"more.{number}": torch.zeros(1) for number in range(9)}, ["more.0, more.1, more.2 and 6 more"]),
    ],
)  # fmt: skip
def test_keys_that_do_not_fit(folder, tmp_path, changes, parts) -> None:
    path = tmp_path / "w.safetensors"
    save_file(state(**changes), path)
    kind, message = refusal(pinned(folder, path))
    assert kind == "checkpoint"
    assert f"{path} does not fit the network: " in message
    assert [part for part in parts if part not in message] == []


@pytest.mark.parametrize(
    ("fields", "part"),
    [
        ({"key": "ema"}, "expected a key 'ema', it holds linear.weight, linear.bias"),
        ({"strip_prefix": "module."}, "expected keys that start with strip_prefix 'module.', got linear.bias"),
    ],
)
def test_a_key_or_prefix_that_is_not_there(folder, tmp_path, fields, part) -> None:
    path = tmp_path / "w.pt"
    torch.save(state(), path)
    assert part in refusal(pinned(folder, path, **fields))[1]


@pytest.mark.parametrize(
    ("code", "fields", "kind", "parts"),
    [
        (LINEAR, {"entry": "other.py:build"}, "contract", ["expected a file ", "other.py, found none"]),
        (LINEAR, {"entry": "model.py:make"}, "contract", ["model.py has no function 'make'; it defines Net, build"]),
        (LINEAR, {"entry": "model.py"}, "contract", ["expected 'model.py:build' or 'package.module:function'"]),
        (LINEAR, {"entry": "no_such_package.net:build"}, "contract", ["no module 'no_such_package.net' in "]),
        (LINEAR, {"kwargs": {"clases": 4}}, "contract", ["kwargs: model.py:build(classes=4)", "'clases'"]),
        ("import no_such_dependency", {}, "raised", ["could not be imported: ModuleNotFoundError", "(model.py:1)"]),
        ("\ndef build(:\n    pass", {}, "raised", ["SyntaxError", "(model.py:2)"]),
        ("def build():\n    return {}", {}, "contract", ["model.py:build returned dict, expected a torch.nn.Module"]),
        ("def build():\n\n    1 / 0", {}, "raised", ["build raised ZeroDivisionError", "(model.py:3)"]),
        ("def build():\n    raise SystemExit(2)", {}, "raised", ["build raised SystemExit: 2"]),
    ],
)
def test_entries_that_cannot_be_used(folder, code, fields, kind, parts) -> None:
    found, message = refusal(hand_made(folder, code, **fields))
    assert found == kind
    assert [part for part in parts if part not in message] == []


def test_each_folder_gets_its_own_siblings(tmp_path) -> None:
    before = list(sys.path)
    for size in (3, 5):
        folder = tmp_path / f"size-{size}"
        spec = hand_made(folder, "from torch import nn\nfrom sizes import SIZE\ndef build(): return nn.Linear(2, SIZE)")
        (folder / "sizes.py").write_text(f"SIZE = {size}")
        assert load(spec).out_features == size
    sys.path[:] = before


def test_a_module_of_a_package_is_found_on_the_search_path(tmp_path) -> None:
    before = list(sys.path)
    package = tmp_path / "root" / "nets_of_this_test"
    package.mkdir(parents=True)
    (package / "tiny.py").write_text("from torch import nn\ndef build(n): return nn.Linear(2, n)")
    spec = hand_made(tmp_path / "s", "", entry="nets_of_this_test.tiny:build", kwargs={"n": 6})
    assert load(spec | {"search": [str(tmp_path / "root")]}).out_features == 6
    sys.path[:] = before


def test_building_leaves_the_callers_generators_alone(folder) -> None:
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    first = load(hand_made(folder, LINEAR))
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(load(hand_made(folder, LINEAR)).linear.weight, first.linear.weight)


def test_a_worker_reports_these_errors_with_their_kind(folder, tmp_path) -> None:
    path, marker = tmp_path / "w.pth", tmp_path / "executed"
    write_bad(path, "code in a pickle", marker)
    with ModelWorker(pinned(folder, path)) as worker:
        with pytest.raises(WorkerError, match="would run code") as caught:
            worker.start(TIMEOUT)
        assert caught.value.kind == "checkpoint"
        assert not marker.exists()


def test_lines_are_made_of_anything() -> None:
    assert one_line("a\n\x1b[31m b\t" + "c" * 500) == "a [31m b " + "c" * 388 + "..."
