"""A clash, a typo and a late registration are errors that say what to do."""

import pytest

from harness.attacks import ATTACKS
from harness.datasets import DATASETS
from harness.errors import UnknownNameError
from harness.registry import Registry


def test_names_and_things() -> None:
    registry: Registry[int] = Registry("number")
    registry.add("two", 2)
    registry.add("one", 1)
    assert registry.names() == ["one", "two"]
    assert registry.get("two") == 2


def test_a_clash_and_a_typo_are_errors() -> None:
    registry: Registry[int] = Registry("number")
    registry.add("seven", 7)
    with pytest.raises(ValueError, match="number 'seven' is registered twice"):
        registry.add("seven", 8)
    with pytest.raises(UnknownNameError, match="unknown number 'sevne': did you mean 'seven'"):
        registry.get("sevne")
    assert registry.get("seven") == 7


@pytest.mark.parametrize("registry", [ATTACKS, DATASETS], ids=lambda registry: registry.kind)
def test_the_registries_are_closed_once_they_are_filled(registry) -> None:
    with pytest.raises(ValueError, match="comes too late"):
        registry.add("late", None)
    assert "late" not in registry.names()
