"""What the battery found, in lines for a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from harness.judging import Judgement, judge_candidate, threats_of
from harness.records import Manifest, ThreatModel

MARKS = {"pass": "ok  ", "warn": "warn", "fail": "FAIL", "unknown": "?   ", "not-applicable": "n/a "}
"""How a finding's verdict is shown."""

DEEPER = "  next: harness run {} --suite deep, with the same options: attacks harder, to prove or clear the symptoms"
"""What to do about a suspicion; for the submission's name."""


def judgements(results: Path, manifest: Manifest) -> Iterator[tuple[str, ThreatModel, Judgement | None]]:
    """Submission, threat model and judgement for each that a run asked the battery about; None without records."""
    for candidate in manifest.candidates:
        if any(task.kind == "probe" for task in candidate.tasks):
            for threat in threats_of(candidate):
                yield candidate.id, threat, judge_candidate(results, manifest, candidate, threat)


def told(name: str, judgement: Judgement, *, verbose: bool = False) -> list[str]:
    """The verdict, the corrected number, flagged columns, and what the checks found (``verbose``: passes as well).

    ``name`` begins with the submission's, and may go on with the threat model.
    """
    verdict, plain = judgement.verdict, name.partition(" ")[0]
    low, high = verdict.corrected.low, verdict.corrected.high
    claimed = f"{verdict.claimed:.1%} ({verdict.headline})" if verdict.claimed is not None else "nothing"
    return [
        f"{name}: {verdict.word.upper()} ({verdict.passed} of {verdict.total} checks)",
        f"  {verdict.sentence}",
        f"  claimed {claimed} -> corrected {verdict.corrected.value:.1%} [{low:.1%}, {high:.1%}]",
        *(f"  {flag.key}: {flag.flag}: {flag.sentence}" for flag in verdict.columns if flag.flag != "true"),
        *(
            f"    {MARKS[item.verdict]} {item.check:<6} {item.title}: {item.evidence}"
            for item in judgement.findings
            if verbose or item.verdict not in {"pass", "not-applicable"}
        ),
        *([DEEPER.format(plain)] if verdict.word == "suspect" and not judgement.case.deep else []),
    ]
