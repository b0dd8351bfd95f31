"""The verdict as a table: which evidence leads to which word, number and flags."""

from dataclasses import replace

import pytest

from harness.checks import Case, Column, load_thresholds
from harness.checks.rules import headline, strength, weigh
from harness.checks.verdict import WORDS, decide
from harness.commands.telling import told
from harness.judging import Judgement
from harness.records import Finding

N = 200
LIMITS = load_thresholds()
AA, PGD, FGSM = "autoattack@Linf-8/255", "pgd-20@Linf-8/255", "fgsm@Linf-8/255"


def first(count: int) -> tuple[bool, ...]:
    return tuple(row < count for row in range(N))


def made(columns: dict[str, int], *, hit: int = 0, right: int = 160) -> Case:
    """A case whose columns call the first so many examples robust; a probe broke the first ``hit``."""
    names = {AA: "autoattack", PGD: "pgd", FGSM: "fgsm"}
    built = {key: Column(key, names[key], first(count)) for key, count in columns.items()}
    return Case(N, 10, "Linf", 8 / 255, first(right), built, {}, {"a8-transfer": first(hit)})


def finding(kind: str, verdict: str, *columns: str, check: str = "X1") -> Finding:
    return Finding(check, "Something", kind, verdict, columns, evidence="Seen.")


HONEST = {AA: 100, PGD: 108, FGSM: 120}


@pytest.mark.parametrize(
    ("case", "findings", "word"),
    [
        (made(HONEST), [finding("symptom", "pass")], "verified"),
        (made({AA: 100, PGD: 113, FGSM: 120}), [], "verified-with-note"),  # 6.5 points above AutoAttack
        (made({AA: 0, PGD: 0, FGSM: 7}), [finding("symptom", "fail", FGSM)], "verified"),
        (made({AA: 0, PGD: 0, FGSM: 140}), [finding("symptom", "fail", FGSM)], "verified-with-note"),
        (made(HONEST, hit=1), [], "verified-with-note"),
        (made(HONEST, hit=3), [], "verified-with-note"),
        (made(HONEST, hit=4), [], "verified-with-note"),
        (made(HONEST, hit=5), [], "overestimated"),
        (made({PGD: 108}, hit=20), [], "verified-with-note"),  # exactly 10 points of a PGD column
        (made({PGD: 108}, hit=21), [], "overestimated"),
        (made(HONEST, hit=5), [finding("protocol", "fail")], "overestimated"),
        (made(HONEST), [finding("protocol", "fail"), finding("existence", "fail", AA)], "protocol"),
        (made(HONEST), [finding("protocol", "warn")], "verified-with-note"),
        (made(HONEST), [finding("existence", "fail", AA), finding("symptom", "fail", AA)], "attack-invalid"),
        (made(HONEST), [finding("symptom", "fail", AA)], "suspect"),
        (made(HONEST), [finding("symptom", "fail", PGD)], "verified-with-note"),
        (made({AA: 0, PGD: 0}), [finding("symptom", "fail", "clean")], "suspect"),
        (made({AA: 0, PGD: 0}), [finding("symptom", "warn", "clean")], "verified-with-note"),
        (made(HONEST), [finding("symptom", "fail")], "suspect"),
        (made(HONEST), [finding("symptom", "warn")], "verified-with-note"),
        (made(HONEST), [finding("symptom", "warn", AA)], "verified"),
        (made(HONEST), [finding("symptom", "warn", AA, PGD)], "verified-with-note"),
        (made(HONEST), [finding("symptom", "warn", AA), finding("symptom", "warn", AA, check="X2")], "suspect"),
        (made(HONEST), [finding("symptom", "warn"), finding("symptom", "warn")], "verified-with-note"),
        (made(HONEST), [finding("symptom", "warn"), finding("symptom", "warn", check="X2")], "suspect"),
        (made(HONEST), [finding("information", "fail")], "verified"),
        (made(HONEST), [finding("symptom", "not-applicable")], "verified"),
        (made(HONEST), [finding("symptom", "unknown")], "unchecked"),
        (made(HONEST), [finding("symptom", "unknown"), finding("symptom", "fail")], "suspect"),
        (made({}), [finding("symptom", "pass")], "unchecked"),
    ],
)  # fmt: skip
def test_the_word_follows_from_the_evidence(case, findings, word) -> None:
    verdict = decide(case, findings, LIMITS)
    assert verdict.word == word
    assert verdict.word in WORDS
    assert verdict.sentence


def test_the_number_is_corrected_by_every_witness_and_the_sentence_says_by_what() -> None:
    case = made(HONEST, hit=30)
    told = Finding("A8", "Transfer", "witness", "fail", (AA,), {"witnesses": 30.0}, "", "Attacks on a part broke 30.")
    verdict = decide(case, [told], LIMITS)
    assert (verdict.claimed, verdict.corrected.value, verdict.headline) == (0.5, 0.35, AA)
    assert verdict.corrected.low < 0.35 < verdict.corrected.high
    assert "50.0%" in verdict.sentence
    assert "Attacks on a part broke 30." in verdict.sentence
    flags = {flag.key: flag for flag in verdict.columns}
    assert flags[AA].flag == "overestimated"
    assert flags[AA].corrected == pytest.approx(0.35)
    assert flags[FGSM].witnesses == 50


def test_a_collapsed_network_has_a_false_fgsm_column_and_a_true_autoattack_column() -> None:
    findings = [finding("symptom", "fail", FGSM, check="A3"), finding("witness", "fail", FGSM, check="A3")]
    verdict = decide(made({AA: 0, PGD: 0, FGSM: 140}), findings, LIMITS)
    flags = {flag.key: flag for flag in verdict.columns}
    assert (flags[FGSM].flag, flags[AA].flag, flags[PGD].flag) == ("overestimated", "true", "true")
    assert flags[FGSM].checks == ("A3",)
    assert (verdict.word, verdict.claimed, verdict.corrected.value) == ("verified-with-note", 0.0, 0.0)


def test_checks_are_counted_once_and_what_could_not_run_is_listed() -> None:
    findings = [
        finding("symptom", "pass", check="A1"), finding("witness", "pass", check="A1"),
        finding("symptom", "pass", check="A2"), finding("witness", "fail", check="A2"),
        finding("symptom", "unknown", check="A3"), finding("symptom", "not-applicable", check="A4"),
    ]  # fmt: skip
    verdict = decide(made(HONEST), findings, LIMITS)
    assert (verdict.passed, verdict.total) == (1, 3)
    assert verdict.not_checked == ("A3: Seen.",)
    assert verdict.not_applicable == ("A4: Seen.",)
    assert verdict.thresholds == LIMITS.version


@pytest.mark.parametrize(
    ("key", "count", "word"),
    [(AA, 0, "pass"), (AA, 2, "note"), (AA, 3, "warn"), (AA, 4, "warn"), (AA, 5, "fail"), (PGD, 12, "pass"),
     (PGD, 13, "warn"), (PGD, 20, "warn"), (PGD, 21, "fail"), (FGSM, 30, "pass"), (FGSM, 31, "warn"),
     (FGSM, 50, "warn"), (FGSM, 51, "fail")],
)  # fmt: skip
def test_false_claims_weigh_by_the_strength_of_the_attack(key, count, word) -> None:
    assert weigh(made(HONEST).columns[key], count, N, LIMITS).word == word


def test_few_witnesses_of_many_examples_do_not_fail_a_strong_column() -> None:
    column = Column(AA, "autoattack", (True,) * 10_000)
    assert [weigh(column, count, 10_000, LIMITS).word for count in (49, 50, 199, 200)] == [
        "note",
        "warn",
        "warn",
        "fail",
    ]


def test_autoattack_is_the_headline_even_where_another_column_is_lower() -> None:
    assert headline(made({AA: 100, PGD: 90})).key == AA  # type: ignore[union-attr]
    assert headline(made({PGD: 90, FGSM: 120})).key == PGD  # type: ignore[union-attr]
    assert headline(made({})) is None
    assert [strength(made(HONEST).columns[key]) for key in (AA, PGD, FGSM)] == ["strong", "iterative", "single"]


@pytest.mark.parametrize(
    ("hit", "findings", "word"),
    [
        (0, [finding("symptom", "fail", AA)], "verified-with-note"),
        (1, [finding("symptom", "fail", AA)], "suspect"),  # 0.5 points of 200
        (0, [finding("symptom", "warn"), finding("symptom", "warn", check="X2")], "verified-with-note"),
        (0, [finding("symptom", "fail", "clean")], "suspect"),
        (0, [finding("symptom", "fail", AA), finding("symptom", "unknown", check="X2")], "suspect"),
        (0, [finding("symptom", "fail", AA), finding("protocol", "fail")], "protocol"),
        (0, [finding("symptom", "fail", AA), finding("existence", "fail", AA)], "attack-invalid"),
        (5, [finding("symptom", "fail", AA)], "overestimated"),
    ],
)
def test_the_deep_battery_clears_symptoms_that_it_finds_nothing_behind(hit, findings, word) -> None:
    light = decide(made(HONEST, hit=hit), findings)
    deep = decide(replace(made(HONEST, hit=hit), deep=True), findings)
    assert (light.deep, deep.deep) == (False, word == "verified-with-note")
    assert deep.word == word
    if deep.deep:
        assert light.word == "suspect" and deep.sentence.startswith(light.sentence) and "deep" in deep.sentence


def test_a_suspicion_says_how_to_go_on() -> None:
    findings = (finding("symptom", "fail", AA),)

    def lines(case: Case) -> list[str]:
        return told("net Linf-8/255", Judgement(case, findings, decide(case, findings)))

    assert lines(made(HONEST))[-1].startswith("  next: harness run net --suite deep, ")
    assert not any("next:" in line for line in lines(replace(made(HONEST), deep=True)))
