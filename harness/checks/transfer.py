"""A6 to A10, the mitigation of C2, I1 and I2: what other attacks find, existence by construction, information."""

from dataclasses import replace
from functools import partial

from harness.checks.case import Case
from harness.checks.check import Check
from harness.checks.rules import by_witness, claiming, keys, not_applicable, witnessed
from harness.checks.thresholds import Thresholds
from harness.metrics import proportion
from harness.records import Finding

_WITNESS = {
    "A6": ("Black-box attacks", "a6-blackbox", "attacks that see no gradient"),
    "A7": ("Random search", "a7-random", "random draws"),
    "A8": ("Transfer", "a8-transfer", "attacks on a part of the network or on other submissions"),
    "A9": ("Automatic BPDA", "a9-bpda", "gradients led past what stops them"),
}

_IDLE = {
    "A8": (
        ("peel", "replays"),
        "no part of the network answers with logits, and no other submission's adversarial examples are stored",
    ),
    "A9": (("forms",), "the network has no form that leads gradients elsewhere"),
}
"""By check: what its probe counts as tries, and why there was none."""


def judge_witnesses(check: str, case: Case, limits: Thresholds) -> list[Finding]:
    """Rule W on one probe's witnesses."""
    title, probe, means = _WITNESS[check]
    if not claiming(case, limits):
        return not_applicable(check, title, "witness", f"no column claims {limits('verdict', 'claim'):.0%} or more")
    tries, why = _IDLE.get(check, ((), ""))
    tried = [case.measured[probe][name] for name in tries if name in case.measured[probe]]
    if tried and not any(tried):
        return not_applicable(check, title, "witness", why)
    findings = by_witness(case, limits, check, title, probe, means)
    best = _names(case, probe)
    if not best or findings[0].verdict == "not-applicable":
        return findings
    first = findings[0]
    text = f"{first.evidence} By: {best}."
    return [replace(first, evidence=text)]


def _names(case: Case, probe: str) -> str:
    """What found something, by name, with the counts the probe claims."""
    numbers = case.measured[probe]
    if not witnessed(case, probe):
        return ""
    entries = [*numbers.get("peel", []), *numbers.get("forms", [])]
    parts = [f"{entry['name']} ({entry['found']})" for entry in entries if entry["found"]]
    if numbers.get("replay_found"):
        parts.append(f"other submissions' examples ({numbers['replay_found']})")
    for name in ("square", "nes", "label-only"):
        entry = numbers.get(name)
        if isinstance(entry, dict) and entry["found"] + entry.get("all_found", 0):
            parts.append(f"{name} ({entry['found'] + entry.get('all_found', 0)})")
    return ", ".join(parts)


def judge_eot(case: Case, limits: Thresholds) -> list[Finding]:
    """Witnesses of attacks that follow the mean of a network that draws at random."""
    title = "Expectation over transformation"
    numbers = case.measured["c2-eot"]
    if not numbers.get("applicable", True):
        return not_applicable("C2-EOT", title, "witness", str(numbers.get("reason", "nothing to look at")))
    first = by_witness(case, limits, "C2-EOT", title, "c2-eot", f"attacks on the mean of {numbers['eot']} passes")[0]
    ladder = ", ".join(f"{passes} passes {share:.0%}" for passes, share in numbers["ladder"].items())
    text = f"{first.evidence} Left by number of passes: {ladder}."
    metrics = {**first.metrics, "expected": numbers["expected"]}
    return [replace(first, metrics=metrics, evidence=text)]


def judge_binarisation(case: Case, limits: Thresholds) -> list[Finding]:
    """Attacks must find what is there by construction."""
    check, title = "A10", "Active binarisation test"
    numbers = case.measured["a10-binarisation"]
    claims = claiming(case, limits)
    if not claims or not numbers.get("applicable", True):
        why = str(numbers.get("reason", "no column claims enough"))
        return not_applicable(check, title, "existence", why)
    attacked, found = numbers["attacked"], numbers["found"]
    tried = attacked + numbers["setup_failed"]
    if not attacked or numbers["setup_failed"] > limits(check, "setup_failed") * tried:
        why = f"inconclusive: the construction failed for {numbers['setup_failed']} of {tried} images"
        return not_applicable(check, title, "existence", why)
    if numbers["random"] is not None and numbers["random"] > limits(check, "random"):
        why = f"inconclusive: random points succeed at {numbers['random']:.0%} of the draws, so it is too easy"
        return not_applicable(check, title, "existence", why)
    rate = proportion(found, attacked)
    needed = limits(check, "success")
    verdict = "fail" if rate.high < needed else "warn" if rate.value < needed and attacked - found >= 2 else "pass"
    return [
        Finding(
            check, title, "existence", verdict, keys(claims) if verdict != "pass" else (),
            {"success": rate.value, "success_high": rate.high, "images": float(attacked)},
            limits.text(check, "success"),
            f"Attacks found {found} of {attacked} adversarial examples that exist by construction.",
        )
    ]  # fmt: skip


def judge_jacobian(case: Case, limits: Thresholds) -> list[Finding]:
    """Information."""
    return _information(case, "I1", "Jacobian and image", "i1-jacobian", ("alignment", "cosine", "roughness"))


def judge_landscape(case: Case, limits: Thresholds) -> list[Finding]:
    """Information."""
    return _information(case, "I2", "Loss landscape", "i2-landscape", ("bend",))


def _information(case: Case, check: str, title: str, probe: str, names: tuple[str, ...]) -> list[Finding]:
    numbers = case.measured[probe]
    if not numbers.get("applicable", True):
        return not_applicable(check, title, "information", str(numbers.get("reason", "nothing to look at")))
    metrics = {name: float(numbers[name]) for name in names if numbers.get(name) is not None}
    text = ", ".join(f"{name} {value:.3g}" for name, value in metrics.items()) or "no gradient"
    return [Finding(check, title, "information", "pass", (), metrics, "", f"{text[:1].upper()}{text[1:]}.")]


CHECKS_ = (
    Check(
        "A6", *_WITNESS["A6"][:1], "witness", "a6-blackbox", partial(judge_witnesses, "A6"),
        "arXiv 1912.00049 (Square); arXiv 1804.08598 (NES); arXiv 2006.12792 (RayS)",
        "Whether attacks without gradients break what those with gradients could not.",
        "None: every witness is verified.",
    ),
    Check(
        "A7", *_WITNESS["A7"][:1], "witness", "a7-random", partial(judge_witnesses, "A7"),
        "arXiv 1802.00420; arXiv 1902.06705",
        "Whether random perturbations break what attacks could not.",
        "None: every witness is verified.",
    ),
    Check(
        "A8", *_WITNESS["A8"][:1], "witness", "a8-transfer", partial(judge_witnesses, "A8"),
        "arXiv 1902.06705; cross-entry replay is ours",
        "Whether attacks on a part that answers with logits, or on other submissions, break the whole.",
        "None: every witness is verified.",
    ),
    Check(
        "A9", *_WITNESS["A9"][:1], "witness", "a9-bpda", partial(judge_witnesses, "A9"),
        "arXiv 1802.00420 (BPDA); its automation is ours",
        "Whether attacks succeed once operations that stop gradients let them through.",
        "None: every witness is verified.",
    ),
    Check(
        "A10", "Active binarisation test", "existence", "a10-binarisation", judge_binarisation, "arXiv 2206.13991",
        "Whether an attack finds adversarial examples that exist by construction.",
        "Tests that random points solve are put aside as inconclusive.",
    ),
    Check(
        "C2-EOT", "Expectation over transformation", "witness", "c2-eot", judge_eot,
        "arXiv 1707.07397; arXiv 2003.01690 (rand)",
        "What attacks find that follow the mean of a network that draws at random.",
    ),
    Check(
        "I1", "Jacobian and image", "information", "i1-jacobian", judge_jacobian, "arXiv 1905.04172; arXiv 1912.10185",
        "How the gradient of the decision agrees with the image; never a verdict.",
    ),
    Check(
        "I2", "Loss landscape", "information", "i2-landscape", judge_landscape, "arXiv 1912.10185, figure 3",
        "The loss along the adversarial and a random orthogonal direction; never a verdict.",
    ),
)  # fmt: skip
