"""How one value is shown: links, file names, figures, commands, and colours that can be read."""

import dataclasses
import re
from pathlib import Path

import pytest
from leaderboard_results import CLEAN, PGD, Folder, bits

from leaderboard import page, tables
from leaderboard.cells import number
from leaderboard.links import safe_url, slug
from leaderboard.shown import millions, percent, seconds, show_accuracy, significant
from leaderboard.widgets.accuracies import median_distance


@pytest.mark.parametrize(
    ("url", "fine"),
    [
        ("https://arxiv.org/abs/1", True),
        ("http://example.org", True),
        ("javascript:alert(1)", False),
        ("JaVaScRiPt:alert(1)", False),
        (" javascript:alert(1)", False),
        ("java\nscript:alert(1)", False),
        ("data:text/html,<script>", False),
        ("//example.org", False),
        ("https:alert(1)", False),
        ("https://", False),
        ("https://[broken", False),
        ("file:///etc/passwd", False),
        ("Doe 2020", False),
        (None, False),
        (["https://example.org"], False),
    ],
)
def test_only_web_addresses_become_links(url, fine) -> None:
    assert (safe_url(url) is not None) == fine


def test_names_become_distinct_harmless_file_names() -> None:
    names = ["a", "A", "a b", "a_b", "../../etc/passwd", "..", ".", "", "ä", "x" * 300, "a/b", "CON\0"]
    slugs = [slug(name) for name in names]
    assert len(set(slugs)) == len(names)
    for text in slugs:
        assert re.fullmatch(r"[a-z0-9][a-z0-9._-]*", text)
        assert len(text) < 100
    assert slug("fgsm-rs-1122") == "fgsm-rs-1122"


def test_figures_are_rounded_as_they_deserve() -> None:
    assert [significant(value) for value in (0, 0.178, 20.1, 1.0, 99.96, 812.4, 1930.4)] == [
        "0", "0.178", "20.1", "1.00", "100", "812", "1,930",
    ]  # fmt: skip
    assert millions(11_173_962) == "11.2"
    assert (percent(0.62649, 1000), percent(0.62649, 10_000)) == ("62.6", "62.65")
    assert [seconds(value) for value in (3.21, 42, 200, 7500)] == ["3.2 s", "42 s", "3 min 20 s", "2 h 5 min"]
    assert show_accuracy(number([True, False])).main == "50.0"


def test_the_median_distance_counts_only_images_right_to_begin_with(tmp_path) -> None:
    folder = Folder(tmp_path)
    task = dataclasses.replace(PGD, name="deepfool", attack="deepfool")
    folder.ask("a", (CLEAN, task))
    distances = [1 / 255, 2 / 255, 3 / 255, 4 / 255, float("inf"), float("inf"), 0.0, 0.0]
    folder.fill("a", task, bits("11111100"), bits("00001100"), linf=distances)
    (board,) = tables.load([tmp_path])
    item = board.rows[0].attacks[task.key]
    assert median_distance(item, "Linf") == "median Linf distance 3.00/255"
    assert median_distance(item, "L1") == ""


def _luminance(colour: str) -> float:
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize("name", ["ink", "soft", "good", "warn", "bad", "mute", "accent"])
def test_words_can_be_read_in_both_schemes(scheme, name) -> None:
    """WCAG 2.1, 1.4.3: at least 4.5 to 1, on the page and on tables."""
    style = (Path(page.__file__).parent / "static" / "site.css").read_text()
    colours = dict(re.findall(r"--(\w+): (#\w{6});", re.findall(r":root \{(.*?)\}", style, re.S)[scheme]))
    for ground in ("paper", "raised"):
        light, dark = sorted((_luminance(colours[name]), _luminance(colours[ground])), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, f"{name} on {ground}"
