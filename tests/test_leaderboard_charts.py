"""Charts: scales with known places, gaps where nothing was measured, numbers beside the lines, no strange pictures."""

import base64
import dataclasses
import math
import re
from types import SimpleNamespace

import pytest
from leaderboard_judged import MEASURED, entry_of, judged, with_judgements
from leaderboard_results import CLEAN, LINF, PGD, Folder, bits

from harness.records import Task, ThreatModel
from leaderboard import page, tables
from leaderboard.board import Row
from leaderboard.cells import not_asked
from leaderboard.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Series, chart, decades, label, ticks, usable
from leaderboard.widgets import curves
from leaderboard.widgets.curves import build, continuity, pictures, whole_curve

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"\x00" * 40).decode()


def drawn(*series: Series, **more):
    return chart("one", "One", series, x="x", y="y", says="says", **more)


def points(path: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"[ML](-?[\d.]+) (-?[\d.]+)", path)]


def test_points_lie_where_the_scale_puts_them() -> None:
    one = drawn(Series("a", [(0.0, 0.0), (1.0, 50.0), (2.0, 100.0)]), y_limits=(0.0, 100.0))
    middle = ((LEFT + WIDTH - RIGHT) / 2, (TOP + HEIGHT - BOTTOM) / 2)
    assert points(one["lines"][0]["path"]) == [(LEFT, HEIGHT - BOTTOM), middle, (WIDTH - RIGHT, TOP)]
    assert one["y_ticks"][0] == (f"{HEIGHT - BOTTOM:.1f}", "0")
    assert one["y_ticks"][-1] == (f"{TOP:.1f}", "100")


def test_a_logarithmic_line_of_slope_one_is_straight() -> None:
    one = drawn(Series("a", [(1e-4, 1e-2), (1e-3, 1e-1), (1e-2, 1.0)]), log=True)
    (x0, y0), (x1, y1), (x2, y2) = points(one["lines"][0]["path"])
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.11)
    assert y1 - y0 == pytest.approx(y2 - y1, abs=0.11)
    assert [text for _, text in one["x_ticks"]] == ["1e−4", "1e−3", "1e−2"]


def test_a_missing_value_breaks_the_line_and_is_told_in_the_table() -> None:
    one = drawn(Series("a", [(0.0, 1.0), (1.0, None), (2.0, 3.0), (3.0, 4.0)]))
    assert one["lines"][0]["path"].count("M") == 2
    assert one["table"]["rows"][1] == ("1", ["–"])


def test_zeros_are_left_out_of_a_logarithmic_chart() -> None:
    one = drawn(Series("a", [(1e-3, 0.0), (1e-2, 1.0), (1e-1, 2.0)]), log=True)
    assert len(points(one["lines"][0]["path"])) == 2


def test_less_than_two_points_are_no_chart() -> None:
    assert drawn(Series("a", [(0.0, 1.0)])) is None
    assert drawn(Series("a", [(0.0, None), (1.0, None)])) is None
    assert drawn() is None


def test_a_flat_line_has_a_scale() -> None:
    one = drawn(Series("a", [(0.0, 2.0), (1.0, 2.0)]))
    assert {y for _, y in points(one["lines"][0]["path"])} == {(TOP + HEIGHT - BOTTOM) / 2}


def test_ticks_are_round() -> None:
    assert ticks(0, 100) == [0, 20, 40, 60, 80, 100]
    assert ticks(-2, 2) == [-2, -1, 0, 1, 2]
    assert ticks(0, 0.3) == [0, 0.1, 0.2, 0.3]
    assert decades(2e-5, 0.08) == pytest.approx([1e-5, 1e-4, 1e-3, 1e-2, 1e-1])
    assert len(decades(1e-20, 1e20)) <= 8
    assert (label(0.25), label(-1.0), label(1e-3, log=True)) == ("0.25", "−1", "1e−3")


def test_only_numbers_are_usable() -> None:
    assert usable([1, 2.5, None, "3", True, float("nan"), float("inf")]) == [1.0, 2.5, None, None, None, None, None]
    assert usable("no list") == []


def test_only_small_pngs_become_pictures() -> None:
    good = {"position": 3, "label": 1, "png": PNG}
    bad = [
        {**good, "png": "not base64!"},
        {**good, "png": base64.b64encode(b"<svg onload=alert(1)>").decode()},
        {**good, "png": base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"\x00" * 10**5).decode()},
        {**good, "position": None},
        {"png": PNG},
    ]
    found = pictures({"saliency": [good, *bad]}, ("airplane", "automobile"))
    assert found == [{"source": f"data:image/png;base64,{PNG}", "name": "automobile", "position": "3"}]
    assert pictures({"saliency": None}, ()) == []
    assert pictures({"saliency": [good]}, ())[0]["name"] == "class 1"


def test_the_slope_of_small_steps_is_told() -> None:
    one = continuity({"h": [1e-5, 1e-3, 1e-1], "q": [2e-5, 2e-3, 2e-1], "slope": 0.978})
    assert "exponent 0.98" in one["says"]
    first, second = (points(line["path"]) for line in one["lines"])
    assert first == second  # exactly in proportion
    assert continuity({"h": [1e-5], "q": [0.0], "slope": None}) is None


@pytest.fixture(scope="module")
def board(tmp_path_factory):
    folder = Folder(tmp_path_factory.mktemp("results"))
    folder.complete("a", bits("11111100"), {"pgd-20": bits("11100000")}, tasks=(CLEAN, PGD))
    (plain,) = tables.load([folder.root])
    numbers = {**MEASURED, "i1-jacobian": {"alignment": 1.17, "saliency": [{"position": 0, "label": 3, "png": PNG}]}}
    return with_judgements(plain, {"a": judged(entry_of(plain, "a"), LINF, measured=numbers)})


def test_the_page_draws_what_the_probes_measured(board, tmp_path) -> None:
    view = build(board, board.rows[0])
    assert [one["name"] for one in view["charts"]] == ["budget", "landscape", "continuity"]
    assert view["alignment"] == "1.17"
    budget = view["charts"][0]
    assert budget["table"]["rows"][:2] == [("0", ["100", "100"]), ("0.1", ["–", "90"])]
    source = next(page.build([board], tmp_path / "site").parent.glob("boards/*/a.html")).read_text()
    assert source.count('<svg class="plot"') == 3
    for plot in re.findall(r'<svg class="plot"[^>]*>', source):
        assert 'role="img"' in plot
        assert len(re.search('aria-label="([^"]*)"', plot)[1]) > 60
    (picture,) = re.findall("<img [^>]*>", source)
    assert 'alt="Gradient of the loss for image 0, cat"' in picture
    assert "style=" not in source


@pytest.mark.parametrize(
    "numbers",
    [
        {},
        {"a2-budget": {"applicable": False, "reason": "no"}},
        {"a2-budget": {"accuracy": None}, "i2-landscape": {"offsets": None, "profile": 3}},
        {"a2-budget": {"accuracy": {"x": 1, "1": None}}, "c7-continuity": {"h": None, "q": [None]}},
        {"i2-landscape": {"offsets": [0.0, None], "profile": {}}, "i1-jacobian": {"saliency": [3]}},
        {
            "i2-landscape": {
                "offsets": [0.0, 1.0],
                "profile": {"adversarial": 3, "orthogonal": {"median": [None, None]}},
            }
        },
    ],
)
def test_strange_numbers_draw_nothing_and_break_nothing(board, numbers) -> None:
    entry = judged(board.rows[0].entry, LINF, measured=numbers)
    assert build(board, dataclasses.replace(board.rows[0], entry=entry)) is None


@pytest.mark.parametrize(("norm", "expected"), [("Linf", [(0.5, 75.0), (1.0, 50.0), (4.0, 25.0)]), ("L1", [])])
def test_a_curve_over_all_images_counts_who_stands_at_each_budget(norm, expected) -> None:
    threat = ThreatModel(norm, "0.1")
    task = Task("budget", "attack", "budget", {"fractions": [0.5, 1.0, 4.0, 16.0]}, threat, "rampart-budget-1")
    found = SimpleNamespace(
        correct=(True, True, True, True, False), distances={"Linf": (0.05, 0.1, 0.3, math.inf, 0.0), "L2": (0.0,) * 5}
    )
    entry = SimpleNamespace(evidence={task.key: SimpleNamespace(task=task, outcomes=found)})
    row = Row(entry, threat, not_asked("clean"), {}, {})
    assert whole_curve(row) == expected
    view = curves.budget(row, {"a2-budget": {"accuracy": {"1": 0.9}}})
    assert ("Auto-PGD leaves 75 % at 0.5 ε" in view["says"]) == bool(expected)
