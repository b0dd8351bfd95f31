"""The command that sets our attacks beside other packages, on a tiny network."""

import json

import pytest
import torch
from command_line import HONEST, harness, submission

from harness import bench as benching
from harness import cli
from harness.bench import Comparison, Measurement, compare
from harness.bench.recipes import parse_attack
from harness.bench.references import references
from harness.errors import UserError
from harness.records import ThreatModel
from harness.submission import discover

ALONE = ("apgd-ce", "apgd-t", "fab-t", "square")
SETTINGS = ("n_iter", "n_iter_orig", "n_restarts", "n_target_classes", "use_largereps", "n_queries", "eot_iter")
LINF = ThreatModel("Linf", "8/255")
FAULTY = """
import torch

class Faulty(torch.nn.Module):
    def forward(self, x):
        {body}

def build():
    return Faulty()
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    submission(folder, "honest", HONEST)
    submission(folder, "two-classes", HONEST.replace("Linear(32, 10)", "Linear(32, 2)"))
    submission(folder, "tuple", FAULTY.replace("{body}", "return (x.mean((2, 3)),)"))
    submission(folder, "no-gradient", FAULTY.replace("{body}", "assert not x.requires_grad; return x[:, 0, 0, :10]"))
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
    arguments = ("--attack", "apgd-ce", "--limit", "4", "--turns", "2")
    done = harness("bench", "honest", "--submissions", str(root), *arguments)
    assert done.returncode == 0, done.stderr
    assert "apgd-ce on honest, Linf-8/255, 4 images of cifar10-sample" in done.stdout
    assert "times as fast as pyautoattack" in done.stdout
    named = [line.split(":")[0] for line in done.stdout.splitlines() if " s, robust " in line]
    assert named == ["ours", "pyautoattack", "ours", "pyautoattack"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["honest", "--attack", "pgd-0"], "--attack: expected autoattack, fast, pgd-STEPS or one of"),
        (["honest", "--attack", "magic"], "got 'magic'"),
        (["honets"], "unknown submission 'honets': did you mean 'honest'"),
        (["honest", "--limit", "0"], "--limit"),
        (["honest", "--attack", "pgd-2", "--threat", "L1:12"], "--threat: pgd: expected one of Linf, L2, got 'L1'"),
        (["two-classes", "--attack", "pgd-2"], "expected labels in 0..1, got 0..9"),
        (["tuple", "--attack", "pgd-2"], "tuple: expected float logits (N, K), got a tuple of 1"),
        (["no-gradient", "--attack", "pgd-2"], "no-gradient: AssertionError"),
    ],
)
def test_a_wrong_command_is_one_clear_line(root, arguments, message):
    done = harness("bench", *arguments, "--submissions", str(root))
    assert done.returncode in {1, 2}
    assert message in done.stderr and "Traceback" not in done.stderr


def test_an_interrupted_comparison_does_not_promise_to_go_on(monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(benching, "compare", interrupted)
    assert cli.main(["bench", "fgsm-rs-1122", "--attack", "fgsm"]) == 130
    assert capsys.readouterr().err.strip() == "stopped; the same command can be run again"


def test_a_package_that_fails_in_a_later_turn_is_a_failure(monkeypatch, root):
    x, y = torch.full((2, 3, 32, 32), 0.5), torch.zeros(2, dtype=torch.long)
    turns = iter([(1.0, x, ""), (0.0, None, "out of memory")])
    monkeypatch.setattr(benching, "time_ours", lambda *_: (1.0, x))
    monkeypatch.setattr(benching, "time_reference", lambda *_: next(turns))
    spec = discover((root,)).submissions["honest"].spec()
    found = compare(spec, x, y, attack="apgd-ce-1", threat=LINF, workers=1, turns=3)
    assert found.failed == {"pyautoattack": "out of memory"} and found.reference == {}
    assert len(found.ours.turns) == 3


def test_names_become_recipes():
    assert parse_attack("pgd-40", LINF) == ("pgd", (("pgd", {"steps": 40}),))
    family, members = parse_attack("autoattack", LINF)
    assert family == "autoattack" and [name for name, _ in members] == ["apgd-ce", "apgd-t", "fab-t", "square"]
    with pytest.raises(UserError, match="expected autoattack"):
        parse_attack("pgd-forty", LINF)


@pytest.fixture
def settings_of(monkeypatch):
    """How pyautoattack's members are set for an attack under a threat model."""
    seen = []

    def remember(self, x, y, **_):
        members = (self.apgd, self.apgd_targeted, self.fab, self.square)
        seen.append([{name: getattr(member, name, None) for name in SETTINGS} for member in members])
        return x, y

    monkeypatch.setattr("pyautoattack.AutoAttack.run_standard_evaluation", remember)
    x, y = torch.zeros(2, 3, 32, 32), torch.zeros(2, dtype=torch.long)

    def look(attack, threat):
        family, members = parse_attack(attack, threat)
        run = references(family, threat.norm, members[-1][1])["pyautoattack"]
        run(torch.nn.Flatten(), x, y, eps=threat.value, norm=threat.norm, batch_size=2, seed=0)
        return dict(zip(ALONE, seen.pop(), strict=True))

    return look


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_a_member_alone_is_set_as_in_the_standard_version_on_both_sides(norm, settings_of):
    threat = ThreatModel(norm, "1/8")
    standard, ours = settings_of("autoattack", threat), dict(parse_attack("autoattack", threat)[1])
    for name in ALONE:
        assert settings_of(name, threat)[name] == standard[name]
        assert parse_attack(name, threat) == (name, ((name, ours[name]),))
        for mine, theirs in (("restarts", "n_restarts"), ("steps", "n_iter"), ("targets", "n_target_classes")):
            assert mine not in ours[name] or ours[name][mine] == standard[name][theirs]
    fewer = {"n_iter": 7, "n_iter_orig": 7}
    assert parse_attack("apgd-ce-7", threat)[1][0][1] == ours["apgd-ce"] | {"steps": 7}
    assert settings_of("apgd-ce-7", threat)["apgd-ce"] == standard["apgd-ce"] | fewer


def test_verdicts_are_compared_example_by_example():
    ours = Measurement((1.5, 2.5), (True, False, False, True))
    theirs = Measurement((4.5, 5.5), (True, True, False, False))
    plain = Comparison("pgd-40", ThreatModel("Linf", "8/255"), 4, ours, {"foolbox": theirs}).plain()
    assert plain["reference"]["foolbox"] == {
        "seconds": 5.0, "turns": [4.5, 5.5], "robust_accuracy": 0.5, "ratio": 2.5, "only_ours_broke": 1,
        "only_it_broke": 1,
    }  # fmt: skip
