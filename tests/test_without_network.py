"""Without a network: for each source one line that says what could not be had, from where, and where to put it."""

import http.client
import socket
import urllib.error
import urllib.request

import numpy as np
import pytest
from zoo_submissions import submission

from harness import cli, datasets
from harness.datasets import corruptions_of
from harness.datasets.dataset import Dataset
from harness.errors import CheckpointError, DatasetError, UserError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REASON = "Name or service not known"
KRIZ = "https://www.cs.toronto.edu/~kriz"
ZENODO = "https://zenodo.org/records"
MIRROR = "https://ossci-datasets.s3.amazonaws.com/mnist/t10k-images-idx3-ubyte.gz"
STANFORD = "http://ufldl.stanford.edu/housenumbers/test_32x32.mat"
DRIVE = "https://drive.usercontent.google.com/download?id="
PERSON = "https://drive.google.com/file/d/"
HUB = f"https://huggingface.co/org/repo/resolve/{COMMIT}/model.safetensors"


@pytest.fixture
def asked(monkeypatch):
    """Nothing can be reached; the addresses that were tried."""
    addresses = []

    def refuse(request, *args, **kwargs):
        addresses.append(request if isinstance(request, str) else request.full_url)
        raise urllib.error.URLError(socket.gaierror(-2, REASON))

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.setattr("time.sleep", lambda _: None)
    return addresses


def whole(name):
    images = np.zeros((2, 32, 32, 3), np.uint8)
    return Dataset(name, images, np.array([0, 1]), int(name[5:]), tuple(map(str, range(int(name[5:])))), 10_000)


DATA = {
    "cifar10": (f"{KRIZ}/cifar-10-python.tar.gz", "cifar-10-python.tar.gz"),
    "cifar100": (f"{KRIZ}/cifar-100-python.tar.gz", "cifar-100-python.tar.gz"),
    "mnist": (MIRROR, "MNIST/raw/t10k-images-idx3-ubyte.gz"),
    "svhn": (STANFORD, "test_32x32.mat"),
    "cifar10-c": (f"{ZENODO}/2535967/files/CIFAR-10-C.tar", "CIFAR-10-C.tar"),
    "cifar100-c": (f"{ZENODO}/3555552/files/CIFAR-100-C.tar", "CIFAR-100-C.tar"),
}
"""Address and place of every data set that is downloaded."""


def load(name, folder):
    if name.endswith("-c"):
        return corruptions_of(whole(name[:-2]), data_dir=folder, source="official")
    return datasets.load(name, data_dir=folder)


def test_no_data_set_is_forgotten():
    bare = [name for name in datasets.names() if not name.endswith("-sample")]
    assert sorted(DATA) == sorted([*bare, "cifar10-c", "cifar100-c"])


@pytest.mark.parametrize("name", DATA)
def test_a_data_set(tmp_path, asked, name):
    url, place = DATA[name]
    with pytest.raises(DatasetError) as caught:
        load(name, tmp_path)
    message = str(caught.value)
    assert message.startswith(f"{name}: expected ") and "\n" not in message
    assert message.count(REASON) == 1 and message.count(url) == 1
    assert f"put {url} (md5 " in message and f"at {tmp_path / place}" in message
    assert "--data-dir" in message and "RAMPART_DATA" in message
    assert asked and set(asked) == {url}
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".lock"]


@pytest.mark.parametrize(
    "fault", [TimeoutError("timed out"), http.client.IncompleteRead(b""), ConnectionResetError(104, "reset")]
)
@pytest.mark.parametrize("name", ["mnist", "cifar10-c"])
def test_whatever_breaks_it_is_one_line(tmp_path, monkeypatch, name, fault):
    def broken(*_, **__):
        raise fault

    monkeypatch.setattr(urllib.request, "urlopen", broken)
    with pytest.raises(DatasetError, match=r"put http.* \(md5 \w{32}\) at ") as caught:
        load(name, tmp_path)
    assert "\n" not in str(caught.value)


ENTRIES = {
    "robustbench:Wong2020Fast": ("cifar10", DRIVE, "robustbench/cifar10/Linf/Wong2020Fast.pt", PERSON),
    "timm:resnet18.a1_in1k": ("npz", "https://huggingface.co/timm/resnet18.a1_in1k/resolve/main/model.safetensors",
                              "hf/timm--resnet18.a1_in1k/main/model.safetensors", ""),
    f"hf:org/repo@{COMMIT}": ("cifar10", HUB, f"hf/org--repo/{COMMIT}/model.safetensors", ""),
}  # fmt: skip
"""Data set of the card, address, place below the cache, and the page for a person, by entry."""


@pytest.mark.parametrize("entry", ENTRIES)
def test_a_model(tmp_path, monkeypatch, asked, entry):
    dataset, url, place, page = ENTRIES[entry]
    monkeypatch.setenv("RAMPART_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    found = submission(tmp_path, entry, dataset=dataset)
    with pytest.raises(CheckpointError) as caught:
        found.checkpoint_sha256()
    message = str(caught.value)
    assert "\n" not in message and REASON in message and message.count("could not be downloaded") == 1
    assert url in message and page in message and message.endswith(f"{tmp_path / 'cache' / place}")
    assert asked and not list((tmp_path / "cache").rglob("*.pt"))


def test_the_command_line_says_it_in_one_line(tmp_path, monkeypatch, asked, capsys):
    monkeypatch.setattr("torchvision.datasets.utils.urllib.request.urlopen", urllib.request.urlopen)
    code = cli.main(
        ["run", "--dataset", "cifar10", "--data-dir", str(tmp_path), "--results", str(tmp_path / "results")]
    )
    shown = capsys.readouterr()
    (line,) = [text for text in shown.err.splitlines() if text.strip()]
    assert code == 2 and line.startswith("error: cifar10: expected ") and DATA["cifar10"][0] in line
    arguments = ["--suite", "corruptions", "--corruptions", "official", "--results", str(tmp_path / "results")]
    code = cli.main(["run", "natural", *arguments])
    assert code == 2 and "expected cifar10 or cifar100 for the official archive" in capsys.readouterr().err


def test_a_model_that_cannot_be_had_costs_only_its_own_row(tmp_path, monkeypatch, asked):
    from harness import run, store

    monkeypatch.setenv("RAMPART_CACHE", str(tmp_path / "cache"))
    submission(tmp_path / "far", "robustbench:Wong2020Fast")
    asked_for = run.Request(
        ids=("model",), suite="fast", dataset="cifar10-sample", roots=(tmp_path / "far",), results=tmp_path / "results"
    )
    prepared = run.prepare(asked_for)
    assert prepared.works == () and isinstance(prepared.unusable["model"], UserError)
    records = [store.read_record(path) for path in store.record_files(tmp_path / "results")]
    assert records and all(
        record.failure.kind == "checkpoint" and REASON in record.failure.message for record in records
    )
