"""Number lines: where a judged number stands between the zoo's honest and broken models."""

import math

import pytest

from leaderboard.bands import line

MATRIX = {
    "bands": {
        "G3": {
            "c1": {"honest": [0.85, 0.99], "broken": [-0.25, 0.0, 0.12]},
            "mixed": {"honest": [0.0, 1.0], "broken": [0.2, 0.4, 1.5]},
            "examples": {"honest": [8.0, 8.0], "broken": [1.0, 2.0]},
            "decades": {"honest": [1e-6, 1e-5], "broken": [0.1, 1.0]},
            "same": {"honest": [0.0, 0.0], "broken": [0.5, 1.0]},
            "far": {"honest": [-0.5, 1.0], "broken": [1e12]},
        }
    }
}


def test_a_number_among_the_honest_ones_lies_in_their_band() -> None:
    found = line(MATRIX, "G3", "c1", 0.9)
    assert found is not None and found["inside"]
    assert found["start"] < found["here"] < found["start"] + found["width"]
    assert found["marks"] == sorted(found["marks"]) and max(found["marks"]) < found["start"]
    assert "0.850 to 0.990 on honest models" in found["says"] and "−0.250 to 0.120" in found["says"]


def test_a_number_beyond_them_is_marked_so_and_stays_on_the_line() -> None:
    for value in (-0.3, 0.5, 1.5):
        found = line(MATRIX, "G3", "c1", value)
        assert found is not None and not found["inside"] and 2 <= found["here"] <= 98


def test_values_orders_of_magnitude_apart_get_a_logarithmic_line() -> None:
    found = line(MATRIX, "G3", "decades", 1e-3)
    assert found is not None
    low, high = line(MATRIX, "G3", "decades", 1e-6), line(MATRIX, "G3", "decades", 1.0)
    assert low is not None and high is not None
    assert found["here"] == pytest.approx((low["here"] + high["here"]) / 2, abs=0.2)


def test_one_value_far_off_does_not_flatten_the_rest() -> None:
    found = line(MATRIX, "G3", "far", 0.75)
    assert found is not None and found["marks"] == [98.0]


def test_nothing_is_drawn_where_the_zoo_says_nothing() -> None:
    assert line(None, "G3", "c1", 0.5) is None
    assert line({}, "G3", "c1", 0.5) is None
    assert line(MATRIX, "G4", "c1", 0.5) is None
    assert line(MATRIX, "G3", "mixed", 0.5) is None
    assert line(MATRIX, "G3", "examples", 4.0) is None
    assert line(MATRIX, "G3", "c1", math.nan) is None
    assert line(MATRIX, "G3", "same", 0.0) is None
    assert line(MATRIX, "G3", "same", 0.5) is not None
