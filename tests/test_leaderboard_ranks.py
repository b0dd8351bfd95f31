"""Who is ranked, who shares a rank, and which records of several runs and folders count."""

import dataclasses

import pytest
from leaderboard_results import (
    CLEAN,
    CORRECT,
    COST,
    DEEPFOOL,
    FGSM,
    LIGHT,
    PGD,
    ROBUST,
    Folder,
    attack,
    bits,
    card_of,
    key,
    only_row,
)

from harness.records import Status, ThreatModel
from leaderboard import tables
from leaderboard.cells import State


@pytest.fixture
def folder(tmp_path) -> Folder:
    return Folder(tmp_path / "results")


def test_ranks_are_shared_by_rows_that_do_not_differ_significantly(folder) -> None:
    # Against the best row 5 images differ for "c" (p = 2/2**5 = 0.0625) and 6 for "b" (p = 2/2**6 = 0.03125).
    for name, outcome in {"a": "11111111", "b": "11000000", "c": "11100000"}.items():
        folder.complete(name, [True] * 8, {"pgd-20": bits(outcome)}, tasks=(CLEAN, PGD))
    (board,) = tables.load([folder.root])
    assert [(row.id, row.rank, row.tied) for row in board.rows] == [("a", 1, True), ("c", 1, True), ("b", 3, False)]


def test_incomplete_rows_follow_without_a_rank_and_are_not_dropped(folder) -> None:
    folder.complete("whole", CORRECT, {"pgd-20": bits("10000000")}, tasks=(CLEAN, PGD))
    folder.ask("half", (CLEAN, PGD))
    folder.fill("half", CLEAN, [True] * 8)
    folder.fill("half", PGD, [True] * 8, only=[0])
    folder.ask("nothing", (CLEAN, PGD))
    (board,) = tables.load([folder.root])
    assert [(row.id, row.rank) for row in board.rows] == [("whole", 1), ("half", None), ("nothing", None)]


def test_a_failed_cost_does_not_take_the_rank_away(folder) -> None:
    folder.ask("a", (CLEAN, PGD, COST))
    folder.fill("a", CLEAN, CORRECT)
    folder.fill("a", PGD, CORRECT)
    folder.fill("a", COST, failure=(Status.ERROR, "memory", "too much"))
    row = only_row(folder.root)
    assert row.rank == 1
    assert row.cost.state is State.FAILED


def test_a_row_under_fewer_attacks_is_not_ranked_and_one_under_more_is(folder) -> None:
    for name in ("a", "b"):
        folder.complete(name, [True] * 8, {}, tasks=(CLEAN, FGSM, PGD))
    folder.complete("fewer", [True] * 8, {}, tasks=(CLEAN, FGSM))
    folder.complete("more", [True] * 8, {"deepfool": [False] * 8}, tasks=(CLEAN, FGSM, PGD, DEEPFOOL))
    other = dataclasses.replace(PGD, params={**PGD.params, "steps": 5})
    folder.complete("weaker", [True] * 8, {}, tasks=(CLEAN, FGSM, other))
    (board,) = tables.load([folder.root])
    found = {row.id: (row.rank, row.reason) for row in board.rows}
    assert found == {
        "a": (1, ""),
        "b": (1, ""),
        "more": (3, ""),
        "fewer": (None, "not run: pgd-20"),
        "weaker": (None, "other parameters than the rest of the board: pgd-20"),
    }
    assert len(board.tasks[PGD.key]) == 2


def test_a_row_measured_on_other_images_is_not_ranked(folder) -> None:
    for name in ("a", "b"):
        folder.complete(name, [True] * 8, {}, tasks=(CLEAN, PGD))
    folder.images = "something else"
    folder.complete("c", [True] * 8, {}, tasks=(CLEAN, PGD))
    (board,) = tables.load([folder.root])
    assert board.rows[-1].id == "c"
    assert board.rows[-1].reason == "measured on other images than the rest of the board"


def test_one_board_for_each_data_set_size_and_threat_model(folder) -> None:
    l2 = ThreatModel("L2", "0.5")
    close = ThreatModel("Linf", "0.031")
    tasks = (CLEAN, PGD, attack("pgd-20", "pgd", l2), attack("pgd-20", "pgd", close))
    folder.complete("a", CORRECT, {}, tasks=tasks)
    folder.n = 4
    folder.complete("a", CORRECT, {}, tasks=(CLEAN, PGD))
    boards = tables.load([folder.root])
    assert {(board.dataset, board.n, str(board.threat)) for board in boards} == {
        ("cifar10", 8, "Linf-8/255"),
        ("cifar10", 8, "L2-0.5"),
        ("cifar10", 8, "Linf-0.031"),
        ("cifar10", 4, "Linf-8/255"),
    }
    assert len({board.slug for board in boards}) == 4
    assert all(set(board.tasks) == {f"pgd-20@{board.threat}"} for board in boards)


def test_runs_of_the_same_identity_are_joined_and_the_newest_wins(folder) -> None:
    folder.complete("a", CORRECT, ROBUST, tasks=(CLEAN, FGSM))
    folder.created = "2025-02-01T00:00:00+00:00"
    newer = card_of("a", title="Newer title")
    folder.complete("a", CORRECT, ROBUST, tasks=(PGD,), card=newer)
    row = only_row(folder.root)
    assert set(row.attacks) == {FGSM.key, PGD.key}
    assert row.natural.complete
    assert row.card["title"] == "Newer title"
    assert len(row.entry.runs) == 2

    folder.created = "2025-03-01T00:00:00+00:00"
    folder.ask("a", (CLEAN, PGD), checkpoint="another")
    row = only_row(folder.root)
    assert set(row.attacks) == {PGD.key}
    assert row.natural.label == "stale: another checkpoint"
    assert len(row.entry.runs) == 1


def test_two_suites_that_share_a_cascade_member_keep_both_cascades(folder) -> None:
    folder.complete("a", CORRECT, ROBUST)
    folder.created = "2025-02-01T00:00:00+00:00"
    folder.complete("a", CORRECT, ROBUST, tasks=(CLEAN, *LIGHT))
    row = only_row(folder.root)
    assert row.robust[key("autoattack")].accuracy.value == 1 / 8
    assert {name for name, _ in row.entry.cascades} == {"autoattack", "autoattack-light"}


def test_of_two_folders_the_one_with_more_numbers_wins_then_the_newer(tmp_path) -> None:
    first, second, third = (Folder(tmp_path / name) for name in ("first", "second", "third"))
    first.complete("a", CORRECT, {"pgd-20": bits("10000000")}, tasks=(CLEAN, PGD))
    second.created = "2025-06-01T00:00:00+00:00"
    second.ask("a", (CLEAN, PGD))
    second.complete("b", CORRECT, {}, tasks=(CLEAN, PGD))
    (board,) = tables.load([first.root, second.root])
    assert {row.id: row.entry.root.name for row in board.rows} == {"a": "first", "b": "second"}
    third.created = "2025-07-01T00:00:00+00:00"
    third.complete("a", CORRECT, {"pgd-20": bits("11000000")}, tasks=(CLEAN, PGD))
    for roots in ([first.root, third.root], [third.root, first.root]):
        (board,) = tables.load(roots)
        assert board.rows[0].worst.accuracy.value == 2 / 8
