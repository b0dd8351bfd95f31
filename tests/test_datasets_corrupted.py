"""CIFAR-10-C and CIFAR-100-C: archives of the official layout, served, resumed, damaged; and generated cells."""

import io
import pickle
import tarfile
from dataclasses import replace

import numpy as np
import pytest
from file_server import FileServer

from harness import datasets
from harness.corruptions import CORRUPTIONS, EXTRA_CORRUPTIONS, IMPLEMENTATION, SEVERITIES, corrupt
from harness.datasets import archive as archives
from harness.datasets import corrupted, corruptions_of
from harness.datasets.archive import ARCHIVES, Archive, is_here, open_archive
from harness.datasets.dataset import Dataset
from harness.datasets.files import Source, file_md5
from harness.datasets.images import FileImages
from harness.errors import DatasetError, UnknownNameError, UserError

FULL = 6


@pytest.fixture
def base():
    """The first four of six examples of a CIFAR-10."""
    sample = datasets.load("cifar10-sample")
    return Dataset("cifar10", np.asarray(sample.images[:4]), sample.labels[:4], 10, sample.class_names, FULL)


def md5_of(data):
    import hashlib

    return hashlib.md5(data).hexdigest()


def npy(array):
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


@pytest.fixture
def official(monkeypatch):
    """A tar of the official layout with six images per severity: its bytes, its arrays, and the archive for it."""
    sample = datasets.load("cifar10-sample")
    draw = np.random.default_rng(0)
    names = (*CORRUPTIONS, *EXTRA_CORRUPTIONS)
    arrays = {name: draw.integers(0, 256, (5 * FULL, 32, 32, 3), dtype=np.uint8) for name in names}
    arrays["labels"] = np.tile(sample.labels[:FULL].astype(np.uint8), 5)
    files = {name: npy(array) for name, array in arrays.items()}
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        tar.addfile(directory := tarfile.TarInfo("CIFAR-10-C"))
        directory.type = tarfile.DIRTYPE
        for name, data in [("../../escaped", b"no"), ("notes.txt", b"no"), *files.items()]:
            path = f"CIFAR-10-C/{name}.npy" if name in files else f"CIFAR-10-C/{name}"
            info = tarfile.TarInfo(path)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    data = packed.getvalue()
    made = Archive(
        "cifar10-c", "cifar10", "CIFAR-10-C", Source("http://127.0.0.1:9/CIFAR-10-C.tar", md5_of(data)),
        "zenodo-2535967", {name: md5_of(content) for name, content in files.items()}, FULL,
    )  # fmt: skip
    monkeypatch.setitem(ARCHIVES, "cifar10", made)
    return data, arrays, made


def served(monkeypatch, official, server):
    made = replace(official[2], source=Source(f"{server.address}/CIFAR-10-C.tar", official[2].source.md5))
    monkeypatch.setitem(ARCHIVES, "cifar10", made)
    return made


def test_the_real_archives_are_those_of_zenodo():
    ten, hundred = ARCHIVES["cifar10"], ARCHIVES["cifar100"]
    zenodo = "https://zenodo.org/records"
    assert ten.source == Source(f"{zenodo}/2535967/files/CIFAR-10-C.tar", "56bf5dcef84df0e2308c6dcbcbbd8499")
    assert hundred.source == Source(f"{zenodo}/3555552/files/CIFAR-100-C.tar", "11f0ed0f1191edbf9fa23466ae6021d3")
    for archive in (ten, hundred):
        assert set(archive.sums) == {*CORRUPTIONS, *EXTRA_CORRUPTIONS, "labels"} and archive.full == 10_000
        assert len(set(archive.sums.values())) == 20 and all(len(value) == 32 for value in archive.sums.values())
    assert not set(ten.sums.values()) & set(hundred.sums.values())


# --- an archive put in place by hand


def test_every_cell_is_the_first_images_of_its_severity(tmp_path, base, official):
    data, arrays, _ = official
    (tmp_path / "CIFAR-10-C.tar").write_bytes(data)
    whole = corruptions_of(base, data_dir=tmp_path)
    assert whole.official and whole.name == "cifar10-c" and whole.implementation == "zenodo-2535967"
    cells = {(name, level): cell for name, level, cell in whole.cells(extra=True)}
    assert len(cells) == 95 and len(list(whole.cells())) == 75
    for (name, level), cell in cells.items():
        expected = arrays[name][(level - 1) * FULL :][:4]
        assert cell.name == "cifar10-c" and len(cell) == 4 and cell.full == FULL and cell.classes == 10
        assert np.array_equal(np.asarray(cell.images), expected)
        assert np.array_equal(cell.labels, base.labels)
    cell = cells["fog", 3]
    x, y = cell.tensors(1, 3)
    assert np.array_equal(
        (x * 255).round().byte().permute(0, 2, 3, 1).numpy(), arrays["fog"][2 * FULL + 1 : 2 * FULL + 3]
    )
    assert y.tolist() == base.labels[1:3].tolist()
    in_memory = Dataset("x", arrays["fog"][2 * FULL :][:4].copy(), base.labels.copy(), 10, base.class_names, 4)
    assert cell.span_sha256(0, 4) == in_memory.span_sha256(0, 4)
    assert not (tmp_path / "escaped").exists() and sorted(p.name for p in tmp_path.iterdir())[0] == "CIFAR-10-C"
    # Unpacked once, and then the tar is not needed.
    (tmp_path / "CIFAR-10-C.tar").unlink()
    assert corrupted(base, "snow", 1, data_dir=tmp_path).span_sha256(0, 4) == cells["snow", 1].span_sha256(0, 4)


def test_a_cell_holds_no_pixels_and_travels_light(tmp_path, base, official, monkeypatch):
    (tmp_path / "CIFAR-10-C.tar").write_bytes(official[0])
    cell = corrupted(base, "frost", 2, data_dir=tmp_path)
    assert isinstance(cell.images, FileImages) and len(pickle.dumps(cell)) < 2500
    loads = []
    real = np.load
    monkeypatch.setattr(np, "load", lambda *args, **kwargs: loads.append(kwargs) or real(*args, **kwargs))
    pickle.loads(pickle.dumps(cell)).first(3).tensors(0, 2)
    assert loads == [{"mmap_mode": "r", "allow_pickle": False}]


def test_files_are_read_through_once_and_again_when_they_change(tmp_path, base, official, monkeypatch):
    (tmp_path / "CIFAR-10-C.tar").write_bytes(official[0])
    folder = open_archive(ARCHIVES["cifar10"], tmp_path)
    read = []
    monkeypatch.setattr(archives, "file_md5", lambda path: read.append(path.name) or file_md5(path))
    for _ in range(2):
        for level in SEVERITIES:
            corrupted(base, "fog", level, data_dir=tmp_path)
    assert sorted(read) == ["fog.npy", "labels.npy"]
    content = bytearray((folder / "fog.npy").read_bytes())
    content[-1] ^= 1
    (folder / "fog.npy").write_bytes(content)
    with pytest.raises(DatasetError, match=r"fog.npy: expected md5 .*damaged, or another file; delete it"):
        corrupted(base, "fog", 1, data_dir=tmp_path)
    (folder / archives._CHECKED).write_text("not json")
    assert len(corrupted(base, "snow", 1, data_dir=tmp_path)) == 4


def test_other_examples_and_other_shapes_are_refused(tmp_path, base, official, monkeypatch):
    data, arrays, made = official
    (tmp_path / "CIFAR-10-C.tar").write_bytes(data)
    other = Dataset("cifar10", np.asarray(base.images), (base.labels + 1) % 10, 10, base.class_names, FULL)
    with pytest.raises(DatasetError, match="cifar10-c: expected the labels of cifar10"):
        corrupted(other, "fog", 1, data_dir=tmp_path)
    for name, array, said in (
        ("fog", arrays["fog"][:, :16], "fog.npy: expected uint8"),
        ("labels", arrays["labels"][:-1], "labels.npy: expected 30 labels"),
        ("labels", np.array([object()]), "Python objects"),
    ):
        stream = io.BytesIO()
        np.save(stream, array, allow_pickle=True)
        path = tmp_path / "CIFAR-10-C" / f"{name}.npy"
        path.write_bytes(stream.getvalue())
        sums = dict(made.sums) | {name: md5_of(stream.getvalue())}
        monkeypatch.setitem(ARCHIVES, "cifar10", replace(made, sums=sums))
        with pytest.raises(DatasetError, match=said):
            corrupted(base, "fog", 1, data_dir=tmp_path)
        path.write_bytes(npy(arrays[name]))


def test_a_tar_that_is_none_or_lacks_an_array(tmp_path, base, official, monkeypatch):
    made = official[2]
    empty = io.BytesIO()
    tarfile.open(fileobj=empty, mode="w").close()
    for content, said in ((b"<html>" * 500, "expected to unpack"), (empty.getvalue(), "expected labels.npy in")):
        (tmp_path / "CIFAR-10-C.tar").write_bytes(content)
        right = Archive(
            *[*vars(made).values()][:3], Source(made.source.url, md5_of(content)), made.record, made.sums, FULL
        )
        monkeypatch.setitem(ARCHIVES, "cifar10", right)
        with pytest.raises(DatasetError, match=said):
            corrupted(base, "fog", 1, data_dir=tmp_path)
        monkeypatch.setitem(ARCHIVES, "cifar10", made)
        with pytest.raises(DatasetError, match=r"cifar10-c: expected .* with md5 .*delete it"):
            corrupted(base, "fog", 1, data_dir=tmp_path)


# --- downloads


def test_an_archive_is_downloaded_with_progress(tmp_path, base, official, monkeypatch):
    with FileServer({"/CIFAR-10-C.tar": official[0]}) as server:
        served(monkeypatch, official, server)
        told = []
        whole = corruptions_of(base, data_dir=tmp_path, source="official", progress=lambda *here: told.append(here))
    assert whole.official and told[-1] == (len(official[0]), len(official[0])) and told == sorted(told)
    assert np.array_equal(np.asarray(whole.cell("snow", 2).images), official[1]["snow"][FULL : FULL + 4])


def test_a_download_goes_on_where_it_stopped(tmp_path, base, official, monkeypatch):
    data = official[0]
    with FileServer({"/CIFAR-10-C.tar": data}, faults=[len(data) // 3, len(data) // 4]) as server:
        served(monkeypatch, official, server)
        assert corruptions_of(base, data_dir=tmp_path, source="official").official
        assert server.ranges == [None, f"bytes={len(data) // 3}-", f"bytes={len(data) // 3 + len(data) // 4}-"]


@pytest.mark.parametrize(("start", "resumable"), [("good", True), ("wrong", True), ("long", True), ("good", False)])
def test_what_an_earlier_run_left_is_used_or_replaced(tmp_path, base, official, monkeypatch, start, resumable):
    data = official[0]
    left = {"good": data[:1000], "wrong": b"x" * 1000, "long": data + b"x"}[start]
    (tmp_path / "CIFAR-10-C.tar.part").write_bytes(left)
    with FileServer({"/CIFAR-10-C.tar": data}, resumable=resumable) as server:
        served(monkeypatch, official, server)
        assert corruptions_of(base, data_dir=tmp_path, source="official").official
        assert server.ranges[0] == f"bytes={len(left)}-" and len(server.ranges) == (1 if start == "good" else 2)
    assert (tmp_path / "CIFAR-10-C.tar").read_bytes() == data


def test_a_damaged_download_and_a_refusal_say_what_to_do(tmp_path, base, official, monkeypatch):
    damaged = bytearray(official[0])
    damaged[5000] ^= 1
    with FileServer({"/CIFAR-10-C.tar": bytes(damaged)}) as server:
        made = served(monkeypatch, official, server)
        with pytest.raises(DatasetError, match=r"with md5 .*, got .* bytes with md5 .*place the file at .*10-C.tar"):
            corruptions_of(base, data_dir=tmp_path, source="official")
        assert not list(tmp_path.glob("*.part")) and not (tmp_path / "CIFAR-10-C.tar").exists()
    with FileServer({}) as server:
        made = served(monkeypatch, official, server)
        with pytest.raises(DatasetError) as caught:
            corruptions_of(base, data_dir=tmp_path, source="official")
        assert "the server said 404" in str(caught.value)
    with pytest.raises(DatasetError) as caught:
        corruptions_of(base, data_dir=tmp_path, source="official")
    message = str(caught.value)
    by_hand = str(tmp_path / "CIFAR-10-C.tar")
    for part in ("cifar10-c: expected", made.source.url, made.source.md5, by_hand, "--data-dir", "RAMPART_DATA",
                 "refused", "cifar10-sample"):  # fmt: skip
        assert part in message
    assert "\n" not in message


# --- generated cells


def test_nothing_is_downloaded_unasked_and_the_name_says_generated(tmp_path, base):
    whole = corruptions_of(base, data_dir=tmp_path)
    assert not whole.official and whole.name == "cifar10-c-generated" and whole.implementation == IMPLEMENTATION
    assert not is_here(ARCHIVES["cifar10"], tmp_path) and list(tmp_path.iterdir()) == []
    (tmp_path / "CIFAR-10-C").mkdir()
    (tmp_path / "CIFAR-10-C" / "labels.npy").write_bytes(b"")
    assert not corruptions_of(base, data_dir=tmp_path).official, "half an archive is none"


def test_all_generated_cells_of_the_sample_in_any_batch(tmp_path):
    sample = datasets.load("cifar10-sample")
    whole = corruptions_of(sample, data_dir=tmp_path, seed=4)
    seen = set()
    for name, level, cell in whole.cells():
        assert cell.name == "cifar10-sample-c-generated" and len(cell) == cell.full == 20
        expected = corrupt(np.asarray(sample.images), name, level, indices=range(20), seed=4)
        x, y = cell.tensors(7, 20)
        assert np.array_equal((x * 255).round().byte().permute(0, 2, 3, 1).numpy(), expected[7:])
        assert y.tolist() == sample.labels[7:].tolist()
        seen.add(cell.span_sha256(0, 20))
        if level == 3:
            few = corruptions_of(sample.first(9), data_dir=tmp_path, seed=4).cell(name, level)
            assert few.span_sha256(7, 9) == cell.span_sha256(7, 9) == cell.first(9).span_sha256(7, 9)
    assert len(seen) == 75
    assert corruptions_of(sample).cell("fog", 3).span_sha256(0, 20) not in seen


def test_a_saved_cell_is_an_npz_data_set(tmp_path):
    sample = datasets.load("cifar10-sample", limit=5)
    whole = corruptions_of(sample)
    whole.save(tmp_path / "fog-3.npz", "fog", 3)
    again = datasets.load(f"npz:{tmp_path / 'fog-3.npz'}")
    assert again.name == "npz:fog-3" and again.span_sha256(0, 5) == whole.cell("fog", 3).span_sha256(0, 5)


def test_what_cannot_be_asked_for(base, tmp_path):
    with pytest.raises(UserError, match="source: expected auto, official, generated, got 'magic'"):
        corruptions_of(base, source="magic")
    sample = datasets.load("cifar10-sample")
    with pytest.raises(UserError, match="expected cifar10 or cifar100 for the official archive, got cifar10-sample"):
        corruptions_of(sample, source="official")
    tiny = Dataset("npz:tiny", np.zeros((2, 8, 8, 1), np.uint8), np.array([0, 1]), 2, ("0", "1"), 2)
    with pytest.raises(UserError, match="npz:tiny: corruptions: expected images of at least 16 x 16 pixels, got 8 x 8"):
        corruptions_of(tiny)
    whole = corruptions_of(sample)
    with pytest.raises(UnknownNameError, match="did you mean 'brightness'"):
        whole.cell("brightnes", 1)
    for level in (0, 6):
        with pytest.raises(UserError, match=f"fog: severity: expected 1 to 5, got {level}"):
            whole.cell("fog", level)
    with pytest.raises(ValueError, match="consecutive"):
        whole.cell("fog", 1).images[::2]
