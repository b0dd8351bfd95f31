"""A server on this machine in the place of Google Drive, GitHub and Hugging Face, and the files it serves."""

import http.server
import threading

import pytest


class Server(http.server.ThreadingHTTPServer):
    """Serves ``files`` by path with query; ``pages`` are answered as web pages; ``cut`` paths end half-way once."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.pages: dict[str, str] = {}
        self.cut: set[str] = set()
        self.asked: list[tuple[str, str | None]] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.asked.append((self.path, wanted))
        if self.path in self.server.pages:
            self.answer(200, self.server.pages[self.path].encode(), "text/html; charset=utf-8")
        elif self.path not in self.server.files:
            self.send_error(404)
        else:
            content = self.server.files[self.path]
            start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
            self.answer(206 if wanted else 200, content, "application/octet-stream", start)

    def answer(self, status: int, content: bytes, kind: str, start: int = 0) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content) - start))
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        end = len(content)
        if self.path in self.server.cut:
            self.server.cut.discard(self.path)
            end = len(content) // 2
        self.wfile.write(content[start:end])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    """The server, an empty cache, and every source's address pointed at it."""
    monkeypatch.setenv("RAMPART_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    with Server() as server:
        monkeypatch.setattr("harness.hubs.robustbench.DRIVE", server.address + "/drive?id={id}")
        monkeypatch.setenv("HF_ENDPOINT", server.address)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


CARD = """
id = "{id}"
title = "A title"
dataset = "{dataset}"
entry = "{entry}"
{fields}
[[threat_models]]
norm = "{norm}"
eps = "8/255"
{tables}
"""


def submission(root, entry: str, *, name="model", dataset="cifar10", norm="Linf", fields="", tables="", code=None):
    """A submission folder with this card, read."""
    from harness.submission import read

    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    values = {"id": name, "entry": entry, "dataset": dataset, "norm": norm, "fields": fields, "tables": tables}
    (folder / "submission.toml").write_text(CARD.format(**values))
    if code is not None:
        (folder / "model.py").write_text(code)
    return read(folder, root)
