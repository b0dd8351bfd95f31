"""Accuracies against hand-computed figures and published formulas."""

import itertools
import math
import random

import pytest

from harness import metrics


def test_the_interval_is_wilsons() -> None:
    # 8 of 20, by hand: centre (0.4 + z2/40) / (1 + z2/20), half width z/(1 + z2/20) * sqrt(0.012 + z2/1600).
    accuracy = metrics.proportion(8, 20)
    assert (accuracy.value, accuracy.n) == (0.4, 20)
    assert accuracy.low == pytest.approx(0.21881, abs=1e-5)
    assert accuracy.high == pytest.approx(0.61342, abs=1e-5)


@pytest.mark.parametrize("n", [1, 2, 20, 1000])
def test_the_interval_holds_the_value_and_stays_in_range(n) -> None:
    for successes in {0, 1, n // 2, n - 1, n}:
        accuracy = metrics.proportion(successes, n)
        assert 0 <= accuracy.low <= accuracy.value <= accuracy.high <= 1
    assert metrics.proportion(0, n).low == 0 and metrics.proportion(n, n).high == 1


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (-1, 3), (4, 3)])
def test_impossible_counts_are_refused(successes, n) -> None:
    with pytest.raises(ValueError, match="expected 0 <= successes"):
        metrics.proportion(successes, n)


def test_the_three_accuracies(make_example) -> None:
    rows = [
        make_example(label=1),  # robust
        make_example(label=1, adversarial=2),  # correct, fooled
        make_example(label=1, clean=2, adversarial=2),  # wrong, consistent
        make_example(
            label=1, clean=2, adversarial=1
        ),  # wrong, turned right by the attack: neither robust nor consistent
        make_example(label=1, clean=-1, adversarial=-1),  # not finite
    ]
    assert metrics.natural_accuracy(rows).value == 2 / 5
    assert metrics.robust_accuracy(rows).value == 1 / 5
    assert metrics.consistency_accuracy(rows).value == 3 / 5


def test_robust_is_bounded_by_natural_and_consistency(make_example) -> None:
    draw = random.Random(0)
    for _ in range(50):
        rows = [
            make_example(label=draw.randrange(3), clean=draw.randrange(3), adversarial=draw.randrange(3))
            for _ in range(40)
        ]
        natural, robust, consistent = (
            measure(rows).value
            for measure in (metrics.natural_accuracy, metrics.robust_accuracy, metrics.consistency_accuracy)
        )
        assert natural + consistent - 1 - 1e-12 <= robust <= min(natural, consistent)


def test_worst_case_takes_the_minimum_per_example(make_example) -> None:
    first = [make_example(index=0), make_example(index=1, adversarial=5), make_example(index=2)]
    second = [make_example(index=0, adversarial=5), make_example(index=1), make_example(index=2)]
    assert metrics.worst_case([first, second]).value == 1 / 3
    with pytest.raises(ValueError, match="same examples"):
        metrics.worst_case([first, second[:2]])


def test_per_class(make_example) -> None:
    rows = [make_example(label=0), make_example(label=0, clean=1), make_example(label=2, adversarial=1)]
    assert {label: item.value for label, item in metrics.per_class(rows, robust=False).items()} == {0: 0.5, 2: 1.0}
    assert {label: item.value for label, item in metrics.per_class(rows, robust=True).items()} == {0: 0.5, 2: 0.0}


def test_mcnemar_is_the_exact_sign_test() -> None:
    for only_first, only_second in itertools.product(range(7), repeat=2):
        first = [True] * only_first + [False] * only_second + [True, False]
        second = [False] * only_first + [True] * only_second + [True, False]
        n, k = only_first + only_second, min(only_first, only_second)
        expected = min(1.0, 2 * sum(math.comb(n, i) for i in range(k + 1)) / 2**n)
        assert metrics.mcnemar(first, second) == pytest.approx(expected)
    assert metrics.mcnemar([True] * 5000 + [False] * 4000, [False] * 5000 + [True] * 4000) < 1e-20


def cells_of(table):
    return {name: dict(enumerate(severities, 1)) for name, severities in table.items()}


def test_corruption_accuracy_is_the_mean_over_corruptions_of_the_mean_over_severities() -> None:
    # By hand: a has (2/4 + 1/4) / 2 = 3/8, b has 4/4; the mean is 11/16.
    table = cells_of({"a": [[1, 1, 0, 0], [1, 0, 0, 0]], "b": [[1, 1, 1, 1]]})
    accuracy = metrics.corruption_accuracy(table)
    assert accuracy.value == pytest.approx(11 / 16) and accuracy.n == 4
    # Shares of the images: 1, 3/4, 1/2, 1/2, with variance 11/192: as much as 15 examples, more than the 12 outcomes.
    expected = metrics._wilson(11 / 16, 12, 4)
    assert (accuracy.low, accuracy.high) == pytest.approx((expected.low, expected.high))
    error = metrics.corruption_error(table)
    assert error.value == pytest.approx(5 / 16) and (error.low, error.high) == (1 - accuracy.high, 1 - accuracy.low)


def test_copies_of_a_cell_do_not_narrow_the_interval() -> None:
    outcomes = [True] * 13 + [False] * 7
    once, often = (metrics.corruption_accuracy({"a": dict.fromkeys(range(copies), outcomes)}) for copies in (1, 50))
    plain = metrics.proportion(13, 20)
    for accuracy in (once, often):
        assert (accuracy.value, accuracy.n) == (pytest.approx(0.65), 20)
        # n - 1 in the variance between images costs nothing: the images are the least that count.
        assert (accuracy.low, accuracy.high) == pytest.approx((plain.low, plain.high))


def test_independent_cells_narrow_the_interval_as_more_examples_do() -> None:
    draw = random.Random(1)
    table = {"a": {level: [draw.random() < 0.6 for _ in range(400)] for level in range(10)}}
    accuracy = metrics.corruption_accuracy(table)
    alike = metrics.proportion(round(accuracy.value * 4000), 4000)
    assert accuracy.high - accuracy.low == pytest.approx(alike.high - alike.low, rel=0.15)


@pytest.mark.parametrize("outcome", [True, False])
def test_perfect_and_hopeless_corruption_accuracy_keep_an_interval_of_n_images(outcome) -> None:
    accuracy = metrics.corruption_accuracy(cells_of({name: [[outcome] * 20] * 5 for name in "abc"}))
    plain = metrics.proportion(20 * outcome, 20)
    assert (accuracy.value, accuracy.low, accuracy.high) == (plain.value, plain.low, plain.high)


@pytest.mark.parametrize(
    "table", [{}, {"a": []}, {"a": [[True], [True, False]]}, {"a": [[]]}, {"a": [[True]], "b": []}]
)
def test_cells_of_other_examples_are_refused(table) -> None:
    with pytest.raises(ValueError, match="expected the same examples in every cell"):
        metrics.corruption_accuracy(cells_of(table))


def test_mce_and_its_relatives_by_hand() -> None:
    errors, baseline = {"a": [0.2, 0.4], "b": [0.1, 0.1]}, {"a": [0.5, 0.7], "b": [0.2, 0.6]}
    assert metrics.mce(errors, baseline) == pytest.approx((0.6 / 1.2 + 0.2 / 0.8) / 2)
    assert metrics.mce(baseline, baseline) == pytest.approx(1)
    relative = metrics.relative_mce(errors, baseline, 0.05, 0.1)
    assert relative == pytest.approx((0.5 / 1.0 + 0.1 / 0.6) / 2)
    # RobustBench, CIFAR-10, Standard: 94.78 clean and 73.46 corrupted.
    assert metrics.relative_robustness(0.7346, 0.9478) == pytest.approx(0.77506, abs=1e-5)
    for other in ({"a": [0.5, 0.7]}, {"a": [0.5], "b": [0.2, 0.6]}, {"a": [0.5, 0.7], "b": [0, 0]}):
        with pytest.raises(ValueError, match="expected"):
            metrics.mce(errors, other)
    with pytest.raises(ValueError, match="natural accuracy above 0"):
        metrics.relative_robustness(0.5, 0)
