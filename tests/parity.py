"""Ours beside pyautoattack, member by member and together: ``python tests/parity.py`` writes docs/parity.md.

Runs what is not there yet (stop it at any time; the same command goes on) and then makes the table from the records;
rows that the page has already stay unless there are newer ones on as many images.
What the four members leave together is read off their own records; ``--cascade`` runs them as a cascade as well, and
where both sides hold one it is compared instead.
The exact test images are needed: ``--dataset cifar10`` takes torchvision's files, ``--dataset npz:FILE`` any others.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import astuple, dataclass
from functools import cache
from pathlib import Path

from harness import store
from harness.cli import main as harness
from harness.metrics import mcnemar
from harness.plan import State, state, work_of
from harness.records import Manifest, ThreatModel
from harness.submission import CARD

FALLEN = {"natural", "fgsm-at-collapsed", "uniform-noise", "jarn"}
"""Bundled submissions that AutoAttack leaves nothing of: there is nothing to compare."""
ROBUST = sorted(
    path.parent.name
    for path in Path(__file__).parents[1].glob(f"submissions/*/{CARD}")
    if path.parent.name not in FALLEN
)
SUITE = Path(__file__).with_name("parity.toml")
MEMBERS = {"apgd-ce": "APGD-CE", "apgd-t-alone": "APGD-T", "fab-t-alone": "FAB-T", "square-alone": "Square"}
"""Tasks in which a member attacks every correctly classified image; the first of a cascade always does."""
IN_CASCADE = ("apgd-t", "fab-t", "square")
CASCADE = IN_CASCADE[-1]
"""The last task of the cascade: what it leaves is what AutoAttack leaves."""
TOGETHER = ("AutoAttack", "all four")
"""Rows about the members together: as a cascade, and read off what each did by itself."""


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    submission: str
    threat: str
    what: str
    n: int
    ours: int
    theirs: int
    only_ours: int
    only_theirs: int
    p: float

    @property
    def holds(self) -> bool:
        """Ours leaves at most one robust example more."""
        return self.ours <= self.theirs + 1

    @property
    def line(self) -> str:
        """The row as the page has it."""
        cells = [*astuple(self)[:-1], f"{self.p:.2f}", "yes" if self.holds else "NO"]
        return f"| {' | '.join(map(str, cells))} |"

    @classmethod
    def read(cls, line: str) -> Row:
        """From ``line`` again; the p-value is the rounded one."""
        submission, threat, what, *counts, p, _ = [cell.strip() for cell in line.strip("| ").split("|")]
        return cls(submission, threat, what, *map(int, counts), float(p))


def outcomes(root: Path, manifest: Manifest, submission: str, key: str) -> dict[int, bool]:
    """Robust or not by example, of the records that count."""
    found: dict[int, bool] = {}
    for candidate in manifest.candidates:
        if candidate.id != submission:
            continue
        for work in work_of(manifest, candidate):
            record = store.find_record(root, work.shard) if work.shard.task.key == key else None
            if record is not None and state(work, record) is State.DONE:
                found |= {row.index: row.robust for row in record.examples}
    return found


@cache
def newest(root: Path, submission: str, key: str, limit: int) -> dict[int, bool]:
    """Outcomes from whichever run of ``root`` holds the most of them, within the first ``limit`` examples."""
    best: dict[int, bool] = {}
    for manifest in store.read_manifests(root):
        found = outcomes(root, manifest, submission, key)
        best = max(best, {index: flag for index, flag in found.items() if index < limit}, key=len)
    return best


def together(root: Path, submission: str, threat: ThreatModel, limit: int) -> dict[int, bool]:
    """Robust under all four members alone, where all four have attacked."""
    alone = [newest(root, submission, f"{name}@{threat}", limit) for name in MEMBERS]
    return {index: all(found[index] for found in alone) for index in set.intersection(*map(set, alone))}


def compared(submission: str, threat: ThreatModel, what: str, mine: dict[int, bool], other: dict[int, bool]) -> Row:
    """The two sides on the examples that both have."""
    both = sorted(set(mine) & set(other))
    a, b = [mine[index] for index in both], [other[index] for index in both]
    broken = [(not x, not y) for x, y in zip(a, b, strict=True)]
    return Row(
        submission, str(threat), what, len(both), sum(a), sum(b),
        broken.count((True, False)), broken.count((False, True)), mcnemar(a, b),
    )  # fmt: skip


def table(ours: Path, theirs: Path, submissions: list[str], threats: list[ThreatModel], limit: int) -> list[Row]:
    """Every comparison that both folders hold records for."""
    rows: list[Row] = []
    for submission in submissions:
        for threat in threats:
            tasks = {**MEMBERS, CASCADE: TOGETHER[0]}
            *alone, cascade = (
                compared(submission, threat, label, *(newest(root, submission, f"{name}@{threat}", limit)
                         for root in (ours, theirs)))
                for name, label in tasks.items()
            )  # fmt: skip
            worst = compared(
                submission, threat, TOGETHER[1], *(together(root, submission, threat, limit) for root in (ours, theirs))
            )
            rows += [*alone, max(cascade, worst, key=lambda row: row.n)]
    return [row for row in rows if row.n]


def markdown(rows: list[Row]) -> str:
    """The page."""
    lines = [
        "# Parity with pyautoattack",
        "",
        "Examples that stay robust under our members of AutoAttack and under pyautoattack's, on the same images and",
        "networks. A member attacks every correctly classified image. *AutoAttack*: the four in a cascade, each on",
        "what the ones before it left; *all four*: what none of them broke by itself, the same question without the",
        "cascade's saving. Made by `python tests/parity.py --dataset cifar10`; the bound is at most one robust",
        "example more than the reference's.",
        "",
        "| submission | threat model | attack | n | ours robust | reference robust | broken by ours alone"
        " | by the reference alone | McNemar p | within the bound |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [row.line for row in rows]
    return "\n".join(lines) + "\n"


def merged(page: Path, rows: list[Row]) -> list[Row]:
    """``rows`` and those of ``page`` that have no newer one on as many images, submission by submission."""
    earlier = [line for line in page.read_text().splitlines() if line.startswith("| ")][1:] if page.exists() else []
    places: dict[tuple[str, str, str], Row] = {}
    for row in [*map(Row.read, earlier), *rows]:
        place = (row.submission, row.threat, row.what)
        if place not in places or row.n >= places[place].n:
            places[place] = row
    found = list(places.values())
    submissions, threats = ([getattr(row, name) for row in found] for name in ("submission", "threat"))
    attacks = [*MEMBERS.values(), *TOGETHER]
    return sorted(
        found, key=lambda row: (submissions.index(row.submission), threats.index(row.threat), attacks.index(row.what))
    )


def main() -> int:
    """Run the comparison; exit code 1 when a bound does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("submissions", nargs="*", default=ROBUST)
    parser.add_argument("--dataset", default="cifar10")
    parser.add_argument("--limit", type=int, default=512)
    parser.add_argument("--threat", action="append", default=[], help="NORM:EPS; default: Linf:8/255 and L2:0.5")
    parser.add_argument("--attack", action="append", default=[], help="a task of tests/parity.toml; default: members")
    parser.add_argument("--cascade", action="store_true", help="run the four as a cascade too")
    parser.add_argument("--results", type=Path, default=Path("parity"))
    parser.add_argument("--table-only", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("docs/parity.md"))
    given = parser.parse_args()
    names = given.threat or ["Linf:8/255", "L2:0.5"]
    threats = [ThreatModel.parse(*name.split(":")) for name in names]
    attacks = given.attack or ["clean", *MEMBERS, *(IN_CASCADE if given.cascade else ())]
    for implementation in () if given.table_only else ("own", "reference"):
        command = ["run", *given.submissions, "--suite", str(SUITE), "--dataset", given.dataset]
        command += ["--limit", str(given.limit), "--results", str(given.results / implementation)]
        command += [part for name in names for part in ("--threat", name)]
        command += [part for name in attacks for part in ("--attack", name)]
        code = harness([*command, "--implementation", implementation])
        if code:
            return code
    rows = table(given.results / "own", given.results / "reference", given.submissions, threats, given.limit)
    rows = merged(given.out, rows)
    given.out.write_text(markdown(rows))
    sys.stdout.write(markdown(rows))
    return 0 if rows and all(row.holds for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
