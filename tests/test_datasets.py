"""Data sets: where they come from does not matter, what is in them does, and every wrong file is named."""

import hashlib
import io
import pickle
import socket
import tarfile
import urllib.error
import urllib.request

import numpy as np
import pytest
import torch

from harness import datasets
from harness.datasets import DATASETS
from harness.datasets.cifar import data_folder
from harness.datasets.classes import CLASS_NAMES
from harness.datasets.dataset import Dataset
from harness.datasets.recognise import example_digest, known_digests, recognise
from harness.errors import DatasetError, UnknownNameError, UserError


def made(n=6, classes=3, seed=0):
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8)
    return images, np.arange(n, dtype=np.int64) % classes


def save(path, **arrays):
    np.savez(path, **arrays)
    return f"npz:{path}"


# --- the embedded sample


@pytest.mark.parametrize("family", ["cifar10", "cifar100"])
def test_the_sample_is_the_beginning_of_the_test_split(family):
    data = datasets.load(f"{family}-sample")
    assert data.name == f"{family}-sample" and len(data) == data.full == 20
    assert data.images.shape == (20, 32, 32, 3) and data.images.dtype == np.uint8
    assert data.classes == len(data.class_names) == int(family[5:])
    digests = [example_digest(image, int(label)) for image, label in zip(data.images, data.labels, strict=True)]
    assert digests == known_digests(family)[:20]
    expected = {"cifar10": ["cat", "ship", "ship", "airplane"], "cifar100": ["mountain", "forest", "seal", "mushroom"]}
    assert [data.class_names[label] for label in data.labels[:4]] == expected[family]


def test_a_sample_without_its_package_says_what_to_install(monkeypatch, tmp_path):
    from harness.datasets import sample

    monkeypatch.setattr(sample.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DatasetError, match=r"cifar10-sample: expected the package foolbox.*pip install foolbox"):
        datasets.load("cifar10-sample")
    monkeypatch.setattr(sample, "_folder", lambda name: tmp_path)
    with pytest.raises(DatasetError, match="got 0 of them"):
        datasets.load("cifar10-sample")
    for name in ("cifar10_00_3.png", "cifar10_02_1.png"):
        (tmp_path / name).write_bytes(b"not a picture")
    with pytest.raises(DatasetError, match=r"cifar10_00_LABEL.png and so on"):
        datasets.load("cifar10-sample")
    (tmp_path / "cifar10_02_1.png").rename(tmp_path / "cifar10_01_1.png")
    with pytest.raises(DatasetError, match="expected PNG images of one size"):
        datasets.load("cifar10-sample")


# --- identity


def test_tensors_and_identity_by_hand():
    images, labels = made(5)
    data = Dataset("x", images.copy(), labels.copy(), 3, ("a", "b", "c"), 5)
    x, y = data.tensors(1, 4)
    assert x.dtype == torch.float32 and x.shape == (3, 3, 32, 32) and y.dtype == torch.int64
    assert x.is_contiguous() and y.tolist() == [1, 2, 0]
    assert x[0, 2, 7, 9] == torch.tensor(float(images[1, 7, 9, 2])) / 255
    assert torch.equal((x * 255).round().to(torch.uint8).permute(0, 2, 3, 1), torch.from_numpy(images[1:4]))
    x.zero_(), y.zero_()
    assert np.array_equal(data.images, images) and np.array_equal(data.labels, labels)
    with pytest.raises(ValueError, match="read-only"):
        data.images[0, 0, 0, 0] = 1

    header = b"images uint8 (3, 32, 32, 3) labels int64\n"
    body = images[1:4].tobytes() + labels[1:4].astype("<i8").tobytes()
    assert data.span_sha256(1, 4) == hashlib.sha256(header + body).hexdigest()
    strided = Dataset("y", np.repeat(images, 2, axis=0)[::2], labels.copy(), 9, (), 99)
    assert strided.span_sha256(1, 4) == data.span_sha256(1, 4), "names and memory layout do not matter"
    assert len({data.span_sha256(a, b) for a in range(5) for b in range(a + 1, 6)}) == 15
    changed = images.copy()
    changed[3, 31, 31, 2] ^= 1
    assert Dataset("x", changed, labels.copy(), 3, (), 5).span_sha256(1, 4) != data.span_sha256(1, 4)
    other = labels.copy()
    other[1] = 0
    assert Dataset("x", images.copy(), other, 3, (), 5).span_sha256(1, 4) != data.span_sha256(1, 4)
    for start, stop in ((0, 6), (-1, 2), (3, 3), (4, 2)):
        with pytest.raises(ValueError, match=r"expected a span inside 0..5"):
            data.span_sha256(start, stop)
        with pytest.raises(ValueError, match="expected a span"):
            data.tensors(start, stop)


def test_limit_takes_the_first_examples_and_keeps_the_full_size():
    data = datasets.load("cifar10-sample", limit=7)
    assert len(data) == 7 and data.full == 20 and data.tensors(0, 7)[0].shape[0] == 7
    assert data.span_sha256(0, 7) == datasets.load("cifar10-sample").span_sha256(0, 7)
    for limit in (0, -3, 21):
        with pytest.raises(UserError, match=f"cifar10-sample: limit: expected 1 to 20 examples, got {limit}"):
            datasets.load("cifar10-sample", limit=limit)


# --- files of the user's


def test_an_archive_is_read_and_gets_its_classes_from_the_whole_file(tmp_path):
    images, labels = made(6, classes=3)
    data = datasets.load(save(tmp_path / "mine.npz", images=images, labels=labels.astype(np.uint8), other=labels))
    assert data.name == "npz:mine" and len(data) == data.full == 6
    assert data.classes == 3 and data.class_names == ("0", "1", "2")
    assert np.array_equal(data.images, images) and data.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert data.labels.dtype == np.int64
    few = datasets.load(f"npz:{tmp_path / 'mine.npz'}", limit=1)
    assert len(few) == 1 and few.full == 6 and few.classes == 3
    np.savez_compressed(tmp_path / "grey.npz", images=images[:, :9, :7, :1], labels=labels.astype(np.int16))
    assert datasets.load(f"npz:{tmp_path / 'grey.npz'}").tensors(0, 6)[0].shape == (6, 1, 9, 7)


IMAGES, LABELS = made()


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"images": IMAGES / 255, "labels": LABELS}, "images: expected uint8 from 0 to 255, got float64"),
        ({"images": IMAGES.astype(np.int64), "labels": LABELS}, "images: expected uint8 from 0 to 255, got int64"),
        ({"images": IMAGES[0], "labels": LABELS}, "images: expected (n, height, width, channels)"),
        ({"images": IMAGES.transpose(0, 3, 1, 2), "labels": LABELS}, "with 1 or 3 channels, got (6, 3, 32, 32)"),
        ({"images": IMAGES[:0], "labels": LABELS[:0]}, "images: expected at least one image, got (0, 32, 32, 3)"),
        ({"images": IMAGES[:, :0], "labels": LABELS}, "images: expected at least one image"),
        ({"labels": LABELS}, "images: expected this array in the archive, got labels"),
        ({"images": IMAGES}, "labels: expected this array in the archive, got images"),
        ({"images": IMAGES, "labels": LABELS[:-1]}, "labels: expected 6, one per image, got 5"),
        ({"images": IMAGES, "labels": LABELS - 1}, "labels: expected classes counted from 0, below 65536, got -1 to 1"),
        ({"images": IMAGES, "labels": LABELS + 70000}, "below 65536, got 70000 to 70002"),
        ({"images": IMAGES, "labels": LABELS.astype(np.uint64) + np.uint64(2**63)}, "below 65536"),
        ({"images": IMAGES, "labels": LABELS.astype(float)}, "labels: expected integers, got float64"),
        ({"images": IMAGES, "labels": LABELS > 0}, "labels: expected integers, got bool"),
        ({"images": IMAGES, "labels": np.array(["cat"] * 6)}, "labels: expected integers, got <U3"),
        ({"images": IMAGES, "labels": np.eye(6, dtype=np.int64)}, "labels: expected shape (n,), got (6, 6)"),
    ],
)
def test_a_wrong_array_is_named_with_its_file(tmp_path, arrays, said):
    name = save(tmp_path / "bad.npz", **arrays)
    with pytest.raises(DatasetError) as caught:
        datasets.load(name)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'bad.npz'}: ") and said in message and "\n" not in message


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("code in the archive was executed",))


def test_a_pickle_inside_an_archive_is_never_opened(tmp_path):
    name = save(tmp_path / "bomb.npz", images=np.array([Bomb()], dtype=object), labels=LABELS[:1])
    with pytest.raises(DatasetError, match="images: expected an array of plain numbers"):
        datasets.load(name)


def test_a_file_that_is_no_archive_is_said_to_be_none(tmp_path):
    good = tmp_path / "good.npz"
    np.savez(good, images=IMAGES, labels=LABELS)
    np.save(tmp_path / "array.npy", IMAGES)
    (tmp_path / "page.npz").write_text("<html>not found</html>")
    (tmp_path / "empty.npz").write_bytes(b"")
    (tmp_path / "short.npz").write_bytes(good.read_bytes()[:5000])
    damaged = bytearray(good.read_bytes())
    damaged[3000] ^= 255
    (tmp_path / "damaged.npz").write_bytes(damaged)
    (tmp_path / "pickle.npz").write_bytes(pickle.dumps(Bomb()))
    names = ("array.npy", "page.npz", "empty.npz", "short.npz", "damaged.npz", "pickle.npz", "absent.npz", "")
    for name in names:
        path = tmp_path / name
        with pytest.raises(DatasetError) as caught:
            datasets.load(f"npz:{path}")
        assert str(caught.value).startswith(f"{path}: expected a file written by numpy.savez, got "), name
    with pytest.raises(DatasetError, match=r"expected a file, as in npz:my-images.npz"):
        datasets.load("npz:")


# --- recognition


def test_an_archive_of_cifar_examples_is_cifar(tmp_path):
    for family in ("cifar10", "cifar100"):
        sample = datasets.load(f"{family}-sample")
        path = tmp_path / f"{family}.npz"
        np.savez(path, images=sample.images, labels=sample.labels.astype(np.uint8))
        data = datasets.load(f"npz:{path}", limit=15)
        assert data.name == family and len(data) == 15 and data.full == 10_000
        assert data.classes == len(data.class_names) == int(family[5:])
        assert data.span_sha256(2, 15) == sample.span_sha256(2, 15)


def test_anything_else_is_not_cifar(tmp_path):
    sample = datasets.load("cifar10-sample")
    images, labels = sample.images.copy(), sample.labels.copy()
    assert recognise(images, labels) == "cifar10"
    one_bit = images.copy()
    one_bit[19, 31, 31, 2] ^= 1
    relabelled = labels.copy()
    relabelled[19] = (relabelled[19] + 1) % 10
    swapped = np.concatenate([images[1:2], images[:1], images[2:]])
    for other in ((one_bit, labels), (images, relabelled), (swapped, labels), (images[1:], labels[1:])):
        assert recognise(*other) is None
    assert recognise(images[:, :16], labels) is None
    path = tmp_path / "nearly.npz"
    np.savez(path, images=one_bit, labels=labels)
    assert datasets.load(f"npz:{path}").name == "npz:nearly"
    assert datasets.load(f"npz:{path}", limit=19).name == "cifar10", "the examples that are asked for decide"


@pytest.mark.parametrize(("family", "covered", "held"), [("cifar10", 1000, 1017), ("cifar100", 900, 916)])
def test_the_exact_images_are_recognised_as_far_as_their_hashes_are_known(exact_data, family, covered, held):
    name = f"npz:{exact_data / f'{family}-test-exact.npz'}"
    assert len(known_digests(family)) == len(set(known_digests(family))) == covered
    data = datasets.load(name, limit=covered)
    assert data.name == family and len(data) == covered and data.full == 10_000
    assert data.span_sha256(0, 20) == datasets.load(f"{family}-sample").span_sha256(0, 20)
    longer = datasets.load(name)
    assert longer.name == f"npz:{family}-test-exact" and len(longer) == longer.full == held


# --- the real archives, on small files of their format


def cifar_archive(folder, monkeypatch, family, n=5):
    """Write an archive such as the real one with ``n`` test images, and let torchvision expect its checksums."""
    import torchvision

    kind = {"cifar10": torchvision.datasets.CIFAR10, "cifar100": torchvision.datasets.CIFAR100}[family]
    images, labels = made(n, classes=n, seed=3)
    rows = images.transpose(0, 3, 1, 2).reshape(n, 3072)
    key = "labels" if family == "cifar10" else "fine_labels"
    content = {name: {"data": rows, key: labels.tolist()} for name, _ in kind.train_list + kind.test_list}
    content[kind.meta["filename"]] = {kind.meta["key"]: list(CLASS_NAMES[family])}
    files = {name: pickle.dumps(value) for name, value in content.items()}
    sums = {name: hashlib.md5(data).hexdigest() for name, data in files.items()}
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(f"{kind.base_folder}/{name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / kind.filename).write_bytes(packed.getvalue())
    monkeypatch.setattr(kind, "tgz_md5", hashlib.md5(packed.getvalue()).hexdigest())
    monkeypatch.setattr(kind, "train_list", [[name, sums[name]] for name, _ in kind.train_list])
    monkeypatch.setattr(kind, "test_list", [[name, sums[name]] for name, _ in kind.test_list])
    monkeypatch.setattr(kind, "meta", kind.meta | {"md5": sums[kind.meta["filename"]]})
    return images, labels, folder / kind.filename, kind


@pytest.fixture
def no_network(monkeypatch):
    """Every attempt to reach the network fails at once; the attempts are counted."""
    attempts = []

    def refuse(*args, **kwargs):
        attempts.append((args, socket.getdefaulttimeout()))
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    return attempts


@pytest.mark.parametrize("family", ["cifar10", "cifar100"])
def test_an_archive_put_in_place_by_hand_is_unpacked_and_read(tmp_path, monkeypatch, no_network, family):
    images, labels, archive, kind = cifar_archive(tmp_path / "data", monkeypatch, family)
    data = datasets.load(family, data_dir=tmp_path / "data")
    assert data.name == family and data.classes == len(data.class_names) == int(family[5:])
    assert np.array_equal(data.images, images) and np.array_equal(data.labels, labels)
    assert data.full == len(data) == 5
    # Unpacked once: it is read again although the archive is gone, and the environment variable leads to it.
    archive.unlink()
    monkeypatch.setenv("RAMPART_DATA", str(tmp_path / "data"))
    again = datasets.load(family, limit=2)
    assert len(again) == 2 and again.full == 5 and again.span_sha256(0, 2) == data.span_sha256(0, 2)
    assert no_network == []
    # A damaged file is noticed by its checksum.
    name = kind.test_list[0][0]
    (tmp_path / "data" / kind.base_folder / name).write_bytes(b"damaged")
    with pytest.raises(DatasetError, match=family):
        datasets.load(family)


@pytest.mark.parametrize("family", ["cifar10", "cifar100"])
def test_without_network_the_message_gives_the_manual_way_out(tmp_path, no_network, family):
    before = socket.getdefaulttimeout()
    with pytest.raises(DatasetError) as caught:
        datasets.load(family, data_dir=tmp_path / "data")
    message = str(caught.value)
    archive = {"cifar10": "cifar-10-python.tar.gz", "cifar100": "cifar-100-python.tar.gz"}[family]
    md5 = {"cifar10": "c58f30108f718f92721af3b95e74349a", "cifar100": "eb9058c3a382ffc7106e4002c42a8d85"}[family]
    assert message.startswith(f"{family}: expected ") and "\n" not in message
    for part in (f"https://www.cs.toronto.edu/~kriz/{archive}", md5, str(tmp_path / "data" / archive),
                 "Name or service not known", "--data-dir", "RAMPART_DATA", f"{family}-sample"):  # fmt: skip
        assert part in message
    assert no_network and all(timeout == 30.0 for _, timeout in no_network), "no connection may wait for ever"
    assert socket.getdefaulttimeout() == before


def test_a_wrong_archive_is_called_by_its_checksum(tmp_path, no_network):
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(b"<html>please log in</html>")
    wrong = hashlib.md5(b"<html>please log in</html>").hexdigest()
    with pytest.raises(DatasetError, match=f"cifar-10-python.tar.gz has md5 {wrong}: damaged, or another file"):
        datasets.load("cifar10", data_dir=tmp_path)


def test_a_folder_that_cannot_be_made_is_an_error_of_the_users(tmp_path, no_network):
    (tmp_path / "file").write_text("")
    with pytest.raises(DatasetError, match="cifar10: expected"):
        datasets.load("cifar10", data_dir=tmp_path / "file" / "data")


def test_where_data_sets_are_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("RAMPART_DATA", str(tmp_path / "variable"))
    assert data_folder(tmp_path / "argument") == tmp_path / "argument"
    assert data_folder(None) == tmp_path / "variable"
    monkeypatch.delenv("RAMPART_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert data_folder(None) == tmp_path / "cache" / "rampart"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert data_folder(None) == tmp_path / "home" / ".cache" / "rampart"


# --- names


def test_names_and_suggestions():
    assert datasets.names() == DATASETS.names() == [
        "cifar10", "cifar10-sample", "cifar100", "cifar100-sample", "mnist", "svhn",
    ]  # fmt: skip
    with pytest.raises(UnknownNameError, match="unknown dataset 'cifar10-sampel': did you mean 'cifar10-sample'"):
        datasets.load("cifar10-sampel")
    with pytest.raises(UnknownNameError, match="npz:FILE"):
        datasets.load("imagenet")
    with pytest.raises(UnknownNameError, match=r"did you mean 'npz:my/images.npz'"):
        datasets.load("my/images.npz")


@pytest.mark.parametrize("name", [name for name in DATASETS.names() if name.endswith("-sample")])
def test_every_data_set_that_needs_no_download_keeps_the_contract(name):
    data = datasets.load(name)
    assert data.name == name and data.images.ndim == 4 and data.images.shape[3] in {1, 3}
    assert data.labels.shape == (len(data),) and data.labels.min() >= 0 and data.labels.max() < data.classes
    assert len(data.class_names) == data.classes == len(set(data.class_names))
    x, y = data.tensors(0, len(data))
    assert x.min() >= 0 and x.max() <= 1 and len(x) == len(y)
