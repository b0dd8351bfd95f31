"""Every kind of entry becomes the network it names, with the weights it should have, in a worker as in process."""

import hashlib
import json
import sys

import pytest
import torch
from safetensors.torch import save, save_file
from torch import nn
from worker_submissions import TIMEOUT
from zoo_submissions import server as server  # noqa: PLC0414 - a fixture
from zoo_submissions import submission

from harness.errors import CardError
from harness.hubs import robustbench
from harness.models import ModelWorker
from harness.worker.entries.state import find_state, load_renamed
from harness.worker.loading import LoadError, load

COMMIT = "b" * 40
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")
X = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(3))


@pytest.fixture(autouse=True)
def _same_path():
    before = list(sys.path)
    yield
    sys.path[:] = before


def tiny(classes=10, seed=0):
    torch.manual_seed(seed)
    layers = [nn.Conv2d(3, 4, 3, stride=4), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 64, classes)]
    network = nn.Sequential(*layers)
    network[1].running_mean.normal_()
    return network.eval().requires_grad_(False)


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def with_file(root, entry, write, **fields):
    """A submission whose checkpoint is what ``write`` makes."""
    (root / "model").mkdir(exist_ok=True)
    path = root / "model" / "net.bin"
    write(path)
    tables = f'[checkpoint]\nfile = "net.bin"\nsha256 = "{sha256(path)}"'
    return submission(root, entry, tables=tables, **fields)


def script(path):
    torch.jit.save(torch.jit.trace(tiny(), X), path)


def program(path, batch=None):
    shapes = {"input": {0: torch.export.Dim("batch", min=1, max=4096)}} if batch is None else None
    torch.export.save(torch.export.export(tiny(), (X[: batch or 2],), dynamic_shapes=shapes), path)


def check(found, expected, x=X, atol=1e-5):
    """In process and in a worker: the logits, and the gradient of the first logit."""
    network = load(found.spec())
    assert not network.training and not any(value.requires_grad for value in network.parameters())
    leaf, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    logits, wanted = network(leaf), expected(other)
    torch.testing.assert_close(logits, wanted, atol=atol, rtol=1e-4)
    (gradient,) = torch.autograd.grad(logits[:, 0].sum(), leaf)
    (right,) = torch.autograd.grad(wanted[:, 0].sum(), other)
    torch.testing.assert_close(gradient, right, atol=atol, rtol=1e-3)
    return network


def test_a_torchscript_file(tmp_path) -> None:
    check(with_file(tmp_path, "torchscript", script), tiny())


@pytest.mark.parametrize("batch", [None, 2])
def test_an_exported_program_whatever_batch_it_was_exported_for(tmp_path, batch) -> None:
    check(with_file(tmp_path, "exported-program", lambda path: program(path, batch)), tiny())


def test_these_files_work_in_a_worker(tmp_path) -> None:
    for entry, write in (("torchscript", script), ("exported-program", program)):
        found = with_file(tmp_path, entry, write)
        assert found.checkpoint_sha256() == sha256(tmp_path / "model" / "net.bin")
        with ModelWorker(found.spec()) as worker:
            worker.start(TIMEOUT)
            torch.testing.assert_close(worker.forward(X)[0], tiny()(X), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("entry", "write", "words"),
    [
        (
            "torchscript",
            program,
            'expected a TorchScript file, got an exported program: write entry = "exported-program"',
        ),
        (
            "exported-program",
            script,
            'expected an exported program, got a TorchScript file: write entry = "torchscript"',
        ),
        ("torchscript", lambda path: torch.save(tiny().state_dict(), path), "got weights alone: write entry = "),
        ("torchscript", lambda path: path.write_bytes(b"abc"), "got a file that is no archive"),
    ],
)
def test_another_kind_of_file_is_named(tmp_path, entry, write, words) -> None:
    with pytest.raises(LoadError) as caught:
        load(with_file(tmp_path, entry, write).spec())
    assert caught.value.kind == "checkpoint" and words in str(caught.value)


CALLABLE = """
import torch

def predict(x, scale=1.0):
    return scale * x.flatten(1)[:, :10]

def listed(x):
    return x.flatten(1)[:, :10].tolist()
"""


def test_a_plain_function_is_a_network(tmp_path) -> None:
    found = submission(tmp_path, "callable:model.py:predict", fields="kwargs = { scale = 2.0 }", code=CALLABLE)
    check(found, lambda x: 2 * x.flatten(1)[:, :10])
    assert found.source_sha256() != submission(tmp_path, "callable:model.py:listed", code=CALLABLE).source_sha256()


def test_what_is_no_tensor_becomes_one_and_has_no_gradient(tmp_path) -> None:
    network = load(submission(tmp_path, "callable:model.py:listed", code=CALLABLE).spec())
    assert torch.equal(network(X), X.flatten(1)[:, :10])


@pytest.mark.parametrize(
    ("entry", "fields", "words"),
    [
        ("callable:model.py:other", "", "model.py has no function 'other'; it defines listed, predict"),
        ("callable:model.py:predict", "kwargs = { size = 2 }", "kwargs: model.py:predict(x, scale=1.0): "),
    ],
)
def test_a_function_that_cannot_be_called(tmp_path, entry, fields, words) -> None:
    with pytest.raises(LoadError) as caught:
        load(submission(tmp_path, entry, fields=fields, code=CALLABLE).spec())
    assert caught.value.kind == "contract" and words in str(caught.value)


def timm_network(classes=10):
    import timm

    torch.manual_seed(4)
    return timm.create_model("resnet10t", pretrained=False, num_classes=classes).eval().requires_grad_(False)


def normalised(network, mean, std, size=None):
    def ask(x):
        if size:
            x = nn.functional.interpolate(x, (size, size), mode="bilinear", align_corners=False)
        return network((x - torch.tensor(mean).view(1, -1, 1, 1)) / torch.tensor(std).view(1, -1, 1, 1))

    return ask


def test_a_timm_architecture_with_a_checkpoint(tmp_path) -> None:
    fields = "kwargs = { mean = [0.4, 0.5, 0.6], std = [0.2, 0.2, 0.3] }"
    network = timm_network()
    found = with_file(tmp_path, "timm:resnet10t", lambda path: torch.save(network.state_dict(), path), fields=fields)
    check(found, normalised(network, [0.4, 0.5, 0.6], [0.2, 0.2, 0.3]))


def hugging_face(server, configuration, state):
    path = f"/org/repo/resolve/{COMMIT}/"
    server.files |= {path + "config.json": json.dumps(configuration).encode(), path + "model.safetensors": save(state)}


def test_a_hugging_face_repository(server, tmp_path) -> None:
    network = timm_network()
    pretrained = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25], "input_size": [3, 48, 48]}
    configuration = {"architecture": "resnet10t", "num_classes": 10, "pretrained_cfg": pretrained}
    hugging_face(server, configuration, network.state_dict())
    found = submission(tmp_path, f"hf:org/repo@{COMMIT}")
    check(found, normalised(network, [0.5] * 3, [0.25] * 3, size=48), atol=1e-4)
    with ModelWorker(found.spec()) as worker:
        worker.start(TIMEOUT)
        assert worker.forward(X)[0].shape == (5, 10)


@pytest.mark.parametrize(
    ("configuration", "words"),
    [
        (
            {"model_type": "vit", "architectures": ["ViT"]},
            "expected a timm configuration with 'architecture', got another",
        ),
        ({"architecture": "resnet10t", "num_classes": 7}, "expected a network of 10 classes, got 7"),
        ({"architecture": "resnet10x", "num_classes": 10}, "unknown timm model 'resnet10x': did you mean"),
        ({"architecture": "resnet10t", "num_classes": 10}, "kwargs.mean: expected the mean of each channel"),
    ],
)
def test_a_repository_that_cannot_be_used(server, tmp_path, configuration, words) -> None:
    hugging_face(server, configuration, {"w": torch.zeros(1)})
    with pytest.raises(LoadError) as caught:
        load(submission(tmp_path, f"hf:org/repo@{COMMIT}").spec())
    assert words in str(caught.value) and "\n" not in str(caught.value)


class Pair(nn.Module):
    """An ensemble as RobustBench builds them."""

    def __init__(self):
        super().__init__()
        self.models = nn.ModuleList([tiny(seed=8), tiny(seed=9)])

    def forward(self, x):
        return self.models[0](x) + 2 * self.models[1](x)


def given(monkeypatch, build, files):
    entries = {"Tiny2026": {"model": build, "gdrive_id": files}}
    monkeypatch.setattr(robustbench, "_zoo", lambda: {"cifar10": {"Linf": entries}})


def placed(name, saved):
    path = robustbench.folder("cifar10", "Linf") / name
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(saved, path)


def test_a_robustbench_entry_whose_weights_were_placed_by_hand(server, tmp_path, monkeypatch) -> None:
    given(monkeypatch, tiny, "ID")
    network = tiny(seed=5)
    placed("Tiny2026.pt", {"state_dict": {f"module.{key}": value for key, value in network.state_dict().items()}})
    check(submission(tmp_path, "robustbench:Tiny2026"), network)
    assert server.asked == []


def test_an_ensemble_of_several_files(server, tmp_path, monkeypatch) -> None:
    given(monkeypatch, Pair, ["A", "B"])
    one, two = tiny(seed=5), tiny(seed=6)
    placed("Tiny2026.pt_m0.pt", one.state_dict())
    placed("Tiny2026.pt_m1.pt", two.state_dict())
    check(submission(tmp_path, "robustbench:Tiny2026"), lambda x: one(x) + 2 * two(x))


def test_a_robustbench_entry_with_a_file_of_the_folder(tmp_path, monkeypatch) -> None:
    given(monkeypatch, tiny, "ID")
    network = tiny(seed=7)
    found = with_file(tmp_path, "robustbench:Tiny2026", lambda path: torch.save(network.state_dict(), path))
    check(found, network)


def test_a_file_that_changed_after_it_was_hashed_is_not_loaded(server, tmp_path, monkeypatch) -> None:
    given(monkeypatch, tiny, "ID")
    placed("Tiny2026.pt", tiny().state_dict())
    spec = submission(tmp_path, "robustbench:Tiny2026").spec()
    placed("Tiny2026.pt", tiny(seed=1).state_dict())
    with pytest.raises(LoadError, match=r"expected sha256 .* got "):
        load(spec)


def test_options_and_figures_beside_the_weights_run_no_code(server, tmp_path, monkeypatch) -> None:
    import argparse

    import numpy as np

    given(monkeypatch, tiny, "ID")
    beside = {"args": argparse.Namespace(lr=0.1), "best": np.float64(0.5), "epoch": 3}
    placed("Tiny2026.pt", {**beside, "state_dict": tiny(seed=5).state_dict()})
    check(submission(tmp_path, "robustbench:Tiny2026"), tiny(seed=5))
    placed("Tiny2026.pt", {"model": tiny(seed=5)})
    for record in robustbench.folder("cifar10", "Linf").glob("*.json"):
        record.unlink()
    with pytest.raises(LoadError, match="a pickle that would run code"):
        load(submission(tmp_path, "robustbench:Tiny2026").spec())


class Normalised(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("mu", torch.full((1, 3, 1, 1), 0.5))
        self.model = nn.Linear(3, 2)
        self.other = nn.Linear(2, 2)


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "module.model."])
def test_prefixes_of_wrappers_are_found_out(tmp_path, prefix) -> None:
    network, source = nn.Linear(3, 2), nn.Linear(3, 2)
    load_renamed(network, {prefix + name: value for name, value in source.state_dict().items()}, tmp_path / "w.pt")
    assert torch.equal(network.weight, source.weight)


def test_a_prefix_of_the_networks_own_stays(tmp_path) -> None:
    network, source = Normalised(), Normalised()
    load_renamed(network, {f"module.{name}": value for name, value in source.state_dict().items()}, tmp_path / "w.pt")
    assert torch.equal(network.model.weight, source.model.weight)


def test_only_known_differences_are_forgiven(tmp_path) -> None:
    network, state = Normalised(), dict(Normalised().state_dict())
    del state["mu"]
    state |= {"model_preact_hl1.1.weight": torch.zeros(2), "other.scores": torch.zeros(1)}
    load_renamed(network, state, tmp_path / "w.pt")
    assert torch.equal(network.mu, torch.full((1, 3, 1, 1), 0.5))
    with pytest.raises(Exception, match="unexpected 1: head"):
        load_renamed(network, state | {"head": torch.zeros(1)}, tmp_path / "w.pt")
    del state["other.weight"]
    with pytest.raises(Exception, match=r"missing 1: other\.weight"):
        load_renamed(network, state, tmp_path / "w.pt")


def test_where_training_scripts_keep_the_weights(tmp_path) -> None:
    state = {"w": torch.zeros(1)}
    held = [state, {"state_dict": state, "epoch": 1}, {"last": state, "best": {"w": torch.ones(1)}}, {"net": state}]
    assert all(find_state(item, tmp_path) == state for item in [*held, {"model": {"state_dict": state}}])
    with pytest.raises(Exception, match="expected a state dict of tensors, alone or as last, state_dict"):
        find_state({"weights": [1]}, tmp_path)


@pytest.mark.parametrize(
    ("entry", "fields", "tables", "words"),
    [
        ("torchscript", "", "", "checkpoint: missing, expected the file of the network, since entry is 'torchscript'"),
        (
            "exported-program",
            "",
            '[checkpoint]\nsha256 = "{sha}"',
            "checkpoint: expected either file or url, got neither",
        ),
        (
            "torchscript",
            "kwargs = { a = 1 }",
            '[checkpoint]\nfile = "a"\nsha256 = "{sha}"',
            "kwargs: expected none, since",
        ),
        (
            "callable:model.py:f",
            "",
            '[checkpoint]\nfile = "a"\nsha256 = "{sha}"',
            "checkpoint: expected none, since a call",
        ),
        (
            "hf:a/b@" + COMMIT,
            "",
            '[checkpoint]\nfile = "a"\nsha256 = "{sha}"',
            "checkpoint: expected sha256 alone, since",
        ),
        ("robustbench:A", "kwargs = { a = 1 }", "", "kwargs: expected board alone, since the entry has its own, got a"),
        (
            "robustbench:A",
            'kwargs = { board = "L1" }',
            "",
            "kwargs.board: expected one of Linf, L2, corruptions, got 'L1'",
        ),
        ("robustbench:A", "", '[checkpoint]\nsha256 = "{sha}"\nkey = "a"', "checkpoint.key: expected none, since"),
        (
            "timm:resnet18",
            "",
            '[checkpoint]\nfile = "a"\nsha256 = "{sha}"',
            "kwargs.mean: missing, expected the mean of",
        ),
    ],
)
def test_fields_that_do_not_go_with_the_entry_are_one_line(tmp_path, entry, fields, tables, words) -> None:
    with pytest.raises(CardError) as caught:
        submission(tmp_path, entry, fields=fields, tables=tables.replace("{sha}", "0" * 64), code="")
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'model' / 'submission.toml'}: {words}") and "\n" not in message


def test_robustbench_is_for_its_own_data_sets(tmp_path) -> None:
    with pytest.raises(CardError, match=r"dataset: expected one of cifar10, cifar100 for 'robustbench:NAME'.*got npz"):
        submission(tmp_path, "robustbench:A", dataset="npz")


def test_the_specs_of_ordinary_entries_stay_as_they_were(tmp_path) -> None:
    save_file({"w": torch.zeros(1)}, tmp_path / "w")
    found = submission(tmp_path, "model.py:build", code="def build(): pass")
    assert "files" not in found.spec() and "dataset" not in found.spec()
