"""Corruptions as part of a run: which images it takes, every cell on disk, the same whatever the batch."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from command_line import HONEST, outcomes, records, submission
from file_server import FileServer
from test_datasets_corrupted import base, official  # noqa: F401  (fixtures)

from harness import datasets, run, suites
from harness.commands import arguments
from harness.commands.progress import download_progress
from harness.corruptions import CORRUPTIONS, EXTRA_CORRUPTIONS, IMPLEMENTATION, SEVERITIES, corrupt
from harness.datasets.archive import ARCHIVES
from harness.datasets.corrupted import SOURCES
from harness.engine.corrupting import choose
from harness.engine.outcome import Settings
from harness.errors import UserError
from harness.records import Status

CELLS = [f"{name}-{level}@cifar10-sample-c-generated" for name in CORRUPTIONS for level in SEVERITIES]


def request(tmp_path, name="one", **changes):
    root = tmp_path / "submissions"
    if not root.exists():
        submission(root, "honest", HONEST)
    given = {
        "ids": ("honest",), "suite": "corruptions", "dataset": "cifar10-sample", "roots": (root,),
        "results": tmp_path / name, "data_dir": tmp_path / "data", "settings": Settings(batch_size=64),
    }  # fmt: skip
    return run.Request(**(given | changes))


def went(asked):
    prepared = run.prepare(asked)
    run.execute(prepared, asked, lambda record: None)
    return prepared


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("generated")
    asked = request(folder)
    return folder, asked, went(asked)


def test_the_option_offers_every_source():
    assert arguments.SOURCES == SOURCES


@pytest.mark.parametrize(("name", "expected"), [("corruptions", 15), ("corruptions-extra", 19)])
def test_the_suites_hold_the_papers_corruptions(name, expected):
    entries = suites.corruptions_in(suites.load(name))
    assert [entry["name"] for entry in entries] == [*CORRUPTIONS, *EXTRA_CORRUPTIONS][:expected]
    assert all(entry["params"]["severities"] == list(SEVERITIES) and not entry.get("optional") for entry in entries)


@pytest.mark.parametrize("name", ["standard", "deep"])
def test_the_large_suites_hold_them_where_they_are_there(name):
    entries = suites.corruptions_in(suites.load(name))
    assert [entry["name"] for entry in entries] == list(CORRUPTIONS) and all(entry["optional"] for entry in entries)
    assert not suites.corruptions_in(suites.load(name), only=("fgsm",))


@pytest.mark.parametrize(
    "text",
    ["", "params = {}", "params = { severities = [] }", "params = { severities = [0] }", "params = { severities = 3 }",
     "params = { severities = [1, 1] }", "params = { severities = [1], seed = 2 }"],
)  # fmt: skip
def test_a_suite_says_which_severities(tmp_path, text):
    path = tmp_path / "mine.toml"
    path.write_text(f'[[tasks]]\nname = "fog"\nkind = "corruption"\n{text}')
    with pytest.raises(UserError, match=r"tasks\[0\]: params: expected { severities = \[...\] }"):
        suites.load(str(path))


def test_only_a_corruption_is_optional(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('[[tasks]]\nname = "fgsm"\nattack = "fgsm"\noptional = true')
    with pytest.raises(UserError, match="optional: expected true or false, of a corruption"):
        suites.load(str(path))


def test_all_cells_of_the_sample_are_on_disk(generated):
    folder, _, prepared = generated
    found = {record.shard.task.key: record for record in records(folder / "one")}
    assert sorted(found) == sorted([*CELLS, "clean"])
    assert prepared.notes == ("corruptions are drawn, as cifar10-sample-c-generated: not comparable with an archive",)
    clean = [row.clean_prediction for row in found["clean"].examples]
    for key in CELLS:
        record = found[key]
        assert record.status is Status.OK and record.shard.dataset == "cifar10-sample"
        assert record.shard.task.implementation == IMPLEMENTATION and record.shard.task.threat is None
        assert [row.index for row in record.examples] == list(range(20))
        assert [row.clean_prediction for row in record.examples] == clean
        assert all((row.forwards, row.backwards, row.attempted) == (3, 0, True) for row in record.examples)
        assert record.mismatches == 0


def test_a_cell_says_what_the_network_says(generated):
    folder, _, _ = generated
    scope = {}
    exec(HONEST, scope)
    network = scope["build"]().eval()
    sample = datasets.load("cifar10-sample")
    for name, level in (("fog", 5), ("gaussian_noise", 1), ("jpeg_compression", 3)):
        made = corrupt(np.asarray(sample.images), name, level, indices=range(20), seed=0)
        x = torch.from_numpy(made).permute(0, 3, 1, 2).float() / 255
        was = torch.from_numpy(np.array(sample.images)).permute(0, 3, 1, 2).float() / 255
        with torch.no_grad():
            logits = network(x)
        key = f"{name}-{level}@cifar10-sample-c-generated"
        (record,) = [item for item in records(folder / "one") if item.shard.task.key == key]
        assert [row.adversarial_prediction for row in record.examples] == logits.argmax(1).tolist()
        assert [row.linf for row in record.examples] == pytest.approx((x - was).abs().flatten(1).amax(1).tolist())
        assert [row.l2 for row in record.examples] == pytest.approx((x - was).flatten(1).norm(dim=1).tolist(), rel=1e-5)
        right = sum(row.correct_after for row in record.examples)
        assert right == int((logits.argmax(1).numpy() == sample.labels).sum())


def test_another_batch_size_and_a_shorter_run_give_the_same_rows(generated):
    folder, asked, _ = generated
    went(replace(asked, results=folder / "seven", settings=Settings(batch_size=7)))
    assert outcomes(folder / "seven") == outcomes(folder / "one")
    went(replace(asked, results=folder / "few", limit=9))
    whole = outcomes(folder / "one")
    for key, (status, rows) in outcomes(folder / "few").items():
        assert status == "ok" and rows == whole[key][1][:9]


def test_another_seed_draws_other_images(generated):
    folder, asked, _ = generated
    went(replace(asked, results=folder / "seed", seed=1, only=("gaussian_noise", "contrast")))
    other, same = outcomes(folder / "seed"), outcomes(folder / "one")
    assert len(other) == 11
    for key, (_, rows) in other.items():
        assert ([row[7] for row in rows] == [row[7] for row in same[key][1]]) == ("gaussian" not in key), key


def test_a_run_is_resumed(generated):
    folder, asked, _ = generated
    assert run.prepare(asked).works == ()
    paths = sorted((folder / "one" / "records").glob("*/*/fog-*/*.parquet"))
    assert len(paths) == 5
    kept = outcomes(folder / "one")
    paths[2].unlink()
    (work,) = run.prepare(asked).works
    assert work.shard.task.key == "fog-3@cifar10-sample-c-generated"
    went(asked)
    assert outcomes(folder / "one") == kept


def test_the_extra_ones_come_on_top(generated):
    _, asked, _ = generated
    left = run.prepare(replace(asked, suite="corruptions-extra")).works
    assert {work.shard.task.params["corruption"] for work in left} == set(EXTRA_CORRUPTIONS) and len(left) == 20


def test_the_standard_suite_goes_without_and_says_so(tmp_path):
    prepared = run.prepare(request(tmp_path, suite="standard"))
    assert prepared.corrupted is None
    assert not [work for work in prepared.works if work.shard.task.kind == "corruption"]
    (note,) = [item for item in prepared.notes if "corruptions" in item]
    assert note.startswith("cifar10-sample: no corrupted images in") and "--corruptions generated" in note
    assert "official" not in note
    asked = run.prepare(request(tmp_path, suite="standard", corruptions="generated"))
    assert len([work for work in asked.works if work.shard.task.kind == "corruption"]) == 75


def cifar10(tmp_path, base, monkeypatch):  # noqa: F811
    """Requests for ``cifar10`` with four images."""
    monkeypatch.setattr(datasets, "load", lambda name, **_: base)
    (tmp_path / "data").mkdir()
    return request(tmp_path, dataset="cifar10")


def test_the_official_archive_is_taken_where_it_lies(tmp_path, base, official, monkeypatch):  # noqa: F811
    asked = cifar10(tmp_path, base, monkeypatch)
    (tmp_path / "data" / "CIFAR-10-C.tar").write_bytes(official[0])
    for suite in ("corruptions", "standard"):
        prepared = run.prepare(replace(asked, suite=suite))
        tasks = [work.shard.task for work in prepared.works if work.shard.task.kind == "corruption"]
        assert len(tasks) == 75 and prepared.corrupted.official
        assert {task.key for task in tasks} == {key.replace("cifar10-sample-c-generated", "cifar10-c") for key in CELLS}
        assert {task.implementation for task in tasks} == {"zenodo-2535967"}
        assert not [note for note in prepared.notes if "corruptions" in note]
    went(replace(asked, only=("snow",)))
    found = {record.shard.task.key: record for record in records(asked.results)}
    for level in SEVERITIES:
        image = official[1]["snow"][(level - 1) * 6].astype(np.float32) / 255
        first = np.asarray(base.images[:1])[0].astype(np.float32) / 255
        row = found[f"snow-{level}@cifar10-c"].examples[0]
        assert row.linf == pytest.approx(float(np.abs(image - first).max()))


def test_without_the_archive_the_ways_to_go_on_are_told(tmp_path, base, official, monkeypatch):  # noqa: F811
    asked = cifar10(tmp_path, base, monkeypatch)
    with pytest.raises(UserError) as caught:
        run.prepare(asked)
    for part in ("cifar10-c: expected", str(tmp_path / "data" / "CIFAR-10-C.tar"), official[2].source.url, "--data-dir",
                 official[2].source.md5, "--corruptions official", "--corruptions generated"):  # fmt: skip
        assert part in str(caught.value)
    assert "\n" not in str(caught.value) and list((tmp_path / "data").iterdir()) == []
    (note,) = [item for item in run.prepare(replace(asked, suite="standard")).notes if "corruptions" in item]
    assert "--corruptions official downloads CIFAR-10-C" in note
    with pytest.raises(UserError, match=r"cifar10-c: expected .* or a download, got .*efused"):
        run.prepare(replace(asked, corruptions="official"))


def test_the_archive_is_downloaded_when_it_is_asked_for(tmp_path, base, official, monkeypatch):  # noqa: F811
    asked = cifar10(tmp_path, base, monkeypatch)
    said = []
    with FileServer({"/CIFAR-10-C.tar": official[0]}) as server:
        made = replace(official[2], source=replace(official[2].source, url=f"{server.address}/CIFAR-10-C.tar"))
        monkeypatch.setitem(ARCHIVES, "cifar10", made)
        told = download_progress(said.append)
        prepared = run.prepare(replace(asked, suite="standard", corruptions="official", progress=told))
    assert prepared.corrupted.official and (tmp_path / "data" / "CIFAR-10-C" / "fog.npy").is_file()
    megabytes = f"{len(official[0]) / 1e6:,.0f}"
    assert said[-1] == f"download: {megabytes} of {megabytes} MB, 100 %"


def test_a_download_is_told_by_the_hundredth():
    said = []
    told = download_progress(said.append)
    for here in range(0, 1001):
        told(here * 10**6, 10**9)
    assert len(said) == 101 and said[50] == "download: 500 of 1,000 MB, 50 %"
    said.clear()
    told = download_progress(said.append)
    for here in range(4):
        told(here << 26, 0)
    assert said[1:] == ["download: 67 MB", "download: 134 MB", "download: 201 MB"]


def test_a_damaged_archive_does_not_take_the_standard_suite_down(tmp_path, base, official, monkeypatch):  # noqa: F811
    asked = cifar10(tmp_path, base, monkeypatch)
    (tmp_path / "data" / "CIFAR-10-C.tar").write_bytes(b"<html>")
    prepared = run.prepare(replace(asked, suite="standard"))
    assert prepared.corrupted is None and any("corruptions left out: cifar10-c: expected" in n for n in prepared.notes)
    with pytest.raises(UserError, match="damaged, or another file"):
        run.prepare(asked)


def test_a_damaged_cell_is_a_failed_shard(tmp_path, base, official, monkeypatch):  # noqa: F811
    asked = cifar10(tmp_path, base, monkeypatch)
    (tmp_path / "data" / "CIFAR-10-C.tar").write_bytes(official[0])
    suite = tmp_path / "two.toml"
    task = '[[tasks]]\nname = "{}"\nkind = "corruption"\nparams = {{ severities = [1] }}\n'
    suite.write_text(task.format("snow") + task.format("fog"))
    prepared = run.prepare(replace(asked, suite=str(suite)))
    (tmp_path / "data" / "CIFAR-10-C" / "fog.npy").write_bytes(b"no")
    run.execute(prepared, asked, lambda record: None)
    states = {record.shard.task.key: record for record in records(asked.results)}
    assert states["snow-1@cifar10-c"].status is Status.OK
    assert states["fog-1@cifar10-c"].failure.message.endswith("damaged, or another file; delete it and run again")


def test_a_file_that_is_cifar_is_drawn_where_the_archive_is_not(tmp_path, base, official):  # noqa: F811
    found, note = choose(base, source="auto", required=True, of_a_file=True, data_dir=tmp_path)
    assert found.name == "cifar10-c-generated" and "cifar10-c-generated" in note
    with pytest.raises(UserError):
        choose(base, source="auto", required=True, data_dir=tmp_path)


def test_images_too_small_to_corrupt(tmp_path):
    tiny = datasets.Dataset("npz:tiny", np.zeros((2, 8, 8, 1), np.uint8), np.array([0, 1]), 2, ("0", "1"), 2)
    with pytest.raises(UserError, match="at least 16 x 16"):
        choose(tiny, source="auto", required=True, data_dir=tmp_path)
    assert choose(tiny, source="auto", required=False, data_dir=tmp_path)[0] is None
