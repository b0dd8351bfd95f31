"""Ours beside pyautoattack, member by member and as a cascade: ``python tests/parity.py`` writes docs/parity.md.

Runs what is not there yet (stop it at any time; the same command goes on) and then makes the table from the records.
The exact test images are needed: ``--dataset cifar10`` takes torchvision's files, ``--dataset npz:FILE`` any others.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

from harness import store
from harness.cli import main as harness
from harness.metrics import mcnemar
from harness.plan import State, state, work_of
from harness.records import Manifest, ThreatModel

SUITE = Path(__file__).with_name("parity.toml")
MEMBERS = {"apgd-ce": "APGD-CE", "apgd-t-alone": "APGD-T", "fab-t-alone": "FAB-T", "square-alone": "Square"}
"""Tasks in which a member attacks every correctly classified image; the first of a cascade always does."""
CASCADE = "square"


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


def newest(root: Path, submission: str, key: str, limit: int) -> dict[int, bool]:
    """Outcomes from whichever run of ``root`` holds the most of them, within the first ``limit`` examples."""
    best: dict[int, bool] = {}
    for manifest in store.read_manifests(root):
        found = outcomes(root, manifest, submission, key)
        best = max(best, {index: flag for index, flag in found.items() if index < limit}, key=len)
    return best


def table(ours: Path, theirs: Path, submissions: list[str], threats: list[ThreatModel], limit: int) -> list[Row]:
    """Every comparison that both folders hold records for."""
    rows: list[Row] = []
    for submission in submissions:
        for threat in threats:
            for name, label in {**MEMBERS, CASCADE: "AutoAttack"}.items():
                key = f"{name}@{threat}"
                mine, other = newest(ours, submission, key, limit), newest(theirs, submission, key, limit)
                both = sorted(set(mine) & set(other))
                if not both:
                    continue
                a, b = [mine[index] for index in both], [other[index] for index in both]
                rows.append(
                    Row(
                        submission, str(threat), label, len(both), sum(a), sum(b),
                        sum(y and not x for x, y in zip(a, b, strict=True)),
                        sum(x and not y for x, y in zip(a, b, strict=True)), mcnemar(a, b),
                    )
                )  # fmt: skip
    return rows


def markdown(rows: list[Row]) -> str:
    """The page."""
    lines = [
        "# Parity with pyautoattack",
        "",
        "Examples that stay robust under our members of AutoAttack and under pyautoattack's, on the same images and",
        "networks. *Alone*: the member attacks every correctly classified image; *AutoAttack*: the four in a cascade.",
        "Made by `python tests/parity.py --dataset cifar10`; the bound is at most one robust example more than the",
        "reference's.",
        "",
        "| submission | threat model | attack | n | ours robust | reference robust | broken by ours alone"
        " | by the reference alone | McNemar p | within the bound |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.submission} | {row.threat} | {row.what} | {row.n} | {row.ours} | {row.theirs} | {row.only_ours} "
        f"| {row.only_theirs} | {row.p:.2f} | {'yes' if row.holds else 'NO'} |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run the comparison; exit code 1 when a bound does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("submissions", nargs="*", default=["fgsm-rs-1222", "fgsm-rs-1122"])
    parser.add_argument("--dataset", default="cifar10")
    parser.add_argument("--limit", type=int, default=512)
    parser.add_argument("--threat", action="append", default=[], help="NORM:EPS; default: Linf:8/255 and L2:0.5")
    parser.add_argument("--attack", action="append", default=[], help="a task of tests/parity.toml; default: all")
    parser.add_argument("--results", type=Path, default=Path("parity"))
    parser.add_argument("--table-only", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("docs/parity.md"))
    given = parser.parse_args()
    names = given.threat or ["Linf:8/255", "L2:0.5"]
    threats = [ThreatModel.parse(*name.split(":")) for name in names]
    for implementation in () if given.table_only else ("own", "reference"):
        command = ["run", *given.submissions, "--suite", str(SUITE), "--dataset", given.dataset]
        command += ["--limit", str(given.limit), "--results", str(given.results / implementation)]
        command += [part for name in names for part in ("--threat", name)]
        command += [part for name in given.attack for part in ("--attack", name)]
        code = harness([*command, "--implementation", implementation])
        if code:
            return code
    rows = table(given.results / "own", given.results / "reference", given.submissions, threats, given.limit)
    given.out.write_text(markdown(rows))
    sys.stdout.write(markdown(rows))
    return 0 if rows and all(row.holds for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
