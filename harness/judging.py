"""From the records of one submission to its case, findings and verdict. No torch: old records can be judged anew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from harness import plan, store, suites
from harness.checks import Case, Column, Thresholds, judge, load_thresholds
from harness.checks.verdict import Verdict, decide
from harness.records import Candidate, Finding, Manifest, Record, Task, ThreatModel

CURVE = "budget"
"""An attack whose answer is a curve over many budgets: what it broke counts, what it left standing claims nothing."""


@dataclass(frozen=True)
class Judgement:
    """What the battery says of one submission under one threat model."""

    case: Case
    findings: tuple[Finding, ...]
    verdict: Verdict

    def plain(self) -> dict[str, Any]:
        """Plain data for the exports."""
        verdict = asdict(self.verdict)
        return {"verdict": self.verdict.word, "findings": [asdict(item) for item in self.findings], "detail": verdict}


def _complete(root: Path, manifest: Manifest, candidate: Candidate, task: Task) -> tuple[list[Record], str]:
    """The records of ``task`` that count, all of them or none, and why there are none."""
    found: list[Record] = []
    for work in plan.work_of(manifest, replace(candidate, tasks=(task,))):
        record = store.find_record(root, work.shard)
        if record is None:
            return [], "it was not run"
        state = plan.state(work, record)
        if state is plan.State.FAILED and record.failure is not None:
            return [], f"{record.failure.kind}: {record.failure.message}"
        if state is not plan.State.DONE:
            return [], "its record is stale"
        found.append(record)
    return found, "" if found else "it was not run"


def _cascade_columns(
    cascades: Mapping[str, Sequence[tuple[Task, list[Record]]]], threat: ThreatModel
) -> dict[str, Column]:
    """One column for every cascade whose members are all there: what is robust after the last of them."""
    found: dict[str, Column] = {}
    for name, members in cascades.items():
        if all(records for _, records in members):
            rows = [row for record in members[-1][1] for row in record.examples]
            key = f"{name}@{threat}"
            found[key] = Column(key, name, tuple(row.robust for row in rows))
    return found


@cache
def _deep_settings() -> Mapping[str, Mapping[str, Any]]:
    """The probes of the suite ``deep`` and their settings there."""
    return {
        entry["name"]: entry.get("params", {}) for entry in suites.load("deep").entries if entry.get("kind") == "probe"
    }


def _is_deep(candidate: Candidate) -> bool:
    """Whether every probe of the suite ``deep`` was asked for with the settings it has there."""
    asked = {task.name: task.params for task in candidate.tasks if task.kind == "probe"}
    return all(name in asked and asked[name] == params for name, params in _deep_settings().items())


def read_case(root: Path, manifest: Manifest, candidate: Candidate, threat: ThreatModel) -> Case | None:
    """Read the records of ``candidate`` below ``root``; None while its clean predictions are not all there."""
    columns: dict[str, Column] = {}
    cascades: dict[str, list[tuple[Task, list[Record]]]] = {}
    measured: dict[str, Mapping[str, Any]] = {}
    witnessed: dict[str, tuple[bool, ...]] = {}
    absent: dict[str, str] = {}
    correct: tuple[bool, ...] = ()
    seen: dict[int, set[int]] = {}
    for task in candidate.tasks:
        if task.threat not in {None, threat} or task.kind in {"cost", "corruption"}:
            continue
        records, why = _complete(root, manifest, candidate, task)
        rows = [row for record in records for row in record.examples]
        for row in rows:
            seen.setdefault(row.index, set()).add(row.clean_prediction)
        if task.kind == "clean":
            correct = tuple(row.correct for row in rows)
        elif task.kind == "probe":
            if records:
                measured[task.name] = records[0].measurements
                if rows:
                    witnessed[task.name] = tuple(row.correct and not row.robust for row in rows)
            else:
                absent[task.name] = why
        elif task.cascade:
            cascades.setdefault(task.cascade, []).append((task, records))
        elif task.attack == CURVE and rows:
            witnessed[task.attack] = tuple(row.correct and not row.robust for row in rows)
        elif records:
            columns[task.key] = Column(task.key, task.attack, tuple(row.robust for row in rows))
    if not correct:
        return None
    columns |= _cascade_columns(cascades, threat)
    return Case(
        n=len(correct),
        classes=manifest.classes,
        norm=threat.norm,
        eps=threat.value,
        correct=correct,
        columns=columns,
        measured=measured,
        witnessed=witnessed,
        absent=absent,
        defence=str(candidate.card.get("defence", "static")),
        card=candidate.card,
        deep=_is_deep(candidate),
        wavering=sum(len(classes) > 1 for classes in seen.values()),
    )


def judge_candidate(
    root: Path, manifest: Manifest, candidate: Candidate, threat: ThreatModel, thresholds: Thresholds | None = None
) -> Judgement | None:
    """Findings and verdict; None when no probe was asked for, or the clean predictions are not there yet."""
    if not any(task.kind == "probe" for task in candidate.tasks):
        return None
    case = read_case(root, manifest, candidate, threat)
    if case is None:
        return None
    limits = thresholds or load_thresholds()
    findings = judge(case, limits)
    return Judgement(case, tuple(findings), decide(case, findings, limits))


def clean_absent(root: Path, manifest: Manifest, submission: str) -> str:
    """Why the clean predictions of ``submission`` are not there to be judged; empty when they are."""
    (candidate,) = (item for item in manifest.candidates if item.id == submission)
    return next((_complete(root, manifest, candidate, task)[1] for task in candidate.tasks if task.kind == "clean"), "")


def threats_of(candidate: Candidate) -> Sequence[ThreatModel]:
    """The threat models a candidate was attacked under, in order."""
    return tuple(dict.fromkeys(task.threat for task in candidate.tasks if task.threat is not None))
