"""The site: whole, self-contained, escaped, readable without a script, swapped in at once."""

import dataclasses
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from leaderboard_judged import entry_of, judged, with_judgements
from leaderboard_results import AUTOATTACK, CLEAN, CORRECT, COST, ENVIRONMENT, FGSM, PGD, QUICK, Folder, bits, card_of

from harness.errors import ResultsError, UserError
from harness.metrics import proportion
from harness.records import Status, ThreatModel
from leaderboard import page, tables
from leaderboard.cells import State
from leaderboard.export import to_json
from leaderboard.links import slug
from leaderboard.widgets import WIDGETS
from leaderboard.widgets.claims import build as claims
from leaderboard.widgets.provenance import command

ATTACK = '"><script>alert(1)</script><img src=x onerror=alert(2)>{{ 7*7 }}'
HOSTILE = {
    "id": ATTACK,
    "title": ATTACK,
    "authors": [ATTACK, "javascript:alert(3)"],
    "paper": "javascript:alert(4)",
    "venue": ATTACK,
    "year": ATTACK,
    "notes": ATTACK,
    ATTACK: ATTACK,
    "claims": [{"norm": ATTACK, "eps": ATTACK, "attack": ATTACK, "robust_accuracy": ATTACK}],
    "kwargs": {ATTACK: [ATTACK]},
    "threat_models": [{"norm": "Linf", "eps": "8/255"}],
}


def fill_all(root: Path) -> None:
    """Several submissions on two boards: complete, failed, partial, stale, hostile, on other hardware."""
    folder = Folder(root)
    claim = {"norm": "Linf", "eps": "8/255", "attack": "AutoAttack", "robust_accuracy": 0.5}
    more = {"paper": "https://arxiv.org/abs/2003.01690", "authors": ["A. Author"], "venue": "ICML", "year": 2020}
    card = card_of("complete", claims=[claim], **more)
    folder.complete("complete", CORRECT, {"square": bits("10000000")}, card=card)
    folder.environment = dataclasses.replace(ENVIRONMENT, hardware="Another Processor", dirty=True)
    folder.complete("elsewhere", CORRECT, {})
    folder.environment = ENVIRONMENT
    tasks = (CLEAN, FGSM, PGD, COST)
    for name in ("failed", "partial", "stale", "nothing"):
        folder.ask(name, tasks)
    for name in ("failed", "partial", "stale"):
        folder.fill(name, CLEAN, CORRECT)
        folder.fill(name, FGSM, CORRECT)
    folder.fill("failed", PGD, failure=(Status.ERROR, "died", "exit status 1 <b>bold</b>"))
    folder.fill("failed", COST, failure=(Status.SKIPPED, "upstream", "not tried"))
    folder.fill("partial", PGD, CORRECT, only=[1])
    folder.fill("stale", PGD, CORRECT, checkpoint="old")
    folder.complete(ATTACK, CORRECT, {}, card=HOSTILE)
    folder.dataset, folder.n, folder.full, folder.suite = "cifar10-sample", 4, 4, "quick"
    folder.complete("complete", CORRECT, {}, tasks=QUICK)


@pytest.fixture(scope="module")
def boards(tmp_path_factory):
    root = tmp_path_factory.mktemp("results")
    fill_all(root)
    first, *rest = tables.load([root])
    return (with_judgements(first, {"complete": judged(entry_of(first, "complete"), first.threat)}), *rest)


@pytest.fixture(scope="module")
def site(boards, tmp_path_factory) -> Path:
    return page.build(boards, tmp_path_factory.mktemp("out") / "site").parent


class Reader(HTMLParser):
    """Tags with their attributes, ids, and text by the innermost class."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data) -> None:
        self.text.append(data)

    @property
    def ids(self) -> list[str]:
        return [attrs["id"] for _, attrs in self.tags if attrs.get("id")]


def pages(site: Path) -> list[Path]:
    return sorted(site.rglob("*.html"))


def page_of(site: Path, name: str, n: int = 8) -> Path:
    return site / "boards" / f"cifar10-{n}-linf-8_255" / f"{name}.html"


def test_there_is_a_page_for_every_row(site, boards) -> None:
    assert len(list(site.glob("boards/*/*.html"))) == sum(len(board.rows) for board in boards)
    assert {"index.html", "how-to-read.html", "checks.html"} <= {path.name for path in site.glob("*.html")}


def test_every_address_resolves_and_nothing_is_loaded_from_elsewhere(site) -> None:
    checked = 0
    for path in pages(site):
        for tag, attrs in Reader(path).tags:
            for name in ("href", "src"):
                if name not in attrs:
                    continue
                value = attrs[name]
                parts = urlsplit(value)
                if parts.scheme or parts.netloc:
                    assert tag == "a", f"{path}: {tag} loads {value}"
                    assert parts.scheme in {"http", "https"}
                    assert "noopener" in attrs["rel"]
                    continue
                target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
                assert target.is_file(), f"{path}: {value}"
                assert target.is_relative_to(site.resolve())
                if parts.fragment:
                    assert parts.fragment in Reader(target).ids, f"{path}: {value}"
                checked += 1
    assert checked > 100


def test_style_and_script_load_nothing_and_stay_small(site) -> None:
    text = "".join(path.read_text() for path in (site / "static").iterdir())
    assert "url(" not in text
    assert "@import" not in text
    assert "fetch(" not in text
    assert "innerHTML" not in text
    assert sum(path.stat().st_size for path in (site / "static").iterdir()) < 60_000


def test_a_policy_forbids_inline_scripts_and_the_network_on_every_page(site) -> None:
    for path in pages(site):
        reader = Reader(path)
        (policy,) = [
            attrs["content"] for tag, attrs in reader.tags if attrs.get("http-equiv") == "Content-Security-Policy"
        ]
        assert policy.startswith("default-src 'none'")
        assert "unsafe" not in policy
        assert not [attrs for _, attrs in reader.tags if "style" in attrs]
        scripts = [attrs for tag, attrs in reader.tags if tag == "script"]
        assert all(attrs.get("src") == "static/site.js" for attrs in scripts)


def test_nothing_a_submitter_wrote_acts(site) -> None:
    for path in pages(site):
        source = path.read_text()
        assert "<script>alert" not in source
        assert "<img" not in source
        reader = Reader(path)
        for tag, attrs in reader.tags:
            assert not [name for name in attrs if name.startswith("on")], f"{path}: {tag}"
            for name in ("href", "src"):
                assert not (attrs.get(name) or "").lower().startswith(("javascript:", "data:", "vbscript:"))
    hostile = next(path for path in pages(site) if path.stem.startswith(slug(ATTACK)))
    text = "".join(Reader(hostile).text)
    assert ATTACK in text
    assert "javascript:alert(4)" in text
    assert "{{ 7*7 }}" in text


def test_no_template_can_switch_escaping_off() -> None:
    folder = Path(page.__file__).parent / "templates"
    for path in folder.iterdir():
        text = path.read_text()
        assert not re.search(r"\|\s*safe|autoescape", text), path
    environment = page._environment()
    assert environment.autoescape is True
    assert environment.from_string("{{ x }}").render(x="<b>") == "&lt;b&gt;"


def test_every_page_is_well_formed(site) -> None:
    void = {"meta", "link", "input", "wbr", "br", "img"}

    class Checker(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.stack: list[str] = []

        def handle_starttag(self, tag, attrs) -> None:
            names = [name for name, _ in attrs]
            assert len(names) == len(set(names)), f"{tag}: an attribute twice"
            if tag not in void:
                self.stack.append(tag)

        def handle_startendtag(self, tag, attrs) -> None:
            pass

        def handle_endtag(self, tag) -> None:
            assert self.stack.pop() == tag

    for path in pages(site):
        checker = Checker()
        checker.feed(path.read_text())
        assert checker.stack == [], path
        ids = Reader(path).ids
        assert len(ids) == len(set(ids)), path


def cells_of(site: Path, submission: str) -> list[str]:
    """Text of the cells of a row of the first board."""
    source = (site / "index.html").read_text()
    row = next(row for row in re.findall(r'<tr class="row".*?</tr>', source, re.S) if f">{submission}</a>" in row)
    return [
        re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", cell)).strip() for cell in re.findall(r"<td.*?</td>", row, re.S)
    ]


def test_the_table_shows_the_numbers_with_their_interval_and_the_states_as_words(site) -> None:
    source = (site / "index.html").read_text()
    assert "n = 8" in source
    accuracy = proportion(6, 8)
    shown = f"75.0 {100 * accuracy.low:.1f}–{100 * accuracy.high:.1f}"
    assert shown in cells_of(site, "complete")
    assert 'title="75.0 %, 95 % interval' in source
    assert "failed died" in cells_of(site, "failed")
    assert "skipped upstream" in cells_of(site, "failed")
    assert "partial 4 of 8" in cells_of(site, "partial")
    assert "stale another checkpoint" in cells_of(site, "stale")
    assert cells_of(site, "nothing").count("not run") > 5
    for state in State:
        assert f"state-{state.value.replace(' ', '-')}" in source


def test_missing_values_have_no_sort_key_and_numbers_have(site) -> None:
    source = (site / "index.html").read_text()
    for cell in re.findall(r'<td class="g-[^>]*>', source):
        assert ("data-sort=" in cell) == ("state-number" in cell or "verdicts" in cell)


def test_unranked_rows_stand_below_with_the_reason(site) -> None:
    source = (site / "index.html").read_text()
    ranked, unranked = source.split("Not ranked:", 1)
    assert ">complete</a>" in ranked
    for name in ("failed", "partial", "stale", "nothing"):
        assert f">{name}</a>" not in ranked
        assert f">{name}</a>" in unranked
    assert "pgd-20 failed: died" in unranked


def test_headers_say_how_a_column_was_measured(site) -> None:
    reader = Reader(site / "index.html")
    headers = [attrs for tag, attrs in reader.tags if tag == "th" and "data-key" in attrs]
    assert all(attrs.get("data-explain") and attrs.get("scope") == "col" for attrs in headers)
    recipe = next(attrs["data-explain"] for attrs in headers if attrs["data-key"] == f"robust:{PGD.key}")
    for part in ("steps 20", "step_size 2/255", "restarts 1", "loss ce", "eps 8/255", "rampart-pgd-1", "%"):
        assert part in recipe
    # The same text stands below the table, for those who cannot point.
    assert recipe.partition("] ")[2].partition(". Linf")[0] in "".join(reader.text)
    assert "steps 20; rampart-pgd-1" in "".join(reader.text)


def test_rows_of_other_hardware_say_so(site) -> None:
    source = (site / "index.html").read_text()
    assert "different hardware" in source
    assert "Another Processor" in source
    assert "1,930<sup>b</sup>" in source
    assert "different hardware" in page_of(site, "complete").read_text()


def test_a_submission_page_holds_everything_behind_its_numbers(site, boards) -> None:
    text = "".join(Reader(page_of(site, "complete")).text)
    row = next(row for row in boards[0].rows if row.id == "complete")
    candidate = row.entry.candidate
    for part in (
        candidate.checkpoint, candidate.source, *(sha for _, _, sha in row.entry.spans), "Some Processor", "2.15.0",
        "c0ffee", "harness run complete --suite standard --dataset cifar10 --limit 8 --threat Linf:8/255 --seed 0",
        "https://arxiv.org/abs/2003.01690", "A. Author", "airplane", "apgd-t", "float32", "0.178",
        "quartiles 1,900 to 1,950", "2025-01-01 00:00 UTC", "numpy",
    ):  # fmt: skip
        assert part in text, part
    assert "−37.5 points, the claim lies outside the interval" in text
    failed = "".join(Reader(page_of(site, "failed")).text)
    assert "exit status 1 <b>bold</b>" in failed
    assert "autoattack" not in failed.split("Submission card")[0].split("Accuracies")[-1]


@pytest.mark.parametrize("widget", WIDGETS, ids=lambda widget: widget.name)
def test_every_widget_has_a_template_and_shows_a_complete_row(widget, site, boards) -> None:
    assert (Path(page.__file__).parent / "templates" / widget.template).is_file()
    assert [item.name for item in WIDGETS].count(widget.name) == 1
    if widget.name in {"corruptions", "witnesses"}:
        return  # shown on rows that have them: test_leaderboard_corruptions.py, test_leaderboard_witnesses.py
    name = "failed" if widget.name == "failures" else "complete"
    row = next(row for row in boards[0].rows if row.id == name)
    assert widget.build(boards[0], row)
    assert f'id="{widget.name}"' in page_of(site, name).read_text()


@pytest.mark.parametrize("widget", WIDGETS, ids=lambda widget: widget.name)
def test_every_widget_survives_a_row_without_any_record(widget, boards) -> None:
    row = next(row for row in boards[0].rows if row.id == "nothing")
    widget.build(boards[0], row)


def test_the_exports_lie_beside_the_page(site, boards) -> None:
    assert (site / "leaderboard.json").read_text() == to_json(boards)
    assert json.loads((site / "leaderboard.json").read_text())["schema"] == 1
    assert (site / "leaderboard.csv").is_file()


def test_a_new_site_replaces_the_old_one_whole(boards, tmp_path) -> None:
    out = tmp_path / "site"
    page.build(boards, out)
    (out / "boards" / "left-over.html").write_text("old")
    page.build(boards, out)
    assert not (out / "boards" / "left-over.html").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["site"]


def test_a_folder_with_other_files_is_never_replaced(boards, tmp_path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="expected an empty folder or an earlier site"):
        page.build(boards, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_an_interrupted_build_leaves_the_old_site(boards, tmp_path, monkeypatch) -> None:
    out = tmp_path / "site"
    page.build(boards, out)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}

    def full(*_) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(page, "to_csv", full)
    with pytest.raises(ResultsError, match="No space left on device"):
        page.build(boards, out)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["site"]


def test_a_claim_under_another_threat_model_is_not_compared(boards) -> None:
    row = next(row for row in boards[0].rows if row.id == "complete")
    card = {"claims": [{"norm": "L2", "eps": "0.5", "attack": "autoattack", "robust_accuracy": 0.7}]}
    entry = dataclasses.replace(row.entry, candidate=dataclasses.replace(row.entry.candidate, card=card))
    (line,) = claims(boards[0], dataclasses.replace(row, entry=entry))["lines"]
    assert line["claimed"] == "70.0"
    assert line["measured"] is None
    assert "another threat model" in line["verdict"]


def test_the_command_to_measure_again_is_quoted(boards) -> None:
    row = next(row for row in boards[0].rows if row.id == "complete")
    entry = dataclasses.replace(
        row.entry, candidate=dataclasses.replace(row.entry.candidate, id="a; rm -rf ~"), n=10_000
    )
    text = command(dataclasses.replace(row, entry=entry, threat=ThreatModel("L2", "0.5")), "standard")
    quoted = "harness run 'a; rm -rf ~' --suite standard --dataset cifar10 --threat L2:0.5 --seed 0"
    assert text == f"{quoted} --implementation reference"
    for implementation, option in (("rampart-pgd-1+search-bfloat16", "--precision mixed"),
                                   ("pyautoattack-0.2.0", "--implementation reference")):  # fmt: skip
        item = dataclasses.replace(row.attacks[PGD.key], task=dataclasses.replace(PGD, implementation=implementation))
        entry = dataclasses.replace(row.entry, evidence={PGD.key: item})
        assert command(dataclasses.replace(row, entry=entry), "standard").endswith(f" --seed 0 {option}")


def test_the_waterfall_counts_what_each_member_breaks(boards) -> None:
    row = next(row for row in boards[0].rows if row.id == "complete")
    widget = next(widget for widget in WIDGETS if widget.name == "waterfall")
    (cascade,) = widget.build(boards[0], row)["cascades"]
    assert [stage["label"] for stage in cascade["stages"]] == ["clean", *(task.name for task in AUTOATTACK)]
    assert [stage["left"] for stage in cascade["stages"]] == [6, 6, 6, 6, 1]
    assert [stage["broken"] for stage in cascade["stages"]] == [None, 0, 0, 0, 5]
