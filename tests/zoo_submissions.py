"""Submissions whose weights lie elsewhere, and a server in the place of Google Drive, GitHub and Hugging Face."""

import pytest
from file_server import FileServer


@pytest.fixture
def server(tmp_path, monkeypatch):
    """The server, an empty cache, and every source's address pointed at it."""
    monkeypatch.setenv("RAMPART_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    with FileServer() as server:
        monkeypatch.setattr("harness.hubs.robustbench.DRIVE", server.address + "/drive?id={id}")
        monkeypatch.setenv("HF_ENDPOINT", server.address)
        yield server


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
