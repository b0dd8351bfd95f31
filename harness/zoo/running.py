"""The battery put to the test on a folder of broken and honest models: what to run, and what came out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from harness import run as runs
from harness import store, suites
from harness.checks import load_thresholds
from harness.errors import UserError
from harness.judging import judge_candidate, threats_of
from harness.records import Candidate, Manifest
from harness.zoo.expected import Expectation
from harness.zoo.matrix import PEEL, Matrix, Outcome, compare, outcome_of

SUITE = "check"


@dataclass(frozen=True)
class Plan:
    """One seed's run over the zoo."""

    seed: int
    request: runs.Request
    prepared: runs.Prepared


def folder_of(results: Path, seed: int) -> Path:
    """Where the records of one seed lie: every seed has a results folder of its own."""
    return results / f"seed-{seed}"


def plan_run(models: Mapping[str, Expectation], request: runs.Request, seed: int) -> Plan:
    """Prepare the run of one seed in its own folder below ``request.results``.

    ``UserError`` when a model is not among the submissions, or cannot be used.
    """
    folder = folder_of(request.results, seed)
    suite = suite_for(request.suite, folder)
    if not any(entry.get("kind") == "probe" for entry in suites.load(suite).entries):
        raise UserError(f"--suite: expected a suite with probes such as check, got {request.suite!r}")
    wanted = replace(request, ids=tuple(models), suite=suite, results=folder, seed=seed)
    prepared = runs.prepare(wanted)
    for name, error in prepared.unusable.items():
        raise UserError(f"{name}: expected a model of the zoo that can be used: {error}")
    return Plan(seed, wanted, prepared)


def seeds_there(results: Path) -> list[int]:
    """Seeds with records below ``results``, ascending."""
    found = [folder.name.removeprefix("seed-") for folder in results.glob("seed-*") if (folder / "runs").is_dir()]
    return sorted(int(seed) for seed in found if seed.isdigit())


def collect(models: Mapping[str, Expectation], results: Path, seeds: list[int]) -> Matrix:
    """Judge the records below ``results`` and hold them against what was expected; nothing is run.

    A model counts with the newest run that it was part of. ``UserError`` when there are no runs at all.
    """
    if not seeds:
        raise UserError(f"{results}: expected records of a zoo; make them with: harness zoo --results {results}")
    outcomes: dict[tuple[str, int], Outcome | None] = {}
    about: dict[str, set[str]] = {"dataset": set(), "n": set()}
    for seed in seeds:
        folder = folder_of(results, seed)
        newest: dict[str, tuple[Manifest, Candidate]] = {}
        for manifest in store.read_manifests(folder):
            newest |= {candidate.id: (manifest, candidate) for candidate in manifest.candidates}
        for name in models:
            outcomes[name, seed] = _outcome(folder, *newest[name]) if name in newest else None
            if name in newest:
                about["dataset"].add(newest[name][0].dataset)
                about["n"].add(str(newest[name][0].n))
    where = ", ".join(sorted(about["dataset"])), ", ".join(sorted(about["n"]))
    return replace(compare(models, outcomes, load_thresholds().version), dataset=where[0], n=where[1])


def _outcome(folder: Path, manifest: Manifest, candidate: Candidate) -> Outcome | None:
    for threat in threats_of(candidate):
        judgement = judge_candidate(folder, manifest, candidate, threat)
        if judgement is not None:
            return outcome_of(judgement)
    return None


def suite_for(name: str, folder: Path) -> str:
    """Write the suite of a zoo run beside its records; its path. It is ``name`` without replays of other models.

    A wrapper falls to the examples of its base, which would hide what the other checks see.
    """
    suites.load(name)
    source = Path(name) if name.endswith(".toml") else Path(suites.__file__).with_name(f"{name}.toml")
    lines = source.read_text(encoding="utf-8")
    block = f'name = "{PEEL}"\nkind = "probe"\n'
    if f"{block}params = {{" in lines:
        lines = lines.replace(f"{block}params = {{", f"{block}params = {{ replay = false,")
    else:
        lines = lines.replace(block, f"{block}params = {{ replay = false }}\n")
    path = folder / "zoo-check.toml"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(lines, encoding="utf-8")
    suites.load(str(path))
    return str(path)
