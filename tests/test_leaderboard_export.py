"""The exports: schema, the same rows in each format, nothing a submitter wrote can act."""

import csv
import io
import json

import pytest
from leaderboard_results import CLEAN, CORRECT, COST, FGSM, PGD, STANDARD, Folder, bits, card_of

from harness.records import Status
from leaderboard import tables
from leaderboard.export import FORMATS, escape_latex, to_csv, to_json, to_latex


@pytest.fixture
def boards(tmp_path):
    folder = Folder(tmp_path)
    folder.complete("good", CORRECT, {"pgd-20": bits("11000000"), "square": bits("10000000")})
    folder.ask("bad_one", (CLEAN, FGSM, PGD, COST), card=card_of("bad_one"))
    folder.fill("bad_one", CLEAN, CORRECT)
    folder.fill("bad_one", PGD, CORRECT, only=[1])
    folder.fill("bad_one", FGSM, failure=(Status.ERROR, "timeout", "slow"))
    return tables.load([tmp_path])


def test_json_has_exactly_the_promised_schema(boards) -> None:
    data = json.loads(to_json(boards))
    assert set(data) == {"schema", "boards"}
    assert data["schema"] == 1
    (board,) = data["boards"]
    assert {name: board[name] for name in board if name != "rows"} == {
        "dataset": "cifar10", "norm": "Linf", "eps": "8/255", "n": 8,
    }  # fmt: skip
    good, bad = board["rows"]
    assert set(good) == set(bad) == {
        "rank", "submission", "natural_accuracy", "robust_accuracy", "consistency_accuracy", "corrected_accuracy",
        "corruptions", "parameters", "macs", "throughput", "peak_memory_bytes", "verdict", "findings", "states",
    }  # fmt: skip
    assert good["natural_accuracy"]["value"] == 0.75
    assert set(good["natural_accuracy"]) == {"value", "low", "high", "n"}
    assert good["natural_accuracy"]["n"] == 8
    names = [task.key for task in STANDARD if task.threat] + ["autoattack@Linf-8/255", "worst-case@Linf-8/255"]
    assert list(good["robust_accuracy"]) == names
    assert good["robust_accuracy"]["autoattack@Linf-8/255"]["value"] == 1 / 8
    assert good["robust_accuracy"]["worst-case@Linf-8/255"]["value"] == 1 / 8
    assert set(good["consistency_accuracy"]) == {f"{n}@Linf-8/255" for n in ("fgsm", "pgd-20", "pgd-100-5", "deepfool")}
    assert good["throughput"] == {"forward": 1930.4, "forward_backward": 640.2}
    assert good["peak_memory_bytes"] == {"inference": 50 * 2**20, "attack": 120 * 2**20}
    assert (good["parameters"], good["macs"]) == (178_000, 20_100_000)
    assert (good["rank"], good["verdict"], good["findings"], good["states"]) == (1, "unchecked", [], {})


def test_json_holds_null_and_the_state_where_there_is_no_number(boards) -> None:
    bad = json.loads(to_json(boards))["boards"][0]["rows"][1]
    assert bad["rank"] is None
    assert bad["robust_accuracy"]["pgd-20@Linf-8/255"] is None
    assert bad["consistency_accuracy"]["pgd-20@Linf-8/255"] is None
    assert bad["robust_accuracy"]["square@Linf-8/255"] is None
    assert (bad["parameters"], bad["macs"]) == (None, None)
    assert bad["throughput"] == {"forward": None, "forward_backward": None}
    assert bad["states"]["fgsm@Linf-8/255"] == "failed: timeout"
    assert bad["states"]["pgd-20@Linf-8/255"] == "partial: 4 of 8"
    assert bad["states"]["square@Linf-8/255"] == "not run"
    assert bad["states"]["worst-case@Linf-8/255"] == "failed: needs fgsm"
    assert bad["states"]["cost"] == "not run"


def test_csv_has_the_same_rows(boards) -> None:
    data = json.loads(to_json(boards))["boards"][0]["rows"]
    found = list(csv.DictReader(io.StringIO(to_csv(boards))))
    assert [row["submission"] for row in found] == [row["submission"] for row in data]
    for flat, row in zip(found, data, strict=True):
        for name, value in row["robust_accuracy"].items():
            column = f"robust_{name.partition('@')[0]}"
            assert flat[column] == ("" if value is None else str(value["value"]))
        assert flat["rank"] == ("" if row["rank"] is None else str(row["rank"]))
        assert flat["parameters"] == ("" if row["parameters"] is None else str(row["parameters"]))
        assert (flat["norm"], flat["eps"], flat["n"]) == ("Linf", "8/255", "8")


def test_csv_text_cannot_become_a_formula(tmp_path) -> None:
    folder = Folder(tmp_path)
    folder.complete("=1+1", CORRECT, {}, tasks=(CLEAN, PGD))
    (row,) = csv.DictReader(io.StringIO(to_csv(tables.load([tmp_path]))))
    assert row["submission"] == "'=1+1"


def test_latex_is_escaped_and_balanced(tmp_path) -> None:
    folder = Folder(tmp_path)
    folder.complete(r"a_b%$&#{}~^\input{x}", CORRECT, {"pgd-20": bits("11000000")}, tasks=(CLEAN, PGD))
    text = to_latex(tables.load([tmp_path]))
    assert r"a\_b\%\$\&\#\{\}\textasciitilde{}\textasciicircum{}\textbackslash{}input\{x\}" in text
    assert r"\input{x}" not in text
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 1
    assert "25.0 (7.1--59.1)" in text
    head, row = (line for line in text.splitlines() if line.endswith(r"\\"))
    assert head.count(" & ") == row.count(" & ")


def test_latex_shows_states_as_words(boards) -> None:
    line = next(line for line in to_latex(boards).splitlines() if r"bad\_one" in line)
    for word in ("failed", "partial", "not run", "75.0"):
        assert word in line


@pytest.mark.parametrize("char", "\\{}$&#_%~^<>|")
def test_every_special_character_is_escaped(char) -> None:
    assert escape_latex(char) != char
    assert escape_latex(f"a{char}b").startswith("a")


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_an_export_is_the_same_twice(boards, name) -> None:
    assert FORMATS[name](boards) == FORMATS[name](boards)
