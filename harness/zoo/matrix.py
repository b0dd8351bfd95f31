"""The confusion matrix of a zoo: what was expected of every model, what came out, and which check saw it. Pure."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from harness.checks import CHECKS
from harness.checks.verdict import WORDS, decide
from harness.judging import Judgement
from harness.zoo.expected import KINDS, Expectation

FIRED, SILENT, UNCHECKED, IDLE = "fired", "silent", "not checked", "not applicable"
SIGNS = {FIRED: "#", SILENT: ".", UNCHECKED: "?", IDLE: " "}
PEEL = "a8-transfer"
"""The probe that sees through most wrappers; verdicts are shown without it as well."""


@dataclass(frozen=True)
class Outcome:
    """What the battery made of one model with one seed."""

    verdict: str
    sentence: str
    n: int
    natural: float
    """Natural accuracy in [0, 1]."""
    claimed: float | None
    corrected: float
    checks: Mapping[str, str]
    """By check: ``FIRED``, ``SILENT``, ``UNCHECKED`` or ``IDLE``."""
    grades: Mapping[str, str]
    """By check that fired: ``warn`` or ``fail``, the gravest."""
    flags: Mapping[str, str] = field(default_factory=dict)
    """Columns whose number is not simply true, with the flag."""
    unpeeled: str = ""
    """The verdict without attacks on the model's parts."""
    metrics: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """By check: the numbers that were judged, those of its first finding where several have one of the same name."""


def outcome_of(judgement: Judgement) -> Outcome:
    """The short form of a judgement."""
    case, verdict = judgement.case, judgement.verdict
    judged: dict[str, list[str]] = {}
    metrics: dict[str, dict[str, float]] = {}
    for item in judgement.findings:
        metrics[item.check] = item.metrics | metrics.get(item.check, {})
        # Information is shown beside a number and decides nothing.
        judged.setdefault(item.check, []).append("pass" if item.kind == "information" else item.verdict)
    grades = {
        check: "fail" if "fail" in words else "warn" for check, words in judged.items() if {"warn", "fail"} & {*words}
    }
    return Outcome(
        verdict=verdict.word,
        sentence=verdict.sentence,
        n=case.n,
        natural=sum(case.correct) / case.n,
        claimed=verdict.claimed,
        corrected=verdict.corrected.value,
        checks={check: _state(words) for check, words in judged.items()},
        grades=grades,
        flags={flag.key: flag.flag for flag in verdict.columns if flag.flag != "true"},
        unpeeled=_without_peel(judgement),
        metrics=metrics,
    )


def _state(words: Sequence[str]) -> str:
    if {"warn", "fail"} & {*words}:
        return FIRED
    if "unknown" in words:
        return UNCHECKED
    return SILENT if "pass" in words else IDLE


def _without_peel(judgement: Judgement) -> str:
    """The verdict when witnesses of attacks on parts do not count. Checks that ran after it saw fewer images."""
    case = judgement.case
    witnessed = {name: hits for name, hits in case.witnessed.items() if name != PEEL}
    findings = [item for item in judgement.findings if item.check != "A8"]
    return decide(replace(case, witnessed=witnessed), findings).word


def deviations(expected: Expectation, outcome: Outcome, base: Outcome | None) -> tuple[str, ...]:
    """Everything in which a model came out otherwise than expected; ``base`` is its base's outcome."""
    found: list[str] = []
    if outcome.verdict not in expected.verdicts:
        found.append(f"verdict: expected {' or '.join(expected.verdicts)}, got {outcome.verdict}: {outcome.sentence}")
    fired = {check for check, state in outcome.checks.items() if state == FIRED}
    if expected.must_fire and not fired & {*expected.must_fire}:
        found.append(
            f"expected one of {', '.join(expected.must_fire)} to fire, got {', '.join(sorted(fired)) or 'none'}"
        )
    if expected.may_fire is not None:
        more = sorted(fired - {*expected.must_fire, *expected.may_fire})
        found += [f"{check}: expected silence, got {outcome.grades[check]}" for check in more]
    found += [
        f"{check}: expected silence, got {outcome.grades[check]}" for check in expected.must_not_fire if check in fired
    ]
    off = distance(expected, outcome, base)
    if off is not None and off > allowed(expected, outcome):
        found.append(
            f"corrected to {outcome.corrected:.1%}, {100 * off:.1f} points from the truth "
            f"({allowed(expected, outcome):.1%} allowed)"
        )
    return tuple(found)


def distance(expected: Expectation, outcome: Outcome, base: Outcome | None) -> float | None:
    """Between the corrected number and the true one, in [0, 1]; None where the truth is unknown."""
    if expected.truth == "zero":
        return outcome.corrected
    if expected.truth != "base" or base is None:
        return None
    return abs(outcome.corrected - base.corrected)


def allowed(expected: Expectation, outcome: Outcome) -> float:
    """The distance that counts as none: the tolerance, or one image where that is more."""
    return max(expected.tolerance, 1 / outcome.n) + 1e-9


@dataclass(frozen=True)
class Row:
    """One model with one seed."""

    expected: Expectation
    seed: int
    outcome: Outcome | None
    """None when there was nothing to judge."""
    distance: float | None
    deviations: tuple[str, ...]


@dataclass(frozen=True)
class Matrix:
    """Models by checks: which check caught what, and what was said of honest models."""

    rows: tuple[Row, ...]
    checks: tuple[str, ...]
    thresholds: str
    """Version of the thresholds."""
    dataset: str = ""
    n: str = ""
    """Images; several numbers when runs differ."""

    def count(self, kind: str, *words: str) -> tuple[int, int]:
        """How many rows of a kind ended with one of ``words``, of how many."""
        rows = [row for row in self.rows if row.expected.kind == kind]
        return sum(row.outcome is not None and row.outcome.verdict in words for row in rows), len(rows)

    @property
    def corrected(self) -> tuple[int, int, int]:
        """Decision-identical broken rows corrected to within a point of the truth, within one image, of how many."""
        rows = [row for row in self.rows if row.expected.decision_identical and row.expected.kind == "broken"]
        known = [(row.distance, row.outcome) for row in rows]
        within = [off is not None and off <= 0.01 + 1e-9 for off, _ in known]
        image = [
            off is not None and outcome is not None and off <= max(0.01, 1 / outcome.n) + 1e-9 for off, outcome in known
        ]
        return sum(within), sum(image), len(rows)

    @property
    def only_by(self) -> dict[str, tuple[str, ...]]:
        """By check: broken models that it alone, or it and one other, caught."""
        found: dict[str, set[str]] = {check: set() for check in self.checks}
        for row in self.rows:
            if row.outcome is None or row.expected.kind != "broken":
                continue
            fired = [check for check, state in row.outcome.checks.items() if state == FIRED]
            if len(fired) <= 2:
                for check in fired:
                    found[check].add(row.expected.id)
        return {check: tuple(sorted(names)) for check, names in found.items()}

    @property
    def bands(self) -> dict[str, dict[str, dict[str, list[float]]]]:
        """By check and number: its least and greatest value on honest models, and all on the broken ones it caught."""
        found: dict[str, dict[str, dict[str, list[float]]]] = {}
        for row in self.rows:
            if row.outcome is None:
                continue
            for check, metrics in row.outcome.metrics.items():
                caught = row.expected.kind == "broken" and row.outcome.checks.get(check) == FIRED
                if not caught and row.expected.kind != "honest":
                    continue
                for name, value in metrics.items():
                    if math.isfinite(value):
                        place = found.setdefault(check, {}).setdefault(name, {"honest": [], "broken": []})
                        place["broken" if caught else "honest"].append(float(f"{value:.4g}"))
        return {
            check: {
                name: {"honest": [min(both["honest"]), max(both["honest"])], "broken": sorted({*both["broken"]})}
                for name, both in numbers.items()
                if both["honest"] and both["broken"]
            }
            for check, numbers in sorted(found.items())
        }

    def summary(self) -> str:
        """One line: how far the battery does what it is for."""
        caught = [word for word in WORDS if word not in {"verified", "unchecked"}]
        broken, of_broken = self.count("broken", *caught)
        clean, of_clean = self.count("honest", "verified", "verified-with-note")
        within, image, of_identical = self.corrected
        off = sum(bool(row.deviations) for row in self.rows)
        return (
            f"broken not verified {broken}/{of_broken}, honest verified {clean}/{of_clean}, decision-identical "
            f"corrected within 1 point {within}/{of_identical} (within one image {image}/{of_identical}), "
            f"{off} of {len(self.rows)} otherwise than expected"
        )

    def text(self) -> str:
        """The table for a terminal: ``#`` fired, ``.`` silent, ``?`` not checked, blank where a check is idle."""
        width = max((len(row.expected.id) for row in self.rows), default=5)
        head = " ".join(f"{check:>3}" for check in self.checks)
        lines = [f"{'model':<{width}} s  {head}  claimed -> corrected  verdict (without A8)"]
        for kind in KINDS:
            rows = [row for row in self.rows if row.expected.kind == kind]
            lines += [kind] if rows else []
            lines += [self._line(row, width) for row in rows]
        return "\n".join(lines)

    def _line(self, row: Row, width: int) -> str:
        start = f"{row.expected.id:<{width}} {row.seed}  "
        if row.outcome is None:
            return f"{start}{'; '.join(row.deviations)}"
        states = [row.outcome.checks.get(check, UNCHECKED) for check in self.checks]
        signs = " ".join(
            f"{SIGNS[state]:>{max(3, len(check))}}" for check, state in zip(self.checks, states, strict=True)
        )
        claimed = "  none" if row.outcome.claimed is None else f"{100 * row.outcome.claimed:6.1f}"
        other = f" ({row.outcome.unpeeled})" if row.outcome.unpeeled != row.outcome.verdict else ""
        mark = "  <- " + "; ".join(row.deviations) if row.deviations else ""
        return (
            f"{start}{signs}  {claimed} -> {100 * row.outcome.corrected:5.1f}      {row.outcome.verdict}{other}{mark}"
        )

    def plain(self) -> dict[str, Any]:
        """Plain data: what the page and other programs read."""
        within, image, total = self.corrected
        return {
            "thresholds": self.thresholds,
            "dataset": self.dataset,
            "n": self.n,
            "seeds": sorted({row.seed for row in self.rows}),
            "checks": list(self.checks),
            "summary": self.summary(),
            "decision_identical": {"within_a_point": within, "within_an_image": image, "of": total},
            "only_by": {check: list(names) for check, names in self.only_by.items()},
            "bands": self.bands,
            "rows": [
                {**asdict(row.expected), "seed": row.seed, "distance": row.distance, "deviations": list(row.deviations),
                 "outcome": None if row.outcome is None else _short(row.outcome)}
                for row in self.rows
            ],
        }  # fmt: skip

    def csv(self) -> str:
        """A line per model and seed, a column per check."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        numbers = ("n", "natural", "claimed", "corrected")
        writer.writerow(["model", "kind", "seed", *self.checks, *numbers, "verdict", "unpeeled", "deviations"])
        for row in self.rows:
            outcome = row.outcome
            start = [row.expected.id, row.expected.kind, row.seed]
            if outcome is None:
                writer.writerow([*start, *[""] * (len(self.checks) + 6), "; ".join(row.deviations)])
                continue
            states = [outcome.grades.get(check) or outcome.checks.get(check, UNCHECKED) for check in self.checks]
            figures = [getattr(outcome, name) for name in numbers]
            rest = [outcome.verdict, outcome.unpeeled, "; ".join(row.deviations)]
            writer.writerow([*start, *states, *figures, *rest])
        return out.getvalue()


def _short(outcome: Outcome) -> dict[str, Any]:
    """An outcome as plain data, without the numbers that ``bands`` sums up."""
    return {name: value for name, value in asdict(outcome).items() if name != "metrics"}


def _order(check: str) -> tuple[int, int, str]:
    """Contract, gradients, adequacy, data, information; by number within each."""
    number = "".join(char for char in check.partition("-")[0] if char.isdigit())
    return "CGADI".find(check[0]), int(number or 0), check


def compare(
    expected: Mapping[str, Expectation], outcomes: Mapping[tuple[str, int], Outcome | None], thresholds: str
) -> Matrix:
    """The matrix of outcomes by (model, seed), in the order of the expectations."""
    rows = []
    for name, item in expected.items():
        for model, seed in sorted(outcomes, key=lambda key: key[1]):
            if model != name:
                continue
            outcome, base = outcomes[model, seed], outcomes.get((item.base, seed))
            if outcome is None:
                rows.append(Row(item, seed, None, None, ("there are no records to judge",)))
                continue
            rows.append(Row(item, seed, outcome, distance(item, outcome, base), deviations(item, outcome, base)))
    return Matrix(tuple(rows), tuple(sorted(CHECKS.names(), key=_order)), thresholds)


def write_matrix(folder: Path, matrix: Matrix) -> None:
    """``matrix.json`` and ``matrix.csv`` in the folder of a zoo run."""
    (folder / "matrix.json").write_text(json.dumps(matrix.plain(), indent=1) + "\n", encoding="utf-8")
    (folder / "matrix.csv").write_text(matrix.csv(), encoding="utf-8")
