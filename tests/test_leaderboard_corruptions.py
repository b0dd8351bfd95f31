"""Corruption accuracies on the board: cells, means and exports of known outcomes, sources kept apart."""

import csv
import io
import json
from dataclasses import replace

import pytest
from leaderboard_results import CLEAN, ENVIRONMENT, FGSM, Folder, bits, card_of

from harness import corruptions as made
from harness import plan, store
from harness.metrics import corruption_accuracy, proportion
from harness.records import Cost, Example, Failure, Identity, Record, Shard, Status, Task
from leaderboard import corruptions, page, tables
from leaderboard.cells import State
from leaderboard.export import to_csv, to_json
from leaderboard.widgets import corruptions as widget

NATURAL = bits("1111 1100")
OFFICIAL, DRAWN = "cifar10-c", "cifar10-c-generated"


def cell(name, severity, source=OFFICIAL):
    params = {"corruption": name, "severity": severity, "dataset": source}
    return Task(f"{name}-{severity}", "corruption", params=params, implementation=f"by-{source}")


def all_cells(source=OFFICIAL, names=made.CORRUPTIONS):
    return tuple(cell(name, severity, source) for name in names for severity in made.SEVERITIES)


class Corrupted(Folder):
    """A results folder that corruption tasks can be filled in."""

    def right(self, name, task, right, *, failure=None, **identity):
        manifest = self._asked[name]
        candidate = manifest.candidates[0]
        for start, stop, data in plan.task_spans(manifest, task):
            rows = tuple(
                Example(i, i % 10, i % 10 if NATURAL[i] else 9, i % 10 if right[i] else 9, True, 0.1, 1.0, 0.5, 3, 0)
                for i in range(start, stop)
            )
            record = Record(
                Shard(name, self.dataset, task, start, stop),
                Identity(candidate.checkpoint, candidate.source, data, manifest.seed), Status.OK, ENVIRONMENT,
                Cost(1.0, 3 * len(rows), 0, 64), rows,
            )  # fmt: skip
            if failure:
                record = replace(record, status=Status.ERROR, examples=(), failure=Failure("died", failure))
            store.write_record(self.root, replace(record, identity=replace(record.identity, **identity)))


def flags_of(task):
    """Outcomes that differ from cell to cell; the last image, which is wrong as it is, can be right corrupted."""
    severity = task.params["severity"]
    good = 8 - severity - (task.params["corruption"] in {"fog", "snow"})
    return [i >= 8 - good for i in range(8)]


def complete(tmp_path, *sources, names=made.CORRUPTIONS):
    folder = Corrupted(tmp_path)
    tasks = tuple(task for source in sources for task in all_cells(source, names))
    folder.ask("net", (CLEAN, *tasks))
    folder.fill("net", CLEAN, NATURAL)
    for task in tasks:
        folder.right("net", task, flags_of(task))
    return folder


def only_row(tmp_path):
    (board,) = tables.load([tmp_path])
    (row,) = board.rows
    return board, row


def test_the_names_are_those_of_the_generator():
    assert corruptions.CORRUPTIONS == made.CORRUPTIONS and corruptions.EXTRA == made.EXTRA_CORRUPTIONS
    assert corruptions.SEVERITIES == made.SEVERITIES


def test_cells_and_mean_are_what_the_records_say(tmp_path):
    complete(tmp_path, OFFICIAL)
    _, row = only_row(tmp_path)
    (found,) = row.entry.corruptions.values()
    assert found.source == OFFICIAL and found.official and found.implementations == ("by-cifar10-c",)
    assert found.names == made.CORRUPTIONS
    for task in all_cells():
        name, severity = task.params["corruption"], task.params["severity"]
        assert found.cells[name][severity].accuracy == proportion(sum(flags_of(task)), 8)
    # Severity s leaves 8 - s of 8 right, one fewer under fog and snow.
    expected = (13 * (7 + 6 + 5 + 4 + 3) + 2 * (6 + 5 + 4 + 3 + 2)) / (75 * 8)
    assert found.mean.accuracy.value == pytest.approx(expected) and found.mean.accuracy.n == 8
    assert found.error.value == pytest.approx(1 - expected)
    assert (found.error.low, found.error.high) == pytest.approx(
        (1 - found.mean.accuracy.high, 1 - found.mean.accuracy.low)
    )
    assert found.relative == pytest.approx(expected / 0.75)
    assert found.row_mean("fog").accuracy.value == pytest.approx(20 / 40)
    assert found.mean.accuracy == corruption_accuracy(
        {name: {s: flags_of(cell(name, s)) for s in made.SEVERITIES} for name in made.CORRUPTIONS}
    )


def test_the_held_out_four_are_shown_and_not_averaged(tmp_path):
    complete(tmp_path, OFFICIAL, names=(*made.CORRUPTIONS, *made.EXTRA_CORRUPTIONS))
    _, row = only_row(tmp_path)
    (found,) = row.entry.corruptions.values()
    complete(tmp_path / "other", OFFICIAL)
    _, without = only_row(tmp_path / "other")
    assert found.mean == without.entry.corruptions[OFFICIAL].mean and len(found.names) == 19


def test_the_two_sources_are_kept_apart(tmp_path):
    complete(tmp_path, DRAWN, OFFICIAL)
    _, row = only_row(tmp_path)
    assert list(row.entry.corruptions) == [OFFICIAL, DRAWN]
    assert [item.official for item in row.entry.corruptions.values()] == [True, False]
    assert row.entry.corruptions[DRAWN].implementations == ("by-cifar10-c-generated",)


def test_a_mean_with_a_hole_is_no_number_and_says_which(tmp_path):
    folder = complete(tmp_path, OFFICIAL)
    folder.right("net", cell("frost", 2), [True] * 8, failure="the process died")
    folder.right("net", cell("fog", 1), [True] * 8, checkpoint="another")
    _, row = only_row(tmp_path)
    found = row.entry.corruptions[OFFICIAL]
    assert found.cells["frost"][2].state is State.FAILED and found.cells["fog"][1].state is State.STALE
    assert found.mean.state is State.FAILED and found.mean.text == "needs frost-2"
    assert (found.error, found.relative) == (None, None)
    assert found.row_mean("fog").state is State.STALE and found.row_mean("snow").complete


def test_a_suite_of_one_corruption_has_no_mean(tmp_path):
    complete(tmp_path, OFFICIAL, names=("fog",))
    _, row = only_row(tmp_path)
    found = row.entry.corruptions[OFFICIAL]
    assert found.mean.state is State.NOT_RUN and "gaussian_noise at severity 1" in found.mean.detail
    assert found.row_mean("fog").complete


def test_a_run_without_corruptions_has_none(tmp_path):
    folder = Folder(tmp_path)
    folder.complete("net", NATURAL, {}, tasks=(CLEAN, FGSM))
    board, row = only_row(tmp_path)
    assert row.entry.corruptions == {} and widget.build(board, row) is None
    assert json.loads(to_json([board]))["boards"][0]["rows"][0]["corruptions"] == {}


def test_json_holds_every_cell_under_its_usual_name(tmp_path):
    folder = complete(tmp_path, OFFICIAL)
    folder.right("net", cell("jpeg_compression", 5), [True] * 8, failure="gone")
    board, _ = only_row(tmp_path)
    found = json.loads(to_json([board]))["boards"][0]["rows"][0]["corruptions"]
    assert set(found) == {OFFICIAL}
    item = found[OFFICIAL]
    assert set(item) == {
        "official",
        "images_by",
        "mean_accuracy",
        "mean_error",
        "relative_robustness",
        "cells",
        "states",
    }
    assert list(item["cells"]) == list(made.CORRUPTIONS)
    assert item["cells"]["gaussian_noise"]["1"]["value"] == 7 / 8 and set(item["cells"]["fog"]) == set("12345")
    assert item["cells"]["jpeg_compression"]["5"] is None and item["mean_accuracy"] is None
    assert item["states"] == {"jpeg_compression-5": "failed: died"}


def test_csv_has_a_column_for_every_cell(tmp_path):
    complete(tmp_path, OFFICIAL)
    (line,) = csv.DictReader(io.StringIO(to_csv(tables.load([tmp_path]))))
    for task in all_cells():
        column = f"{OFFICIAL}_{task.params['corruption']}_{task.params['severity']}"
        expected = proportion(sum(flags_of(task)), 8)
        assert float(line[column]) == expected.value and float(line[f"{column}_low"]) == pytest.approx(expected.low)
    assert float(line["cifar10-c_mean"]) + float(line["cifar10-c_mean_error"]) == pytest.approx(1)
    assert float(line["cifar10-c_relative_robustness"]) == pytest.approx(float(line["cifar10-c_mean"]) / 0.75)


def test_the_table_of_a_submission(tmp_path):
    complete(tmp_path, OFFICIAL, DRAWN, names=(*made.CORRUPTIONS, *made.EXTRA_CORRUPTIONS))
    board, row = only_row(tmp_path)
    view = widget.build(board, row)
    first, second = view["benchmarks"]
    assert (first["official"], second["official"]) == (True, False)
    lines = first["lines"]
    assert [line["name"] for line in lines] == [*made.CORRUPTIONS, *made.EXTRA_CORRUPTIONS]
    assert [line["kind"] for line in lines if line["first"]] == ["noise", "blur", "weather", "digital", "held out"]
    assert [line["averaged"] for line in lines] == [True] * 15 + [False] * 4
    assert [shown.main for shown in lines[0]["cells"]] == ["87.5", "75.0", "62.5", "50.0", "37.5"]
    assert lines[0]["cells"][0].heat > lines[0]["cells"][4].heat and lines[0]["cells"][0].small
    assert [name for name, _ in first["facts"]] == [
        "Mean corruption accuracy",
        "Mean corruption error",
        "Relative robustness",
    ]


def test_the_page_says_in_text_what_the_shades_say(tmp_path):
    folder = complete(tmp_path / "results", OFFICIAL, DRAWN)
    folder.right("net", cell("fog", 3), [True] * 8, failure="<b>boom</b>")
    page.build(tables.load([tmp_path / "results"]), tmp_path / "site")
    (text,) = [path.read_text() for path in (tmp_path / "site" / "boards").glob("*/net.html")]
    assert text.count("<code>gaussian_noise</code>") >= 2 and "drawn corruptions" in text
    assert "<b>boom" not in text and "needs fog-3" in text and '<span class="value">87.5</span>' in text
    index = (tmp_path / "site" / "index.html").read_text()
    assert "corruptions (mean)" in index and "corruptions, drawn (mean)" in index


def test_the_board_has_one_column_for_each_source(tmp_path):
    from leaderboard.columns import columns

    complete(tmp_path, OFFICIAL)
    folder = Corrupted(tmp_path)
    folder.ask("drawn", (CLEAN, *all_cells(DRAWN)), card=card_of("drawn"))
    folder.fill("drawn", CLEAN, NATURAL)
    for task in all_cells(DRAWN):
        folder.right("drawn", task, [True] * 8)
    (board,) = tables.load([tmp_path])
    found = {column.key: column for column in columns(board) if column.group == "corruptions"}
    assert list(found) == [f"corruptions:{OFFICIAL}", f"corruptions:{DRAWN}"]
    shown = {row.id: [column.show(row) for column in found.values()] for row in board.rows}
    assert shown["net"][0].sort == pytest.approx(0.6083, abs=1e-4) and shown["net"][1].state == "not run"
    assert shown["drawn"][0].state == "not run" and shown["drawn"][1].main == "100.0"
