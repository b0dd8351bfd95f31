"""The documentation site: it builds without a warning, asks no network, and says nothing that the code does not."""

import inspect
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
import recipes_page
import suites_page

import harness.cli
from harness import suites
from harness.attacks import ATTACKS
from harness.corruptions import LEVELS
from harness.hubs.grammar import FORMS
from harness.metrics import proportion
from harness.records import Example
from harness.store import adversarial_path, record_path
from harness.submission import CARD
from harness.submission.card import read_card
from harness.tables import TASK_COLUMNS
from leaderboard import cli as leaderboard_cli
from leaderboard.validity import TITLES
from submissions.recipes.config import read

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
CONFIG = DOCS / "theme" / "mkdocs.yml"
PAGES = sorted(DOCS.glob("*.md"))
PARITY = "parity.md"
"""Made by a measurement: in the menu once it is there."""


def text_of(page: str) -> str:
    return (DOCS / page).read_text(encoding="utf-8")


def flat(text: str) -> str:
    return " ".join(text.split())


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text_of(page), re.DOTALL)


def build(config: Path, out: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", str(config), "-d", str(out)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("docs")
    done = build(CONFIG, out)
    assert done.returncode == 0, done.stderr
    return out


def test_every_page_is_in_the_site_and_in_the_menu(site) -> None:
    index = (site / "index.html").read_text()
    for page in PAGES:
        assert (site / page.with_suffix(".html").name).is_file()
        assert f'href="{page.with_suffix(".html").name}"' in index or page.name == "index.md"


def test_pages_load_nothing_from_elsewhere(site) -> None:
    loads = re.compile(r'<(?:script|img|iframe|source)[^>]+src="([^"]+)"|<link[^>]+href="([^"]+)"|url\(([^)]+)\)')
    for path in (*site.glob("*.html"), *site.rglob("*.css")):
        for found in loads.findall(path.read_text(encoding="utf-8")):
            assert not re.match(r"['\"]?(https?:)?//", "".join(found)), f"{path.name}: {found}"


@pytest.mark.parametrize(
    ("wrong", "said"), [("[x](nowhere.md)", "nowhere.md"), ("[x](index.md#no-such-part)", "no-such-part")]
)
def test_a_broken_link_fails(tmp_path, wrong, said) -> None:
    (tmp_path / "theme").mkdir()
    (tmp_path / "index.md").write_text(f"# Page\n\n{wrong}\n")
    text = CONFIG.read_text().replace("site_dir: ../../build/docs\n", "")
    (tmp_path / "theme" / "mkdocs.yml").write_text(text[: text.index("nav:")] + text[text.index("validation:") :])
    for name in ("hooks.py", "extra.css"):
        (tmp_path / "theme" / name).write_bytes((CONFIG.parent / name).read_bytes())
    found = build(tmp_path / "theme" / "mkdocs.yml", tmp_path.parent / f"{tmp_path.name}-site")
    assert found.returncode == 1
    assert said in found.stderr


@pytest.mark.parametrize("there", [True, False])
def test_the_parity_page_is_in_the_menu_when_it_is_there(tmp_path, there) -> None:
    sys.path.insert(0, str(CONFIG.parent))
    try:
        import hooks
        from mkdocs.config import load_config

        config = load_config(str(CONFIG))
        config.docs_dir = str(tmp_path)
        if there:
            (tmp_path / PARITY).touch()
        pages = str(hooks.on_config(config).nav[-1])
    finally:
        sys.path.remove(str(CONFIG.parent))
        sys.modules.pop("hooks", None)
    assert (PARITY in pages) is there


def test_the_page_of_suites_is_up_to_date() -> None:
    assert suites_page.main(["--check"]) == 0, "run: python tests/suites_page.py"


def test_the_page_of_recipes_is_up_to_date_and_says_what_every_field_is() -> None:
    assert recipes_page.main(["--check"]) == 0, "run: python tests/recipes_page.py"
    assert not re.findall(r"\|  \|$", text_of("train.md").split("## A configuration file")[1].split("\n## ")[0], re.M)
    assert set(recipes_page.recipes()) == {read(path).recipe for path in recipes_page.CONFIGS.glob("*.toml")}


def test_the_page_of_suites_has_every_task_and_parameter() -> None:
    text = text_of("suites.md")
    for name in suites.names():
        part = text.split(f"\n## {name}\n")[1].split("\n## ")[0]
        for entry in suites.load(name).entries:
            row = next(line for line in part.splitlines() if f"`{entry['name']}`" in line)
            for parameter, value in (entry.get("params") or {}).items():
                if entry.get("kind") != "corruption":
                    assert f"{parameter} {suites_page._text(value)}".replace("_", "\\_") in row


def test_every_attack_and_its_source_is_described() -> None:
    text = text_of("attacks.md")
    headings = re.findall(r"^### (.+)$", text, re.MULTILINE)
    assert sorted(name for line in headings for name in line.split(", ")) == sorted(ATTACKS.names())
    for name in ATTACKS.names():
        run = ATTACKS.get(name).run
        source = inspect.getdoc(getattr(run, "func", run)) or ""
        part = next(part for part in text.split("\n### ")[1:] if name in part.splitlines()[0].split(", "))
        first = re.search(r"arXiv (\d{4}\.\d{5})", source)
        assert first is None or first[1] in part


def test_every_cascade_is_described_in_its_order() -> None:
    rows = dict(re.findall(r"^\| `([\w-]+)` \| (apgd.*?) \|", text_of("attacks.md"), re.MULTILINE))
    found: dict[str, list[str]] = {}
    for name in suites.names():
        members: dict[str, list[str]] = {}
        for entry in suites.load(name).entries:
            if "cascade" in entry:
                members.setdefault(entry["cascade"], []).append(entry["attack"])
        for cascade, attacks in members.items():
            assert found.setdefault(cascade, attacks) == attacks
    assert set(rows) == set(found)
    for cascade, attacks in found.items():
        assert re.findall(r"apgd-ce|apgd-dlr|apgd-t|fab-t|fab|square", rows[cascade]) == attacks


def test_the_constants_of_the_corruptions_are_the_code_s() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| .*? \| (.+) \|$", text_of("corruptions.md"), re.MULTILINE))
    assert set(rows) == set(LEVELS)
    for name, levels in LEVELS.items():
        shown = str(levels)[1:-1].replace("False", "no").replace("True", "yes").replace("0.10", "0.1")
        assert rows[name] == shown, name


def test_intervals_are_computed() -> None:
    text = flat(text_of("read-a-number.md"))
    for successes, n in ((330, 1000), (6, 20)):
        found = proportion(successes, n)
        line = f"{successes} of {n:,} is {found.value:.1%} [{100 * found.low:.1f}, {100 * found.high:.1f}]"
        assert line.replace("%", " %") in text


def test_words_are_the_code_s() -> None:
    number, adding, api, scaling = map(text_of, ("read-a-number.md", "add-a-model.md", "api.md", "scaling.md"))
    for title in TITLES.values():
        assert f"| {title} |" in number
    for kind in FORMS:
        assert f"| `{kind}" in adding
    for name in TASK_COLUMNS:
        assert f"`{name}`" in api
    for name in Example.__dataclass_fields__:
        assert f"`{name}`" in scaling
    from harness import evaluate

    for name in inspect.signature(evaluate).parameters:
        assert f"`{name}`" in api


def test_the_layout_of_a_results_folder(make_record) -> None:
    shard, text = make_record().shard, text_of("scaling.md")
    assert record_path(Path("results"), shard).parts[:3] == ("results", "records", shard.dataset)
    assert adversarial_path(Path("results"), shard).name.endswith(".adv.safetensors")
    assert "results/records/<dataset>/<submission>/<task>/<start>-<stop>.parquet" in text


def test_the_smallest_card_is_one(tmp_path) -> None:
    card = next(block for block in blocks("add-a-model.md", "toml") if block.startswith("id ="))
    (tmp_path / CARD).write_text(card)
    assert read_card(tmp_path / CARD).id == "my-model"


def commands() -> list[tuple[str, list[str]]]:
    """(page, words) of every command of ours in a block of shell."""
    found = []
    for page in PAGES:
        lines = [line for block in blocks(page.name, "sh") for line in block.splitlines()]
        lines += re.findall(r"^ {4,}((?:harness|leaderboard) [a-z].*)$", text_of(page.name), re.MULTILINE)
        found += [(page.name, shlex.split(line, comments=True)) for line in lines]
    return [(page, words) for page, words in found if words and words[0] in {"harness", "leaderboard"}]


def test_there_are_commands_on_the_pages() -> None:
    assert len(commands()) > 30


@pytest.mark.parametrize(("page", "words"), commands(), ids=lambda value: value if isinstance(value, str) else "")
def test_commands_are_understood(page, words) -> None:
    program, name, *arguments = words
    if program == "leaderboard":
        leaderboard_cli._parser().parse_args([name, *arguments])
        return
    command = harness.cli.app.commands[name]
    command.make_context(f"harness {name}", list(arguments))
    if "--suite" in arguments and not (suite := arguments[arguments.index("--suite") + 1]).endswith(".toml"):
        suites.load(suite)
    if "--attack" in arguments and name == "run":
        tasks = suites.load(arguments[arguments.index("--suite") + 1] if "--suite" in arguments else "quick").entries
        assert arguments[arguments.index("--attack") + 1] in [entry["name"] for entry in tasks]
    if name == "import":
        assert isinstance(command, click.Command)


def test_the_examples_of_the_python_api_run(capsys) -> None:
    found = [block for block in blocks("api.md", "python") if "model = " in block or "result." in block]
    space: dict[str, object] = {}
    for block in (*found, blocks("api.md", "python")[-1]):
        exec(compile(block, "docs/api.md", "exec"), space)
    shown = capsys.readouterr().out
    assert "natural accuracy" in shown and "pgd-20@Linf-8/255" in shown
    assert "verified" in shown
