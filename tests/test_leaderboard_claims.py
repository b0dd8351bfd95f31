"""The papers' claims: differences by hand, what each test says of them, and the page over known outcomes."""

import math
import tomllib
from pathlib import Path

import pytest
from leaderboard_results import CLEAN, LINF, PGD, STANDARD, Folder, attack, probe

from leaderboard import tables
from leaderboard.page import build
from leaderboard.paper_claims import (
    MISSING,
    NOT,
    OPEN,
    SUPPORTED,
    TESTS,
    Claim,
    Difference,
    difference,
    load_claims,
    page_data,
    seeded,
    verdict_of,
)

N = 200
CURVE = attack("budget", "budget", fractions=[0.5, 1.0, 16.0], steps=20, loss="margin")


def first(count: int, n: int = N) -> list[bool]:
    """True for the first ``count`` of ``n`` images."""
    return [i < count for i in range(n)]


def test_a_difference_of_one_pair_is_counted_by_hand() -> None:
    found = difference([(first(60), first(40))])
    assert (found.value, found.n) == (pytest.approx(0.1), N)
    # Twenty images against none: p is 2 * 2^-20; the variance of the differences 0.1 * 0.9.
    assert found.p == pytest.approx(2**-19)
    error = math.sqrt(0.1 * 0.9 / (N - 1))
    assert found.low == pytest.approx(0.1 - 1.96 * error, abs=1e-4)
    assert found.high == pytest.approx(0.1 + 1.96 * error, abs=1e-4)


def test_several_pairs_share_their_images() -> None:
    one, same = difference([(first(60), first(40))]), difference([(first(60), first(40))] * 3)
    assert (same.value, same.low, same.high) == (one.value, pytest.approx(one.low), pytest.approx(one.high))
    opposed = difference([(first(60), first(40)), (first(40), first(60))])
    assert opposed.value == 0 and opposed.low == 0 and opposed.p == 1


def test_outcomes_of_other_images_are_refused() -> None:
    for pairs in ([], [(first(3, 5), first(3, 6))], [(first(3, 5), first(3, 5)), (first(3, 6), first(3, 6))]):
        with pytest.raises(ValueError, match="same images"):
            difference(pairs)


@pytest.mark.parametrize(
    ("value", "low", "high", "p", "verdicts"),
    [
        (0.05, 0.02, 0.08, 0.001, {"greater": SUPPORTED, "not-greater": NOT, "as-good": SUPPORTED}),
        (0.005, -0.015, 0.03, 0.6, {"greater": OPEN, "not-greater": OPEN, "as-good": SUPPORTED}),
        (0.001, -0.005, 0.007, 0.8, {"greater": NOT, "not-greater": SUPPORTED, "as-good": SUPPORTED}),
        (-0.02, -0.05, 0.02, 0.2, {"greater": OPEN, "not-greater": OPEN, "as-good": OPEN}),
        (-0.30, -0.34, -0.26, 0.0, {"greater": NOT, "not-greater": SUPPORTED, "as-good": NOT}),
    ],
)
def test_a_verdict_follows_from_the_interval_and_the_test(value, low, high, p, verdicts) -> None:
    found = Difference(value, low, high, p, 1000)
    assert {test: verdict_of(test, found) for test in verdicts} == verdicts
    with pytest.raises(ValueError, match="test: expected"):
        verdict_of("zero", found)


@pytest.fixture
def boards(tmp_path):
    folder = Folder(tmp_path / "results", n=500, size=500)
    tasks = (*STANDARD, CURVE)
    for name, right, robust in (("wide", 375, 225), ("narrow", 375, 150), ("twin", 375, 150)):
        folder.ask(name, tasks)
        for task in tasks:
            left = first(robust, 500) if task.name in {"square", "pgd-20"} else first(right, 500)
            far = [1.0 if i < 125 else 0.03 for i in range(500)] if name == "twin" else None
            folder.fill(name, task, first(right, 500), left, linf=far if task.name == "budget" else None)
    return tables.load([folder.root])


def test_the_page_says_what_was_measured_and_what_was_not(boards) -> None:
    claims = [
        Claim("a", "RCM", "Wide is better.", "greater", (("wide", "narrow"), ("wide", "absent"))),
        Claim("b", "RCM", "A twin gains nothing.", "not-greater", (("twin", "narrow"),)),
        Claim("c", "RCM", "Narrow is as good.", "as-good", (("narrow", "wide"),)),
        Claim("d", "RCM", "Less memory.", "less-memory", (("wide", "narrow"),)),
        Claim("e", "RCM", "Falls to zero.", "zero", singles=("wide",)),
        Claim("f", "RCM", "Does not.", "zero", singles=("twin",)),
        Claim("g", "JARN", "Unknown.", "as-good", (("absent", "narrow"),)),
        Claim("h", "JARN", "No battery ran.", "smoother", (("wide", "narrow"),)),
    ]
    view = page_data(boards, claims)
    assert view is not None
    found = {claim["id"]: claim for claim in view["claims"]}
    words = {name: claim["verdict"] for name, claim in found.items()}
    assert words == {
        "a": SUPPORTED, "b": SUPPORTED, "c": NOT, "d": NOT, "e": SUPPORTED, "f": NOT, "g": MISSING, "h": MISSING,
    }  # fmt: skip
    assert (found["a"]["measured"], found["a"]["of"]) == (1, 2)
    line, absent = found["a"]["lines"]
    assert line.cells[0].startswith("0.0 pp") and line.cells[2].startswith("+15.0 pp (+11.9 to +18.1)")
    assert line.hrefs[0].endswith("wide.html") and absent.hrefs[1] == "" and absent.cells == ()
    assert found["e"]["lines"][0].cells == ("0.0 % at 16 times the budget",)
    assert found["f"]["lines"][0].cells == ("25.0 % at 16 times the budget",)
    assert "MiB" in found["d"]["lines"][0].cells[0]


@pytest.mark.parametrize(("bend", "verdict"), [(0.15, SUPPORTED), (0.16, OPEN), (0.28, NOT), (None, MISSING)])
def test_a_loss_is_smooth_against_another_networks(tmp_path, bend, verdict) -> None:
    folder = Folder(tmp_path / "results", n=N, size=20)
    landscape = probe("i2-landscape")
    for name, value in {"smooth": bend, "plain": 0.3}.items():
        folder.complete(name, first(190), {"pgd-20": first(100)}, tasks=(CLEAN, PGD))
        folder.created = "2025-02-01T00:00:00+00:00"
        folder.ask(name, (CLEAN, PGD, landscape))
        folder.fill_probe(name, landscape, {"applicable": value is not None} | ({"bend": value} if value else {}))
    claims = [Claim("a", "JARN", "Smooth.", "smoother", (("smooth", "plain"),))]
    view = page_data(tables.load([folder.root]), claims)
    assert view is not None
    (line,) = view["claims"][0]["lines"]
    assert line.verdict == verdict
    assert line.cells == (() if bend is None else (f"bend {bend:.3f} against 0.300",))


def test_further_seeds_are_found_in_their_order() -> None:
    known = ["a-s10", "a-s2", "a", "b", "b-s2", "b-s10", "b-s3", "c-s4"]
    assert seeded(("a", "b"), known) == [("a", "b"), ("a-s2", "b-s2"), ("a-s10", "b-s10")]
    assert seeded(("b",), known) == [("b",), ("b-s2",), ("b-s3",), ("b-s10",)]
    assert seeded(("d",), known) == [("d",)]


@pytest.mark.parametrize(("second", "verdict"), [((240, 150), SUPPORTED), ((150, 150), OPEN), ((100, 150), OPEN)])
def test_a_gain_must_show_with_every_seed(tmp_path, second, verdict) -> None:
    folder = Folder(tmp_path / "results", n=500, size=500)
    robust = {"wide": 250, "narrow": 150, "wide-s1": second[0], "narrow-s1": second[1]}
    for name, count in robust.items():
        folder.complete(name, first(375, 500), {"square": first(count, 500)})
    view = page_data(tables.load([folder.root]), [Claim("a", "RCM", "Wide.", "greater", (("wide", "narrow"),))])
    assert view is not None and view["seeds"]
    (claim,) = view["claims"]
    assert [line.names for line in claim["lines"]] == [("wide", "narrow"), ("wide-s1", "narrow-s1")]
    assert (claim["verdict"], claim["measured"]) == (verdict, 2)


def test_many_images_count_more_than_many_networks(boards, tmp_path) -> None:
    sample = Folder(tmp_path / "sample", n=20, size=20, dataset="cifar10-sample", full=20)
    for name in ("wide", "narrow", "twin", "fourth"):
        sample.complete(name, first(15, 20), {"square": first(9, 20)})
    claims = [Claim("a", "RCM", "Wide.", "greater", (("wide", "narrow"), ("twin", "narrow"), ("fourth", "narrow")))]
    everything = [*tables.load([sample.root]), *boards]
    view = page_data(everything, claims)
    assert view is not None and (view["board"].n, view["claims"][0]["measured"]) == (500, 2)
    small = page_data(tables.load([sample.root]), claims)
    assert small is not None and (small["board"].n, small["claims"][0]["measured"]) == (20, 3)


def test_a_board_without_the_claims_submissions_has_no_page(boards, tmp_path) -> None:
    assert page_data(boards) is None
    assert page_data([]) is None
    build(boards, tmp_path / "site")
    assert not (tmp_path / "site" / "claims.html").exists()


def test_the_published_board_has_the_page() -> None:
    view = page_data(tables.load([Path(tables.__file__).parent / "results"]))
    assert view is not None
    assert (view["board"].dataset, view["board"].threat) == ("cifar10", LINF)
    words = {claim["id"]: claim["verdict"] for claim in view["claims"]}
    assert words["zero-at-large-budgets"] == SUPPORTED
    assert set(words.values()) <= {SUPPORTED, NOT, OPEN, MISSING}


def test_every_claim_names_submissions_with_a_recipe() -> None:
    configs = Path(__file__).parents[1] / "submissions" / "recipes" / "configs"
    known = {tomllib.loads(path.read_text())["id"] for path in configs.glob("*.toml")}
    for claim in load_claims():
        assert claim.test in TESTS and (claim.pairs or claim.singles)
        assert {name for names in (*claim.pairs, claim.singles) for name in names} <= known, claim.id


def test_a_claim_of_an_unknown_kind_is_refused(tmp_path) -> None:
    path = tmp_path / "claims.toml"
    path.write_text('[[claims]]\nid = "x"\npaper = "RCM"\nsays = "X."\ntest = "better"\n')
    with pytest.raises(ValueError, match="x: expected a test of greater"):
        load_claims(path)
