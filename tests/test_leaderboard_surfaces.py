"""Maps of the loss over a plane."""

import pytest

from leaderboard.surfaces import MOST, surfaces

NAMES = ("airplane", "automobile", "bird")
GRID = [[0.0, 0.5, 1.0], [1.0, 1.5, 2.0], [2.0, 3.0, 4.0]]
OFFSETS = [-2.0, 0.0, 2.0]


def one(loss, label=2):
    return {"grid_offsets": OFFSETS, "surfaces": [{"position": 7, "label": label, "loss": loss}]}


def test_the_adversarial_direction_rises_and_the_scale_spans_all_maps() -> None:
    found = surfaces(one(GRID), NAMES)
    assert found is not None
    assert (found["low"], found["high"], found["reach"]) == ("0", "4", "2")
    (only,) = found["maps"]
    squares = {(x, y): dark for x, y, dark in only["squares"]}
    assert len(squares) == 9
    assert squares[0.0, 66.67] == 0.04
    assert squares[66.67, 0.0] == 1.0
    assert only["says"] == "Image 7, bird: cross-entropy from 0 to 4"


def test_a_flat_loss_is_drawn_flat() -> None:
    found = surfaces(one([[1.0] * 3] * 3), NAMES)
    assert found is not None and {dark for _, _, dark in found["maps"][0]["squares"]} == {0.04}


def test_only_some_maps_are_shown() -> None:
    numbers = one(GRID) | {"surfaces": one(GRID)["surfaces"] * 9}
    found = surfaces(numbers, NAMES)
    assert found is not None and len(found["maps"]) == MOST


@pytest.mark.parametrize(
    "numbers",
    [
        {}, {"surfaces": "none"}, {"grid_offsets": OFFSETS, "surfaces": [3]}, one([[1.0, 2.0, 3.0]]), one(None),
        one([[1.0, float("nan"), 2.0]] * 3), one([["<svg>", 1, 2]] * 3), {**one(GRID), "grid_offsets": None},
    ],
)  # fmt: skip
def test_numbers_that_make_no_map_are_left_out(numbers) -> None:
    assert surfaces(numbers, NAMES) is None


def test_a_label_without_a_name_is_a_number() -> None:
    found = surfaces(one(GRID, label=5), NAMES)
    assert found is not None and found["maps"][0]["name"] == "class 5"
