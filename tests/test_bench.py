"""The command that sets our attacks beside other packages, on a tiny network."""

import json

import pytest
from command_line import HONEST, harness, submission

from harness.bench import Comparison, Measurement, parse_attack
from harness.errors import UserError
from harness.records import ThreatModel


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    submission(folder, "honest", HONEST)
    return folder


def test_json_holds_seconds_ratio_and_verdicts_of_every_package(root):
    done = harness("bench", "honest", "--submissions", str(root), "--attack", "pgd-5", "--limit", "8", "--json")
    assert done.returncode == 0, done.stderr
    plain = json.loads(done.stdout)
    assert (plain["attack"], plain["n"], plain["threat_model"]) == ("pgd-5", 8, "Linf-8/255")
    assert set(plain["ours"]) == {"seconds", "robust_accuracy"} and plain["ours"]["seconds"] > 0
    foolbox = plain["reference"]["foolbox"]
    assert foolbox["ratio"] == pytest.approx(foolbox["seconds"] / plain["ours"]["seconds"])
    assert 0 <= foolbox["robust_accuracy"] <= 1 and plain["failed"] == {}
    gap = foolbox["only_ours_broke"] - foolbox["only_it_broke"]
    assert gap == round(8 * (foolbox["robust_accuracy"] - plain["ours"]["robust_accuracy"]))


def test_a_reader_is_told_what_was_compared(root):
    done = harness("bench", "honest", "--submissions", str(root), "--attack", "apgd-ce", "--limit", "4")
    assert done.returncode == 0, done.stderr
    assert "apgd-ce on honest, Linf-8/255, 4 images of cifar10-sample" in done.stdout
    assert "times as fast as pyautoattack" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["honest", "--attack", "pgd-0"], "--attack: expected autoattack, fast, pgd-STEPS or one of"),
        (["honest", "--attack", "magic"], "got 'magic'"),
        (["honets"], "unknown submission 'honets': did you mean 'honest'"),
        (["honest", "--limit", "0"], "--limit"),
    ],
)
def test_a_wrong_command_is_one_clear_line(root, arguments, message):
    done = harness("bench", *arguments, "--submissions", str(root))
    assert done.returncode in {1, 2}
    assert message in done.stderr and "Traceback" not in done.stderr


def test_names_become_recipes():
    assert parse_attack("pgd-40") == ("pgd", (("pgd", {"steps": 40}),))
    family, members = parse_attack("autoattack")
    assert family == "autoattack" and [name for name, _ in members] == ["apgd-ce", "apgd-t", "fab-t", "square"]
    with pytest.raises(UserError, match="expected autoattack"):
        parse_attack("pgd-forty")


def test_verdicts_are_compared_example_by_example():
    ours = Measurement(2.0, (True, False, False, True))
    theirs = Measurement(5.0, (True, True, False, False))
    plain = Comparison("pgd-40", ThreatModel("Linf", "8/255"), 4, ours, {"foolbox": theirs}).plain()
    assert plain["reference"]["foolbox"] == {
        "seconds": 5.0, "robust_accuracy": 0.5, "ratio": 2.5, "only_ours_broke": 1, "only_it_broke": 1,
    }  # fmt: skip
