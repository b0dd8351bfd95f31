"""MNIST and SVHN, on small files of their own formats and with torchvision as the second reader."""

import gzip
import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from file_server import FileServer

from harness import datasets
from harness.datasets import mnist, svhn
from harness.datasets.files import Source
from harness.errors import DatasetError


def idx(array):
    head = bytes([0, 0, 8, array.ndim]) + b"".join(length.to_bytes(4, "big") for length in array.shape)
    return gzip.compress(head + array.astype(np.uint8).tobytes(), mtime=0)


@pytest.fixture
def digits():
    draw = np.random.default_rng(0)
    return draw.integers(0, 256, (7, 28, 28), dtype=np.uint8), np.array([3, 0, 9, 1, 2, 5, 9])


def known(monkeypatch, module, name, content, url=None):
    """Let the loader expect ``content`` under its usual file name."""
    source = getattr(module, name)
    file = Path(source.url).name
    changed = Source(f"{url}/{file}" if url else "http://127.0.0.1:9/" + file, hashlib.md5(content).hexdigest())
    monkeypatch.setattr(module, name, changed)
    return file


def place_mnist(folder, monkeypatch, images, labels):
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, content in (("IMAGES", images), ("LABELS", labels)):
        (raw / known(monkeypatch, mnist, name, content)).write_bytes(content)
    return raw


def mat(folder, images, labels):
    from scipy import io

    io.savemat(folder / "test_32x32.mat", {"X": images, "y": labels}, do_compression=True)
    return (folder / "test_32x32.mat").read_bytes()


def test_the_sources_are_torchvisions():
    from torchvision.datasets import MNIST, SVHN

    sums = dict(MNIST.resources)
    for source in (mnist.IMAGES, mnist.LABELS):
        assert sums[Path(source.url).name] == source.md5 and source.url.startswith(MNIST.mirrors[0])
    assert SVHN.split_list["test"] == [svhn.TEST.url, "test_32x32.mat", svhn.TEST.md5]


def test_mnist_is_read_where_torchvision_puts_it(tmp_path, monkeypatch, digits):
    images, labels = digits
    raw = place_mnist(tmp_path, monkeypatch, idx(images), idx(labels))
    data = datasets.load("mnist", data_dir=tmp_path)
    assert data.name == "mnist" and data.classes == 10 and data.class_names == tuple("0123456789")
    assert data.images.shape == (7, 28, 28, 1) and len(data) == data.full == 7
    assert np.array_equal(np.asarray(data.images)[..., 0], images) and data.labels.tolist() == labels.tolist()
    x, y = data.tensors(2, 5)
    assert x.shape == (3, 1, 28, 28) and y.tolist() == [9, 1, 2]

    import torchvision

    for file in raw.glob("*.gz"):
        for split in ("t10k", "train"):
            (raw / file.name.removesuffix(".gz").replace("t10k", split)).write_bytes(gzip.decompress(file.read_bytes()))
    theirs = torchvision.datasets.MNIST(str(tmp_path), train=False)
    assert np.array_equal(theirs.data.numpy(), images) and theirs.targets.tolist() == labels.tolist()
    assert len(datasets.load("mnist", data_dir=tmp_path, limit=3)) == 3


def test_svhn_is_read_and_ten_is_nought(tmp_path, monkeypatch):
    images = np.random.default_rng(1).integers(0, 256, (32, 32, 3, 5), dtype=np.uint8)
    labels = np.array([[5], [10], [1], [9], [10]], dtype=np.uint8)
    known(monkeypatch, svhn, "TEST", mat(tmp_path, images, labels))
    data = datasets.load("svhn", data_dir=tmp_path)
    assert data.name == "svhn" and data.classes == 10 and data.images.shape == (5, 32, 32, 3)
    assert data.labels.tolist() == [5, 0, 1, 9, 0]
    assert np.array_equal(np.asarray(data.images)[2], images[..., 2])

    import torchvision

    kind = torchvision.datasets.SVHN
    monkeypatch.setattr(kind, "split_list", {"test": [svhn.TEST.url, "test_32x32.mat", svhn.TEST.md5]})
    theirs = kind(str(tmp_path), split="test")
    assert np.array_equal(theirs.data.transpose(0, 2, 3, 1), np.asarray(data.images))
    assert theirs.labels.tolist() == data.labels.tolist()


def test_both_are_downloaded_when_they_are_not_there(tmp_path, monkeypatch, digits):
    images, labels = idx(digits[0]), idx(digits[1])
    pictures = np.zeros((32, 32, 3, 2), dtype=np.uint8)
    (tmp_path / "made").mkdir()
    numbers = mat(tmp_path / "made", pictures, np.array([[1], [2]]))
    files = {"/t10k-images-idx3-ubyte.gz": images, "/t10k-labels-idx1-ubyte.gz": labels, "/test_32x32.mat": numbers}
    with FileServer(files) as server:
        for module, name, content in ((mnist, "IMAGES", images), (mnist, "LABELS", labels), (svhn, "TEST", numbers)):
            known(monkeypatch, module, name, content, server.address)
        assert (
            len(datasets.load("mnist", data_dir=tmp_path)) == 7 and len(datasets.load("svhn", data_dir=tmp_path)) == 2
        )
    assert len(datasets.load("mnist", data_dir=tmp_path)) == 7, "and kept"
    assert (tmp_path / "MNIST" / "raw" / "t10k-images-idx3-ubyte.gz").read_bytes() == images


@pytest.mark.parametrize("name", ["mnist", "svhn"])
def test_without_network_the_message_gives_the_manual_way_out(tmp_path, monkeypatch, name):
    for module, source in ((mnist, "IMAGES"), (mnist, "LABELS"), (svhn, "TEST")):
        file = Path(getattr(module, source).url).name
        monkeypatch.setattr(module, source, replace(getattr(module, source), url=f"http://127.0.0.1:9/{file}"))
    with pytest.raises(DatasetError) as caught:
        datasets.load(name, data_dir=tmp_path)
    message = str(caught.value)
    source = mnist.IMAGES if name == "mnist" else svhn.TEST
    place = tmp_path / "MNIST" / "raw" if name == "mnist" else tmp_path
    for part in (f"{name}: expected", source.url, source.md5, str(place / Path(source.url).name), "RAMPART_DATA"):
        assert part in message
    assert "\n" not in message


def test_damaged_files_are_named(tmp_path, monkeypatch, digits):
    images, labels = digits
    raw = place_mnist(tmp_path, monkeypatch, idx(images), idx(labels))
    file = raw / "t10k-images-idx3-ubyte.gz"
    file.write_bytes(file.read_bytes() + b"x")
    with pytest.raises(DatasetError, match=r"mnist: expected .*t10k-images.* with md5 .*damaged, or another file"):
        datasets.load("mnist", data_dir=tmp_path)
    shorter = gzip.compress(gzip.decompress(idx(images))[:-1])
    for content, said in (
        (b"no gzip", "expected a gzip file"),
        (gzip.compress(b"no idx"), "expected an IDX file"),
        (shorter, "expected an IDX file"),
        (idx(images[:3]), r"got \(3, 28, 28\) and \(7,\)"),
    ):
        known(monkeypatch, mnist, "IMAGES", content)
        file.write_bytes(content)
        with pytest.raises(DatasetError, match=said):
            datasets.load("mnist", data_dir=tmp_path)

    pictures = np.zeros((32, 32, 3, 2), dtype=np.uint8)
    for content, said in (
        (b"no mat file", "expected a MATLAB file"),
        (mat(tmp_path, pictures[..., :1], np.array([[1], [2]])), "expected X uint8"),
        (mat(tmp_path, pictures, np.array([[1], [11]])), "labels from 1 to 10"),
    ):
        known(monkeypatch, svhn, "TEST", content)
        (tmp_path / "test_32x32.mat").write_bytes(content)
        with pytest.raises(DatasetError, match=f"svhn: .*{said}"):
            datasets.load("svhn", data_dir=tmp_path)
