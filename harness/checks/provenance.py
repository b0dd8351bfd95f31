"""C6: what the operations between image and logits mean for an attack."""

from collections.abc import Mapping
from typing import Any

from harness.checks.case import Case
from harness.checks.check import Check
from harness.checks.contract import listed, number
from harness.checks.thresholds import Thresholds
from harness.records import Finding

HONEST_CUSTOM = ("CheckpointFunction", "SwishJitAutoFn", "SwishMe", "HardSwishJitAutoFn", "MemoryEfficientSwish")
"""Custom functions of common libraries; they need no derivative check to be believed."""


def missing(derivative: Mapping[str, Any]) -> float:
    """By how much the differences along random directions are off from the gradient, of what C8 measured.

    Along itself a gradient that lacks a part of the true one (a branch that is cut off) agrees with the differences;
    across, it does not, at any length. The least over the lengths counts: curvature and kinks matter less to short
    steps, rounding and what is passed straight through it less to long ones.
    """
    steps = [step for name, step in derivative["steps"].items() if name.startswith("random@")]
    return min(
        (number(step["error"], 0.0) for step in steps if 2 * step["compared"] >= derivative["examples"]), default=0.0
    )


def truthful(case: Case, limits: Thresholds) -> bool:
    """Whether C7 and C8 ran and found a smooth network whose gradient is its derivative."""
    derivative, smooth = case.measured.get("c8-derivative"), case.measured.get("c7-continuity")
    if derivative is None or smooth is None or not derivative.get("examples"):
        return False
    main = derivative["steps"]["gradient@0.01"]
    return (
        number(main["error"]) <= limits("C8", "error_warn")
        and missing(derivative) <= limits("C8", "error_warn")
        and number(main["opposite"]) <= limits("C8", "opposite_fail")
        and derivative["silent"] <= limits("C8", "silent_fail")
        and derivative["dead"] <= limits("C8", "silent_fail")
        and smooth["zero_small"] <= limits("C7", "zero_fail")
        and number(derivative["jvp"], 0.0) <= limits("C8", "jvp_fail")
    )


def culprits(numbers: Mapping[str, Any]) -> list[str]:
    """What could stop, bend or hide a gradient, most suspicious first, each as ``operation in module``."""
    found: list[str] = []
    for event in numbers["events"]:
        what = str(event["what"])
        if what.startswith("host"):
            found.append(f"a round trip through {what.removeprefix('host ')} in {event['module']}")
        elif what == "hook":
            found.append(f"a hook on the gradient in {event['module']}")
    found += [f"backward hooks of {name}" for name in numbers["hooked"]]
    groups = {"step": 0, "cast": 1, "decomposition": 2, "select": 3}
    ops = sorted((op for op in numbers["ops"] if op["group"] in groups), key=lambda op: groups[op["group"]])
    found += [f"a cast to whole numbers in {op['module']}" for op in ops if op["group"] == "cast"]
    found += [f"aten.{op['op']} in {op['module']}" for op in ops if op["group"] != "cast"]
    found += [f"the custom function {name}" for name in numbers["custom"] if name not in HONEST_CUSTOM]
    return list(dict.fromkeys(found))


def judge_provenance(case: Case, limits: Thresholds) -> list[Finding]:  # noqa: PLR0911
    """Protocol violations by name, and symptoms where the derivative check does not clear them."""
    numbers = case.measured["c6-provenance"]
    title = PROVENANCE.title
    if "error" in numbers:
        return [Finding("C6", title, "symptom", "unknown", evidence=f"Not checked: {numbers['error'].rstrip('.')}.")]
    inside = sorted({str(event["what"]) for event in numbers["events"] if event["what"] in {"derivative", "optimiser"}})
    names, layers = culprits(numbers), numbers["layers"]
    metrics = {
        "culprits": float(len(names)), "most_calls": float(layers["most_calls"]),
        "most_rows": float(layers["most_rows"]),
        "derivatives": float(numbers["backward_ops"]),
    }  # fmt: skip
    text = limits.text("C6", "calls_warn")
    if inside or numbers["backward_ops"]:
        what = " and ".join("an optimiser step" if item == "optimiser" else "a derivative" for item in inside)
        evidence = f"The forward pass computes {what or 'a derivative'} of its own: it optimises while it predicts."
        return [Finding("C6", title, "protocol", "fail", (), metrics, text, evidence)]
    if not numbers["reachable"]:
        blame = f", because of {names[0]}" if names else ": a detached tensor or a block without gradients cuts it"
        evidence = f"The logits' graph does not lead back to the image{blame}."
        return [Finding("C6", title, "protocol", "fail", (), metrics, text, evidence)]
    if not numbers["gradient"]:
        blame = f": {names[0]}" if names else "; a detached tensor or a custom backward pass stops it"
        evidence = f"No gradient other than zero arrives at the image{blame}."
        return [Finding("C6", title, "symptom", "fail", (), metrics, text, evidence)]
    if not names and layers["most_calls"] <= limits("C6", "calls_warn"):
        return [Finding("C6", title, "symptom", "pass", (), metrics, text, "No operation on the way could mislead.")]
    evidence = f"On the way from image to logits: {listed(names)}." if names else (
        f"A layer runs {layers['most_calls']} times in one pass: the network loops or averages views."
    )  # fmt: skip
    if truthful(case, limits):
        evidence = f"{evidence} The gradient is the derivative (C7, C8), so only attacks can tell whether it misleads."
        return [Finding("C6", title, "information", "pass", (), metrics, text, evidence)]
    verdict = "warn" if names else "pass"
    return [Finding("C6", title, "symptom", verdict, (), metrics, text, evidence)]


PROVENANCE = Check(
    "C6", "Operations on the way", "symptom", "c6-provenance", judge_provenance, "RobustBench's rules (README); ours",
    "One watched forward pass: operations that stop or bend gradients, custom functions, hooks, host copies, loops.",
    "Sorting activations and custom memory-saving functions; the derivative check clears them.",
)  # fmt: skip
CHECKS_PROVENANCE = (PROVENANCE,)
