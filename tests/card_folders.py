"""Submission folders for tests."""

import hashlib
from pathlib import Path

CARD = """
id = "{id}"
title = "A title"
dataset = "cifar10"
entry = "model.py:build"
[[threat_models]]
norm = "Linf"
eps = "8/255"
"""
CHECKPOINT = '[checkpoint]\nfile = "weights.safetensors"\nsha256 = "{sha256}"\n'


def make(root: Path, name: str, *, card: str = CARD, code: str = "def build():\n    pass\n") -> Path:
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "submission.toml").write_text(card.replace("{id}", name))
    (folder / "model.py").write_text(code)
    return folder


def with_weights(root: Path, name: str, content: bytes, *, sha256: str | None = None) -> Path:
    digest = hashlib.sha256(content).hexdigest() if sha256 is None else sha256
    folder = make(root, name, card=CARD + CHECKPOINT.replace("{sha256}", digest))
    (folder / "weights.safetensors").write_bytes(content)
    return folder
