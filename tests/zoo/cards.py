"""Writes the cards of the zoo from ``expected.toml``: ``python tests/zoo/cards.py``."""

import shutil
import sys
import tomllib
from pathlib import Path

HERE = Path(__file__).resolve().parent
CARD = """id = "{id}"
title = "{title}"
dataset = "cifar10"
entry = "{entry}"
kwargs = {{ {kwargs} }}
defence = "static"

[[threat_models]]
norm = "Linf"
eps = "8/255"
"""


def _value(value: object) -> str:
    """A value in TOML."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "[" + ", ".join(map(_value, value)) + "]"
    return f'"{value}"' if isinstance(value, str) else repr(value)


def cards() -> dict[str, str]:
    """Text of every card by id; the bundled submissions have their own.

    Broken models say that they are static, as a submission would that hides what it does.
    """
    models = tomllib.loads((HERE / "expected.toml").read_text(encoding="utf-8"))["models"]
    return {
        name: CARD.format(
            id=name, title=model["title"], entry=model["entry"],
            kwargs=", ".join(f"{key} = {_value(value)}" for key, value in model["kwargs"].items()),
        )
        for name, model in models.items() if "entry" in model
    }  # fmt: skip


def write() -> int:
    """Write every card and take away folders of models that are gone; how many cards there are."""
    wanted = cards()
    for folder in HERE.iterdir():
        if (folder / "submission.toml").exists() and folder.name not in wanted:
            shutil.rmtree(folder)
    for name, text in wanted.items():
        (HERE / name).mkdir(exist_ok=True)
        (HERE / name / "submission.toml").write_text(text, encoding="utf-8")
    return len(wanted)


if __name__ == "__main__":
    sys.stdout.write(f"{write()} cards\n")
