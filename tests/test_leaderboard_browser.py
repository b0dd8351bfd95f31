"""The script of the tables, in a real browser where there is one."""

import html
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from urllib.parse import urlencode

import pytest
from leaderboard_judged import entry_of, judged, with_judgements
from leaderboard_results import CLEAN, COST, FGSM, LINF, PGD, Folder, bits, card_of

from harness.records import Status
from leaderboard import page, tables

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium to try the tables in")
BOARD = "cifar10-8-linf-8_255"
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--virtual-time-budget=3000",
)  # fmt: skip
TASKS = (CLEAN, FGSM, PGD, COST)
CLICKS = """
const header = (key) => document.querySelector(`table[data-board="%s"] th[data-key="${key}"]`);
const press = (key) => header(key).querySelector("button").click();
const names = (rows) => [...document.querySelectorAll(`${rows} th.name > a`)].map((a) => a.textContent).join(" ");
const order = () => names("tbody.ranked tr.row");
const note = (text) => { document.body.dataset.log = (document.body.dataset.log ?? "") + text + ";"; };
press("natural"); note(order()); note(header("natural").getAttribute("aria-sort"));
press("natural"); note(order()); note(header("natural").getAttribute("aria-sort"));
note(String(header("rank").getAttribute("aria-sort")));
press("submission"); note(order());
press("parameters"); note(header("parameters").getAttribute("aria-sort"));
press("rank"); note(order());
header("natural").querySelector("button").focus(); note(document.querySelector(".explain").textContent.slice(0, 9));
const box = document.querySelector('input[data-group="cost"]'); box.click();
note(getComputedStyle(header("parameters")).display); note(getComputedStyle(header("natural")).display);
const filter = document.getElementById("filter"); filter.value = "AUTHOR-b"; filter.dispatchEvent(new Event("input"));
note(names("tr.row:not([hidden])"));
note(document.getElementById("shown").textContent); note(location.hash.replace("#", ""));
filter.value = ""; filter.dispatchEvent(new Event("input"));
const verdict = document.getElementById("verdict"); verdict.value = "verified";
verdict.dispatchEvent(new Event("change"));
note(names("tr.row:not([hidden])")); note(document.getElementById("shown").textContent);
press("verdict"); note(order()); note(new URLSearchParams(location.hash.slice(1)).get("verdict"));
"""
MEASURE = """
const wide = [...document.querySelectorAll("main *")].filter((one) => !one.closest(".scroll, .wide, pre, .unseen"))
  .filter((one) => one.getBoundingClientRect().right > innerWidth + 1).map((one) => one.outerHTML.slice(0, 80));
document.body.dataset.log = `${document.documentElement.scrollWidth <= innerWidth};${innerWidth};${wide.join(" ")}`;
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("results")
    folder = Folder(root)
    natural = {"b": "11110000", "a": "11111100", "c": "11111000"}
    robust = {"b": "11110000", "a": "11000000", "c": "11100000"}
    for name, outcome in natural.items():
        card = card_of(name, authors=[f"Author-{name}"])
        folder.complete(name, bits(outcome), {"pgd-20": bits(robust[name])}, tasks=TASKS, card=card)
    for name in ("late", "later"):
        folder.ask(name, TASKS, card=card_of(name, title="<script>document.body.dataset.hacked = 1</script>"))
        folder.fill(name, CLEAN, [name == "later"] * 8)
    folder.fill("late", PGD, failure=(Status.ERROR, "died", "x"))
    folder.fill("later", FGSM, [True] * 8)
    (plain,) = tables.load([root])
    board = with_judgements(plain, {"b": judged(entry_of(plain, "b"), LINF)})
    return page.build([board], tmp_path_factory.mktemp("out") / "site").parent


def dump(site: Path, name: str = "index.html", size: str = "1200,900", **view: str) -> str:
    """The page's source after its script has run."""
    address = (site / name).as_uri() + (f"#{urlencode(view)}" if view else "")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [str(CHROMIUM), *FLAGS, f"--window-size={size}", f"--user-data-dir={profile}", "--dump-dom", address]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout


def order(source: str) -> list[str]:
    return re.findall(r'<th class="pin name"[^>]*><a [^>]*>([^<]+)</a>', source)


def test_without_a_view_the_order_is_the_rank_and_nothing_injected_ran(site) -> None:
    source = dump(site)
    assert order(source) == ["b", "c", "a", "later", "late"]
    assert "data-hacked" not in source.partition("<main")[0]
    assert '<div class="tools" id="tools">' in source
    assert len(re.findall(r'aria-sort="ascending"', source)) == 1


def test_an_address_restores_sort_and_filter_and_missing_values_come_last(site) -> None:
    up = dump(site, board=BOARD, sort=f"robust:{FGSM.key}", dir="ascending", filter="late")
    down = dump(site, board=BOARD, sort=f"robust:{FGSM.key}", dir="descending")
    # "late" has no fgsm accuracy, so it stays behind "later" either way, and both behind the ranked rows.
    assert order(up) == ["b", "c", "a", "later", "late"]
    assert order(down) == ["a", "c", "b", "later", "late"]
    rows = re.findall(r'<tr class="row"([^>]*)>\s*<td[^>]*>.*?</td>\s*<th[^>]*><a [^>]*>([^<]+)</a>', up, re.S)
    assert {name: "hidden" in attributes for attributes, name in rows} == {
        "later": False, "late": False, "b": True, "c": True, "a": True,
    }  # fmt: skip
    assert re.search(r'<output id="shown"[^>]*>2 of 5 rows</output>', up)
    assert re.search(r'data-key="robust:fgsm@Linf-8/255"[^>]*aria-sort="descending"', down)


def test_clicks_sort_hide_and_filter(site, tmp_path) -> None:
    copy = tmp_path / "site"
    shutil.copytree(site, copy)
    (copy / "static" / "clicks.js").write_text(CLICKS % BOARD)
    index = copy / "index.html"
    index.write_text(index.read_text().replace("</head>", '<script src="static/clicks.js" defer></script></head>'))
    log = re.search(r'data-log="([^"]*)"', dump(copy))
    assert log, "the script did not run to its end"
    address = urlencode({"board": BOARD, "sort": "rank", "dir": "ascending", "hide": "cost", "filter": "AUTHOR-b"})
    assert html.unescape(log[1]).rstrip(";").split(";") == [
        "a c b", "descending", "b c a", "ascending", "null", "a b c", "ascending", "b c a", "clean [%]",
        "none", "table-cell", "b", "1 of 5 rows", address, "b", "1 of 5 rows", "b c a", "verified",
    ]  # fmt: skip


def test_an_address_restores_the_verdict(site) -> None:
    rows = re.findall(r'<tr class="row"([^>]*)>\s*<td[^>]*>.*?</td>\s*<th[^>]*><a [^>]*>([^<]+)</a>',
                      dump(site, verdict="verified"), re.S)  # fmt: skip
    assert [name for attributes, name in rows if "hidden" not in attributes] == ["b"]
    # A verdict that nobody has, or that is none, hides nothing.
    assert 'class="row" hidden' not in dump(site, verdict="nonsense")


@pytest.mark.parametrize(
    "name", ["index.html", "how-to-read.html", "checks.html", f"boards/{BOARD}/a.html", f"boards/{BOARD}/late.html"]
)
def test_nothing_sticks_out_of_a_narrow_window(site, tmp_path, name) -> None:
    copy = tmp_path / "site"
    shutil.copytree(site, copy)
    (copy / "static" / "measure.js").write_text(MEASURE)
    depth = "../" * name.count("/")
    text = (copy / name).read_text()
    (copy / name).write_text(text.replace("</body>", f'<script src="{depth}static/measure.js"></script></body>'))
    log = re.search(r'data-log="([^"]*)"', dump(copy, name, "390,800"))
    assert log, "the script did not run to its end"
    fits, width, wide = html.unescape(log[1]).split(";", 2)
    assert int(width) <= 500
    assert wide == ""
    assert fits == "true"
