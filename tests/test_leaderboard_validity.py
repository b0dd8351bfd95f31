"""Validity on the board: verdicts, corrected numbers, flags, sections, ranks and exports, for chosen evidence."""

import dataclasses
import html
import json
import math
import re

import pytest
from leaderboard_judged import PASS, entry_of, finding, judged, with_judgements
from leaderboard_results import AUTOATTACK, CLEAN, COST, FGSM, LINF, PGD, Folder, probe

from harness.checks import CHECKS
from harness.checks.verdict import WORDS
from leaderboard import page, tables
from leaderboard.cells import State
from leaderboard.columns import CORRECTED, columns
from leaderboard.export import to_csv, to_json, to_latex
from leaderboard.validity import FINDINGS, MEANINGS, TITLES, badge, check_order
from leaderboard.widgets.validity import build as validity
from leaderboard.widgets.validity import metric
from leaderboard.widgets.waterfall import build as waterfall

N = 40
AA, WORST = "autoattack@Linf-8/255", "worst-case@Linf-8/255"
TASKS = (CLEAN, FGSM, PGD, *AUTOATTACK, COST)
NAMES = ("sound", "noted", "suspect", "over", "random", "blocked", "silent", "partly", "collapsed")


def first(count: int, n: int = N) -> list[bool]:
    return [row < count for row in range(n)]


def hits(*rows: int) -> list[bool]:
    return [row in rows for row in range(N)]


@pytest.fixture(scope="module")
def board(tmp_path_factory):
    folder = Folder(tmp_path_factory.mktemp("results"), n=N, size=20)
    for name in NAMES:
        robust = {"fgsm": first(22), "pgd-20": first(21), "square": first(20)}
        if name == "collapsed":
            robust = {"fgsm": first(36), **{task.name: first(0) for task in (PGD, *AUTOATTACK)}}
        folder.complete(name, first(38), robust, tasks=TASKS)
    (plain,) = tables.load([folder.root])

    def made(name, *findings, **more):
        return judged(entry_of(plain, name), LINF, findings or (PASS,), **more)

    return with_judgements(plain, {
        "sound": made("sound"),
        "noted": made("noted", PASS, finding("C2", "protocol", "warn", says="It draws a number.")),
        "suspect": made("suspect", PASS, finding("G3", "symptom", "fail", AA, says="Cosines near zero.")),
        "over": made("over", finding("A8", "witness", "fail", AA, says="Its base fell.", witnesses=8.0, gap_pp=20.0),
                     witnessed={"a8-transfer": hits(0, 1, 2, 3, 4, 5, 6, 7), "a7-random": hits(7, 8, 30)}),
        "random": made("random", finding("C2", "protocol", "fail", says="It answers at random.")),
        "blocked": made("blocked", finding("A10", "existence", "fail", AA, says="Found 0 of 8.", success=math.nan)),
        "partly": made("partly", PASS, finding("A1", "existence", "unknown", says="Not checked: it was not run."),
                       finding("C2-EOT", "witness", "not-applicable", says="Not applicable: answers repeat.")),
        "collapsed": made("collapsed", finding("A3", "symptom", "fail", FGSM.key, distorted=0.79, gap_pp=90.0),
                          finding("A3", "witness", "fail", FGSM.key, witnesses=36.0)),
    })  # fmt: skip


@pytest.fixture(scope="module")
def site(board, tmp_path_factory):
    return page.build([board], tmp_path_factory.mktemp("out") / "site").parent


def row_of(board, name):
    return next(row for row in board.rows if row.id == name)


def line_of(site, name) -> str:
    source = (site / "index.html").read_text()
    return next(row for row in re.findall(r'<tr class="row".*?</tr>', source, re.S) if f">{name}</a>" in row)


def text_of(source: str) -> str:
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", source))).strip()


def test_every_verdict_is_on_the_board(board) -> None:
    assert {row.id: row.verdict for row in board.rows} == {
        "sound": "verified", "noted": "verified-with-note", "suspect": "suspect", "over": "overestimated",
        "random": "protocol", "blocked": "attack-invalid", "silent": "unchecked", "partly": "unchecked",
        "collapsed": "verified-with-note",
    }  # fmt: skip
    assert {row.verdict for row in board.rows} == set(WORDS) == set(TITLES) == set(MEANINGS)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("sound", "VERIFIED 1/1"),
        ("noted", "VERIFIED with note 1/2"),
        ("suspect", "SUSPECT 1"),
        ("over", "OVERESTIMATED −22.5 pp"),
        ("random", "PROTOCOL: stochastic"),
        ("blocked", "ATTACK-INVALID"),
        ("silent", "UNCHECKED"),
        ("partly", "UNCHECKED"),
    ],
)
def test_a_badge_is_a_word_with_its_numbers_and_a_reason(board, site, name, text) -> None:
    row = row_of(board, name)
    assert row.badge.text == text
    assert row.badge.says
    line = line_of(site, name)
    assert f'<span class="verdict verdict-{row.verdict}"' in line
    assert text in text_of(line)
    cell = re.search(r'<td class="g-headline verdicts".*?</td>', line, re.S)[0]
    assert '<svg class="shape"' in cell  # a shape of its own beside the word and the colour
    assert f'data-sort="{WORDS.index(row.verdict)}"' in cell


def test_every_verdict_has_a_shape_of_its_own(site) -> None:
    source = (site / "how-to-read.html").read_text()
    shapes = dict(
        re.findall(r'<span class="verdict verdict-([a-z-]+)">\s*<svg class="shape"[^>]*>(.*?)</svg>', source, re.S)
    )
    assert set(shapes) == set(WORDS)
    assert len(set(shapes.values())) == len(WORDS)


def test_unchecked_never_looks_like_a_pass(board, site) -> None:
    for name in ("silent", "partly"):
        line = line_of(site, name)
        assert "verdict-verified" not in line
        assert "VERIFIED" not in text_of(line)
        assert badge(row_of(board, name).judgement).word == "unchecked"
    assert row_of(board, "silent").corrected.state is State.NOT_RUN
    assert "not run" in text_of(line_of(site, "silent"))


def test_the_corrected_number_is_the_union_of_all_witnesses(board) -> None:
    row = row_of(board, "over")
    assert row.worst.accuracy.value == 20 / N
    # Eight fall to one probe and one more to another; image 30 was not robust to begin with.
    assert row.corrected.accuracy.value == 11 / N
    assert row.judgement.verdict.corrected == row.corrected.accuracy
    assert row_of(board, "sound").corrected.accuracy.value == 20 / N
    assert row_of(board, "collapsed").corrected.accuracy.value == 0


def test_a_replaced_claim_is_struck_and_one_without_a_working_attack_is_a_bound(board, site) -> None:
    shown = {row.id: CORRECTED.show(row) for row in board.rows}
    assert (shown["over"].struck, shown["over"].main, shown["over"].sort) == ("50.0", "27.5", 11 / N)
    assert (shown["blocked"].struck, shown["blocked"].main) == ("50.0", "≤ 50.0")
    assert {name for name, cell in shown.items() if cell.struck} == {"over", "blocked"}
    assert "<s>50.0</s>" in line_of(site, "over")
    assert "claimed 50.0 , corrected to → 27.5" in text_of(line_of(site, "over"))
    assert "true number may be anything" in shown["blocked"].hover


def test_rows_are_ranked_by_the_corrected_number_and_broken_protocols_stand_apart(board, site) -> None:
    ranked = [row.id for row in board.rows if row.rank is not None]
    assert ranked == ["noted", "partly", "silent", "sound", "suspect", "over", "collapsed"]
    ranks = {row.id: row.rank for row in board.rows}
    assert ranks["sound"] == ranks["silent"] == 1
    assert ranks["over"] == 6  # 9 images less than the leader: p = 2 / 2**9
    assert [row.id for row in board.rows if row.rank is None] == ["blocked", "random"]
    source = (site / "index.html").read_text()
    top, rest = source.split("Not ranked:", 1)
    middle, last = rest.split("Outside the protocol: these networks", 1)
    assert ">sound</a>" in top
    assert ">blocked</a>" in middle
    assert ">random</a>" in last
    assert "outside the protocol: stochastic" in text_of(line_of(site, "random"))
    assert "7 ranked, 1 unranked, 1 outside the protocol" in text_of(source)


def test_a_collapsed_network_has_a_false_fgsm_column_and_a_true_autoattack_column(board, site) -> None:
    row = row_of(board, "collapsed")
    assert set(row.flags) == {FGSM.key}
    assert row.flags[FGSM.key].flag == "overestimated"
    by_key = {column.key: column.show(row) for column in columns(board)}
    assert (by_key[f"robust:{FGSM.key}"].main, by_key[f"robust:{FGSM.key}"].sign) == ("90.0", "CO")
    assert by_key[f"robust:{AA}"].sign == by_key[f"robust:{PGD.key}"].sign == ""
    assert "Overestimated: 36 of 40 examples" in by_key[f"robust:{FGSM.key}"].hover
    assert "catastrophic overfitting" in text_of((site / "index.html").read_text())
    assert len(re.findall('class="sign sign-', line_of(site, "collapsed"))) == 1


def test_flags_mark_cells_and_have_a_legend(board, site) -> None:
    by_key = {column.key: column for column in columns(board)}
    over = row_of(board, "over")
    assert by_key[f"robust:{AA}"].show(over).sign == "▼"
    assert by_key[f"robust:{AA}"].show(row_of(board, "suspect")).sign == "?"
    assert by_key[f"robust:{AA}"].show(row_of(board, "sound")).sign == ""
    assert by_key[f"robust:{WORST}"].show(over).sign == ""
    legend = text_of(re.search(r'<ul class="signs">.*?</ul>', (site / "index.html").read_text(), re.S)[0])
    for word in ("overestimated", "suspect", "catastrophic overfitting"):
        assert word in legend
    assert "usual for such an attack" not in legend  # nothing on this board has a note


def test_a_flag_of_a_cascade_without_a_column_marks_its_last_member(tmp_path) -> None:
    folder = Folder(tmp_path, n=N, size=20)
    fast = tuple(dataclasses.replace(task, cascade="fast") for task in AUTOATTACK[:1])
    folder.complete("a", first(38), {"apgd-ce": first(20)}, tasks=(CLEAN, *fast, probe("a7-random")))
    folder.fill_probe("a", probe("a7-random"), {"applicable": True}, first(38), [not hit for hit in hits(*range(10))])
    (board,) = tables.load([tmp_path])
    (row,) = board.rows
    assert {key: flag.key for key, flag in row.flags.items()} == {"apgd-ce@Linf-8/255": "fast@Linf-8/255"}
    assert row.corrected.accuracy.value == 10 / N
    assert row.worst.accuracy.value == 20 / N
    assert row.verdict == "overestimated"


def test_records_of_probes_are_judged_and_missing_ones_leave_the_row_unchecked(tmp_path) -> None:
    folder = Folder(tmp_path, n=N, size=20)
    landscape = probe("i2-landscape")
    folder.complete("a", first(38), {"pgd-20": first(20)}, tasks=(CLEAN, PGD))
    folder.created = "2025-02-01T00:00:00+00:00"
    folder.ask("a", (CLEAN, PGD, landscape, probe("a1-unbounded")))
    folder.fill_probe("a", landscape, {"applicable": True, "bend": 0.07})
    (board,) = tables.load([tmp_path])
    (row,) = board.rows
    assert row.verdict == "unchecked"
    assert row.badge.says.startswith(("A1", "C1", "A10"))
    found = {item.check: item for item in row.judgement.findings}
    assert found["I2"].verdict == "pass"
    assert found["A1"].verdict == "unknown"
    assert row.corrected.accuracy == row.worst.accuracy


@pytest.mark.parametrize(
    ("task", "numbers", "robust"),
    [
        (probe("c1-output", None), {"nothing": "that a check knows"}, None),
        (probe("g3-coherence"), {"applicable": True, "c1": "text", "c2": None, "c3": 3}, None),
        (probe("a7-random"), {"applicable": True}, [True] * 20),
    ],
)
def test_records_that_the_checks_cannot_read_leave_a_row_unchecked_and_the_board_whole(
    tmp_path, task, numbers, robust
) -> None:
    folder = Folder(tmp_path, n=N, size=20)
    folder.complete("a", first(38), {"pgd-20": first(20)}, tasks=(CLEAN, PGD))
    folder.created = "2025-02-01T00:00:00+00:00"
    folder.ask("a", (CLEAN, PGD, task))
    folder.fill_probe("a", task, numbers, first(38), robust)
    (board,) = tables.load([tmp_path])
    (row,) = board.rows
    assert row.verdict == "unchecked"
    told = [item.evidence for item in row.judgement.findings if "run the battery again" in item.evidence]
    assert len(told) == (1 if robust is None else len(CHECKS.names())), "one check is open, or all of them"
    assert row.corrected.accuracy.value == 20 / N
    assert row.rank == 1
    json.loads(to_json([board]))


def test_the_json_export_names_verdict_and_findings(board) -> None:
    rows = {row["submission"]: row for row in json.loads(to_json([board]))["boards"][0]["rows"]}
    assert {row["verdict"] for row in rows.values()} == {
        "verified", "verified-with-note", "suspect", "overestimated", "protocol", "attack-invalid", "unchecked",
    }  # fmt: skip
    (found,) = rows["over"]["findings"]
    assert {"check", "verdict", "columns", "metrics", "threshold", "evidence"} <= set(found)
    assert found["check"] == "A8"
    assert found["columns"] == [AA]
    assert found["metrics"] == {"witnesses": 8.0, "gap_pp": 20.0}
    assert found["evidence"] == "Its base fell."
    assert rows["over"]["corrected_accuracy"]["value"] == 11 / N
    assert rows["silent"]["corrected_accuracy"] is None
    assert rows["silent"]["findings"] == []
    assert rows["blocked"]["findings"][0]["metrics"] == {"success": None}  # JSON has no word for "not a number"


def test_csv_and_latex_carry_the_verdict_and_the_corrected_number(board) -> None:
    lines = to_csv([board]).splitlines()
    head = lines[0].split(",")
    cells = next(line.split(",") for line in lines if ",over," in line)
    assert cells[head.index("verdict")] == "overestimated"
    assert float(cells[head.index("corrected_accuracy")]) == 11 / N
    table = to_latex([board])
    assert "best known (corrected)" in table
    over = next(line for line in table.splitlines() if "& over &" in line)
    assert "27.5 (16.1--42.8)" in over
    assert "OVERESTIMATED" in over


def page_of(site, name) -> str:
    return next(site.glob(f"boards/*/{name}.html")).read_text()


@pytest.mark.parametrize("name", NAMES)
def test_a_submissions_page_says_the_verdict_in_one_sentence(board, site, name) -> None:
    text = text_of(page_of(site, name))
    row = row_of(board, name)
    assert row.badge.text in text
    assert row.badge.says in text
    assert MEANINGS[row.verdict] in text
    assert "no proof of robustness" in text or name == "silent"


def test_a_row_without_a_battery_says_how_to_add_one(site) -> None:
    assert "harness check silent --dataset cifar10 --limit 40" in page_of(site, "silent")


def test_the_table_of_checks_has_numbers_threshold_evidence_and_what_was_not_checked(board, site) -> None:
    text = text_of(page_of(site, "over"))
    for part in ("A8 Transfer", "Its base fell.", "gap 20 pp", "witnesses 8", "against limit 0.5 (a paper)",
                 "Concerns autoattack."):  # fmt: skip
        assert part in text, part
    view = validity(board, row_of(board, "partly"))
    assert view["not_checked"] == ("A1: Not checked: it was not run.",)
    assert view["not_applicable"] == ("C2-EOT: Not applicable: answers repeat.",)
    assert [(name, count) for name, _, count in view["tables"]] == [("fired", 1), ("silent", 2)]
    source = page_of(site, "partly")
    assert 'href="#check-A1"' in source
    assert 'id="check-A1"' in source
    assert FINDINGS["unknown"] in text_of(source)


def test_seconds_and_passes_of_a_probe_stand_beside_its_check(tmp_path) -> None:
    folder = Folder(tmp_path, n=N, size=20)
    task = probe("i2-landscape")
    folder.complete("a", first(38), {}, tasks=(CLEAN, PGD))
    folder.created = "2025-02-01T00:00:00+00:00"
    folder.ask("a", (CLEAN, PGD, task))
    folder.fill_probe("a", task, {"applicable": True, "bend": 0.07})
    (board,) = tables.load([tmp_path])
    view = validity(board, board.rows[0])
    costs = {check["id"]: check["cost"] for check in view["checks"]}
    assert costs["I2"] == "2.5 s, 300 forward, 200 backward"
    assert costs["A1"] == ""
    # The attack: 40 images, 20 forward and 10 backward passes each.
    assert view["effort"].startswith("The checks took 2.5 s and 700 forward-equivalents")
    assert "beside 1,600 of the attacks" in view["effort"]


def test_the_waterfall_goes_from_the_claim_to_the_corrected_number(board) -> None:
    stages = waterfall(board, row_of(board, "over"))["correction"]
    assert [(stage["label"], stage["left"], stage["broken"]) for stage in stages] == [
        ("claimed by autoattack", 20, None),
        ("A8 Transfer", 12, 8),
        ("A7 Random search", 11, 1),
        ("best known", 11, None),
    ]
    assert stages[-1]["left"] / N == row_of(board, "over").corrected.accuracy.value
    untouched = waterfall(board, row_of(board, "sound"))
    assert untouched["untouched"]
    assert waterfall(board, row_of(board, "silent"))["correction"] == []


def test_the_filter_offers_the_verdicts_that_occur(site) -> None:
    source = (site / "index.html").read_text()
    options = re.findall(r'<option value="([^"]*)">', source)
    assert options == ["", *TITLES]
    assert set(re.findall(r'data-verdict="([^"]*)"', source)) == set(WORDS)


def test_numbers_are_written_as_a_person_reads_them() -> None:
    def shown(name: str, value: float) -> tuple[str, str]:
        item = metric(name, value)
        assert (item["name"], item["value"]) == (name, value)
        return item["label"], item["text"]

    assert shown("gap_pp", 5.3125) == ("gap", "5.31 pp")
    assert shown("beta eps/4", -0.98947) == ("beta eps/4", "−0.989")
    assert shown("difference", 4.8e-7) == ("difference", "4.8e−07")
    assert shown("witnesses", 8.0) == ("witnesses", "8")


def test_checks_are_told_in_the_order_of_the_battery() -> None:
    names = ["I1", "A10", "C2-EOT", "A9", "G1", "D1", "C2", "C10"]
    assert sorted(names, key=check_order) == ["C2", "C2-EOT", "C10", "G1", "A9", "A10", "D1", "I1"]
