"""The contract's judges as pure functions: each threshold from both sides, and what cannot be judged."""

import copy
import dataclasses
import subprocess
import sys

import pytest

from harness.checks import judge
from harness.checks.case import Case, Column
from harness.checks.contract import CHECKS_CONTRACT
from harness.checks.derivatives import CHECKS_DERIVATIVES
from harness.checks.integrity import CHECKS_INTEGRITY
from harness.checks.provenance import CHECKS_PROVENANCE
from harness.checks.thresholds import load_thresholds

CHECKS = {
    check.id: check for check in (*CHECKS_CONTRACT, *CHECKS_PROVENANCE, *CHECKS_DERIVATIVES, *CHECKS_INTEGRITY)
}  # fmt: skip
LIMITS = load_thresholds()
SAME = {"difference": 0.0, "mismatches": 0}
STEP = {"compared": 64, "ratio": 1.0, "error": 0.01, "opposite": 0.0, "still": 0.0}
GOOD = {
    "c1-output": {
        "width": 10, "classes": 10, "rows": 1000, "nonfinite": {"images": 0, "flat": 0}, "gradients": 0, "asked": 1000,
        "ties": 0, "distinct": 10.0, "probabilities": False, "log_probabilities": False, "saturated": 0.0,
        "half": False,
    },
    "c2-determinism": {
        "consumed": [], "flips": 0, "examples": 128, "distance": 0.0, "finite": 128, "passes": 5,
    },
    "c3-callers": {
        "modes": {"no_grad": SAME, "grad": SAME}, "asked": 100, "nonfinite": 0, "replay": SAME | {"queries": 100},
        "again": SAME, "fresh": SAME | {"queries": 100},
    },
    "c4-batch": {
        "examples": 64, "permuted": SAME, "beside_noise": SAME, "alone": SAME, "micro": SAME, "cross": 0.0, "own": 1.0,
    },
    "c5-state": {
        "batch": {"tensors": [], "attributes": []}, "attack": {"tensors": [], "attributes": []},
        "history": {"tensors": [], "attributes": []}, "difference": 0.0,
        "mismatches": 0, "training": [],
    },
    "c6-provenance": {
        "reachable": True, "gradient": True, "ops": [], "custom": {}, "events": [], "backward_ops": 0, "half": False,
        "hooked": [], "layers": {"count": 3, "most_calls": 1, "most_rows": 1.0}, "scripted": False,
    },
    "c7-continuity": {
        "h": [1e-5], "q": [0.1], "zero": [0.0], "slope": 1.0, "zero_small": 0.0, "small": 1e-4, "flat": 0.1,
        "bin": 1e-5, "counts": "float32", "classes_seen": 10,
    },
    "c8-derivative": {
        "examples": 64, "dead": 0.0, "silent": 0.0, "counts": "float32", "jvp": 0.0,
        "steps": {"gradient@0.01": STEP, "sign@4": STEP},
    },
    "g1-gradients": {
        "applicable": True, "points": 256, "saturated": 0.0, "zero": {"ce": 0.0, "margin": 0.0, "dlr": 0.0},
        "entries": {"ce": 0.0, "margin": 0.0, "dlr": 0.0}, "tiny": {"ce": 0.0, "margin": 0.0, "dlr": 0.0},
    },
    "d1-memory": {
        "examples": 1000, "right": 900, "lsb": {"right": 900, "lost": 0, "won": 0},
        "jitter": {"right": 900, "lost": 0, "won": 0}, "flip": {"right": 900, "lost": 0, "won": 0},
        "shift": {"right": 900, "lost": 0, "won": 0}, "jitter_flips": 0,
        "attacked": {"examples": 64, "as_is": 30, "mirrored": 30}, "tables": [],
    },
}  # fmt: skip


def case(changes=None, *, columns=("pgd", "autoattack"), accuracy=0.5, **fields):
    """A network that measures well in everything but ``changes``, a dict of dotted paths."""
    measured = copy.deepcopy(GOOD)
    for path, value in (changes or {}).items():
        *parents, last = path.split("/")
        place = measured
        for parent in parents:
            place = place[parent]
        place[last] = value
    robust = tuple(index < 100 * accuracy for index in range(100))
    held = {f"{name}@Linf-8/255": Column(f"{name}@Linf-8/255", name, robust) for name in columns}
    values = {"n": 100, "classes": 10, "norm": "Linf", "eps": 8 / 255, "correct": (True,) * 100, "columns": held}
    return Case(**(values | {"measured": measured} | fields))


def words(check, changes=None, **options):
    """``kind/verdict`` of every finding of one check."""
    found = CHECKS[check].judge(case(changes, **options), LIMITS)
    assert found
    assert all(item.check == check and item.evidence.endswith(".") and item.title for item in found)
    assert all(isinstance(value, float) for item in found for value in item.metrics.values())
    return [f"{item.kind}/{item.verdict}" for item in found]


@pytest.mark.parametrize("check", CHECKS)
def test_a_network_that_measures_well_passes(check) -> None:
    assert {word.split("/")[1] for word in words(check)} == {"pass"}


C8 = "c8-derivative/steps/gradient@0.01/"
ACROSS = "c8-derivative/steps/random@"
CASES = [
    ("C1", {"c1-output/width": 11}, "protocol/fail"),
    ("C1", {"c1-output/nonfinite/images": 1}, "protocol/fail"),
    ("C1", {"c3-callers/nonfinite": 1}, "protocol/fail"),
    ("C1", {"c1-output/ties": 2}, "protocol/fail"),
    ("C1", {"c1-output/ties": 1}, "protocol/pass"),
    ("C1", {"c1-output/ties": 2, "c1-output/half": True}, "protocol/pass"),
    ("C1", {"c1-output/probabilities": True, "c1-output/saturated": 0.01}, "protocol/warn"),
    ("C1", {"c1-output/probabilities": True, "c1-output/saturated": 0.011}, "symptom/fail"),
    ("C1", {"c1-output/log_probabilities": True}, "symptom/pass"),
    ("C1", {"c1-output/distinct": 3.0}, "symptom/warn"),
    ("C1", {"c1-output/distinct": 4.0}, "symptom/pass"),
    ("C1", {"c1-output/gradients": 10}, "symptom/warn"),
    ("C1", {"c1-output/gradients": 11}, "symptom/fail"),
    ("C2", {"c2-determinism/flips": 1}, "protocol/fail"),
    ("C2", {"c2-determinism/distance": 1.1e-4}, "protocol/fail"),
    ("C2", {"c2-determinism/distance": 1e-4}, "protocol/pass"),
    ("C2", {"c2-determinism/distance": None}, "protocol/fail"),
    ("C2", {"c2-determinism/consumed": ["torch"]}, "protocol/warn"),
    ("C3", {"c3-callers/modes/grad": {"difference": 1e-5, "mismatches": 0}}, "protocol/pass"),
    ("C3", {"c3-callers/modes/grad": {"difference": 1.1e-5, "mismatches": 0}}, "protocol/warn"),
    ("C3", {"c3-callers/replay": {"difference": 1.1e-3, "mismatches": 0}}, "protocol/fail"),
    ("C3", {"c3-callers/fresh": {"difference": 9e-4, "mismatches": 0}}, "protocol/pass"),
    ("C3", {"c3-callers/fresh": {"difference": 1.1e-3, "mismatches": 0}}, "protocol/fail"),
    ("C3", {"c3-callers/fresh": {"difference": 0.0, "mismatches": 1}}, "protocol/fail"),
    ("C3", {"c3-callers/fresh": {"difference": None, "mismatches": 0}}, "protocol/fail"),
    ("C3", {"c3-callers/fresh": {"difference": 9e-3, "mismatches": 0}, "c1-output/half": True}, "protocol/pass"),
    ("C3", {"c3-callers/fresh": {"difference": 2e-2, "mismatches": 0}, "c1-output/half": True}, "protocol/fail"),
    ("C3", {"c3-callers/modes/grad": {"error": "no"}}, "protocol/unknown"),
    ("C3", {"c3-callers/modes/inference_mode": {"error": "no"}}, "protocol/pass"),
    ("C3", {"c2-determinism/flips": 3}, "protocol/not-applicable"),
    ("C4", {"c4-batch/permuted": {"difference": 1e-4, "mismatches": 0}}, "protocol/pass"),
    ("C4", {"c4-batch/alone": {"difference": 1.1e-4, "mismatches": 0}}, "protocol/warn"),
    ("C4", {"c4-batch/alone": {"difference": 1.1e-3, "mismatches": 0}}, "protocol/fail"),
    ("C4", {"c4-batch/beside_noise": {"difference": 0.0, "mismatches": 1}}, "protocol/fail"),
    ("C4", {"c4-batch/cross": 1e-12}, "protocol/fail"),
    ("C4", {"c4-batch/cross": None}, "protocol/pass"),
    ("C4", {"c4-batch/error": "a batch of 16, please"}, "protocol/unknown"),
    ("C5", {"c5-state/history/tensors": ["bn.running_mean"]}, "protocol/fail"),
    ("C5", {"c5-state/difference": 1.1e-5}, "protocol/fail"),
    ("C5", {"c5-state/difference": 1e-5}, "protocol/pass"),
    ("C5", {"c5-state/history/attributes": ["net.calls"]}, "protocol/warn"),
    ("C5", {"c5-state/history/attributes": ["net.calls"], "c5-state/mismatches": 1}, "protocol/fail"),
    ("C5", {"c5-state/batch/attributes": ["net.last_map"]}, "protocol/pass"),
    ("C5", {"c5-state/training": ["bn"]}, "protocol/warn"),
    ("C6", {"c6-provenance/reachable": False}, "protocol/fail"),
    ("C6", {"c6-provenance/gradient": False}, "symptom/fail"),
    ("C6", {"c6-provenance/backward_ops": 1}, "protocol/fail"),
    ("C6", {"c6-provenance/events": [{"what": "derivative", "module": "f", "count": 1}]}, "protocol/fail"),
    ("C6", {"c6-provenance/events": [{"what": "optimiser", "module": "f", "count": 1}]}, "protocol/fail"),
    ("C6", {"c6-provenance/custom": {"Swish": 3}}, "information/pass"),
    ("C6", {"c6-provenance/custom": {"Swish": 3}, f"{C8}error": 0.2}, "symptom/warn"),
    ("C6", {"c6-provenance/custom": {"CheckpointFunction": 3}, f"{C8}error": 0.2}, "symptom/pass"),
    ("C6", {"c6-provenance/custom": {"Swish": 3}, f"{ACROSS}0.01": STEP | {"error": 0.2}}, "symptom/warn"),
    ("C6", {"c6-provenance/hooked": ["stem"], "c8-derivative/jvp": 1.0}, "symptom/warn"),
    ("C6", {"c6-provenance/error": "it is in another language"}, "symptom/unknown"),
    ("C7", {"c7-continuity/zero_small": 0.05}, "symptom/pass"),
    ("C7", {"c7-continuity/zero_small": 0.06}, "symptom/warn"),
    ("C7", {"c7-continuity/zero_small": 0.51}, "symptom/fail"),
    ("C7", {"c7-continuity/slope": 0.79}, "symptom/warn"),
    ("C7", {"c7-continuity/slope": 1.21}, "symptom/warn"),
    ("C7", {"c7-continuity/slope": 0.29, "c7-continuity/flat": 0.9}, "protocol/fail"),
    ("C7", {"c7-continuity/slope": 0.31, "c7-continuity/flat": 0.9}, "symptom/warn"),
    ("C7", {"c7-continuity/slope": 0.29, "c7-continuity/flat": 0.4}, "symptom/warn"),
    ("C7", {"c7-continuity/slope": 0.29, "c7-continuity/flat": 0.9, "c7-continuity/small": 9e-6}, "symptom/warn"),
    ("C7", {"c7-continuity/zero_small": 0.9, "c7-continuity/counts": "half"}, "information/warn"),
    ("C7", {"c7-continuity/zero_small": 0.9, "c7-continuity/counts": "half", "c8-derivative/dead": 1.0},
     "symptom/fail"),
    ("C7", {"c7-continuity/zero_small": 0.9, f"{C8}still": 0.9}, "information/warn"),
    ("C7", {"c7-continuity/zero_small": 0.9, f"{C8}still": 0.9, "c8-derivative/steps/sign@4": STEP | {"opposite": 0.5}},
     "symptom/fail"),
    ("C7", {"c7-continuity/slope": 0.29, "c7-continuity/flat": 0.9, f"{C8}still": 0.9}, "protocol/fail"),
    ("C7", {"c7-continuity/jumping": 0.51, f"{C8}still": 0.9}, "symptom/fail"),
    ("C7", {"c7-continuity/classes_seen": 1}, "symptom/not-applicable"),
    ("C7", {"c7-continuity/jumping": 0.1}, "symptom/pass"),
    ("C7", {"c7-continuity/jumping": 0.11}, "symptom/warn"),
    ("C7", {"c7-continuity/jumping": 0.51}, "symptom/fail"),
    ("C7", {"c7-continuity/jumping": 0.51, "c7-continuity/counts": "half"}, "information/warn"),
    ("C8", {f"{C8}error": 0.1}, "protocol/pass"),
    ("C8", {f"{C8}error": 0.11}, "symptom/warn"),
    ("C8", {f"{C8}error": 0.51}, "protocol/fail"),
    ("C8", {f"{ACROSS}0.01": STEP | {"error": 0.1}}, "protocol/pass"),
    ("C8", {f"{ACROSS}0.01": STEP | {"error": 0.11}}, "symptom/warn"),
    ("C8", {f"{ACROSS}0.01": STEP | {"error": 0.51}}, "protocol/fail"),
    ("C8", {f"{ACROSS}0.01": STEP | {"error": 0.51, "compared": 31}}, "protocol/pass"),
    ("C8", {f"{ACROSS}0.01": STEP | {"error": 0.51}, f"{ACROSS}0.001": STEP | {"error": 0.02}}, "protocol/pass"),
    ("C8", {f"{ACROSS}0.01": STEP | {"error": 0.51}, f"{ACROSS}4": STEP | {"error": 0.52}}, "protocol/fail"),
    ("C8", {f"{C8}opposite": 0.02}, "protocol/pass"),
    ("C8", {f"{C8}opposite": 0.03}, "symptom/warn"),
    ("C8", {f"{C8}opposite": 0.06}, "protocol/fail"),
    ("C8", {f"{C8}opposite": 1 / 16, f"{C8}compared": 16}, "protocol/pass"),
    ("C8", {f"{C8}opposite": 2 / 16, f"{C8}compared": 16}, "protocol/fail"),
    ("C8", {"c8-derivative/silent": 1 / 16, "c8-derivative/examples": 16}, "protocol/pass"),
    ("C8", {"c8-derivative/silent": 2 / 16, "c8-derivative/examples": 16}, "protocol/fail"),
    ("C8", {"c8-derivative/silent": 0.05}, "protocol/pass"),
    ("C8", {"c8-derivative/silent": 0.06}, "protocol/fail"),
    ("C8", {"c8-derivative/jvp": 0.02}, "protocol/fail"),
    ("C8", {"c8-derivative/jvp": None, "c8-derivative/jvp_error": "no such rule"}, "protocol/pass"),
    ("C8", {f"{C8}still": 0.9, f"{C8}error": 1.0}, "information/pass"),
    ("C8", {f"{C8}still": 0.9, f"{C8}error": 1.0, "c8-derivative/steps/sign@4": STEP | {"opposite": 0.5}},
     "protocol/fail"),
    ("C8", {f"{C8}error": 0.6, "c8-derivative/counts": "half"}, "information/warn"),
    ("C8", {"c8-derivative/silent": 1.0, "c8-derivative/counts": "half"}, "protocol/fail"),
    ("C8", {"c8-derivative/examples": 0}, "protocol/not-applicable"),
    ("C8", {f"{C8}compared": 0, f"{C8}error": None}, "protocol/pass"),
    ("C8", {f"{C8}compared": 0, f"{C8}error": None, "c8-derivative/jvp": None}, "protocol/not-applicable"),
    ("G1", {"g1-gradients/zero/margin": 0.01}, "symptom/pass"),
    ("G1", {"g1-gradients/zero/margin": 0.011}, "symptom/fail"),
    ("G1", {"g1-gradients/zero/margin": 2 / 40, "g1-gradients/points": 40}, "symptom/pass"),
    ("G1", {"g1-gradients/zero/margin": 3 / 40, "g1-gradients/points": 40}, "symptom/fail"),
    ("G1", {"g1-gradients/tiny/margin": 0.011}, "symptom/warn"),
    ("G1", {"g1-gradients/zero/ce": 0.011}, "symptom/warn"),
    ("G1", {"g1-gradients/zero/ce": 0.21}, "symptom/fail"),
    ("G1", {"g1-gradients/saturated": 0.11}, "symptom/warn"),
    ("G1", {"g1-gradients/entries/margin": 0.31}, "symptom/warn"),
    ("G1", {"g1-gradients/entries/margin": 0.31, "g5-multiscale": {"beta": {"eps/4": 1.0}}}, "symptom/pass"),
    ("G1", {"g1-gradients/entries/margin": 0.31, "g5-multiscale": {"beta": {"eps/4": 0.4}}}, "symptom/warn"),
    ("G1", {"g1-gradients/applicable": False}, "symptom/not-applicable"),
    ("D1", {"d1-memory/lsb/lost": 10}, "symptom/pass"),
    ("D1", {"d1-memory/lsb/lost": 11}, "symptom/warn"),
    ("D1", {"d1-memory/lsb/lost": 31}, "symptom/fail"),
    ("D1", {"d1-memory/flip/lost": 101}, "symptom/fail"),
    ("D1", {"d1-memory/flip/lost": 98}, "symptom/warn"),
    ("D1", {"d1-memory/flip/lost": 33}, "symptom/warn"),
    ("D1", {"d1-memory/flip/lost": 30}, "symptom/pass"),
    ("D1", {"d1-memory/examples": 64, "d1-memory/shift/lost": 4, "d1-memory/shift/won": 1}, "symptom/pass"),
    ("D1", {"d1-memory/flip/lost": 90, "d1-memory/flip/won": 70}, "symptom/pass"),
    ("D1", {"d1-memory/shift/lost": 200}, "symptom/warn"),
    ("D1", {"d1-memory/jitter_flips": 3}, "symptom/warn"),
    ("D1", {"d1-memory/attacked": {"examples": 64, "as_is": 30, "mirrored": 0}}, "symptom/fail"),
    ("D1", {"d1-memory/attacked": None}, "symptom/pass"),
    ("D1", {"d1-memory/examples": 20, "d1-memory/lsb/lost": 2}, "symptom/pass"),
    ("D1", {"d1-memory/tables": ["f.table (10000,)"]}, "symptom/warn"),
]  # fmt: skip


@pytest.mark.parametrize(("check", "changes", "expected"), CASES)
def test_every_threshold_from_both_sides(check, changes, expected) -> None:
    assert expected in words(check, changes)


def test_records_of_the_first_state_probe_are_still_judged() -> None:
    changed = case({"c5-state/attack/attributes": ["net.calls"]})
    del changed.measured["c5-state"]["history"]
    (finding,) = CHECKS["C5"].judge(changed, LIMITS)
    assert (finding.verdict, "net.calls" in finding.evidence) == ("warn", True)


def test_records_that_contradict_each_other_are_a_broken_rule() -> None:
    assert words("C3", wavering=1) == ["protocol/pass"]
    (finding,) = CHECKS["C3"].judge(case(wavering=2), LIMITS)
    assert (finding.verdict, finding.metrics["wavering"]) == ("fail", 2.0) and "another class" in finding.evidence
    refuted = {"c1-output/refuted": 1, "c5-state/refuted": 1}
    assert words("C3", refuted) == ["protocol/pass"]
    (finding,) = CHECKS["C3"].judge(case(refuted | {"d1-memory/refuted": 1}), LIMITS)
    assert (finding.verdict, finding.metrics["refuted"]) == ("fail", 3.0) and "asked again" in finding.evidence
    many = {"n": 10_000, "correct": (True,) * 10_000}
    assert words("C3", wavering=20, **many) == ["protocol/pass"]
    assert words("C3", wavering=21, **many) == ["protocol/fail"]
    # Rounding to half precision turns close decisions, and draws turn any.
    assert words("C3", {"c1-output/half": True}, wavering=9) == ["protocol/pass"]
    assert words("C3", {"c2-determinism/flips": 30}, wavering=9) == ["protocol/not-applicable"]


def test_few_values_are_no_sign_with_few_classes() -> None:
    numbers = {"c1-output/distinct": 2.0, "c1-output/width": 2, "c1-output/classes": 2}
    assert words("C1", numbers, classes=2) == ["protocol/pass", "symptom/pass"]


def test_a_vanishing_cross_entropy_flags_its_own_columns_alone() -> None:
    (finding,) = CHECKS["G1"].judge(case({"g1-gradients/zero/ce": 0.9}), LIMITS)
    assert finding.columns == ("pgd@Linf-8/255",)
    assert words("G1", {"g1-gradients/zero/ce": 0.9}, columns=("autoattack",)) == ["symptom/pass"]
    (finding,) = CHECKS["G1"].judge(case({"g1-gradients/zero/margin": 0.9}), LIMITS)
    assert len(finding.columns) == 2


def test_gradients_of_a_network_that_claims_nothing_are_not_judged() -> None:
    assert words("G1", {"g1-gradients/zero/margin": 0.9}, accuracy=0.05) == ["symptom/not-applicable"]


def test_tiny_gradients_are_of_less_use_where_their_length_counts() -> None:
    assert words("G1", {"g1-gradients/tiny/margin": 0.011}, norm="L2") == ["symptom/fail"]


def test_a_declared_stochastic_network_is_said_to_be() -> None:
    (finding,) = CHECKS["C2"].judge(case({"c2-determinism/flips": 3}, defence="stochastic"), LIMITS)
    assert "as its card says" in finding.evidence


def test_the_judges_need_no_torch() -> None:
    modules = "harness.checks.contract, harness.checks.derivatives, harness.checks.integrity, harness.checks.provenance"
    code = f"import sys; sys.modules['torch'] = None; import {modules}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_numbers_that_cannot_be_read_leave_one_check_open_and_the_others_as_they_were():
    whole = {finding.check: finding.verdict for finding in judge(case())}
    broken = case()
    measured = {**broken.measured, "c5-state": {"other": "numbers"}}
    findings = judge(dataclasses.replace(broken, measured=measured))
    changed = {finding.check: finding for finding in findings if finding.verdict != whole[finding.check]}
    assert set(changed) == {"C5"}
    assert changed["C5"].verdict == "unknown" and "could not be read" in changed["C5"].evidence
