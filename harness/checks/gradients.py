"""G2 to G5: whether gradients are of use to an attack."""

from collections.abc import Callable, Sequence
from typing import Any

from harness.checks.case import Case
from harness.checks.check import Check
from harness.checks.contract import is_half
from harness.checks.rules import GRADIENT, by_witness, claiming, keys, not_applicable
from harness.checks.thresholds import Thresholds
from harness.records import Finding

Reading = tuple[str, str, dict[str, float], str]
"""Word (``pass``, ``warn``, ``fail``), evidence, the numbers that were judged, and what they were held against."""


def _symptom(
    case: Case, limits: Thresholds, check: str, title: str, probe: str, *, weak_only: bool,
    read: Callable[[dict[str, Any], Thresholds, Case], Reading],
) -> list[Finding]:  # fmt: skip
    """A symptom about the columns that claim something; ``read`` says word, evidence, metrics and threshold.

    With ``weak_only`` it speaks about attacks on one loss alone: AutoAttack takes the best of several.
    """
    numbers = dict(case.measured[probe])
    claims = claiming(case, limits)
    if weak_only:
        claims = [column for column in claims if column.attack in GRADIENT]
    if not claims:
        why = f"no column it speaks about claims {limits('verdict', 'claim'):.0%}"
        return not_applicable(check, title, "symptom", why)
    if not numbers.get("applicable", True):
        return not_applicable(check, title, "symptom", str(numbers.get("reason", "nothing to look at")))
    word, evidence, metrics, threshold = read(numbers, limits, case)
    columns = keys(claims) if word != "pass" else ()
    return [Finding(check, title, "symptom", word, columns, metrics, threshold, evidence)]


def worst(words: Sequence[str]) -> str:
    """The gravest of ``pass``, ``warn`` and ``fail``."""
    return max(words, key=("pass", "warn", "fail").index, default="pass")


def low(value: float | None, limits: Thresholds, check: str, name: str) -> str:
    """``fail`` below ``NAME_fail``, ``warn`` below ``NAME_warn``; a value that is missing fails."""
    if value is None or value < limits(check, f"{name}_fail"):
        return "fail"
    return "warn" if value < limits(check, f"{name}_warn") else "pass"


def high(value: float | None, limits: Thresholds, check: str, name: str) -> str:
    """``fail`` above ``NAME_fail``, ``warn`` above ``NAME_warn``; a value that is missing fails."""
    if value is None or value > limits(check, f"{name}_fail"):
        return "fail"
    return "warn" if value > limits(check, f"{name}_warn") else "pass"


def beyond_chance(share: float, of: float, limits: Thresholds, check: str) -> float:
    """``share`` of ``of`` images or points, or 0 when it is fewer of them than ``least`` of the check's thresholds."""
    return share if round(share * of) >= limits(check, "least") else 0.0


def _numbers(**values: float | None) -> dict[str, float]:
    return {name: float(value) for name, value in values.items() if value is not None}


def judge_losses(case: Case, limits: Thresholds) -> list[Finding]:
    """The symptom on the columns with one loss, and the witnesses of the better losses."""

    def read(numbers: dict[str, Any], limits: Thresholds, case: Case) -> Reading:
        right = sum(case.correct) / case.n
        gap = numbers["ce_minus_best"] * right * 100
        count = round(numbers["ce_minus_best"] * numbers["examples"])
        word = high(gap, limits, "G2", "gap") if count >= limits("G2", "least") else "pass"
        best = min(numbers["left"], key=numbers["left"].get)
        text = (
            f"PGD on the cross-entropy leaves {numbers['left']['ce']:.1%} of {numbers['examples']} images standing, "
            f"on the best loss ({best.replace('_', ' ')}) {numbers['left'][best]:.1%}."
        )
        return word, text, {"gap_pp": gap, "examples": float(count)}, limits.text("G2", "gap_fail")

    return [
        *_symptom(case, limits, "G2", "Scale and choice of the loss", "g2-losses", weak_only=True, read=read),
        *by_witness(case, limits, "G2", "Scale and choice of the loss", "g2-losses", "other losses"),
    ]


def judge_coherence(case: Case, limits: Thresholds) -> list[Finding]:
    """Cosines between gradients."""

    def read(numbers: dict[str, Any], limits: Thresholds, case: Case) -> Reading:
        values = {name: numbers[name] for name in ("c1", "c2", "c3")}
        words = {name: low(value, limits, "G3", name) for name, value in values.items()}
        shown = ", ".join(f"{name} {value:.2f}" for name, value in values.items() if value is not None) or "no gradient"
        text = f"Cosines of gradients: {shown} (c1 to a neighbour, c2 FGSM to PGD, c3 along PGD)."
        name = max(words, key=lambda key: ("pass", "warn", "fail").index(words[key]))
        return worst(list(words.values())), text, _numbers(**values), limits.text("G3", f"{name}_fail")

    return _symptom(case, limits, "G3", "Coherence of gradients", "g3-coherence", weak_only=False, read=read)


def judge_linearity(case: Case, limits: Thresholds) -> list[Finding]:
    """The loss after one step against what its gradient says, and its change in the neighbourhood."""

    def read(numbers: dict[str, Any], limits: Thresholds, case: Case) -> Reading:
        slope, change = numbers["slope"], numbers["change"]
        words = {"slope": low(slope, limits, "G4", "slope"), "change": high(change, limits, "G4", "change")}
        seen = "has no slope" if slope is None else f"reaches {slope:.2f} of what its gradient says"
        text = f"One full step {seen}; random neighbours change the margin by {100 * (change or 0):.0f} % of itself."
        name = max(words, key=lambda key: ("pass", "warn", "fail").index(words[key]))
        metrics = _numbers(slope=slope, change=change, gamma=numbers["gamma"], linear_error=numbers["linear_error"])
        return worst(list(words.values())), text, metrics, limits.text("G4", f"{name}_fail")

    return _symptom(case, limits, "G4", "Local linearity", "g4-linearity", weak_only=False, read=read)


def judge_scales(case: Case, limits: Thresholds) -> list[Finding]:
    """Differences at three step sizes against autograd, and the witnesses of reversed and smoothed gradients."""

    def read(numbers: dict[str, Any], limits: Thresholds, case: Case) -> Reading:
        small, middle = numbers["beta"]["eps/16"], numbers["beta"]["eps/4"]
        word = "pass"
        # Half precision rounds the smallest of the three away.
        rounds = is_half(case) or case.measured.get("c7-continuity", {}).get("counts", "float32") != "float32"
        if not rounds and (small is None or not limits("G5", "small_low") <= small <= limits("G5", "small_high")):
            word = "warn"
        if middle is None or not limits("G5", "middle_low") <= middle <= limits("G5", "middle_high"):
            word = "fail"
        seen = "is zero" if middle is None else f"tells {middle:.2f} times the change over a quarter of the budget"
        metrics = _numbers(**{f"beta {name}": value for name, value in numbers["beta"].items()})
        return word, f"The gradient {seen} (1 is exact).", metrics, limits.text("G5", "middle_low")

    return [
        *_symptom(case, limits, "G5", "Gradients at several scales", "g5-multiscale", weak_only=False, read=read),
        *by_witness(
            case, limits, "G5", "Gradients at several scales", "g5-multiscale", "reversed or smoothed gradients"
        ),
    ]


CHECKS_ = (
    Check(
        "G2", "Scale and choice of the loss", "symptom", "g2-losses", judge_losses,
        "arXiv 1608.04644; arXiv 2003.01690; thresholds from AT_HE and TRADES under both APGD losses",
        "How much more PGD breaks with a margin, DLR or rescaled loss than with the plain cross-entropy.",
        "MART-like training stands up to 9 points apart.",
    ),
    Check(
        "G3", "Coherence of gradients", "symptom", "g3-coherence", judge_coherence,
        "arXiv 2007.02617, figure 4; Gomes et al., tables 2 and 3",
        "Whether gradients keep their direction beside the image, from FGSM to PGD, and along PGD.",
        "All undefended networks, which is why it needs a claim.",
    ),
    Check(
        "G4", "Local linearity", "symptom", "g4-linearity", judge_linearity,
        "arXiv 1907.02610; Pintor et al., ESANN 2021; arXiv 2106.09947, indicator 2",
        "Whether the loss does over the budget what its gradient says at the image.",
        "Undefended networks; strongly curved smooth activations.",
    ),
    Check(
        "G5", "Gradients at several scales", "symptom", "g5-multiscale", judge_scales,
        "ours; arXiv 1802.00420 for smoothed gradients",
        "Whether differences of the loss over steps of an attack's size agree with autograd.",
        "None known for the witnesses.",
    ),
)  # fmt: skip
