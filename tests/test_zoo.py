"""RobustBench imports on a plain installation, and its zoo is the published one."""

import pytest

from harness.errors import UserError
from harness.zoo import robustbench_names


def test_the_zoo_of_the_installed_package_can_be_read() -> None:
    assert {"Standard", "Wong2020Fast", "Engstrom2019Robustness"} <= set(robustbench_names("cifar10", "Linf"))
    assert "Rice2020Overfitting" in robustbench_names("cifar10", "L2")
    assert "Rice2020Overfitting" not in robustbench_names("cifar10", "corruptions")


def test_a_board_that_is_not_there_is_named() -> None:
    with pytest.raises(UserError, match=r"expected one of cifar10 L2.*got cifar10 L7"):
        robustbench_names("cifar10", "L7")
