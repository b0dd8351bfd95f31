"""Judges on made-up numbers, on both sides of every threshold."""

import pytest

from harness.checks import Case, Column, load_thresholds
from harness.checks.adequacy import CHECKS_ as ADEQUACY
from harness.checks.gradients import CHECKS_ as GRADIENTS
from harness.checks.transfer import CHECKS_ as TRANSFER

N = 200
LIMITS = load_thresholds()
CHECKS = {check.id: check for check in (*GRADIENTS, *ADEQUACY, *TRANSFER)}
AA, PGD, FGSM = "autoattack@Linf-8/255", "pgd-20@Linf-8/255", "fgsm@Linf-8/255"


def first(count: int) -> tuple[bool, ...]:
    return tuple(row < count for row in range(N))


def made(check: str, numbers: dict, *, aa: int = 100, pgd: int = 106, fgsm: int = 120, hit: int = 0, **changes) -> Case:
    counts = {AA: ("autoattack", aa), PGD: ("pgd", pgd), FGSM: ("fgsm", fgsm)}
    columns = {key: Column(key, attack, first(count)) for key, (attack, count) in counts.items()}
    probe = CHECKS[check].probe
    values = {"n": N, "classes": 10, "norm": "Linf", "eps": 8 / 255, "correct": first(160), "columns": columns}
    return Case(**(values | changes), measured={probe: {"applicable": True, **numbers}}, witnessed={probe: first(hit)})


def judged(check: str, numbers: dict, **changes) -> list:
    return list(CHECKS[check].judge(made(check, numbers, **changes), LIMITS))


def verdicts(check: str, numbers: dict, *, kind: str = "", **changes) -> list[str]:
    return [finding.verdict for finding in judged(check, numbers, **changes) if not kind or finding.kind == kind]


LOSSES = {"examples": 100, "left": {"ce": 0.6, "margin": 0.55}}
COHERENT = {"c1": 0.95, "c2": 0.7, "c3": 0.6}
LINEAR = {"slope": 0.9, "change": 0.01, "gamma": 1.0, "linear_error": 0.5}
SCALES = {"beta": {"eps/16": 1.0, "eps/4": 1.0, "eps": 0.9}}
BUDGET = {"examples": 1000, "accuracy": {"1": 0.6, "2": 0.3, "8": 0.0}, "violations": 0.0, "ratio": 0.5}
STEPS = {"examples": 100, "accuracy": {"10": 0.6}, "distorted": 0.0}
LONG = {"examples": 50, "steps": 100, "restarts": 1, "found_long": 0, "found_restarts": 0, "moving": 0.0, "fosc": 0.1}
BINARY = {"attacked": 16, "setup_failed": 0, "found": 16, "random": 0.0}
EXAMPLES = {"checked": 60, "not_finite": 0, "outside_box": 0, "outside": 0, "replayed": 100, "fooling": 100}
BOOKS = {"silent": 0, "silent_examples": 32, "attacks": {PGD: EXAMPLES}}


@pytest.mark.parametrize(
    ("check", "numbers", "verdict"),
    [
        # G2: gap in points of all images, 80 % of which are right
        ("G2", LOSSES | {"ce_minus_best": 0.049}, "pass"),
        ("G2", LOSSES | {"ce_minus_best": 0.06}, "warn"),
        ("G2", LOSSES | {"ce_minus_best": 0.099}, "warn"),
        ("G2", LOSSES | {"ce_minus_best": 0.11}, "fail"),
        ("G2", LOSSES | {"ce_minus_best": 0.25, "examples": 16}, "pass"),  # 4 images: chance
        ("G3", COHERENT, "pass"),
        ("G3", COHERENT | {"c1": 0.79}, "warn"),
        ("G3", COHERENT | {"c1": 0.49}, "fail"),
        ("G3", COHERENT | {"c2": 0.59}, "warn"),
        ("G3", COHERENT | {"c2": 0.49}, "fail"),
        ("G3", COHERENT | {"c3": 0.44}, "warn"),
        ("G3", COHERENT | {"c3": 0.34}, "fail"),
        ("G3", COHERENT | {"c3": None}, "fail"),
        ("G4", LINEAR, "pass"),
        ("G4", LINEAR | {"slope": 0.49}, "warn"),
        ("G4", LINEAR | {"slope": 0.19}, "fail"),
        ("G4", LINEAR | {"slope": None}, "fail"),
        ("G4", LINEAR | {"change": 0.11}, "warn"),
        ("G4", LINEAR | {"change": 0.51}, "fail"),
        ("G5", SCALES, "pass"),
        ("G5", {"beta": {"eps/16": 1.31, "eps/4": 1.0, "eps": 1.0}}, "warn"),
        ("G5", {"beta": {"eps/16": 1.0, "eps/4": 0.49, "eps": 1.0}}, "fail"),
        ("G5", {"beta": {"eps/16": 1.0, "eps/4": 2.01, "eps": 1.0}}, "fail"),
        ("G5", {"beta": {"eps/16": None, "eps/4": None, "eps": None}}, "fail"),
        ("A2", BUDGET, "pass"),
        ("A2", BUDGET | {"ratio": 0.75, "accuracy": {"1": 0.6, "2": 0.45, "8": 0.0}}, "warn"),
        ("A2", BUDGET | {"ratio": 0.71, "accuracy": {"1": 0.6, "2": 0.426, "8": 0.0}}, "pass"),  # by chance, perhaps
        ("A2", BUDGET | {"ratio": 0.9, "accuracy": {"1": 0.6, "2": 0.54, "8": 0.0}}, "fail"),
        ("A2", BUDGET | {"examples": 12, "ratio": 1.0, "accuracy": {"1": 5 / 12, "2": 5 / 12, "8": 0.0}}, "pass"),
        ("A2", BUDGET | {"examples": 12, "ratio": 1.0, "accuracy": {"1": 1.0, "2": 1.0, "8": 0.0}}, "warn"),
        ("A2", BUDGET | {"ratio": 0.89, "accuracy": {"1": 0.9, "2": 0.8, "8": 0.0}}, "pass"),
        ("A2", BUDGET | {"ratio": 1.0, "accuracy": {"1": 1.0, "2": 1.0, "8": 0.0}}, "fail"),
        ("A2", BUDGET | {"ratio": 0.9, "accuracy": {"1": 1.0, "2": 0.9, "8": 0.0}}, "pass"),
        ("A2", BUDGET | {"violations": 0.02}, "warn"),
        ("A2", BUDGET | {"violations": 0.04}, "fail"),
        ("A2", BUDGET | {"examples": 24, "violations": 1 / 24}, "pass"),  # one image: chance
        ("A2", BUDGET | {"examples": 24, "violations": 2 / 24}, "fail"),
        ("A2", BUDGET | {"accuracy": {"1": 0.6, "2": 0.3, "8": 0.11}}, "warn"),
        ("A2", BUDGET | {"accuracy": {"1": 0.1, "2": 0.09}, "ratio": 0.9}, "not-applicable"),
        ("A3", STEPS, "pass"),
        ("A3", STEPS | {"distorted": 0.06}, "warn"),
        ("A3", STEPS | {"distorted": 0.11}, "fail"),
        ("A3", STEPS | {"examples": 17, "distorted": 2 / 17}, "pass"),  # two images: chance
        ("A3", STEPS | {"examples": 17, "distorted": 3 / 17}, "fail"),
        ("A4", LONG, "pass"),
        ("A4", LONG | {"found_long": 2}, "pass"),  # two examples: chance
        ("A4", LONG | {"found_long": 3}, "warn"),  # 6 % of 50 % robust: 3 points
        ("A4", LONG | {"found_long": 3, "found_restarts": 3}, "fail"),
        ("A4", LONG | {"moving": 0.11}, "fail"),
        ("A4", LONG | {"examples": 8, "moving": 2 / 8}, "pass"),  # two examples: chance
        ("A4", LONG | {"examples": 8, "moving": 3 / 8}, "fail"),
    ],
)
def test_symptoms_on_both_sides_of_their_thresholds(check, numbers, verdict) -> None:
    found = judged(check, numbers)
    symptom = next(finding for finding in found if finding.kind == "symptom")
    assert symptom.verdict == verdict, symptom
    assert symptom.evidence.endswith(".")
    assert bool(symptom.columns) == (verdict in {"warn", "fail"})


@pytest.mark.parametrize(("fgsm", "verdict"), [(126, "pass"), (127, "warn"), (146, "warn"), (147, "fail")])
def test_fgsm_is_held_against_pgd(fgsm, verdict) -> None:
    assert verdicts("A3", STEPS, fgsm=fgsm, kind="symptom") == [verdict]


@pytest.mark.parametrize(("pgd", "verdict"), [(112, "pass"), (113, "warn"), (120, "warn"), (121, "fail")])
def test_pgd_is_held_against_everything(pgd, verdict) -> None:
    found = [finding for finding in judged("A4", LONG, pgd=pgd) if finding.kind == "witness"]
    assert found[0].verdict == verdict
    assert found[0].columns == ((PGD,) if verdict != "pass" else ())


@pytest.mark.parametrize(
    ("left", "examples", "verdict"),
    [(0, 96, "pass"), (1, 96, "warn"), (9, 96, "warn"), (10, 96, "fail"), (1, 5, "warn"), (2, 5, "fail")],
)
def test_without_a_budget_every_image_falls(left, examples, verdict) -> None:
    numbers = {"examples": examples, "left": left, "accuracy": left / examples}
    assert verdicts("A1", numbers) == [verdict]


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({}, "pass"),
        ({"found": 15}, "pass"),
        ({"found": 14}, "warn"),
        ({"found": 11}, "fail"),
        ({"random": 0.21}, "not-applicable"),
        ({"attacked": 12, "setup_failed": 4, "found": 12}, "not-applicable"),
        ({"attacked": 0, "found": 0, "setup_failed": 3}, "not-applicable"),
    ],
)
def test_existence_by_construction(changes, verdict) -> None:
    assert verdicts("A10", BINARY | changes) == [verdict]


@pytest.mark.parametrize("check", ["A6", "A7", "A8", "A9"])
@pytest.mark.parametrize(("hit", "verdict"), [(0, "pass"), (2, "pass"), (3, "warn"), (4, "warn"), (5, "fail")])
def test_witnesses_weigh_by_rule_w(check, hit, verdict) -> None:
    found = judged(check, {}, hit=hit)[0]
    assert (found.kind, found.verdict) == ("witness", verdict)
    assert found.metrics["witnesses"] == hit
    assert (AA in found.columns) == (hit > 0)


@pytest.mark.parametrize(
    ("check", "none", "some"),
    [("A8", {"peel": [], "replays": 0}, {"peel": [], "replays": 3}), ("A9", {"forms": []}, {"forms": [{"found": 0}]})],
)
def test_a_mitigation_that_had_nothing_to_try_is_no_pass(check, none, some) -> None:
    assert verdicts(check, none) == ["not-applicable"]
    assert verdicts(check, some) == ["pass"]


def test_the_mitigation_that_found_them_is_named() -> None:
    forms = [{"name": "straight-through 2", "found": 9}, {"name": "straight-through 1", "found": 0}]
    assert "straight-through 2 (9)" in judged("A9", {"forms": forms}, hit=9)[0].evidence
    assert "label-only (4)" in judged("A6", {"label-only": {"found": 1, "all_found": 3}}, hit=4)[0].evidence


def test_attacks_on_the_mean_report_their_ladder() -> None:
    numbers = {"eot": 20, "ladder": {"1": 0.8, "20": 0.5}, "expected": 0.4}
    found = judged("C2-EOT", numbers, hit=30)[0]
    assert (found.verdict, found.metrics["expected"]) == ("fail", 0.4)
    assert "20 passes 50%" in found.evidence


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({}, "pass"),
        ({"outside": 1}, "fail"),
        ({"not_finite": 1}, "fail"),
        ({"fooling": 99}, "pass"),
        ({"fooling": 97}, "fail"),
    ],
)
def test_stored_examples_must_hold(changes, verdict) -> None:
    books = BOOKS | {"attacks": {PGD: EXAMPLES | changes}}
    assert verdicts("A5", books, kind="protocol") == [verdict]


def test_points_that_attacks_do_not_return_are_a_symptom() -> None:
    assert verdicts("A5", BOOKS, kind="symptom") == []
    assert verdicts("A5", BOOKS | {"silent": 1}, kind="symptom") == ["warn"]
    assert verdicts("A5", BOOKS | {"silent": 4}, kind="symptom") == ["fail"]


@pytest.mark.parametrize("check", [name for name in CHECKS if name not in {"I1", "I2"}])
def test_what_claims_nothing_is_not_judged(check) -> None:
    idle = {"applicable": False, "reason": "no column claims 10% or more"}
    found = judged(check, idle, aa=0, pgd=0, fgsm=7)
    assert {finding.verdict for finding in found} == {"not-applicable"}


def test_symptoms_of_one_loss_spare_autoattack() -> None:
    symptom = judged("G2", LOSSES | {"ce_minus_best": 0.2})[0]
    assert set(symptom.columns) == {PGD, FGSM}
    assert set(judged("G3", COHERENT | {"c1": 0.1})[0].columns) == {PGD, FGSM, AA}


def test_information_never_warns() -> None:
    found = judged("I1", {"alignment": 0.0, "cosine": 0.0, "roughness": 0.9})[0]
    assert (found.kind, found.verdict) == ("information", "pass")
    assert judged("I2", {"bend": 5.0})[0].verdict == "pass"


def test_every_check_names_its_source_and_every_threshold_has_one() -> None:
    assert len(CHECKS) == len(GRADIENTS) + len(ADEQUACY) + len(TRANSFER)
    for check in CHECKS.values():
        assert check.source
        assert check.measures.endswith(".")


def test_rounding_to_half_precision_excuses_the_smallest_step_alone() -> None:
    for beta, word in (({"eps/16": 0.5, "eps/4": 1.0}, "pass"), ({"eps/16": 0.5, "eps/4": 0.4}, "fail")):
        case = made("G5", {"beta": beta})
        case.measured["c7-continuity"] = {"counts": "float64"}
        assert CHECKS["G5"].judge(case, LIMITS)[0].verdict == word
