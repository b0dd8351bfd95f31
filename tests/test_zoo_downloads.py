"""Weights of other people's models: fetched once, recorded, resumed; one message when they cannot be had."""

import hashlib
import json
import socket
from pathlib import Path

import pytest
from zoo_submissions import server as server  # noqa: PLC0414 - a fixture
from zoo_submissions import submission

from harness.checkpoints import Source, obtain
from harness.errors import CheckpointError, UserError

CONTENT = bytes(range(256)) * 2000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
COMMIT = "a" * 40
WHERE = "submission.toml: entry"


def source(server, tmp_path, name="weights.pt", page=""):
    return Source(f"{server.address}/{name}", tmp_path / "cache" / name, page)


def refusal(call):
    with pytest.raises(UserError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_file_is_fetched_once_and_its_size_and_sha256_recorded(server, tmp_path) -> None:
    server.files["/weights.pt"] = CONTENT
    wanted = source(server, tmp_path)
    assert obtain([wanted], where=WHERE) == obtain([wanted], where=WHERE) == (SHA256,)
    assert len(server.asked) == 1 and wanted.target.read_bytes() == CONTENT
    record = json.loads(wanted.target.with_name("weights.pt.json").read_text())
    assert (record["url"], record["sha256"], record["size"]) == (wanted.url, SHA256, len(CONTENT))


def test_a_cut_download_goes_on(server, tmp_path) -> None:
    server.files["/weights.pt"] = CONTENT
    server.faults = ["cut"]
    assert obtain([source(server, tmp_path)], where=WHERE) == (SHA256,)
    assert server.asked == [("/weights.pt", None), ("/weights.pt", f"bytes={len(CONTENT) // 2}-")]


@pytest.mark.parametrize(
    ("page", "words"),
    [
        (
            "<html>Sorry: Quota exceeded for this file",
            "a Google Drive error page came: too many downloads of this file",
        ),
        ("<!doctype html><title>Sign in - Google Accounts</title>", "a sign-in page came: the file is not public"),
        ("<html>can't scan this file: virus scan warning", "a Google Drive warning page came instead of the file"),
        ("<html>anything", "a web page (HTML) came instead of the file"),
    ],
)
def test_a_page_is_not_taken_for_weights(server, tmp_path, page, words) -> None:
    server.files["/weights.pt"] = page
    wanted = source(server, tmp_path, page="https://drive.google.com/file/d/ID/view")
    message = refusal(lambda: obtain([wanted], where=WHERE))
    assert message == (
        f"{WHERE}: {wanted.url} could not be downloaded ({message.split('(', 1)[1].split('): run')[0]}): run the same "
        f"command again to go on, or by hand: get {wanted.page} and place it at {wanted.target}"
    )
    assert words in message
    assert not wanted.target.exists() and len(server.asked) == 1


def test_a_page_does_not_cost_what_came_before_it(server, tmp_path) -> None:
    wanted = source(server, tmp_path)
    part = wanted.target.with_name("weights.pt.part")
    part.parent.mkdir(parents=True)
    part.write_bytes(CONTENT[:1000])
    server.files["/weights.pt"] = "<html>quota exceeded"
    refusal(lambda: obtain([wanted], where=WHERE))
    assert part.read_bytes() == CONTENT[:1000]
    server.files["/weights.pt"] = CONTENT
    assert obtain([wanted], where=WHERE) == (SHA256,)
    assert server.asked[-1] == ("/weights.pt", "bytes=1000-")


def test_a_page_without_its_name_is_seen_by_its_bytes(server, tmp_path) -> None:
    server.files["/weights.pt"] = b"<!DOCTYPE html><html>hello"
    assert "it is a web page (HTML)" in refusal(lambda: obtain([source(server, tmp_path)], where=WHERE))


def test_a_file_placed_by_hand_is_taken_and_must_stay(server, tmp_path) -> None:
    wanted = source(server, tmp_path)
    wanted.target.parent.mkdir(parents=True)
    wanted.target.write_bytes(CONTENT)
    assert obtain([wanted], where=WHERE) == (SHA256,)
    assert server.asked == []
    wanted.target.write_bytes(CONTENT + b"!")
    message = refusal(lambda: obtain([wanted], where=WHERE))
    assert f"expected {wanted.target} with the recorded sha256 {SHA256}, got " in message
    assert "delete" in message and message.endswith("weights.pt.json")


def test_a_page_placed_by_hand_is_refused(server, tmp_path) -> None:
    wanted = source(server, tmp_path)
    wanted.target.parent.mkdir(parents=True)
    wanted.target.write_text("<html>you need access")
    assert "it is a web page (HTML), not weights" in refusal(lambda: obtain([wanted], where=WHERE))


def far_robustbench(root):
    return submission(root, "robustbench:Wong2020Fast"), "Wong2020Fast.pt"


def far_ensemble(root):
    return submission(root, "robustbench:Chen2020Adversarial"), "Chen2020Adversarial.pt_m2.pt"


def far_hugging_face(root):
    return submission(root, f"hf:org/repo@{COMMIT}"), f"org--repo/{COMMIT}/model.safetensors"


def far_timm(root):
    return submission(root, "timm:resnet18.a1_in1k", dataset="npz"), "timm--resnet18.a1_in1k/main/model.safetensors"


def far_address(root):
    from harness.checkpoints import cached_path

    url = "http://127.0.0.1:9/weights.pt"
    tables = f'[checkpoint]\nurl = "{url}"\nsha256 = "{SHA256}"'
    found = submission(root, "model.py:build", tables=tables, code="def build(): pass")
    return found, cached_path(url, SHA256).name


@pytest.mark.parametrize("far", [far_robustbench, far_ensemble, far_hugging_face, far_timm, far_address])
def test_without_a_network_there_is_one_message_for_each_source(server, tmp_path, monkeypatch, far) -> None:
    monkeypatch.setattr("harness.hubs.robustbench.DRIVE", "http://127.0.0.1:9/drive?id={id}")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    found, place = far(tmp_path)
    message = refusal(found.checkpoint_sha256)
    assert message.startswith(f"{tmp_path / 'model' / 'submission.toml'}: ")
    assert "http://127.0.0.1:9/" in message and "could not be downloaded (" in message and "refused" in message
    assert message.endswith(place) and "place it at " in message
    assert message.count("could not be downloaded") == 1


def test_a_name_that_does_not_resolve_is_told(tmp_path, monkeypatch) -> None:
    def nowhere(*_: object, **__: object):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr("socket.getaddrinfo", nowhere)
    wanted = Source("http://huggingface.co/x", tmp_path / "x")
    assert "Name or service not known" in refusal(lambda: obtain([wanted], where=WHERE))


def test_a_silent_server_is_given_up(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("harness.download.ATTEMPTS", 1)
    monkeypatch.setenv("no_proxy", "*")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        wanted = Source(f"http://127.0.0.1:{silent.getsockname()[1]}/w.pt", tmp_path / "w.pt")
        assert "timed out" in refusal(lambda: obtain([wanted], where=WHERE, timeout=0.2))


def test_drive_is_asked_by_id_and_the_identity_is_the_files(server, tmp_path) -> None:
    from harness.hubs.robustbench import entry

    identity = entry("cifar10", "Linf", "Wong2020Fast")["gdrive_id"]
    server.files[f"/drive?id={identity}"] = CONTENT
    found = submission(tmp_path, "robustbench:Wong2020Fast")
    assert found.checkpoint_sha256() == SHA256
    spec = found.spec()
    assert (spec["dataset"], spec["board"], spec["checkpoint"]) == ("cifar10", "Linf", None)
    (file,) = spec["files"]
    assert Path(file["path"]).read_bytes() == CONTENT and file["sha256"] == SHA256
    assert len(server.asked) == 1


def test_an_ensemble_is_identified_by_all_its_files(server, tmp_path) -> None:
    from harness.hubs.robustbench import entry

    for number, identity in enumerate(entry("cifar10", "Linf", "Chen2020Adversarial")["gdrive_id"]):
        server.files[f"/drive?id={identity}"] = CONTENT + bytes([number])
    found = submission(tmp_path, "robustbench:Chen2020Adversarial")
    parts = [hashlib.sha256(CONTENT + bytes([number])).hexdigest() for number in range(3)]
    assert found.checkpoint_sha256() == hashlib.sha256("".join(parts).encode()).hexdigest()
    assert [file["sha256"] for file in found.spec()["files"]] == parts


def test_published_weights_can_be_pinned(server, tmp_path) -> None:
    path = f"/org/repo/resolve/{COMMIT}/"
    server.files |= {path + "config.json": b"{}", path + "model.safetensors": CONTENT}
    both = hashlib.sha256((hashlib.sha256(b"{}").hexdigest() + SHA256).encode()).hexdigest()
    for pin, good in ((both, True), ("0" * 64, False)):
        found = submission(tmp_path, f"hf:org/repo@{COMMIT}", tables=f'[checkpoint]\nsha256 = "{pin}"')
        if good:
            assert found.checkpoint_sha256() == both
        else:
            assert refusal(found.checkpoint_sha256).endswith(f"expected weights of {pin}, got {both}")


def test_the_source_identity_holds_board_and_package_versions(tmp_path, monkeypatch) -> None:
    one = submission(tmp_path, "robustbench:Rice2020Overfitting").source_sha256()
    assert submission(tmp_path, "robustbench:Rice2020Overfitting").source_sha256() == one
    assert submission(tmp_path, "robustbench:Rice2020Overfitting", norm="L2").source_sha256() != one
    monkeypatch.setattr("harness.hubs.adapters.metadata.version", lambda name: "9.9")
    assert submission(tmp_path, "robustbench:Rice2020Overfitting").source_sha256() != one


@pytest.mark.parametrize(
    ("entry", "dataset", "words"),
    [
        ("robustbench:Wong2020Fats", "cifar10", "entry: unknown robustbench entry on cifar10 Linf"),
        ("timm:resnet18x", "cifar10", "unknown timm model 'resnet18x': did you mean 'resnet18"),
        (
            "timm:resnet18",
            "cifar10",
            "timm's weights are for 1000 classes and the data set has 10: expected yours under",
        ),
        ("timm:test_vit3", "cifar10", "timm"),
    ],
)
def test_a_model_that_is_not_there_is_one_line(server, tmp_path, entry, dataset, words) -> None:
    message = refusal(submission(tmp_path, entry, dataset=dataset).checkpoint_sha256)
    assert words in message and "submission.toml: entry: " in message
    assert server.asked == []


def test_errors_are_checkpoint_errors(tmp_path) -> None:
    with pytest.raises(CheckpointError):
        obtain([Source("http://127.0.0.1:9/x", tmp_path / "x")], where=WHERE)
