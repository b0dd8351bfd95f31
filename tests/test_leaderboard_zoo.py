"""The pages about the checks themselves: the zoo's matrix, and what each check is; and their documentation."""

import dataclasses
import json
import re
from pathlib import Path

import checks_page
import pytest
from leaderboard_results import CLEAN, PGD, Folder, bits

from harness.checks import CHECKS, load_thresholds
from harness.errors import ResultsError
from harness.zoo.expected import Expectation
from harness.zoo.matrix import FIRED, IDLE, SILENT, UNCHECKED, Outcome, compare
from leaderboard import page, tables
from leaderboard.checks_page import described, markdown
from leaderboard.cli import main
from leaderboard.confusion import page_data, read_matrix
from leaderboard.formulas import FORMULAS
from leaderboard.validity import check_order

ROOT = Path(__file__).resolve().parents[1]
FINE = ("verified", "verified-with-note")
CAUGHT = ("suspect", "overestimated", "protocol", "attack-invalid")


def outcome(verdict: str, claimed: float | None, corrected: float, **fired: str) -> Outcome:
    """A model whose checks stayed silent but for ``fired``, by name their grade."""
    states = {name: FIRED if name in fired else SILENT for name in CHECKS.names()}
    states |= {"C2-EOT": IDLE, "A7": UNCHECKED}
    return Outcome(verdict, f"Sentence of {verdict}.", 20, 0.85, claimed, corrected, states, fired,
                   {"fgsm@Linf-8/255": "overestimated"} if verdict == "overestimated" else {}, verdict)  # fmt: skip


@pytest.fixture(scope="module")
def matrix():
    models = [
        Expectation("base", "Adversarial training", "honest", verdicts=FINE),
        Expectation("m15-killed", "Backward pass returns zeros", "broken", "M15", "base", "base", True, 0.01, ("C8",),
                    verdicts=CAUGHT),
        Expectation("m38-winners", "kWTA <script>", "broken", "M38", "base", verdicts=CAUGHT),
        Expectation("x-peeking", "Looks for labels", "harmless", "M58", "base", "base", verdicts=FINE),
        Expectation("h04-gelu", "GELU", "honest", verdicts=FINE, must_not_fire=("G4",)),
    ]  # fmt: skip
    outcomes = {
        ("base", 0): outcome("verified", 0.5, 0.5),
        ("m15-killed", 0): outcome("overestimated", 0.75, 0.5, C8="fail", A8="fail"),
        ("m38-winners", 0): None,
        ("x-peeking", 0): outcome("verified", 0.5, 0.5),
        ("h04-gelu", 0): outcome("suspect", 0.4, 0.4, G4="warn"),
    }
    found = compare({item.id: item for item in models}, outcomes, "2026.1")
    return dataclasses.replace(found, dataset="cifar10-sample", n="20").plain()


@pytest.fixture(scope="module")
def boards(tmp_path_factory):
    folder = Folder(tmp_path_factory.mktemp("results"))
    folder.complete("a", bits("11111100"), {}, tasks=(CLEAN, PGD))
    return tables.load([folder.root])


@pytest.fixture(scope="module")
def site(boards, matrix, tmp_path_factory) -> Path:
    return page.build(boards, tmp_path_factory.mktemp("out") / "site", matrix).parent


def text_of(source: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", source)).strip()


def test_the_zoo_shows_every_model_and_every_check(site, matrix) -> None:
    source = (site / "zoo.html").read_text()
    rows = re.findall(r'<tr class="row">.*?</tr>', source, re.S)
    assert len(rows) == len(matrix["rows"])
    heads = re.findall(r'<th scope="col" class="check">.*?</th>', source, re.S)
    assert [text_of(head) for head in heads] == sorted(CHECKS.names(), key=check_order)
    killed = next(row for row in rows if "m15-killed" in row)
    cells = re.findall(r'<td class="check mark-([a-z-]+)" title="([^"]*)"', killed)
    said = dict(title.split(": ") for _, title in cells)
    assert said["C8 on m15-killed"] == "fail"
    assert said["G3 on m15-killed"] == "silent"
    assert said["A7 on m15-killed"] == "not checked"
    assert said["C2-EOT on m15-killed"] == "not applicable"
    assert "<s>75.0</s>" in killed
    assert "OVERESTIMATED" in killed
    assert "as its base" in killed
    assert "0.0 pp" in killed
    assert "fgsm overestimated" in killed


def test_the_zoo_counts_what_came_out(site, matrix) -> None:
    figures = {figure["label"]: (figure["count"], figure["of"]) for figure in page_data(matrix)["figures"]}
    assert list(figures.values()) == [(1, 2), (1, 2), (1, 1), (3, 5)]
    text = text_of((site / "zoo.html").read_text())
    assert "1 seed, 20 images of cifar10-sample each: one image is 5.0 points" in text
    assert "1 of 2 broken models that do not end as VERIFIED" in text
    assert "3 of 5 rows that came out as expected beforehand" in text


def test_seeds_of_a_model_share_a_row_that_says_where_they_differ(matrix) -> None:
    row = next(row for row in matrix["rows"] if row["id"] == "m15-killed")
    quiet = {
        **row["outcome"],
        "verdict": "suspect",
        "claimed": 0.5,
        "checks": {**row["outcome"]["checks"], "A8": SILENT},
    }
    again = {**row, "seed": 1, "outcome": quiet, "distance": 0.05, "deviations": ["one"]}
    data = page_data({**matrix, "rows": [row, again]})
    (shown,) = data["parts"][0]["rows"]
    assert [item["text"] for item in shown["verdicts"]] == ["SUSPECT ×1", "OVERESTIMATED ×1"]
    assert (shown["claimed"], shown["corrected"], shown["distance"]) == ("50.0–75.0", "50.0", "5.0 pp")
    cells = {cell["check"]: cell for cell in shown["cells"]}
    assert (cells["A8"]["word"], cells["A8"]["text"], cells["A8"]["some"]) == ("fail", "fail with 1 of 2 seeds", "1")
    assert (cells["C8"]["text"], cells["C8"]["some"]) == ("fail", "")
    assert shown["deviations"] == ["seed 1: one"]
    assert data["seeds"] == 2


def test_what_was_not_expected_is_said_in_words(site) -> None:
    text = text_of((site / "zoo.html").read_text())
    assert "Not as expected: G4: expected silence, got warn" in text
    assert "Not as expected: there are no records to judge" in text


def test_the_zoo_is_linked_from_every_page_and_escaped(site) -> None:
    for name in ("index.html", "how-to-read.html", "checks.html"):
        assert 'href="zoo.html"' in (site / name).read_text()
    (submission,) = site.glob("boards/*/a.html")
    assert 'href="../../zoo.html"' in submission.read_text()
    assert "<script>" not in (site / "zoo.html").read_text()
    assert json.loads((site / "zoo.json").read_text())["thresholds"] == "2026.1"


def test_without_a_matrix_there_is_no_page_and_no_link(boards, tmp_path) -> None:
    site = page.build(boards, tmp_path / "site").parent
    assert not (site / "zoo.html").exists()
    assert "zoo.html" not in "".join(path.read_text() for path in site.rglob("*.html"))
    assert (site / "checks.html").is_file()


def test_build_takes_the_published_matrix_or_the_one_that_is_named(matrix, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Folder(tmp_path / "results")
    folder.complete("a", bits("11111100"), {}, tasks=(CLEAN, PGD))
    published = tmp_path / "leaderboard" / "zoo" / "matrix.json"
    published.parent.mkdir(parents=True)
    published.write_text(json.dumps(matrix))
    assert main(["build", "--results", "results", "--out", "one"]) == 0
    assert "m15-killed" in (tmp_path / "one" / "zoo.html").read_text()
    other = tmp_path / "other.json"
    other.write_text(json.dumps({**matrix, "rows": matrix["rows"][:1]}))
    assert main(["build", "--results", "results", "--out", "two", "--zoo", "other.json"]) == 0
    assert "m15-killed" not in (tmp_path / "two" / "zoo.html").read_text()
    capsys.readouterr()
    assert main(["build", "--results", "results", "--out", "three", "--zoo", "missing.json"]) == 2
    assert "matrix.json of `harness zoo`" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"rows": 3}', "\x00"])
def test_another_file_is_refused_with_a_reason(tmp_path, text) -> None:
    path = tmp_path / "matrix.json"
    path.write_text(text)
    with pytest.raises(ResultsError, match="expected the matrix of `harness zoo`"):
        read_matrix(path)
    assert read_matrix(tmp_path / "nothing.json") is None


def test_a_row_without_a_field_is_refused(matrix) -> None:
    broken = {**matrix, "rows": [{"id": "a", "kind": "broken"}]}
    with pytest.raises(ResultsError, match="matrix of the zoo"):
        page_data(broken)


@pytest.mark.parametrize("name", CHECKS.names())
def test_every_check_is_described(name, site) -> None:
    check = CHECKS.get(name)
    assert FORMULAS[name]
    text = (ROOT / "docs" / "checks.md").read_text()
    (part,) = re.findall(rf"^### {re.escape(name)} .*?(?=^##)", text + "\n##", re.S | re.M)
    assert "**Formula:**" in part
    assert "**Evidence:**" in part
    assert check.kind == "information" or "**Known false positives:**" in part
    for entry in load_thresholds().values.get(name, {}).values():
        assert f"| {entry['value']:g} |" in part
    assert f'id="{name}"' in (site / "checks.html").read_text()


def test_nothing_is_described_that_is_not_registered() -> None:
    assert set(FORMULAS) == set(CHECKS.names())


def test_the_documentation_is_up_to_date() -> None:
    assert checks_page.main(["--check"]) == 0, "run: python tests/checks_page.py"


def test_what_only_a_check_catches_comes_from_the_zoo(matrix) -> None:
    only = {item.id: item.only for item in described(matrix)}
    assert only["C8"] == only["A8"] == ("m15-killed",)
    assert only["G1"] == ()
    text = markdown(matrix)
    assert "(or it and one other):** `m15-killed`" in text
    assert "no zoo run is published yet" in markdown(None)
    assert markdown(matrix) == markdown(matrix)
