"""D1: whether a network knows the test images by heart."""

from collections.abc import Mapping
from typing import Any

from harness.checks.case import Case
from harness.checks.check import Check
from harness.checks.thresholds import Thresholds
from harness.records import Finding

_CHANGES = {"lsb": "noise in the last bit", "flip": "mirroring", "shift": "a shift by one pixel"}
_MOVES = ("flip", "shift")


def _drop(numbers: Mapping[str, Any], name: str, limits: Thresholds) -> tuple[str, float]:
    """The word for one change, and the accuracy it costs in percentage points."""
    way, n = numbers[name], numbers["examples"]
    net = way["lost"] - way["won"]
    points = 100 * net / n
    # What moves the image moves some decisions either way: it counts beyond a 95 % interval of a difference of pairs.
    sure = points - (196 * (way["lost"] + way["won"]) ** 0.5 / n if name in _MOVES else 0.0)
    fail = limits.values["D1"].get(f"{name}_fail")
    if fail and sure > float(fail["value"]) and net >= limits("D1", "least_fail"):
        return "fail", points
    return ("warn" if sure > limits("D1", f"{name}_warn") and net >= limits("D1", "least_warn") else "pass"), points


def judge_memory(case: Case, limits: Thresholds) -> list[Finding]:
    """A symptom for what is lost by a harmless change, and information about tables as long as a test set."""
    numbers, title = case.measured["d1-memory"], MEMORY.title
    found = {name: _drop(numbers, name, limits) for name in _CHANGES}
    metrics = {f"{name}_drop_pp": drop for name, (_, drop) in found.items()}
    metrics["jitter_flips"] = float(numbers["jitter_flips"])
    words = {name: word for name, (word, _) in found.items()}
    texts = {
        name: f"{_CHANGES[name].capitalize()} costs {drop:.1f} percentage points of accuracy."
        for name, (_, drop) in found.items()
    }  # fmt: skip
    jitter = numbers["jitter_flips"] / numbers["examples"]
    if jitter > limits("D1", "jitter_warn") and numbers["jitter_flips"] >= limits("D1", "least_warn"):
        words["jitter"] = "warn"
        texts["jitter"] = (
            f"A change of 1e-6 moves {numbers['jitter_flips']} of {numbers['examples']} images to another class."
        )
    attacked = numbers["attacked"]
    if attacked and attacked["examples"]:
        gap = 100 * (attacked["as_is"] - attacked["mirrored"]) / attacked["examples"]
        metrics["robust_flip_gap_pp"] = gap
        net = attacked["as_is"] - attacked["mirrored"]
        words["attack"], texts["attack"] = "pass", (
            f"A short attack leaves {attacked['as_is']} of {attacked['examples']} images standing, and "
            f"{attacked['mirrored']} of them mirrored."
        )  # fmt: skip
        # Half of a 95 % interval of a difference of pairs, in percentage points, at its widest.
        width = 196 * (max(net, 1) ** 0.5) / attacked["examples"]
        if gap > limits("D1", "attack_fail") + width and net >= limits("D1", "least_fail"):
            words["attack"] = "fail"
        elif gap > limits("D1", "attack_warn") + width and net >= limits("D1", "least_warn"):
            words["attack"] = "warn"
    name = max(words, key=lambda key: ("pass", "warn", "fail").index(words[key]))
    verdict = words[name]
    evidence = texts[name] if verdict != "pass" else "Harmless changes of the images cost it nothing worth mentioning."
    threshold = limits.text("D1", f"{name}_{verdict}" if verdict != "pass" else "lsb_fail")
    # What is known by heart makes the accuracy on the images themselves untrue, whatever attacks leave of it.
    columns = ("clean",) if verdict != "pass" else ()
    findings = [Finding("D1", title, "symptom", verdict, columns, metrics, threshold, evidence)]
    if numbers["tables"]:
        evidence = f"The network holds a table as long as the test set: {numbers['tables'][0]}."
        findings.append(
            Finding(
                "D1",
                title,
                "symptom",
                "warn",
                ("clean",),
                {"tables": float(len(numbers["tables"]))},
                threshold,
                evidence,
            )
        )
    return findings


MEMORY = Check(
    "D1", "No memory of the test images", "symptom", "d1-memory", judge_memory, "ours",
    "Accuracy under last-bit noise, jitter, mirroring and shifts, robustness of mirrored images, long tables.",
    "Networks trained without mirrored images lose a few points; data sets of digits and text.",
)  # fmt: skip
CHECKS_INTEGRITY = (MEMORY,)
