"""Checkpoints from an address, against a server on this machine that fails in every usual way."""

import hashlib
import threading
from pathlib import Path

import pytest
from file_server import FileServer

from harness import checkpoints, download
from harness.checkpoints import cached_path, fetch
from harness.errors import CheckpointError

CONTENT = bytes(range(256)) * 4000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
PATH = "/weights.pt?download=1"
WHERE = "submission.toml: checkpoint.url"


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("RAMPART_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    with FileServer({PATH: CONTENT}) as server:
        yield server


def get(server: FileServer) -> Path:
    return fetch(server.address + PATH, SHA256, where=WHERE)


def left(target: Path) -> set[str]:
    """Names beside ``target`` other than locks."""
    return {path.name for path in target.parent.iterdir() if path.suffix != ".lock"}


def test_it_is_downloaded_once(server, tmp_path) -> None:
    path = get(server)
    assert path.read_bytes() == CONTENT
    assert path == tmp_path / "cache" / "checkpoints" / f"{SHA256}.pt"
    assert get(server) == path
    assert server.ranges == [None]
    assert left(path) == {path.name}


def test_a_broken_connection_goes_on_where_it_ended(server) -> None:
    server.faults = ["cut", "cut"]
    path = get(server)
    assert path.read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=512000-", "bytes=768000-"]


def test_a_server_that_cannot_go_on_starts_again(server) -> None:
    server.resumable, server.faults = False, ["cut"]
    assert get(server).read_bytes() == CONTENT


def test_a_download_goes_on_as_long_as_something_comes(server) -> None:
    server.faults = ["cut"] * (3 * download.ATTEMPTS)
    assert get(server).read_bytes() == CONTENT
    assert len(server.asked) == 3 * download.ATTEMPTS + 1


def test_a_download_without_a_byte_is_given_up(server) -> None:
    server.faults = ["cut"] + [0] * download.ATTEMPTS
    with pytest.raises(CheckpointError, match="the connection ended after 512,000 of 1,024,000 bytes"):
        get(server)
    assert len(server.asked) == download.ATTEMPTS


def test_a_download_that_fails_is_kept_for_the_next_try(server, monkeypatch) -> None:
    monkeypatch.setattr(download, "ATTEMPTS", 1)
    server.faults = ["cut"]
    with pytest.raises(CheckpointError) as caught:
        get(server)
    target = cached_path(server.address + PATH, SHA256)
    message = str(caught.value)
    assert message.startswith(f"{WHERE}: {server.address}{PATH} could not be downloaded (the connection ended after ")
    assert message.endswith(f"run the same command again to go on, or get the file elsewhere and place it at {target}")
    assert left(target) == {f"{target.name}.part"}
    server.asked.clear()
    assert get(server).read_bytes() == CONTENT
    assert server.ranges == [f"bytes={len(CONTENT) // 2}-"]


@pytest.mark.parametrize("stale", [b"another file's beginning", CONTENT + b"too much", b"x" * len(CONTENT)])
def test_a_beginning_of_another_file_is_thrown_away(server, stale) -> None:
    target = cached_path(server.address + PATH, SHA256)
    target.parent.mkdir(parents=True)
    target.with_name(f"{target.name}.part").write_bytes(stale)
    assert get(server).read_bytes() == CONTENT


def test_a_part_that_was_not_asked_for_is_not_used(server) -> None:
    server.faults = ["cut", "wrong part"]
    assert get(server).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"<!doctype html><p>Too many downloads", "it is a web page (HTML), not weights"),
        (b"version https://git-lfs.github.com/spec/v1", "it is a Git LFS pointer, not weights"),
        (b"", "the file is empty"),
        (CONTENT[:-1], f"expected {{url}} with sha256 {SHA256}, got "),
    ],
)
def test_another_file_than_promised_is_not_kept(server, content, reason) -> None:
    server.files[PATH] = content
    with pytest.raises(CheckpointError) as caught:
        get(server)
    assert reason.replace("{url}", server.address + PATH) in str(caught.value)
    assert left(cached_path(server.address + PATH, SHA256)) == set()


def test_a_file_in_the_cache_that_rotted_is_replaced(server) -> None:
    target = cached_path(server.address + PATH, SHA256)
    target.parent.mkdir(parents=True)
    target.write_bytes(CONTENT[:-1] + b"?")
    assert get(server).read_bytes() == CONTENT


@pytest.mark.parametrize(("code", "words"), [("404", "404 Not Found"), ("403", "403 Forbidden")])
def test_a_refusal_is_passed_on(server, code, words) -> None:
    server.faults = [code]
    with pytest.raises(CheckpointError, match=rf"could not be downloaded \(the server said {words}\)"):
        get(server)
    assert len(server.asked) == 1


def test_without_a_network_the_way_out_is_told_and_works(server, monkeypatch) -> None:
    url = "http://127.0.0.1:9/weights.pt"
    with pytest.raises(CheckpointError) as caught:
        fetch(url, SHA256, where=WHERE, timeout=2)
    message = str(caught.value)
    assert "could not be downloaded" in message and "refused" in message and "\n" not in message
    place = Path(message.rpartition("place it at ")[2])
    place.write_bytes(CONTENT)
    assert fetch(url, SHA256, where=WHERE) == place


def test_a_silent_server_is_given_up(server, monkeypatch) -> None:
    import socket

    monkeypatch.setattr(download, "ATTEMPTS", 1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/weights.pt"
        with pytest.raises(CheckpointError, match="timed out"):
            fetch(url, SHA256, where=WHERE, timeout=0.2)


def test_two_at_once_download_once(server) -> None:
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(get(server))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4 and len(set(found)) == 1
    assert server.ranges == [None]


def test_a_cache_that_cannot_be_written_is_one_line(server, tmp_path, monkeypatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RAMPART_CACHE", str(tmp_path / "file"))
    with pytest.raises(CheckpointError, match="could not be downloaded"):
        get(server)


def test_a_submission_takes_its_checkpoint_from_an_address(server, tmp_path) -> None:
    from harness.submission import create, read

    folder = create("far", tmp_path)
    card = folder / "submission.toml"
    card.write_text(f'{card.read_text()}\n[checkpoint]\nurl = "{server.address}{PATH}"\nsha256 = "{SHA256}"\n')
    found = read(folder, tmp_path)
    assert server.ranges == []
    assert found.checkpoint_sha256() == SHA256
    assert Path(found.spec()["checkpoint"]).read_bytes() == CONTENT
    assert server.ranges == [None]


@pytest.mark.parametrize(
    ("platform", "environment", "expected"),
    [
        ("linux", {"RAMPART_CACHE": "/given"}, "/given"),
        ("linux", {"XDG_CACHE_HOME": "/xdg"}, "/xdg/rampart"),
        ("linux", {"HOME": "/home/ada"}, "/home/ada/.cache/rampart"),
        ("darwin", {"HOME": "/home/ada"}, "/home/ada/Library/Caches/rampart"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/rampart"),
    ],
)
def test_where_the_cache_is(monkeypatch, platform, environment, expected) -> None:
    for name in ("RAMPART_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.platform", platform)
    assert checkpoints.cache_dir() == Path(expected)
