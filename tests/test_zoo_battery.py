"""The zoo of broken and honest models: what is written about it, every model built, the confusion matrix by hand."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from harness.checks import CHECKS
from harness.errors import UserError
from harness.submission import discover
from harness.zoo.expected import Expectation, chosen, load_expectations
from harness.zoo.matrix import (
    FIRED,
    IDLE,
    SILENT,
    UNCHECKED,
    Matrix,
    Outcome,
    allowed,
    compare,
    deviations,
    distance,
    write_matrix,
)
from harness.zoo.running import collect, suite_for
from zoo.cards import cards

ZOO = Path(__file__).parent / "zoo"
MODELS = load_expectations(ZOO)
BUILT = sorted(name for name in MODELS if name in cards())


def outcome(verdict="verified", fired=(), *, corrected=0.4, claimed=0.4, n=100, unpeeled="", **states) -> Outcome:
    """What came out, with ``fired`` checks failing and every other silent unless ``states`` says otherwise."""
    checks = dict.fromkeys(CHECKS.names(), SILENT) | states | dict.fromkeys(fired, FIRED)
    return Outcome(verdict, "Why.", n, 0.8, claimed, corrected, checks, dict.fromkeys(fired, "fail"), {}, unpeeled)


BROKEN = Expectation(
    "wrapped", "A wrapper", "broken", base="plain", truth="base", decision_identical=True, must_fire=("C8", "G1"),
    verdicts=("overestimated", "protocol"),
)  # fmt: skip
HONEST = Expectation("plain", "A network", "honest", must_not_fire=("C8",), verdicts=("verified", "verified-with-note"))


@pytest.mark.parametrize("name", BUILT)
def test_every_model_builds_and_answers(name) -> None:
    found = discover([ZOO])
    assert name in found.submissions, found.problems.get(name)
    module, _, function = found.submissions[name].card.entry.partition(":")
    build = getattr(__import__(module, fromlist=[function]), function)
    network = build(**found.submissions[name].card.kwargs)
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = network.eval()(x)
    assert logits.shape == (2, 11 if name == "m53-reject-class" else 10)
    assert logits.isfinite().all() or name in {"m53b-reject-nan", "t07-noise-rejecting-at"}


def test_the_cards_are_those_of_the_expectations() -> None:
    written = {path.parent.name: path.read_text(encoding="utf-8") for path in ZOO.glob("*/submission.toml")}
    assert written == cards(), "run: python tests/zoo/cards.py"


def test_the_expectations_say_what_the_battery_is_for() -> None:
    kinds = [item.kind for item in MODELS.values()]
    assert kinds.count("broken") >= 45 and kinds.count("honest") >= 18
    for item in MODELS.values():
        if item.kind == "broken":
            assert item.must_fire and "verified" not in item.verdicts, item.id
        else:
            assert set(item.verdicts) == {"verified", "verified-with-note"}, item.id
        assert not set(item.must_fire) & set(item.must_not_fire), item.id
        assert item.truth != "base" or item.base, item.id
    identical = [item for item in MODELS.values() if item.decision_identical and item.kind == "broken"]
    assert {item.base for item in identical} == {"natural", "fgsm-rs-1222"}


@pytest.mark.parametrize("name", sorted(item.id for item in MODELS.values() if item.decision_identical))
def test_wrappers_decide_as_their_base_does(name) -> None:
    if name not in BUILT:
        pytest.skip("it is its own base")
    from harness import datasets
    from zoo.bases import base

    card = discover([ZOO]).submissions[name].card
    module, _, function = card.entry.partition(":")
    network = getattr(__import__(module, fromlist=[function]), function)(**card.kwargs).eval()
    x, _ = datasets.load("cifar10-sample").tensors(0, 20)
    noise = torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) - 0.5
    x = torch.cat([x, (x + noise / 16).clamp(0, 1)])
    with torch.no_grad():
        assert torch.equal(network(x).argmax(1), base(MODELS[name].base)(x).argmax(1))


def test_nothing_outside_the_tests_knows_the_zoo() -> None:
    root = Path(__file__).resolve().parents[1]
    for place in ("harness", "leaderboard", "submissions"):
        for path in (root / place).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            assert "from zoo" not in text and "import zoo\n" not in text.replace("commands.zoo import zoo\n", ""), path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("models = 1 =", "expected TOML"),
        ("", "expected tables"),
        ("[models.a]\nkind = 'evil'", r"a\.kind: expected one of broken"),
        ("[models.a]\ntitle = 'A'\nkind = 'honest'\nmust_fire = ['Q7']", r"a\.must_fire: expected some of"),
        ("[models.a]\ntitle = 'A'\nkind = 'honest'\nverdicts = ['fine']", r"a\.verdicts: expected some of"),
        ("[models.a]\ntitle = 'A'\nkind = 'honest'\ntruth = 'maybe'", r"a\.truth: expected base, zero or unknown"),
        ("[models.a]\ntitle = 'A'\nkind = 'honest'\nbase = 'b'", r"a\.base: expected a model of the zoo"),
    ],
)
def test_what_is_wrong_with_a_zoo_is_said(tmp_path, text, message) -> None:
    (tmp_path / "expected.toml").write_text(text)
    with pytest.raises(UserError, match=message):
        load_expectations(tmp_path)


def test_a_model_is_chosen_with_its_base() -> None:
    assert set(chosen(MODELS, ["m14-detached-nat"])) == {"m14-detached-nat", "natural"}
    assert chosen(MODELS, []) == MODELS
    with pytest.raises(UserError, match="model of the zoo"):
        chosen(MODELS, ["m14-detached"])


def test_a_model_that_came_out_as_expected_does_not_deviate() -> None:
    assert deviations(BROKEN, outcome("protocol", ("C8",)), outcome()) == ()
    assert deviations(HONEST, outcome(), None) == ()


@pytest.mark.parametrize(
    ("expected", "found", "text"),
    [
        (BROKEN, outcome("verified", ("C8",)), "verdict: expected overestimated or protocol, got verified: Why."),
        (BROKEN, outcome("protocol", ("A1",)), "expected one of C8, G1 to fire, got A1"),
        (BROKEN, outcome("protocol"), "expected one of C8, G1 to fire, got none"),
        (BROKEN, outcome("protocol", ("C8",), corrected=0.42), "corrected to 42.0%, 2.0 points from the truth"),
        (BROKEN, outcome("protocol", ("C8",), corrected=0.38), "corrected to 38.0%, 2.0 points from the truth"),
        (HONEST, outcome("verified", ("C8",)), "C8: expected silence, got fail"),
        (replace(BROKEN, may_fire=()), outcome("protocol", ("C8", "A1")), "A1: expected silence, got fail"),
        (replace(BROKEN, truth="zero"), outcome("protocol", ("C8",), corrected=0.05), "corrected to 5.0%, 5.0 points"),
    ],
)  # fmt: skip
def test_every_kind_of_deviation_is_told(expected, found, text) -> None:
    (told,) = deviations(expected, found, outcome(corrected=0.4))
    assert told.startswith(text)


def test_one_image_is_no_distance_in_small_runs() -> None:
    assert allowed(BROKEN, outcome(n=20)) == pytest.approx(0.05)
    assert allowed(BROKEN, outcome(n=1000)) == pytest.approx(0.01)
    assert distance(BROKEN, outcome(corrected=0.3), outcome(corrected=0.35)) == pytest.approx(0.05)
    assert distance(BROKEN, outcome(), None) is None
    assert deviations(BROKEN, outcome("protocol", ("C8",), corrected=0.45, n=20), outcome()) == ()


def matrix() -> Matrix:
    """Two models with two seeds: one seed as expected, one wrapper missed, one without records."""
    return compare(
        {"wrapped": BROKEN, "plain": HONEST},
        {
            ("wrapped", 0): outcome("overestimated", ("C8",), claimed=0.7, unpeeled="protocol"),
            ("wrapped", 1): outcome("verified", corrected=0.7, claimed=0.7, C4=UNCHECKED, A1=IDLE),
            ("plain", 0): outcome(), ("plain", 1): None,
        },
        "2026.1",
    )  # fmt: skip


def test_the_matrix_counts() -> None:
    made = matrix()
    assert [(row.expected.id, row.seed) for row in made.rows] == [
        ("wrapped", 0), ("wrapped", 1), ("plain", 0), ("plain", 1)
    ]  # fmt: skip
    assert made.count("broken", "overestimated", "protocol") == (1, 2)
    assert made.count("honest", "verified") == (1, 2)
    # The second seed has no base to be held against.
    assert made.corrected == (1, 1, 2)
    assert made.only_by["C8"] == ("wrapped",)
    assert made.checks[:3] == ("C1", "C2", "C2-EOT") and made.checks[-1] == "I2"
    assert set(made.checks) == set(CHECKS.names())
    assert "broken not verified 1/2, honest verified 1/2" in made.summary()
    assert "2 of 4 otherwise than expected" in made.summary()


def test_the_matrix_as_text_json_and_csv(tmp_path) -> None:
    made = replace(matrix(), dataset="cifar10-sample", n="20")
    lines = made.text().splitlines()
    assert lines[1] == "broken" and lines[4] == "honest"
    assert "#" in lines[2] and "overestimated (protocol)" in lines[2] and "?" in lines[3]
    write_matrix(tmp_path, made)
    data = json.loads((tmp_path / "matrix.json").read_text())
    assert (data["thresholds"], data["dataset"], data["n"], data["seeds"]) == ("2026.1", "cifar10-sample", "20", [0, 1])
    assert data["decision_identical"] == {"within_a_point": 1, "within_an_image": 1, "of": 2}
    assert data["rows"][0]["outcome"]["checks"]["C8"] == FIRED and data["rows"][3]["outcome"] is None
    rows = list(csv.DictReader(io.StringIO((tmp_path / "matrix.csv").read_text())))
    assert [row["verdict"] for row in rows] == ["overestimated", "verified", "verified", ""]
    assert rows[0]["C8"] == "fail" and rows[1]["C4"] == UNCHECKED and rows[1]["A1"] == IDLE
    assert "no records" in rows[3]["deviations"]


def test_the_suite_of_a_zoo_replays_nothing(tmp_path) -> None:
    from harness import suites

    entries = {entry["name"]: entry for entry in suites.load(suite_for("check", tmp_path)).entries}
    assert entries["a8-transfer"]["params"]["replay"] is False
    others = {entry["name"]: entry for entry in suites.load("check").entries}
    assert {name: entry for name, entry in entries.items() if name != "a8-transfer"} == {
        name: entry for name, entry in others.items() if name != "a8-transfer"
    }
    deep = {entry["name"]: entry for entry in suites.load(suite_for("deep", tmp_path)).entries}
    assert deep["a8-transfer"]["params"]["replay"] is False


def test_without_records_there_is_nothing_to_judge(tmp_path) -> None:
    with pytest.raises(UserError, match="expected records of a zoo"):
        collect(MODELS, tmp_path, [])
