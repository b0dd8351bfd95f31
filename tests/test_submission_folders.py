"""Finding submissions, reading them without running anything, and making new ones."""

import hashlib
import pickle
import sys
from pathlib import Path

import pytest
from card_folders import CARD, CHECKPOINT, make, with_weights

from harness import submission as submissions
from harness.errors import CardError, CheckpointError
from harness.submission import create, default_roots, discover, read


def test_a_bad_card_hides_no_good_one(tmp_path) -> None:
    make(tmp_path, "good")
    make(tmp_path, "bad", card="title = [")
    make(tmp_path, "other-name", card=CARD.replace("{id}", "good"))
    (make(tmp_path, "no-code") / "model.py").unlink()
    make(tmp_path, "also-good")
    (tmp_path / "no-card").mkdir()
    (tmp_path / "a-file").write_text("x")
    for name in ("architectures", "recipes", "_private", ".hidden"):
        make(tmp_path, name)
    found = discover([tmp_path])
    assert set(found.submissions) == {"good", "also-good"}
    assert set(found.problems) == {"bad", "other-name", "no-code"}
    assert f"{tmp_path}/bad/submission.toml: expected TOML" in str(found.problems["bad"])
    assert str(found.problems["other-name"]) == (
        f"{tmp_path}/other-name/submission.toml: id: expected the folder's name 'other-name', got 'good'"
    )
    assert str(found.problems["no-code"]) == (
        f"{tmp_path}/no-code/submission.toml: entry: expected the file {tmp_path}/no-code/model.py, which is not there"
    )


def test_a_root_may_be_a_submission_itself(tmp_path, monkeypatch) -> None:
    folder = make(tmp_path, "alone")
    make(tmp_path, "neighbour")
    make(folder, "inside")
    found = discover([folder])
    assert set(found.submissions) == {"alone"}
    assert found.submissions["alone"].root == tmp_path
    monkeypatch.chdir(folder)
    assert discover([Path()]).submissions == found.submissions


def test_the_same_id_in_two_roots_names_both(tmp_path) -> None:
    first, second = make(tmp_path / "a", "twin"), make(tmp_path / "b", "twin")
    make(tmp_path / "b", "single")
    found = discover([tmp_path / "a", tmp_path / "b"])
    assert set(found.submissions) == {"single"}
    assert str(found.problems["twin"]) == (
        f"id: expected one folder called 'twin', got {first} and {second}: rename one and its id"
    )


def test_the_same_folder_given_twice_is_one_submission(tmp_path) -> None:
    folder = make(tmp_path, "once")
    (tmp_path / "link").symlink_to(tmp_path)
    found = discover([tmp_path, tmp_path, folder])
    assert set(found.submissions) == {"once"} and not found.problems


def test_a_linked_folder_goes_by_the_name_of_the_link(tmp_path) -> None:
    folder = make(tmp_path / "elsewhere", "v2")
    (folder / "submission.toml").write_text(CARD.replace("{id}", "my-model"))
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "my-model").symlink_to(folder)
    found = discover([tmp_path / "root"])
    assert set(found.submissions) == {"my-model"}


def test_a_root_that_is_not_there_is_one_line(tmp_path) -> None:
    with pytest.raises(CardError, match=r"nowhere: expected a folder of submissions, got an error: No such file"):
        discover([tmp_path / "nowhere"])


def test_an_entry_may_not_be_a_link_out_of_the_folder(tmp_path) -> None:
    folder = make(tmp_path, "sly")
    (tmp_path / "outside.py").write_text("")
    (folder / "model.py").unlink()
    (folder / "model.py").symlink_to(tmp_path / "outside.py")
    with pytest.raises(CardError, match=r"entry: expected a file inside .*sly, got 'model.py', a link out of it"):
        read(folder, tmp_path)


def test_reading_runs_no_code(tmp_path) -> None:
    marker = tmp_path / "marker"

    class Bomb:
        def __reduce__(self):
            return Path.touch, (marker,)

    code = f"open({str(marker)!r}, 'w')\ndef build():\n    pass\n"
    content = pickle.dumps(Bomb())
    folder = make(tmp_path, "armed", code=code)
    (folder / "weights.pt").write_bytes(content)
    text = CARD + CHECKPOINT.replace("weights.safetensors", "weights.pt")
    text = text.replace("{sha256}", hashlib.sha256(content).hexdigest()).replace("model.py:build", "armed.model:build")
    (folder / "submission.toml").write_text(text.replace("{id}", "armed"))
    before = set(sys.modules)
    found = discover([tmp_path]).submissions["armed"]
    assert found.checkpoint_sha256() == hashlib.sha256(content).hexdigest()
    assert found.source_sha256() and found.spec()["checkpoint"] == str(folder / "weights.pt")
    assert not marker.exists()
    assert not {name for name in set(sys.modules) - before if "armed" in name or name == "model"}


def test_the_bundled_submissions_are_valid() -> None:
    (root,) = default_roots()
    assert (root / "architectures").is_dir()
    found = discover([root])
    assert not found.problems
    for item in found.submissions.values():
        assert item.checkpoint_sha256() and item.source_sha256()


def test_what_a_training_run_publishes_is_a_valid_submission(tmp_path) -> None:
    from submissions.architectures.slim_resnet import build
    from submissions.recipes.config import Config
    from submissions.recipes.publish import publish

    config = Config(
        "tiny", "A title with \"quotes\" and é", "natural", kwargs={"width": 4, "strides": "1222"},
        paper="https://arxiv.org/abs/1412.6572", notes="Two\nlines",
    )  # fmt: skip
    history = [{"epoch": 1, "seconds": 1.0, "natural": 0.5, "fgsm": 0.1, "pgd_10": 0.0}]
    data = {"form": "jpeg", "training": 49_000, "validation": 1_000, "sha256": "0" * 64}
    folder = publish(build(**config.kwargs), config, history, out=tmp_path, data=data)
    found = read(folder, tmp_path)
    assert found.card.title == config.title and found.card.kwargs == config.kwargs
    assert "49,000 JPEG copies of training images" in found.card.notes
    assert found.checkpoint_sha256() and found.source_sha256()


def test_a_spec_holds_all_a_worker_needs(tmp_path) -> None:
    folder = with_weights(tmp_path, "model", b"weights")
    found = read(folder, tmp_path)
    assert found.spec() == {
        "id": "model", "folder": str(folder),
        "search": [str(folder), str(tmp_path.parent), str(tmp_path), str(Path(submissions.__file__).parents[2])],
        "entry": "model.py:build", "kwargs": {}, "checkpoint": str(folder / "weights.safetensors"),
        "checkpoint_sha256": hashlib.sha256(b"weights").hexdigest(), "key": None, "strip_prefix": None,
    }  # fmt: skip
    bare = read(make(tmp_path, "bare"), tmp_path)
    assert bare.spec()["checkpoint"] is None and bare.checkpoint_sha256() == ""


SAFETENSORS = (
    (64).to_bytes(8, "little") + b'{"a":{"dtype":"F32","shape":[9],"data_offsets":[0,36]}}'.ljust(64) + b"1" * 36
)
TORCH = b"PK\x03\x04" + b"a" * 100


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "expected the file {path}, which is not there"),
        (b"", "the file is empty"),
        (b"other", "; if this is the file you mean, put its sha256 into the card"),
        (SAFETENSORS, "; if this is the file you mean, put its sha256 into the card"),
        (SAFETENSORS[:-9], "it is truncated: expected 108 bytes of safetensors, got 99"),
        (SAFETENSORS[:30], "it is truncated: expected 72 bytes of safetensors, got 30"),
        (TORCH, "it is truncated: a torch file of 104 bytes without its end"),
        (b"<!DOCTYPE html><title>Sign in</title>", "it is a web page (HTML), not weights"),
        (b"\n <html>", "it is a web page (HTML), not weights"),
        (b"version https://git-lfs.github.com/spec/v1\n", "it is a Git LFS pointer, not weights"),
    ],
)
def test_a_checkpoint_that_is_not_what_the_card_promises(tmp_path, content, message) -> None:
    folder = with_weights(tmp_path, "model", content or b"", sha256="0" * 64)
    path = folder / "weights.safetensors"
    if content is None:
        path.unlink()
    with pytest.raises(CheckpointError) as caught:
        read(folder, tmp_path).checkpoint_sha256()
    text = str(caught.value)
    assert text.startswith(f"{folder / 'submission.toml'}: checkpoint.file: ") and "\n" not in text
    assert message.replace("{path}", str(path)) in text


@pytest.mark.parametrize("sha256", ["", "0" * 63, None])
def test_a_card_without_a_hash_is_told_it(tmp_path, sha256) -> None:
    folder = with_weights(tmp_path, "model", b"weights", sha256=sha256 or "")
    card = folder / "submission.toml"
    if sha256 is None:
        card.write_text(card.read_text().replace('sha256 = ""\n', ""))
    with pytest.raises(CardError, match=hashlib.sha256(b"weights").hexdigest()):
        read(folder, tmp_path)


def test_the_hash_of_a_file_outside_is_not_told(tmp_path) -> None:
    folder = with_weights(tmp_path, "model", b"weights", sha256="")
    (tmp_path / "secret").write_text("x")
    card = folder / "submission.toml"
    card.write_text(card.read_text().replace("weights.safetensors", "../secret"))
    with pytest.raises(CardError) as caught:
        read(folder, tmp_path)
    assert hashlib.sha256(b"x").hexdigest() not in str(caught.value)


@pytest.mark.parametrize(("dataset", "classes"), [("cifar10", 10), ("cifar100", 100), ("npz", 10)])
def test_a_new_submission_is_valid_and_its_network_runs(tmp_path, dataset, classes) -> None:
    import runpy

    import torch

    folder = create("my-model.v2", tmp_path / "made" / "for-it", dataset=dataset)
    assert sorted(path.name for path in folder.iterdir()) == ["model.py", "submission.toml"]
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    found = read(folder, folder.parent)
    assert found.card.datasets == (dataset,)
    build = runpy.run_path(str(folder / "model.py"))["build"]
    x = torch.rand(2, 3, 32, 32)
    first, second = build(**found.card.kwargs)(x), build(**found.card.kwargs)(x)
    assert first.shape == (2, classes) and torch.equal(first, second)


def test_the_commented_lines_of_a_new_card_are_valid_too(tmp_path) -> None:
    folder = create("my-model", tmp_path)
    card = folder / "submission.toml"
    lines = []
    for line in card.read_text().splitlines():
        body = line.removeprefix("# ")
        lines.append(body if "=" in body or body.startswith("[") else line)
    (folder / "weights.safetensors").write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    card.write_text("\n".join(lines).replace('sha256 = ""', f'sha256 = "{digest}"'))
    full = read(folder, tmp_path).card
    assert set(full.plain()) == set(type(full).model_fields)


@pytest.mark.parametrize(
    ("name", "dataset", "message"),
    [
        ("My Model", "cifar10", "id: expected at most 80 lowercase letters, digits"),
        ("../up", "cifar10", "id: expected at most 80 lowercase letters, digits"),
        ("", "cifar10", "id: expected at most 80 lowercase letters, digits"),
        ("recipes", "cifar10", "id: expected a name other than architectures, recipes"),
        ("fine", "cifar11", "dataset: unknown dataset 'cifar11': did you mean 'cifar10'?"),
        ("taken", "cifar10", "id: expected a name that is free, got 'taken'"),
    ],
)
def test_a_new_submission_that_cannot_be_made(tmp_path, name, dataset, message) -> None:
    make(tmp_path, "taken")
    with pytest.raises(CardError) as caught:
        create(name, tmp_path, dataset=dataset)
    assert message in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_a_new_submission_may_not_take_a_bundled_name(tmp_path, monkeypatch) -> None:
    make(tmp_path / "bundled", "known")
    monkeypatch.setattr(submissions, "default_roots", lambda: (tmp_path / "bundled",))
    with pytest.raises(CardError, match="expected a name that is free, got 'known'"):
        create("known", tmp_path)


def test_a_disk_that_refuses_leaves_nothing_behind(tmp_path, monkeypatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(CardError, match=r"my-model: could not be made: No space left on device"):
        create("my-model", tmp_path)
    assert list(tmp_path.iterdir()) == []
