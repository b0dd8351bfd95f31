"""Records to boards: numbers computed by hand, the five reasons for no number, ranks, and several folders."""

import dataclasses

import pytest
from leaderboard_results import (
    AUTOATTACK,
    CLEAN,
    CORRECT,
    COST,
    ENVIRONMENT,
    FGSM,
    LINF,
    PGD,
    PGD100,
    QUICK,
    ROBUST,
    STANDARD,
    Folder,
    cascade,
    key,
    only_row,
)

from harness import store
from harness.errors import ResultsError
from harness.records import Status
from leaderboard import tables
from leaderboard.cells import State
from leaderboard.columns import GROUPS, columns, groups
from leaderboard.hardware import letter, machines, marks


@pytest.fixture
def folder(tmp_path) -> Folder:
    return Folder(tmp_path / "results")


def test_every_accuracy_of_a_complete_row(folder) -> None:
    folder.complete("a", CORRECT, ROBUST)
    row = only_row(folder.root)
    values = {name: cell.accuracy.value for name, cell in row.robust.items()}
    assert row.natural.accuracy.value == 6 / 8
    assert values == {
        key("fgsm"): 4 / 8,
        key("pgd-20"): 3 / 8,
        key("pgd-100-5"): 2 / 8,
        key("deepfool"): 3 / 8,
        key("apgd-ce"): 3 / 8,  # images 0 1 2
        key("apgd-t"): 2 / 8,  # 0 2
        key("fab-t"): 2 / 8,  # breaks nothing more
        key("square"): 1 / 8,  # 0
        key("autoattack"): 1 / 8,
        key("worst-case"): 0.0,  # image 0 falls to deepfool
    }
    consistent = {name: cell.accuracy.value for name, cell in row.consistency.items()}
    # The two images that are wrong to begin with keep their wrong class.
    assert consistent == {key("fgsm"): 6 / 8, key("pgd-20"): 5 / 8, key("pgd-100-5"): 4 / 8, key("deepfool"): 5 / 8}
    half = row.robust[key("fgsm")].accuracy
    assert (half.n, round(half.low, 4), round(half.high, 4)) == (8, 0.2152, 0.7848)
    assert row.rank == 1
    assert not row.tied
    assert row.verdict == "unchecked"


def test_accuracies_of_a_cascade_never_rise(folder) -> None:
    folder.complete("a", CORRECT, ROBUST)
    row = only_row(folder.root)
    values = [row.robust[task.key].accuracy.value for task in AUTOATTACK]
    assert values == sorted(values, reverse=True)


def test_per_class_accuracy_counts_the_images_of_a_class(tmp_path) -> None:
    folder = Folder(tmp_path, n=20, size=10)
    correct = [True] * 10 + [False] * 10
    folder.complete("a", correct, {"pgd-20": [False] * 3 + [True] * 17}, tasks=(CLEAN, PGD))
    row = only_row(tmp_path)
    assert {label: found.value for label, found in row.per_class(row.natural).items()} == dict.fromkeys(range(10), 0.5)
    worst = row.per_class(row.worst)
    assert [worst[label].value for label in range(10)] == [0, 0, 0] + [0.5] * 7
    assert all(found.n == 2 for found in worst.values())


def test_cost_is_that_of_the_first_span(folder) -> None:
    folder.complete("a", CORRECT, ROBUST)
    row = only_row(folder.root)
    assert row.cost.footprint == folder.footprint
    assert "Some Processor, cpu, 1 thread, float32, batch size 64" in machines([row])[0]


def test_autoattack_needs_its_four_members_in_order(folder) -> None:
    three = cascade("autoattack", [(task.name, task.attack, task.params) for task in AUTOATTACK[:3]])
    folder.complete("a", CORRECT, ROBUST, tasks=(CLEAN, *three))
    row = only_row(folder.root)
    assert row.robust[key("autoattack")].state is State.NOT_RUN
    assert row.robust[key("fab-t")].accuracy.value == 2 / 8
    assert row.worst.accuracy.value == 2 / 8


def test_a_lighter_cascade_is_never_called_autoattack(folder) -> None:
    folder.complete("a", CORRECT, ROBUST, tasks=QUICK)
    (board,) = tables.load([folder.root])
    assert key("autoattack") not in board.robust_keys
    assert [name.partition("@")[0] for name in board.robust_keys] == [
        "fgsm", "pgd-20", "deepfool", "apgd-ce", "apgd-t-3", "square-500", "worst-case",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("fill", "state", "text"),
    [
        (lambda f: None, State.NOT_RUN, ""),
        (lambda f: f.fill("a", PGD, CORRECT, only=[0]), State.PARTIAL, "4 of 8"),
        (lambda f: f.fill("a", PGD, failure=(Status.ERROR, "timeout", "took 3601 s")), State.FAILED, "timeout"),
        (lambda f: f.fill("a", PGD, failure=(Status.SKIPPED, "upstream", "needs x")), State.SKIPPED, "upstream"),
        (lambda f: f.fill("a", PGD, CORRECT, checkpoint="old"), State.STALE, "another checkpoint"),
        (lambda f: f.fill("a", PGD, CORRECT, source="old"), State.STALE, "other source code"),
        (lambda f: f.fill("a", PGD, CORRECT, data="old"), State.STALE, "other images"),
        (lambda f: f.fill("a", PGD, CORRECT, seed=7), State.STALE, "another seed"),
        (
            lambda f: f.fill("a", dataclasses.replace(PGD, params={**PGD.params, "steps": 10}), CORRECT),
            State.STALE,
            "another recipe",
        ),
        (
            lambda f: f.fill("a", dataclasses.replace(PGD, implementation="rampart-pgd-0"), CORRECT),
            State.STALE,
            "another recipe",
        ),
        (
            lambda f: (
                f.fill("a", PGD, CORRECT, only=[0]),
                f.fill("a", PGD, failure=(Status.ERROR, "died", "exit 1"), only=[1]),
            ),
            State.FAILED,
            "died",
        ),
        (
            lambda f: (f.fill("a", PGD, CORRECT, only=[0]), f.fill("a", PGD, CORRECT, checkpoint="old", only=[1])),
            State.PARTIAL,
            "4 of 8",
        ),
    ],
)
def test_a_cell_without_a_number_says_why(folder, fill, state, text) -> None:
    folder.ask("a", (CLEAN, FGSM, PGD))
    folder.fill("a", CLEAN, CORRECT)
    folder.fill("a", FGSM, CORRECT)
    fill(folder)
    row = only_row(folder.root)
    cell = row.robust[key("pgd-20")]
    assert (cell.state, cell.text, cell.accuracy) == (state, text, None)
    assert cell.detail
    assert row.worst.state is state
    assert row.worst.text == "needs pgd-20"
    assert row.rank is None
    assert row.reason == f"pgd-20 {cell.label}"
    assert row.robust[key("fgsm")].complete


def test_zero_is_a_number(folder) -> None:
    folder.complete("a", CORRECT, {"pgd-20": [False] * 8}, tasks=(CLEAN, PGD))
    row = only_row(folder.root)
    assert row.worst.state is State.NUMBER
    assert row.worst.accuracy.value == 0
    assert row.rank == 1


def test_a_damaged_file_is_not_run_and_one_with_missing_rows_failed(folder) -> None:
    folder.complete("a", CORRECT, {}, tasks=(CLEAN, FGSM, PGD))
    shard, _ = folder.works("a", FGSM)[0]
    store.record_path(folder.root, shard).write_bytes(b"not parquet")
    shard, _ = folder.works("a", PGD)[0]
    record = store.find_record(folder.root, shard)
    store.write_record(folder.root, dataclasses.replace(record, examples=record.examples[:2]))
    row = only_row(folder.root)
    assert row.robust[key("fgsm")].label == "partial: 4 of 8"
    assert row.robust[key("pgd-20")].label == "failed: damaged"


def test_labels_that_differ_between_tasks_are_not_believed(folder) -> None:
    folder.complete("a", CORRECT, {}, tasks=(CLEAN, PGD))
    shard, _ = folder.works("a", PGD)[0]
    record = store.find_record(folder.root, shard)
    moved = tuple(dataclasses.replace(row, label=(row.label + 1) % 10) for row in record.examples)
    store.write_record(folder.root, dataclasses.replace(record, examples=moved))
    assert only_row(folder.root).robust[key("pgd-20")].label == "failed: damaged"


def test_a_cascade_member_needs_the_ones_before_it(folder) -> None:
    folder.complete("a", CORRECT, ROBUST)
    shard, _ = folder.works("a", AUTOATTACK[1])[0]
    store.record_path(folder.root, shard).unlink()
    row = only_row(folder.root)
    assert row.robust[key("apgd-ce")].complete
    assert row.robust[key("apgd-t")].label == "partial: 4 of 8"
    for name in ("fab-t", "square", "autoattack"):
        assert row.robust[key(name)].label == "partial: needs apgd-t"


def test_a_submission_nobody_attacked_stands_on_the_boards_of_its_card(folder) -> None:
    folder.complete("a", CORRECT, {}, tasks=(CLEAN,))
    (board,) = tables.load([folder.root])
    assert board.threat == LINF
    assert board.rows[0].reason.startswith("worst-case not run")


@pytest.mark.parametrize(
    "make", [lambda root: None, lambda root: root.mkdir(), lambda root: (root / "runs").mkdir(parents=True)]
)
def test_a_folder_without_a_run_is_an_error(tmp_path, make) -> None:
    root = tmp_path / "results"
    make(root)
    with pytest.raises(ResultsError, match=r"results: expected .* run"):
        tables.load([root])


def test_columns_come_in_the_order_of_a_reader(folder) -> None:
    folder.complete("a", CORRECT, ROBUST)
    (board,) = tables.load([folder.root])
    found = columns(board)
    labels = [column.label for column in found if column.group in {"natural", "robust", "cascade", "headline"}]
    assert labels == ["clean", "fgsm", "pgd-20", "pgd-100-5", "deepfool", "apgd-ce", "apgd-t", "fab-t", "square",
                      "AutoAttack", "worst case", "best known (corrected)"]  # fmt: skip
    assert len({column.key for column in found}) == len(found)
    assert sum(count for _, _, count in groups(found)) == len(found)
    for column in found:
        assert column.group in GROUPS
        assert column.meaning.endswith(".")
        assert column.recipe
        assert column.unit


def test_the_recipe_of_a_column_holds_every_parameter_and_the_implementation(folder) -> None:
    folder.complete("a", CORRECT, ROBUST)
    (board,) = tables.load([folder.root])
    by_key = {column.key: column for column in columns(board)}
    recipe = by_key[f"robust:{PGD100.key}"].recipe
    assert recipe == "Linf, eps 8/255; loss ce, restarts 5, step_size 0.8/255, steps 100; rampart-pgd-1"
    assert "on the survivors of apgd-ce, apgd-t" in by_key[f"robust:{AUTOATTACK[2].key}"].recipe


def test_costs_measured_on_different_hardware_are_marked(folder) -> None:
    folder.complete("a", CORRECT, {}, tasks=(CLEAN, PGD, COST))
    folder.complete("b", CORRECT, {}, tasks=(CLEAN, PGD, COST))
    (board,) = tables.load([folder.root])
    assert marks(board.rows) == {}
    folder.environment = dataclasses.replace(ENVIRONMENT, hardware="Another Processor")
    folder.complete("c", CORRECT, {}, tasks=(CLEAN, PGD, COST))
    (board,) = tables.load([folder.root])
    assert sorted(marks(board.rows).items()) == [("a", "a"), ("b", "a"), ("c", "b")]
    by_key = {column.key: column for column in columns(board)}
    row = next(row for row in board.rows if row.id == "c")
    assert by_key["throughput-forward"].show(row).mark == "b"
    assert by_key["parameters"].show(row).mark == ""


def test_letters_go_on_after_z() -> None:
    assert [letter(place) for place in (0, 25, 26, 51, 52)] == ["a", "z", "aa", "az", "ba"]


def test_every_task_of_a_suite_has_a_column(folder) -> None:
    folder.complete("a", CORRECT, ROBUST)
    (board,) = tables.load([folder.root])
    assert set(board.tasks) == {task.key for task in STANDARD if task.kind == "attack"}
