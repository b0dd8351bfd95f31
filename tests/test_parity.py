"""The comparison with pyautoattack: what its table says of records, and that the command runs."""

import re
import shlex
from pathlib import Path

import parity
import pytest

from harness.records import ThreatModel

OURS, THEIRS = Path("ours"), Path("theirs")
THREAT = ThreatModel("Linf", 8 / 255)


@pytest.fixture
def outcomes(monkeypatch):
    """``outcomes[root, task]``: robust or not by example, where a test puts it."""
    known: dict[tuple[Path, str], dict[int, bool]] = {}
    monkeypatch.setattr(
        parity, "newest", lambda root, submission, key, limit: known.get((root, key.partition("@")[0]), {})
    )
    return known


def rows(limit: int = 4) -> dict[str, parity.Row]:
    return {row.what: row for row in parity.table(OURS, THEIRS, ["model"], [THREAT], limit)}


def test_a_member_is_compared_on_the_examples_that_both_sides_have(outcomes) -> None:
    outcomes[OURS, "apgd-ce"] = {0: True, 1: False, 2: False, 3: True}
    outcomes[THEIRS, "apgd-ce"] = {0: True, 1: True, 2: True}
    row = rows()["APGD-CE"]
    assert (row.n, row.ours, row.theirs, row.only_ours, row.only_theirs, row.holds) == (3, 1, 3, 2, 0, True)


@pytest.mark.parametrize(("more", "holds"), [(1, True), (2, False)])
def test_one_robust_example_more_is_the_bound(outcomes, more, holds) -> None:
    outcomes[OURS, "square-alone"] = {index: index < 2 + more for index in range(4)}
    outcomes[THEIRS, "square-alone"] = {index: index < 2 for index in range(4)}
    row = rows()["Square"]
    assert (row.only_ours, row.only_theirs, row.holds) == (0, more, holds)


def test_all_four_is_what_no_member_broke_and_needs_all_of_them(outcomes) -> None:
    for root in (OURS, THEIRS):
        for at, name in enumerate(parity.MEMBERS):
            outcomes[root, name] = {index: index != at for index in range(6)}
    row = rows()["all four"]
    assert (row.n, row.ours, row.theirs) == (6, 2, 2)
    del outcomes[THEIRS, "fab-t-alone"]
    assert "all four" not in rows()


@pytest.mark.parametrize(("attacked", "what"), [(3, "all four"), (4, "AutoAttack"), (5, "AutoAttack")])
def test_the_larger_of_the_cascade_and_the_members_is_shown(outcomes, attacked, what) -> None:
    for root in (OURS, THEIRS):
        for name in parity.MEMBERS:
            outcomes[root, name] = dict.fromkeys(range(4), True)
        outcomes[root, parity.CASCADE] = dict.fromkeys(range(attacked), True)
    assert list(rows()) == [*parity.MEMBERS.values(), what]


def test_the_default_is_what_autoattack_leaves_something_of() -> None:
    published = Path(parity.__file__).parents[1] / "leaderboard" / "results"
    limit = 10**6
    left = {
        name: parity.newest(published, name, "square@Linf-8/255", limit) for name in (*parity.ROBUST, *parity.FALLEN)
    }
    assert all(left.values())
    assert {name for name, found in left.items() if any(found.values())} == set(parity.ROBUST)


def test_the_command_of_the_page_runs_both_sides_and_writes_the_table(tmp_path, monkeypatch) -> None:
    page = (Path(parity.__file__).parents[1] / "docs" / "speed.md").read_text()
    (line,) = re.findall(r"^python tests/(parity\.py .*--limit 3 .*)$", page, re.M)
    words = shlex.split(line)
    words[words.index("--results") + 1], words[words.index("--out") + 1] = str(tmp_path / "r"), str(tmp_path / "t.md")
    monkeypatch.setattr("sys.argv", words)
    assert parity.main() == 0
    lines = (tmp_path / "t.md").read_text().splitlines()
    assert lines[-1].startswith("| fgsm-rs-1122 | Linf-8/255 | APGD-CE | 3 |")


def test_rows_of_an_earlier_page_stay_unless_there_are_newer_ones(tmp_path) -> None:
    page = tmp_path / "parity.md"

    def row(submission, what, n, ours=1):
        return parity.Row(submission, "Linf-8/255", what, n, ours, 2, 1, 0, 0.25)

    assert parity.merged(page, []) == []
    earlier = [row("a", "APGD-CE", 512), row("a", "Square", 512), row("b", "Square", 1000)]
    page.write_text(parity.markdown(earlier))
    assert parity.merged(page, []) == earlier
    newer = [row("a", "Square", 512, ours=0), row("a", "FAB-T", 512), row("b", "Square", 100)]
    assert parity.merged(page, newer) == [earlier[0], newer[1], newer[0], earlier[2]], "members in their order"
