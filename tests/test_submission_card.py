"""The card: what is accepted and how it is kept; what is refused, in one line that names file, field and remedy."""

import json
import pickle
import tomllib
from typing import get_args

import pytest

from harness.errors import CardError
from harness.records import DEFENCES, ThreatModel
from harness.submission.card import CARD, Card, fits, read_card

SMALLEST = """
id = "my-model"
title = "My model"
dataset = "cifar10"
entry = "model.py:build"
[[threat_models]]
norm = "Linf"
eps = "8/255"
[checkpoint]
file = "weights.safetensors"
sha256 = "{sha256}"
""".replace("{sha256}", "0" * 64)

FULL = """
id = "full"
title = "Everything said"
authors = ["Ada", "Bo"]
paper = "https://arxiv.org/abs/2003.01690"
venue = "ICML"
year = 2020
licence = "MIT"
dataset = ["cifar10", "npz"]
entry = "package.module:function"
kwargs = { width = 12, rate = 0.5, eps = 0.1, name = "a", deep = [1, { on = true }] }
training_data = "extra real"
defence = "stochastic"
forward_passes = 4
notes = "First line.\\nSecond line."
contact = "ada@example.org"
supersedes = "older"
[[threat_models]]
norm = "linf"
eps = "16/510"
[[threat_models]]
norm = "L2"
eps = 0.5
[checkpoint]
url = "https://example.org/weights.pt"
sha256 = "{sha256}"
key = "state_dict"
strip_prefix = "module."
[[claims]]
norm = "Linf"
eps = "8/255"
natural_accuracy = 0.85
robust_accuracy = 0.53
attack = "AutoAttack"
""".replace("{sha256}", "AB" * 32)


def card_of(folder, text: str) -> Card:
    path = folder / CARD
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_card(path)


def message_of(folder, text) -> str:
    with pytest.raises(CardError) as caught:
        card_of(folder, text)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{folder / CARD}: ")
    return message.removeprefix(f"{folder / CARD}: ")


def test_the_smallest_card_is_valid(tmp_path) -> None:
    card = card_of(tmp_path, SMALLEST)
    assert card.datasets == ("cifar10",) and card.classes == 10
    assert card.threats == (ThreatModel("Linf", "8/255"),)
    assert (card.defence, card.forward_passes, card.training_data) == ("static", 1, None)


def test_every_field_is_kept(tmp_path) -> None:
    card = card_of(tmp_path, FULL)
    assert card.threats == (ThreatModel("Linf", "8/255"), ThreatModel("L2", "0.5"))
    assert card.datasets == ("cifar10", "npz") and card.classes == 10
    assert card.training_data == "extra-real"
    assert card.checkpoint and card.checkpoint.sha256 == "ab" * 32
    assert card.kwargs == {"width": 12, "rate": 0.5, "eps": 0.1, "name": "a", "deep": [1, {"on": True}]}
    assert type(card.kwargs["rate"]) is float
    assert card.claims[0].robust_accuracy == 0.53
    plain = card.plain()
    assert json.loads(json.dumps(plain)) == plain
    assert set(plain) == set(tomllib.loads(FULL))
    assert Card.model_validate_json(json.dumps(plain)) == card
    assert pickle.loads(pickle.dumps(card)) == card


def test_plain_data_holds_only_what_says_something(tmp_path) -> None:
    assert set(card_of(tmp_path, SMALLEST).plain()) == {
        "id", "title", "dataset", "entry", "threat_models", "checkpoint", "defence", "forward_passes",
    }  # fmt: skip


def test_a_card_cannot_be_changed(tmp_path) -> None:
    card = card_of(tmp_path, SMALLEST)
    with pytest.raises(ValueError, match="frozen"):
        card.title = "other"


@pytest.mark.parametrize(
    ("typed", "kept"),
    [
        ('"8/255"', "8/255"),
        ('"16/510"', "8/255"),
        ('"0.031"', "0.031"),
        ("0.031", "0.031"),
        ("0.0310", "0.031"),
        ("1", "1"),
        ('" 0.5 "', "0.5"),
        (".5".join(['"', '"']), "0.5"),
    ],
)
def test_eps_is_exact_and_has_one_spelling(tmp_path, typed, kept) -> None:
    (threat,) = card_of(tmp_path, SMALLEST.replace('"8/255"', typed)).threats
    assert threat.eps == kept


EPS = "threat_models[0].eps: expected a positive fraction such as '8/255' or '0.5', got "


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('title = "My model"', "", 'title: missing, expected e.g. title = "My model"'),
        ('title = "My model"', 'titel = "My model"', "titel: unknown field; did you mean 'title'?; title: missing"),
        ('title = "My model"', "title = 7", "title: expected text, got 7"),
        ('title = "My model"', 'title = " "', "title: expected one line of text, at most 500 characters, got ' '"),
        ('title = "My model"', 'title = "a\\u001b[2J"', r"title: expected one line of text, at most 500 characters"),
        ('title = "My model"', 'title = "a"\nauthors = "b"', "authors: expected a list, got 'b'"),
        ('title = "My model"', 'title = "a"\nauthors = ["b", 3]', "authors[1]: expected text, got 3"),
        ('title = "My model"', 'title = "a"\nyear = "2020"', "year: expected a whole number, got '2020'"),
        ('title = "My model"', 'title = "a"\nyear = 20', "year: expected at least 1950, got 20"),
        ('title = "My model"', 'title = "a"\nforward_passes = 0', "forward_passes: expected at least 1, got 0"),
        (
            'title = "My model"', 'title = "a"\nforward_passes = true',
            "forward_passes: expected a whole number, got true",
        ),
        (
            'title = "My model"', 'title = "a"\ndefence = "statik"',
            "defence: expected 'static', 'stochastic', 'dynamic', 'non-differentiable' or 'detector', got 'statik'; "
            "did you mean 'static'?",
        ),
        (
            'title = "My model"', 'title = "a"\ntraining_data = "lots"',
            "training_data: expected 'none', 'extra-real' or 'synthetic', got 'lots'",
        ),
        ('title = "My model"', 'title = "a"\nkwargs = 3', "kwargs: expected a table, got 3"),
        ('title = "My model"', 'title = "a"\nkwargs = { a = inf }', "kwargs: expected finite numbers, got inf"),
        (
            'title = "My model"', 'title = "a"\nkwargs = { a = 1979-05-27 }',
            "kwargs: expected text, numbers, true, false, lists and tables, got '1979-05-27'",
        ),
        (
            'title = "My model"', 'title = "a"\nkwargs = { a-b = 1 }',
            "kwargs: expected names that a Python function can take, got 'a-b'",
        ),
        ('"my-model"', '"My Model"', "id: expected at most 80 lowercase letters, digits"),
        ('"my-model"', '"../x"', "id: expected at most 80 lowercase letters, digits"),
        ('"my-model"', '"recipes"', "id: expected a name other than architectures, recipes, got 'recipes'"),
        ('"cifar10"', '"cifar11"', "dataset[0]: unknown dataset 'cifar11': did you mean 'cifar10'?"),
        ('"cifar10"', '"cifar10-sample"', "did you mean 'cifar10'? known: cifar10, cifar100, "),
        ('"cifar10"', "[]", "dataset: expected one or more different data sets, got []"),
        (
            '"cifar10"', '["cifar10", "cifar100"]',
            "dataset: expected data sets of the same number of classes, got cifar10, cifar100: make one submission for "
            "each",
        ),
        ("model.py:build", "model.py", "entry: expected 'model.py:build' (a file in the submission's folder) or "),
        ("model.py:build", "../model.py:build", "entry: expected a path inside the submission's folder"),
        ("model.py:build", "/model.py:build", "entry: expected a path inside the submission's folder"),
        ("model.py:build", "C:/model.py:build", "entry: expected a path inside the submission's folder"),
        ("model.py:build", "a b:build", "entry: expected 'model.py:build'"),
        ("model.py:build", "model.py:2", "entry: expected 'model.py:build'"),
        ("model.py:build", "robustbench:", "entry: expected 'robustbench:NAME', e.g. 'robustbench:Wong2020Fast', got "),
        ("model.py:build", "robustbench:../x", "entry: expected 'robustbench:NAME', e.g. "),
        ("model.py:build", "robust-bench:Wong2020Fast", "entry: expected 'robustbench:NAME', e.g. "),
        ("model.py:build", "timm:ResNet 18", "entry: expected 'timm:NAME', e.g. 'timm:resnet18', got 'timm:ResNet 18'"),
        ("model.py:build", "hf:org/repo", "got 'hf:org/repo': a branch or tag can change under a published number"),
        ("model.py:build", "hf:org/repo@main", "'hf:ORG/REPO@COMMIT' with the 40 hexadecimal digits of a commit, got "),
        ("model.py:build", "hf:repo@" + "a" * 40, "entry: expected 'hf:ORG/REPO@COMMIT' with the 40 hexadecimal "),
        ("model.py:build", "torchscript:model.pt", "entry: expected 'torchscript' alone, with the file under "),
        ("model.py:build", "callable:predict", "entry: expected 'callable:model.py:function' or 'callable:package."),
        ("model.py:build", "callable:../m.py:f", "entry: expected a path inside the submission's folder"),
        ('norm = "Linf"', 'norm = "L9"', "threat_models[0].norm: expected one of Linf, L2, L1, got 'L9'"),
        ('norm = "Linf"', "", 'threat_models[0].norm: missing, expected e.g. norm = "Linf"'),
        ('"8/255"', '"eight"', f"{EPS}'eight'"),
        ('"8/255"', '"0"', f"{EPS}'0'"),
        ('"8/255"', "-0.5", f"{EPS}'-0.5'"),
        ('"8/255"', "true", f"{EPS}true"),
        ('"8/255"', "nan", f"{EPS}'nan'"),
        ('"8/255"', '"8/0"', f"{EPS}'8/0'"),
        ('"8/255"', '"1e999999999"', f"{EPS}'1e999999999'"),
        ('"8/255"', "0.123456789012345", "threat_models[0].eps: expected a fraction of at most 12 digits"),
        ('"8/255"', "8", "got 8; write '8/255' for 8 of 255 levels"),
        (
            "[checkpoint]", '[[threat_models]]\nnorm = "linf"\neps = "16/510"\n[checkpoint]',
            "threat_models: expected different threat models, got Linf-8/255, Linf-8/255",
        ),
        ('file = "weights.safetensors"', "", "checkpoint: expected either file or url, got neither"),
        (
            'file = "weights', 'url = "https://a.org/b"\nfile = "weights',
            "checkpoint: expected either file or url, got both",
        ),
        ('file = "weights', 'file = "../weights', "checkpoint.file: expected a path inside the submission's folder"),
        (
            'file = "weights.safetensors"', 'url = "ftp://a/b"',
            "checkpoint.url: expected an http or https address of a file",
        ),
        ("0" * 64, "0" * 63, "checkpoint.sha256: expected 64 hexadecimal digits, got "),
        ("sha256", "sha265", "checkpoint.sha265: unknown field; did you mean 'sha256'?"),
        (
            "[checkpoint]", '[checkpoint]\nnotes = "x"',
            "checkpoint.notes: unknown field; 'notes' belongs to the card itself: move it above the first [table]",
        ),
        (
            "[checkpoint]",
            '[[claims]]\nnorm = "Linf"\neps = "8/255"\nrobust_accuracy = 53.1\nattack = "AA"\n[checkpoint]',
            "claims[0].robust_accuracy: expected a share in [0, 1], got 53.1; write 0.531 for 53.1 %",
        ),
    ],
)  # fmt: skip
def test_a_wrong_field_is_one_line(tmp_path, old, new, message) -> None:
    assert old in SMALLEST
    assert message in message_of(tmp_path, SMALLEST.replace(old, new, 1))


def test_threat_models_must_be_there(tmp_path) -> None:
    without = SMALLEST[: SMALLEST.index("[[threat_models]]")]
    assert "threat_models: missing, expected e.g. [[threat_models]]" in message_of(tmp_path, without)
    assert "threat_models: expected at least one, got none" in message_of(tmp_path, without + "threat_models = []")
    assert "threat_models: expected a list, got {" in message_of(tmp_path, without + '[threat_models]\nnorm = "L2"')


def test_several_problems_are_told_at_once_and_not_without_end(tmp_path) -> None:
    message = message_of(tmp_path, "\n".join(f"field{number} = 1" for number in range(20)))
    assert message.count("unknown field") == 4
    assert message.endswith("and 21 more")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"id = = 3", "expected TOML, got an error: Invalid value (at line 1, column 6)"),
        (b"id = 1\nid = 2", "expected TOML, got an error: Cannot overwrite a value (at "),
        (b"title = '\xff'", "expected UTF-8 text, got byte 0xff at 9"),
        (b"\x89PNG\r\n", "expected UTF-8 text, got byte 0x89 at 0"),
        (b"a = " + b"[" * 100_000, "expected TOML, got "),
        (b"a = " + b"9" * 10_000, "expected TOML, got an error"),
        (b"#" * 1_000_001, "expected at most 1,000,000 bytes, got 1,000,001"),
        (b"", 'id: missing, expected the folder\'s name; title: missing, expected e.g. title = "My model"'),
    ],
)
def test_what_is_not_a_card_is_one_line(tmp_path, content, message) -> None:
    path = tmp_path / CARD
    path.write_bytes(content)
    with pytest.raises(CardError) as caught:
        read_card(path)
    assert str(caught.value).startswith(f"{path}: {message}") and "\n" not in str(caught.value)


def test_a_card_that_is_a_folder_is_one_line(tmp_path) -> None:
    (tmp_path / CARD).mkdir()
    with pytest.raises(CardError, match=r"submission\.toml: could not be read: Is a directory"):
        read_card(tmp_path / CARD)


def test_a_byte_order_mark_is_no_obstacle(tmp_path) -> None:
    (tmp_path / CARD).write_text(SMALLEST, encoding="utf-8-sig")
    assert read_card(tmp_path / CARD).id == "my-model"


@pytest.mark.parametrize(
    ("given", "dataset", "expected"),
    [
        ('"cifar10"', "cifar10", True),
        ('"cifar10"', "cifar10-sample", True),
        ('"cifar10"', "cifar100", False),
        ('"cifar10"', "cifar100-sample", False),
        ('"cifar10"', "npz:some/where-else.npz", True),
        ('"cifar100"', "cifar100-sample", True),
        ('"cifar100"', "cifar10", False),
        ('"npz"', "npz:a.npz", True),
        ('"npz"', "cifar10", False),
        ('["npz", "cifar10"]', "cifar10", True),
    ],
)
def test_which_data_sets_a_card_fits(tmp_path, given, dataset, expected) -> None:
    assert fits(card_of(tmp_path, SMALLEST.replace('"cifar10"', given)), dataset) is expected


def test_a_family_has_the_classes_of_its_data_set() -> None:
    from harness import datasets
    from harness.datasets.cifar import CLASS_NAMES
    from harness.submission.values import FAMILIES

    named = {name: classes for name, classes in FAMILIES.items() if name != "npz"}
    assert named == {name: len(classes) for name, classes in CLASS_NAMES.items()}
    assert set(named) == {name.partition("-")[0] for name in datasets.names()}


def test_the_kinds_of_defences_are_the_records() -> None:
    assert get_args(Card.model_fields["defence"].annotation) == DEFENCES
