"""A1 to A5: whether the attacks behind the columns were strong enough."""

from typing import Any

from harness.checks.case import Case, Column
from harness.checks.check import Check
from harness.checks.gradients import beyond_chance, high, worst
from harness.checks.rules import by_witness, claiming, headline, keys, not_applicable, points, strength, weigh
from harness.checks.thresholds import Thresholds
from harness.metrics import proportion
from harness.records import Finding


def _idle(case: Case, limits: Thresholds, check: str, title: str, kind: str, probe: str) -> list[Finding]:
    """The not-applicable finding of a gated check, or nothing when it applies."""
    numbers = case.measured[probe]
    if not claiming(case, limits):
        return not_applicable(check, title, kind, f"no column claims {limits('verdict', 'claim'):.0%} or more")
    if not numbers.get("applicable", True):
        return not_applicable(check, title, kind, str(numbers.get("reason", "nothing to look at")))
    return []


def judge_unbounded(case: Case, limits: Thresholds) -> list[Finding]:
    """In the whole box an attack must reach every image."""
    check, title = "A1", "Unbounded budget"
    idle = _idle(case, limits, check, title, "existence", "a1-unbounded")
    if idle:
        return idle
    numbers = case.measured["a1-unbounded"]
    share, left = numbers["accuracy"], numbers["left"]
    chance = 1 / case.classes
    verdict = "fail" if share > chance and left >= 2 else "warn" if share > limits(check, "left_warn") else "pass"
    claims = claiming(case, limits)
    return [
        Finding(
            check, title, "existence", verdict, keys(claims) if verdict != "pass" else (),
            {"accuracy": share, "chance": chance}, f"{limits.text(check, 'left_warn')}; chance, 1 / {case.classes}",
            f"PGD in the whole box leaves {left} of {numbers['examples']} images standing, where none can.",
        )
    ]  # fmt: skip


def judge_budget(case: Case, limits: Thresholds) -> list[Finding]:
    """Robust accuracy must fall as the budget grows, at budgets that change what people see."""
    check, title = "A2", "Budget curve"
    idle = _idle(case, limits, check, title, "symptom", "a2-budget")
    if idle:
        return idle
    found = by_witness(case, limits, check, title, "a2-budget", "PGD on the margin, within the budget,")
    numbers = case.measured["a2-budget"]
    ratio, violations, accuracy = numbers["ratio"], numbers["violations"], numbers["accuracy"]
    standard = limits(check, f"standard_{case.norm}") if f"standard_{case.norm}" in limits.values[check] else None
    standing_now = accuracy.get("1", 0.0) * sum(case.correct) / case.n
    if standard is None or case.eps < 0.99 * standard or standing_now < limits("verdict", "claim"):
        why = "the budget is below the data set's usual one, or PGD leaves too few images to compare"
        return [*not_applicable(check, title, "symptom", why), *found]
    far = accuracy.get("8") if case.norm == "Linf" else None
    # A robust network has a flat curve from the start; a masked one falls first and then no more.
    first, second = 1 - accuracy.get("1", 0.0), accuracy.get("1", 0.0) - accuracy.get("2", 0.0)
    flattens = second <= limits(check, "flattening") * first
    # By chance alone a few images of a few withstand twice the budget.
    stood = round(accuracy.get("1", 0.0) * numbers["examples"])
    twice = round(accuracy.get("2", 0.0) * numbers["examples"])
    sure = proportion(min(twice, stood), stood).low if stood else 0.0
    words = [
        high(sure, limits, check, "ratio") if flattens else "pass",
        high(beyond_chance(violations, numbers["examples"], limits, check), limits, check, "violations"),
        "warn" if far is not None and far > limits(check, "far_warn") else "pass",
    ]
    word, seen = worst(words), {"ratio": ratio, "ratio at least": sure, "violations": violations, "far": far}
    return [
        Finding(
            check, title, "symptom", word, keys(claiming(case, limits)) if word != "pass" else (),
            {name: float(value) for name, value in seen.items() if value is not None},
            limits.text(check, "violations_fail" if words[1] == "fail" else "ratio_fail"),
            f"Twice the budget leaves {ratio:.0%} of the {stood} images that the budget leaves, surely {sure:.0%}; "
            f"{violations:.1%} of the images fall at one budget and stand at a larger one.",
        ),
        *found,
    ]  # fmt: skip


def _first(case: Case, attack: str) -> Column | None:
    """The lowest column of an attack."""
    return min((c for c in case.columns.values() if c.attack == attack), key=lambda c: c.accuracy, default=None)


def judge_single_step(case: Case, limits: Thresholds) -> list[Finding]:
    """FGSM's column against PGD's and against everything, and the mark of catastrophic overfitting."""
    check, title = "A3", "Single step against many"
    column = _first(case, "fgsm")
    if column is None or not claiming(case, limits, [column]):
        return not_applicable(check, title, "symptom", "no FGSM column claims anything")
    numbers = case.measured["a3-single-step"]
    weaker = _first(case, "pgd")
    gap = 100 * (column.accuracy - weaker.accuracy) if weaker else 0.0
    false = weigh(column, case.witnesses_against(column.key), case.n, limits)
    seen = numbers.get("distorted", 0.0) if numbers.get("applicable", True) else 0.0
    distorted = beyond_chance(seen, numbers.get("examples", 0), limits, check)
    word = worst([high(gap, limits, check, "gap"), high(distorted, limits, check, "distorted")])
    text = f"FGSM leaves {column.accuracy:.1%}"
    text += f", PGD {weaker.accuracy:.1%}" if weaker else ""
    text += f"; {seen:.1%} of the images fall to a shorter step and stand at the full one"
    text += ": catastrophic overfitting." if distorted > limits(check, "distorted_fail") else "."
    key = (column.key,)
    return [
        Finding(check, title, "symptom", word, key if word != "pass" else (), {"gap_pp": gap, "distorted": distorted},
                limits.text(check, "gap_fail"), text),
        _column_finding(check, title, column, false),
        *(by_witness(case, limits, check, title, "a3-single-step", "shorter steps along FGSM's direction")
          if numbers.get("applicable", True) else []),
    ]  # fmt: skip


def _column_finding(check: str, title: str, column: Column, weight: Any) -> Finding:  # noqa: ANN401
    verdict = "pass" if weight.word == "note" else weight.word
    return Finding(
        check, title, "witness", verdict, (column.key,) if verdict != "pass" else (),
        {"witnesses": float(weight.count), "gap_pp": 100 * weight.share}, weight.threshold,
        f"{weight.count} examples that {column.key} calls robust fall to something else ({points(weight.share)}).",
    )  # fmt: skip


def judge_convergence(case: Case, limits: Thresholds) -> list[Finding]:
    """More steps and restarts must not change the number; and PGD's columns against everything."""
    check, title = "A4", "Convergence of the attack"
    findings: list[Finding] = []
    for column in claiming(case, limits):
        if strength(column) == "iterative":
            false = weigh(column, case.witnesses_against(column.key), case.n, limits)
            findings.append(_column_finding(check, title, column, false))
    idle = _idle(case, limits, check, title, "symptom", "a4-convergence")
    if idle:
        return [*findings, *idle]
    numbers = case.measured["a4-convergence"]
    more = numbers["found_long"] + numbers["found_restarts"]
    share = sum(case.survivors) / case.n * more / numbers["examples"]
    moving, stand = numbers["moving"] or 0.0, numbers["examples"] - numbers["found_long"]
    top = headline(case)
    words = [
        high(100 * share, limits, check, "more") if more >= limits(check, "least") else "pass",
        "fail" if beyond_chance(moving, stand, limits, check) > limits(check, "moving_fail") else "pass",
    ]
    word = worst(words)
    weak = [column for column in claiming(case, limits) if strength(column) != "strong" or column is top]
    return [
        *findings,
        Finding(
            check, title, "symptom", word, keys(weak) if word != "pass" else (),
            {"more_pp": 100 * share, "moving": moving, "fosc": numbers["fosc"] or 0.0},
            limits.text(check, "moving_fail" if words[1] == "fail" else "more_fail"),
            f"{numbers['steps']} steps and {numbers['restarts']} more starts break {more} of {numbers['examples']} "
            f"examples called robust; the loss of {moving:.0%} still grows at the end.",
        ),
        *by_witness(case, limits, check, title, "a4-convergence", "more steps and restarts"),
    ]  # fmt: skip


def judge_bookkeeping(case: Case, limits: Thresholds) -> list[Finding]:
    """Stored examples must hold; what an attack met must come back."""
    check, title = "A5", "Bookkeeping of the attacks"
    numbers = case.measured["a5-bookkeeping"]
    if not numbers.get("applicable", True):
        return not_applicable(check, title, "witness", str(numbers.get("reason", "nothing to look at")))
    bad = {
        key: entry["not_finite"] + entry["outside_box"] + entry["outside"] for key, entry in numbers["attacks"].items()
    }
    lost = {
        key: 1 - entry["fooling"] / entry["replayed"]
        for key, entry in numbers["attacks"].items()
        if entry["replayed"] >= limits(check, "least")
    }
    wrong = tuple(sorted(key for key, count in bad.items() if count))
    faded = tuple(sorted(key for key, share in lost.items() if share > limits(check, "faded_fail")))
    checked = sum(entry["checked"] for entry in numbers["attacks"].values())
    silent = numbers["silent"]
    findings = [
        Finding(
            check, title, "protocol", "fail" if wrong or faded else "pass", tuple(sorted({*wrong, *faded})),
            {"checked": float(checked), "outside": float(sum(bad.values())), "faded": max(lost.values(), default=0.0)},
            limits.text(check, "faded_fail"),
            f"{sum(bad.values())} of {checked} stored adversarial examples lie outside the threat model; at most "
            f"{max(lost.values(), default=0.0):.1%} of an attack's no longer fool.",
        )
    ]  # fmt: skip
    if silent:
        gap = f"{silent} of {numbers['silent_examples']} images were met misclassified and not returned."
        share = silent / numbers["silent_examples"]
        findings.append(
            Finding(check, title, "symptom", high(share, limits, check, "silent"), (), {"silent": share},
                    limits.text(check, "silent_fail"), gap)
        )  # fmt: skip
    return [*findings, *by_witness(case, limits, check, title, "a5-bookkeeping", "points that attacks met or stored")]


CHECKS_ = (
    Check(
        "A1", "Unbounded budget", "existence", "a1-unbounded", judge_unbounded,
        "arXiv 1902.06705; ART SecurityCurve; arXiv 2106.09947, indicator 6",
        "Whether PGD reaches every image when it may change anything.",
        "Practically none; many masked networks pass.",
    ),
    Check(
        "A2", "Budget curve", "symptom", "a2-budget", judge_budget,
        "arXiv 1902.06705; Gomes et al. for AdvInterp and FeatScatter",
        "Whether robust accuracy falls as the budget grows, and no image stands beyond a budget it fell at.",
        "Budgets far below the one of training, which are left out.",
    ),
    Check(
        "A3", "Single step against many", "symptom", "a3-single-step", judge_single_step,
        "arXiv 2010.01799; arXiv 2007.02617; Gomes et al.",
        "What FGSM claims beyond PGD and everything else, and images that stand at the full step alone.",
        "Undefended networks, below the claim.",
    ),
    Check(
        "A4", "Convergence of the attack", "symptom", "a4-convergence", judge_convergence,
        "arXiv 1902.06705; arXiv 2106.09947, indicator 4; arXiv 2112.08304; RobustBench's records",
        "What more steps and restarts still break, and what PGD's columns claim beyond everything else.",
        "Kinky honest networks lose a point or two.",
    ),
    Check(
        "A5", "Bookkeeping of the attacks", "witness", "a5-bookkeeping", judge_bookkeeping,
        "arXiv 2106.09947, indicator 3; arXiv 2404.19460",
        "Whether stored adversarial examples are in the budget and still fool, and attacks return what they met.",
    ),
)  # fmt: skip
