"""C7, C8 and G1: smoothness, truth and presence of the gradient."""

from collections.abc import Mapping
from typing import Any

from harness.checks.case import Case
from harness.checks.check import Check
from harness.checks.contract import is_random, number
from harness.checks.gradients import beyond_chance
from harness.checks.provenance import missing, truthful
from harness.checks.rules import claiming, keys, not_applicable
from harness.checks.thresholds import Thresholds
from harness.records import Finding


def judge_continuity(case: Case, limits: Thresholds) -> list[Finding]:
    """Quantised, noisy, or in proportion."""
    numbers = case.measured["c7-continuity"]
    title = CONTINUITY.title
    if numbers["classes_seen"] < 2:
        return not_applicable("C7", title, "symptom", "the network predicts one class for every image")
    slope, zero = numbers["slope"], numbers["zero_small"]
    jumping = float(numbers.get("jumping", 0.0))
    metrics = {
        "zero": zero, "slope": number(slope, 0.0), "small": number(numbers["small"], 0.0), "jumping": jumping,
    }  # fmt: skip
    kind, verdict, text = "symptom", "pass", limits.text("C7", "zero_fail")
    evidence = f"The logits change in proportion to the image (exponent {number(slope, 0.0):.2f})."
    if is_random(case, limits):
        return not_applicable("C7", title, "symptom", "the network is stochastic (C2)")
    proportional = limits("C7", "slope_low") <= number(slope, 0.0) <= limits("C7", "slope_high")
    stepped = zero > limits("C7", "zero_warn") or not proportional
    if zero > limits("C7", "zero_fail"):
        verdict = "fail"
        first = f", the smallest that moves half of them is {numbers['bin']:.0e}" if numbers["bin"] else ""
        evidence = f"A step of 1e-4 leaves the logits of {zero:.0%} of the images as they are bit by bit{first}."
    elif (
        slope is not None and slope < limits("C7", "slope_fail") and metrics["small"] > limits("C7", "noise_fail")
        and number(numbers["flat"], 0.0) > limits("C7", "flat_fail")
    ):  # fmt: skip
        kind, verdict, text = "protocol", "fail", limits.text("C7", "slope_fail")
        evidence = (
            f"A step of 1e-5 moves the logits as much as one of 1e-4 (exponent {slope:.2f}): noise that depends on the "
            "image's bits."
        )
    elif jumping > limits("C7", "jumping_fail"):
        verdict, text = "fail", limits.text("C7", "jumping_fail")
        evidence = f"On the way from one image to another the logits jump, for {jumping:.0%} of the pairs: a gate."
    elif stepped:
        verdict, text = "warn", limits.text("C7", "slope_low")
        evidence = f"The logits do not change in proportion to the image (exponent {number(slope, 0.0):.2f})."
    elif jumping > limits("C7", "jumping_warn"):
        verdict, text = "warn", limits.text("C7", "jumping_warn")
        evidence = f"On the way from one image to another the logits jump, for {jumping:.0%} of the pairs."
    # Rounding to half precision makes steps, but lets the gradient through.
    dead = float(case.measured.get("c8-derivative", {}).get("dead", 0.0))
    why = ""
    if numbers["counts"] != "float32" and dead <= limits("C8", "silent_fail"):
        why = "The network counts in half precision, which can do this."
    elif (
        kind == "symptom" and stepped and jumping <= limits("C7", "jumping_fail")
        and _straight_through(case.measured.get("c8-derivative"))
    ):  # fmt: skip
        why = "Its gradient says what larger steps do (C8): a straight-through gradient."
    if why and verdict != "pass":
        return [Finding("C7", title, "information", "warn", (), metrics, text, f"{evidence} {why}")]
    return [Finding("C7", title, kind, verdict, (), metrics, text, evidence)]


def _straight_through(derivative: Mapping[str, Any] | None) -> bool:
    """Whether C8 measured a step function with a gradient of its own that points the right way in the large."""
    if not derivative or not derivative.get("examples"):
        return False
    small, large = derivative["steps"]["gradient@0.01"], derivative["steps"]["sign@4"]
    return (
        number(small["still"], 0.0) > 0.5 and number(large["ratio"], 0.0) > 0.1 and number(large["opposite"], 1.0) < 0.2
    )


def judge_derivative(case: Case, limits: Thresholds) -> list[Finding]:
    """The backward pass against forward mode and differences."""
    numbers = case.measured["c8-derivative"]
    title = DERIVATIVE.title
    if not numbers["examples"]:
        return not_applicable("C8", title, "protocol", "no answer is finite")
    if is_random(case, limits):
        return not_applicable("C8", title, "protocol", "the network is stochastic (C2)")
    main = numbers["steps"]["gradient@0.01"]
    metrics = {
        "error": min(number(main["error"], 0.0), 1e6), "opposite": number(main["opposite"], 0.0),
        "dead": numbers["dead"], "silent": numbers["silent"], "jvp": number(numbers["jvp"], 0.0),
        "missing": min(missing(numbers), 1e6),
    }  # fmt: skip
    kind, verdict, name, evidence = _derivative(numbers, main, limits)
    if not main["compared"] and verdict == "pass":
        if numbers["jvp"] is None:
            return not_applicable("C8", title, "protocol", "small steps change the margin by less than rounding does")
        evidence = "The gradient is the derivative by forward mode; differences are lost in rounding."
    if _rounding(numbers, metrics, limits) and verdict != "pass":
        kind, verdict = "information", "warn"
        evidence = f"{evidence} The network counts in half precision, which can do this."
    if numbers["jvp"] is None and verdict == "pass":
        evidence = f"{evidence} Forward mode could not be compared: {numbers.get('jvp_error', 'not available')}."
    return [Finding("C8", title, kind, verdict, (), metrics, limits.text("C8", name), evidence)]


def _rounding(numbers: Mapping[str, Any], metrics: Mapping[str, float], limits: Thresholds) -> bool:
    """Whether counting in half precision can be the reason: it rounds, but it neither stops nor turns a gradient."""
    if numbers["counts"] == "float32" or metrics["silent"] > limits("C8", "silent_fail"):
        return False
    return numbers["counts"] == "half" or metrics["jvp"] <= limits("C8", "jvp_fail")


def _derivative(  # noqa: PLR0911
    numbers: Mapping[str, Any], main: Mapping[str, Any], limits: Thresholds
) -> tuple[str, str, str, str]:
    """Kind, verdict, the threshold that decided, and the sentence."""
    error = number(main["error"], 0.0)
    opposite = beyond_chance(number(main["opposite"], 0.0), main["compared"], limits, "C8")
    lacking = missing(numbers)
    if beyond_chance(numbers["silent"], numbers["examples"], limits, "C8") > limits("C8", "silent_fail"):
        text = f"The gradient is zero at {numbers['dead']:.0%} of the images, where the margin does change."
        return "protocol", "fail", "silent_fail", text
    if number(numbers["jvp"], 0.0) > limits("C8", "jvp_fail"):
        text = f"Forward and backward mode disagree (by {number(numbers['jvp']):.0%}): the backward pass is replaced."
        return "protocol", "fail", "jvp_fail", text
    if _straight_through(numbers):
        # Of use to an attacker.
        text = "Small steps change nothing, and the gradient says what large steps do: a straight-through gradient."
        return "information", "pass", "error_fail", text
    if opposite > limits("C8", "opposite_fail"):
        text = f"Along the gradient the margin goes the other way for {opposite:.0%} of the images."
        return "protocol", "fail", "opposite_fail", text
    if error > limits("C8", "error_fail"):
        text = f"The gradient is not the derivative: half of the differences are off by {error:.0%} or more."
        return "protocol", "fail", "error_fail", text
    if lacking > limits("C8", "error_fail"):
        text = (
            f"A part of the gradient is missing: along random directions differences are off by {lacking:.0%} or more."
        )
        return "protocol", "fail", "error_fail", text
    if max(error, lacking) > limits("C8", "error_warn") or opposite > limits("C8", "opposite_warn"):
        text = f"Differences are off from the gradient by {max(error, lacking):.0%} in the middle."
        return "symptom", "warn", "error_warn", text
    return "protocol", "pass", "error_warn", "The gradient is the derivative, by differences and by forward mode."


CE_COLUMNS = ("fgsm", "pgd", "apgd-ce", "apgd", "deepfool", "mifgsm")
"""Attacks that follow the cross-entropy, or the logits themselves."""


def _useful(case: Case, limits: Thresholds) -> bool:
    """Whether the gradient is the derivative, and still is over steps of an attack's size: zeros in it are zeros."""
    slope = case.measured.get("g5-multiscale", {}).get("beta", {}).get("eps/4")
    return truthful(case, limits) and slope is not None and (
        limits("G5", "small_low") <= slope <= limits("G5", "small_high")
    )  # fmt: skip


def judge_gradients(case: Case, limits: Thresholds) -> list[Finding]:
    """One symptom on all columns that claim something, or on those of the cross-entropy alone."""
    numbers, title = case.measured["g1-gradients"], GRADIENTS.title
    claims = claiming(case, limits)
    if not claims:
        return not_applicable("G1", title, "symptom", f"no column claims {limits('verdict', 'claim'):.0%}")
    if not numbers.get("applicable", True):
        return not_applicable("G1", title, "symptom", str(numbers.get("reason", "nothing to look at")))
    points, entries = numbers["points"], numbers["entries"]["margin"]
    zero, tiny = (
        {loss: beyond_chance(share, points, limits, "G1") for loss, share in numbers[name].items()}
        for name in ("zero", "tiny")
    )
    metrics = {
        **{f"zero_{loss}": share for loss, share in numbers["zero"].items()}, "tiny_margin": numbers["tiny"]["margin"],
        "entries": entries, "saturated": numbers["saturated"],
    }  # fmt: skip
    ce_only = [column for column in claims if column.attack in CE_COLUMNS]
    verdict, name, columns = "pass", "zero_margin_fail", claims
    evidence = "Every loss has a gradient that is not zero."
    if max(zero["margin"], tiny["margin"]) > limits("G1", "zero_margin_fail"):
        # The signs of a tiny gradient are as good as those of a long one.
        signs = case.norm == "Linf" and zero["margin"] <= limits("G1", "zero_margin_fail")
        verdict = "warn" if signs else "fail"
        evidence = f"The margin's gradient is zero at {zero['margin']:.0%} of the points, shorter than 1e-12 at {tiny['margin']:.0%}."  # noqa: E501
    elif entries > limits("G1", "entries_warn") and not _useful(case, limits):
        verdict, name = "warn", "entries_warn"
        evidence = f"{entries:.0%} of the gradient's entries are exactly zero."
    elif zero["ce"] > limits("G1", "zero_ce_fail") and ce_only:
        verdict, name, columns = "fail", "zero_ce_fail", ce_only
        evidence = f"The cross-entropy's gradient is zero at {zero['ce']:.0%} of the points; the margin's is not."
    elif (
        zero["ce"] > limits("G1", "zero_ce_warn") or numbers["saturated"] > limits("G1", "saturated_warn")
    ) and ce_only:
        verdict, name, columns = "warn", "zero_ce_warn", ce_only
        evidence = f"The cross-entropy is exactly 0 at {numbers['saturated']:.0%} of the points; the margin is not."
    flagged = keys(columns) if verdict != "pass" else ()
    return [Finding("G1", title, "symptom", verdict, flagged, metrics, limits.text("G1", name), evidence)]


CONTINUITY = Check(
    "C7", "Small steps have small effects", "symptom", "c7-continuity", judge_continuity, "ours",
    "How the logits change over steps of 1e-5 to 3e-2, how often they do not, and whether they jump between images.",
    "Half precision, which is replaced by a float64 copy or only noted.",
)  # fmt: skip
DERIVATIVE = Check(
    "C8", "The gradient is the derivative", "protocol", "c8-derivative", judge_derivative, "ours",
    "The margin's gradient against forward-mode differentiation and central differences.",
    "Half precision, which is replaced by a float64 copy or only noted.",
)  # fmt: skip
GRADIENTS = Check(
    "G1", "Gradients are there", "symptom", "g1-gradients", judge_gradients,
    "AutoAttack's zero-gradient test (arXiv 2003.01690), IoAF (arXiv 2106.09947); by loss and entries: ours",
    "Zero, tiny and partly zero gradients of three losses at images and at random points of their budget.",
    "Overconfident networks have no gradient of the cross-entropy; the margin clears them.",
)  # fmt: skip
CHECKS_DERIVATIVES = (CONTINUITY, DERIVATIVE, GRADIENTS)
