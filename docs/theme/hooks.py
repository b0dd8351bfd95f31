"""The page that a measurement writes is in the menu once it has been written."""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add ``parity.md``, made by ``python tests/parity.py``, when it is there: as the menu's last page."""
    if config.nav and (Path(config.docs_dir) / "parity.md").is_file():
        (pages,) = config.nav[-1].values()
        pages.append({"Parity with pyautoattack": "parity.md"})
    return config
