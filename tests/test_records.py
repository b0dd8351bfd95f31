"""The data model: spelling of budgets, and plain data there and back."""

import json
from fractions import Fraction

import pytest

from harness.errors import UserError
from harness.plain import manifest_from_dict, record_from_dict, to_dict
from harness.records import (
    Candidate,
    Footprint,
    Manifest,
    ThreatModel,
    Timing,
    eps_label,
)


@pytest.mark.parametrize(
    ("text", "label"),
    [("8/255", "8/255"), ("16/510", "8/255"), ("0.5", "0.5"), ("1/2", "0.5"), ("0.031", "0.031"), ("0.03", "0.03"),
     ("1", "1"), ("1/3", "85/255"), ("3/7", "3/7"), (" 8/255 ", "8/255"), ("128/255", "128/255")],
)  # fmt: skip
def test_a_budget_has_one_spelling_and_keeps_its_exact_value(text: str, label: str) -> None:
    threat = ThreatModel.parse("linf", text)
    assert (threat.norm, threat.eps) == ("Linf", label)
    assert threat.value == float(Fraction(text.strip()))
    assert eps_label(Fraction(label)) == label


def test_close_budgets_are_different_threat_models() -> None:
    assert len({ThreatModel.parse("Linf", eps) for eps in ("8/255", "0.031", "0.03", "0.0314")}) == 4


@pytest.mark.parametrize("eps", ["0", "-8/255", "eight", "8/0", "", "nan", "inf"])
def test_a_budget_that_is_no_positive_fraction_is_refused(eps: str) -> None:
    with pytest.raises(UserError, match="expected a positive fraction"):
        ThreatModel.parse("Linf", eps)


@pytest.mark.parametrize(
    ("norm", "eps", "said"),
    [
        ("Linf", "8", "eps: expected 1e-06 to 1 in Linf, .* got '8': write '8/255' for 8 of 255 levels"),
        ("Linf", "1.5", "got '1.5'$"), ("Linf", "1e400", "got '1e400'$"), ("Linf", "1e-400", "got '1e-400'$"),
        ("Linf", "1e-7", "got '1e-7'$"), ("L2", "1e7", "expected 1e-06 to 1e.06 in L2"), ("L1", "1e-9", "in L1"),
    ],
)  # fmt: skip
def test_a_budget_that_pixels_cannot_show_is_refused(norm: str, eps: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        ThreatModel.parse(norm, eps)
    assert ThreatModel.parse("L2", "100").eps == "100"


def test_an_unknown_norm_is_refused() -> None:
    with pytest.raises(UserError, match=r"expected one of Linf, L2, L1, got 'L7'"):
        ThreatModel.parse("L7", "0.5")


def test_records_survive_json(make_record) -> None:
    timing = Timing(100.0, 90.0, 110.0, 10)
    for record in (make_record(), make_record(footprint=Footprint(1, 2, timing, timing, 3, 4), examples=())):
        assert record_from_dict(json.loads(json.dumps(to_dict(record)))) == record


def test_manifests_survive_json(make_record) -> None:
    task = make_record().shard.task
    manifest = Manifest(
        created="2026-01-01T00:00:00+00:00", suite="quick", dataset="cifar10", classes=10, n=2, full=10,
        spans=((0, 2, "d"),), seed=0, candidates=(Candidate("model", {"title": "t"}, "c", "s", (task,)),),
        class_names=("a", "b"),
    )  # fmt: skip
    assert manifest_from_dict(json.loads(json.dumps(to_dict(manifest)))) == manifest
