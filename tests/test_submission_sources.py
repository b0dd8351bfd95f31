"""What the identity of a submission's code covers, read from import statements."""

import shutil
from pathlib import Path

import pytest
from card_folders import CARD, make

from harness.errors import CardError
from harness.submission import read
from harness.submission.sources import source_files


@pytest.fixture
def copied(tmp_path) -> Path:
    """A copy of a package entry's submission in a root of its own, beside its package."""
    package = tmp_path / "nets" / "deep"
    package.mkdir(parents=True)
    (tmp_path / "nets" / "__init__.py").write_text("")
    (package / "__init__.py").write_text("from . import layers\n")
    (package / "layers.py").write_text("import torch\nfrom ..shared import act\n")
    (tmp_path / "nets" / "shared.py").write_text("act = 1\n")
    (tmp_path / "nets" / "unused.py").write_text("")
    (package / "net.py").write_text("def build():\n    from nets.deep.layers import thing\n")
    return make(tmp_path / "root", "model", card=CARD.replace("model.py", "nets.deep.net"))


@pytest.mark.parametrize(
    ("changed", "matters"),
    [
        ("nets/deep/net.py", True),
        ("nets/deep/layers.py", True),
        ("nets/deep/__init__.py", True),
        ("nets/shared.py", True),
        ("nets/unused.py", False),
        ("root/model/model.py", True),
        ("root/model/extra/more.py", True),
        ("root/model/.cache/more.py", False),
        ("root/model/notes.txt", False),
        ("root/other/model.py", False),
    ],
)
def test_the_source_hash_covers_what_the_network_is_made_of(copied, tmp_path, changed, matters) -> None:
    root = tmp_path / "root"
    before = read(copied, root).source_sha256()
    assert before == read(copied, root).source_sha256()
    path = tmp_path / changed
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text((path.read_text() if path.exists() else "") + "\n# changed\n")
    assert (read(copied, root).source_sha256() != before) is matters


@pytest.mark.parametrize(
    ("old", "new", "matters"),
    [
        ("nets.deep.net:build", "nets.deep.net:other", True),
        ('"A title"', '"Another"', False),
        ('"A title"', '"A title"\nkwargs = { width = 2 }', True),
        ('"A title"', '"A title"\nnotes = "more"', False),
        ('"8/255"', '"4/255"', False),
    ],
)
def test_the_source_hash_covers_the_settings_of_the_network(copied, tmp_path, old, new, matters) -> None:
    root = tmp_path / "root"
    before = read(copied, root).source_sha256()
    card = copied / "submission.toml"
    card.write_text(card.read_text().replace(old, new))
    assert (read(copied, root).source_sha256() != before) is matters


def test_the_source_hash_does_not_depend_on_the_place(copied, tmp_path) -> None:
    before = read(copied, tmp_path / "root").source_sha256()
    shutil.copytree(tmp_path / "nets", tmp_path / "else" / "nets")
    shutil.copytree(tmp_path / "root", tmp_path / "else" / "root")
    assert read(tmp_path / "else" / "root" / "model", tmp_path / "else" / "root").source_sha256() == before


def test_a_bundled_entry_is_found_from_another_root(tmp_path) -> None:
    folder = make(tmp_path, "copy", card=CARD.replace("model.py", "submissions.architectures.slim_resnet"))
    found = read(folder, tmp_path)
    files = source_files(folder, "submissions.architectures.slim_resnet", found.search)
    assert files is not None and set(files) == {
        "folder model.py", "module submissions.__init__", "module submissions.architectures.__init__",
        "module submissions.architectures.slim_resnet",
    }  # fmt: skip


def test_an_import_of_the_harness_or_of_a_library_is_not_followed(tmp_path) -> None:
    folder = make(
        tmp_path,
        "model",
        code="import torch, numpy.linalg, json, harness.plan\nimport submissions.recipes.config\n",
    )
    files = source_files(folder, "", read(folder, tmp_path).search)
    assert files is not None and set(files) == {
        "folder model.py", "module submissions.__init__", "module submissions.recipes.__init__",
        "module submissions.recipes.config",
    }  # fmt: skip


def test_an_installed_package_may_be_an_entry(tmp_path) -> None:
    folder = make(tmp_path, "model", card=CARD.replace("model.py", "safetensors.torch"))
    assert read(folder, tmp_path).source_sha256()


@pytest.mark.parametrize("module", ["nowhere.to_be_found", "submissions.architectures.nothing", "safetensors.nothing"])
def test_an_entry_without_a_module_is_one_line(tmp_path, module) -> None:
    folder = make(tmp_path, "model", card=CARD.replace("model.py", module))
    with pytest.raises(CardError) as caught:
        read(folder, tmp_path).source_sha256()
    assert f"{folder}/submission.toml: entry: expected a module {module!r} in " in str(caught.value)


@pytest.mark.parametrize("code", ["def build(:\n", "\0", "# -*- coding: nonsense -*-\n"])
def test_code_that_is_not_python_still_has_a_hash(tmp_path, code) -> None:
    assert read(make(tmp_path, "model", code=code), tmp_path).source_sha256()
