"""C1 to C6: whether a network keeps the contract that every attack takes for granted."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from harness.checks.case import Case
from harness.checks.check import Check
from harness.checks.rules import GRADIENT
from harness.checks.thresholds import Thresholds
from harness.records import Finding

SHOWN = 3
"""Names in a sentence, at most."""


def number(value: float | None, missing: float = float("inf")) -> float:
    """A measured number; ``missing`` where it was not finite."""
    return missing if value is None else float(value)


def listed(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    rest = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def is_half(case: Case) -> bool:
    """Whether the network counts in half precision."""
    measured = case.measured
    return bool(measured.get("c1-output", {}).get("half")) or bool(measured.get("c6-provenance", {}).get("half"))


def is_random(case: Case, limits: Thresholds) -> bool:
    """Whether the same question got different answers."""
    numbers = case.measured.get("c2-determinism")
    if numbers is None:
        return False
    return bool(numbers["flips"]) or number(numbers["distance"]) > limits("C2", "distance_fail")


def judge_output(case: Case, limits: Thresholds) -> list[Finding]:
    """One finding on the contract, one symptom where outputs are something else than logits, a note on probabilities.

    Probabilities are noted on the columns of attacks with one loss: AutoAttack has more than one.
    """
    numbers = case.measured["c1-output"]
    attack = case.measured.get("c3-callers", {})
    nonfinite = sum(numbers["nonfinite"].values()) + int(attack.get("nonfinite", 0))
    ties = numbers["ties"] / max(1, numbers["rows"])
    tied = ties > limits("C1", "ties_fail") and numbers["ties"] >= limits("C1", "ties_least") and not is_half(case)
    metrics = {"nonfinite": float(nonfinite), "width": float(numbers["width"]), "ties": ties}
    verdict, evidence = "pass", "The outputs are finite, of one width and without ties."
    if numbers["width"] != case.classes:
        verdict = "fail"
        evidence = f"The network returns {numbers['width']} outputs for {case.classes} classes."
    elif nonfinite:
        verdict = "fail"
        evidence = f"{nonfinite} answers hold a value that is not finite; such images count as misclassified."
    elif tied:
        verdict = "fail"
        evidence = f"The two largest logits are equal for {ties:.1%} of the images."
    first = Finding(
        "C1", OUTPUT.title, "protocol", verdict, (), metrics, limits.text("C1", "ties_fail"), evidence
    )  # fmt: skip
    findings = [first, _looks(numbers, case, limits)]
    if numbers["probabilities"]:
        evidence = "The outputs are probabilities instead of logits: losses on them saturate early."
        columns = tuple(sorted(column.key for column in case.columns.values() if column.attack in GRADIENT))
        findings.append(Finding("C1", OUTPUT.title, "protocol", "warn", columns, {}, "", evidence))
    return findings


def _looks(numbers: Mapping[str, Any], case: Case, limits: Thresholds) -> Finding:
    share = numbers["gradients"] / max(1, numbers["asked"])
    distinct = number(numbers["distinct"])
    metrics = {"saturated": numbers["saturated"], "nonfinite_gradients": share, "distinct": min(distinct, 1e6)}
    few = min(limits("C1", "distinct_warn"), case.classes - 2)
    verdict, evidence, text = "pass", "The outputs look like logits.", limits.text("C1", "saturated_fail")
    if share > limits("C1", "gradients_fail"):
        verdict, evidence = "fail", f"{share:.1%} of the input gradients are not finite."
        text = limits.text("C1", "gradients_fail")
    elif numbers["probabilities"] and numbers["saturated"] > limits("C1", "saturated_fail"):
        verdict = "fail"
        evidence = f"The outputs are probabilities, and exactly 1 for {numbers['saturated']:.0%} of the images."
    elif distinct <= few:
        verdict, text = "warn", limits.text("C1", "distinct_warn")
        evidence = f"A row of outputs holds only {distinct:g} different values: little more than a label."
    elif share:
        verdict, evidence = "warn", f"{numbers['gradients']} input gradients are not finite."
        text = limits.text("C1", "gradients_fail")
    return Finding("C1", OUTPUT.title, "symptom", verdict, (), metrics, text, evidence)


def judge_determinism(case: Case, limits: Thresholds) -> list[Finding]:
    """Different answers to one question, or random numbers drawn."""
    numbers = case.measured["c2-determinism"]
    distance, flips = number(numbers["distance"]), numbers["flips"]
    consumed = numbers["consumed"]
    declared = " as its card says" if case.defence == "stochastic" else ""
    verdict, evidence = "pass", f"{numbers['passes']} passes gave the same answers."
    if is_random(case, limits):
        verdict = "fail"
        evidence = (
            f"The network is stochastic{declared}: {flips} of {numbers['examples']} images change their class over "
            f"{numbers['passes']} passes, and logits move by up to {distance:.2g} of their length."
        )
    elif consumed:
        verdict = "warn"
        evidence = f"A pass draws from the {listed(consumed)} generator, without an effect on the answers."
    elif distance > limits("C2", "distance_warn"):
        evidence = f"Answers repeat to within {distance:.1g} of their length, which changes no class."
    metrics = {"distance": min(distance, 1e6), "flips": float(flips)}
    text = limits.text("C2", "distance_fail")
    return [Finding("C2", DETERMINISM.title, "protocol", verdict, (), metrics, text, evidence)]


_ASKED = {
    "no_grad": "with gradients off", "inference_mode": "in inference mode", "grad": "with gradients on",
    "requires_grad": "for images that require a gradient", "thread": "from another thread",
    "attack": "in the pass that an attack differentiates", "replay": "when an attack's queries are asked again",
    "again": "after an attack", "fresh": "in a fresh process",
}  # fmt: skip


def judge_callers(case: Case, limits: Thresholds) -> list[Finding]:
    """The largest difference between two ways of asking the same."""
    numbers = case.measured["c3-callers"]
    title = CALLERS.title
    if is_random(case, limits):
        why = "Not applicable: the network is stochastic (C2), so no two answers can be compared."
        return [Finding("C3", title, "protocol", "not-applicable", evidence=why)]
    ways = dict(numbers["modes"]) | {name: numbers[name] for name in ("replay", "again", "fresh") if name in numbers}
    fresh = ways.get("fresh", {"error": ""})
    same = "error" not in fresh and not fresh["mismatches"]
    if same and number(fresh["difference"]) <= limits("C3", "difference_fail"):
        # There the network runs as its author wrote it: what folding and layouts round is no other answer.
        ways["fresh"] = {**fresh, "difference": 0.0}
    found = _worst_way("C3", title, ways, _ASKED, limits, case)
    return [found if found.verdict == "fail" else _over_the_run(found, limits, case)]


def _over_the_run(found: Finding, limits: Thresholds, case: Case) -> Finding:
    """``found``, unless the records of the run contradict each other, which no way of asking has shown."""
    told = {
        "wavering": (case.wavering, "images themselves get another class in one task of the run than in another"),
        "refuted": (case.refuted, "adversarial examples that probes had seen do not fool it when it is asked again"),
    }  # fmt: skip
    metrics = found.metrics | {name: float(count) for name, (count, _) in told.items()}
    for name, (count, words) in told.items():
        if count > max(limits("C3", name), limits("C3", "share") * case.n) and not is_half(case):
            return replace(found, verdict="fail", metrics=metrics, threshold=limits.text("C3", name),
                           evidence=f"Answers change from one task to the next: {count} {words}.")  # fmt: skip
    return replace(found, metrics=metrics)


def _worst_way(
    check: str,
    title: str,
    ways: Mapping[str, Mapping[str, Any]],
    words: Mapping[str, str],
    limits: Thresholds,
    case: Case,
) -> Finding:  # fmt: skip
    refused = {name: way["error"] for name, way in ways.items() if "error" in way}
    answered = {name: way for name, way in ways.items() if "error" not in way}
    if not answered:
        why = f"Not checked: the network refused: {next(iter(refused.values()), 'no answers')}."
        return Finding(check, title, "protocol", "unknown", evidence=why)
    name = max(answered, key=lambda key: (answered[key]["mismatches"], number(answered[key]["difference"])))
    gap, changed = number(answered[name]["difference"]), answered[name]["mismatches"]
    half = is_half(case)
    warn = limits(check, "half" if half else "difference_warn")
    fail = limits(check, "half" if half else "difference_fail")
    metrics = {"difference": min(gap, 1e6), "mismatches": float(changed), "refused": float(len(refused))}
    text = limits.text(check, "half" if half else "difference_fail")
    if gap > fail or changed:
        evidence = f"Answers differ {words[name]}: by up to {gap:.2g} of the largest logit, {changed} classes change."
        return Finding(check, title, "protocol", "fail", (), metrics, text, evidence)
    if gap > warn:
        evidence = f"Answers differ a little {words[name]}: by up to {gap:.2g} of the largest logit."
        return Finding(check, title, "protocol", "warn", (), metrics, text, evidence)
    if set(refused) - {"inference_mode"}:
        way, error = next(item for item in refused.items() if item[0] != "inference_mode")
        evidence = f"Not checked {words[way]}: the network refused: {error.rstrip('.')}."
        return Finding(check, title, "protocol", "unknown", (), metrics, text, evidence)
    return Finding(check, title, "protocol", "pass", (), metrics, text, "Every way of asking gets the same answer.")


_BATCHES = {
    "permuted": "when the batch is reordered", "beside_noise": "beside other images", "alone": "for an image alone",
    "micro": "in smaller batches",
}  # fmt: skip


def judge_batch(case: Case, limits: Thresholds) -> list[Finding]:
    """Influence of one image on another's answer."""
    numbers = case.measured["c4-batch"]
    title, cross = BATCH.title, numbers.get("cross")
    if cross:
        own = number(numbers.get("own"), 0.0)
        evidence = (
            f"Logits have a gradient with respect to other images of the batch ({cross:.2g}; their own {own:.2g})."
        )
        text = limits.text("C4", "difference_fail")
        return [Finding("C4", title, "protocol", "fail", (), {"cross_gradient": cross}, text, evidence)]
    if "error" in numbers:
        return [Finding("C4", title, "protocol", "unknown", evidence=f"Not checked: {numbers['error'].rstrip('.')}.")]
    if is_random(case, limits):
        why = "Not applicable: the network is stochastic (C2), so no two answers can be compared."
        return [Finding("C4", title, "protocol", "not-applicable", evidence=why)]
    ways = {name: numbers[name] for name in _BATCHES if name in numbers}
    return [_worst_way("C4", title, ways, _BATCHES, limits, case)]


def judge_state(case: Case, limits: Thresholds) -> list[Finding]:
    """Anything that is not what it was."""
    numbers = case.measured["c5-state"]
    changed = {
        kind: {*numbers["batch"][kind], *numbers["attack"][kind]} for kind in ("tensors", "attributes")
    }  # fmt: skip
    # Records of the probe's first version do not tell what is forgotten with the next batch.
    tensors, attributes = (sorted(numbers.get("history", changed)[kind]) for kind in ("tensors", "attributes"))
    kept = changed["tensors"] | changed["attributes"]
    gap, training = number(numbers["difference"]), numbers["training"]
    moved = not is_random(case, limits) and (
        numbers["mismatches"] > 0 or gap > limits("C5", "half" if is_half(case) else "difference_fail")
    )
    metrics = {
        "tensors": float(len(tensors)), "attributes": float(len(attributes)), "difference": min(gap, 1e6),
        "training": float(len(training)),
    }  # fmt: skip
    verdict, evidence = "pass", "Nothing in the network changes when it is asked or attacked."
    if kept - {*tensors, *attributes}:
        evidence = f"It keeps a note of the last batch alone: {listed(sorted(kept))}."
    if tensors:
        verdict, evidence = "fail", f"Being asked changes the network's tensors: {listed(tensors)}."
    elif moved:
        verdict, evidence = "fail", f"Logits before and after an attack differ by up to {gap:.2g} of the largest."
        if attributes:
            evidence = f"{evidence[:-1]}; {listed(attributes)} changed."
    elif attributes:
        verdict, evidence = "warn", f"Being asked changes {listed(attributes)}, without an effect on the answers."
    elif training:
        verdict, evidence = "warn", f"Modules stay in training mode: {listed(training)}."
    text = limits.text("C5", "difference_fail")
    return [Finding("C5", STATE.title, "protocol", verdict, (), metrics, text, evidence)]


OUTPUT = Check(
    "C1", "Outputs are logits", "protocol", "c1-output", judge_output,
    "AutoAttack's softmax test (arXiv 2003.01690); ours",
    "Width, finiteness, ties and saturation of the outputs on images, corners of the budget, noise and flat images.",
    "Ensembles that average probabilities by design are noted as probabilities.",
)  # fmt: skip
DETERMINISM = Check(
    "C2", "Same question, same answer", "protocol", "c2-determinism", judge_determinism,
    "AutoAttack's randomness test (arXiv 2003.01690); the audit of generator states is ours",
    "Five passes over the same images, and the states of all random generators around a pass.",
    "Accelerator kernels that add up in another order each time.",
)  # fmt: skip
CALLERS = Check(
    "C3", "Same answer for every caller", "protocol", "c3-callers", judge_callers, "ours",
    "Grad modes, threads, an attack's queries asked again in other batches, a fresh process, and all tasks of the run.",
    "Networks that refuse a mode are not checked in it.",
)  # fmt: skip
BATCH = Check(
    "C4", "Images do not influence each other", "protocol", "c4-batch", judge_batch, "ours",
    "Answers in reordered, mixed and single-image batches, and the gradient of one image's logits by another image.",
    "Accelerator kernels chosen by the size of the batch.",
)  # fmt: skip
STATE = Check(
    "C5", "Asking changes nothing", "protocol", "c5-state", judge_state, "ours",
    "Hashes of all tensors and of every value that the code can reach, and the logits, before and after an attack.",
    "Counters that do not reach the logits are noted.",
)  # fmt: skip
CHECKS_CONTRACT = (OUTPUT, DETERMINISM, CALLERS, BATCH, STATE)
