"""``--precision mixed``: what is told of it, and whose records are whose."""

import pytest
from command_line import HONEST, harness, records, submission

from harness.commands import arguments
from harness.environment import bfloat16_speed


def test_records_of_a_search_in_bfloat16_do_not_stand_for_others(tmp_path) -> None:
    submission(tmp_path / "mine", "honest", HONEST)
    results = tmp_path / "r"
    command = ["run", "honest", "--submissions", str(tmp_path / "mine"), "--results", str(results), "--limit", "4"]
    command += ["--suite", "quick", "--attack", "clean", "--attack", "pgd-20"]
    told = "note: stale records, to be run again and replaced (another --results keeps them): 1 of mixed precision\n"
    for options, ready, ending in (
        (["--precision", "mixed"], 0, "rampart-pgd-1+search-bfloat16"),
        (["--precision", "mixed"], 2, "rampart-pgd-1+search-bfloat16"),
        ([], 1, "rampart-pgd-1"),
    ):
        done = harness(*command, *options)
        assert done.returncode == 0, done.stderr
        assert (told in done.stdout) == (ready == 1)
        assert f"2 shards, {ready} done already" in done.stdout
        assert [record.shard.task.implementation for record in records(results)] == ["rampart-clean-1", ending]


@pytest.mark.parametrize(
    ("precision", "device", "speed", "told"),
    [
        ("mixed", "cpu", 0.12, True),
        ("mixed", "cpu", 2.0, False),
        ("mixed", "cuda", 0.1, False),
        ("full", "cpu", 0.1, False),
    ],
)
def test_mixed_precision_that_makes_a_processor_slower_is_told(monkeypatch, precision, device, speed, told) -> None:
    monkeypatch.setattr(arguments, "bfloat16_speed", lambda: speed)
    note = arguments.precision_note(precision, device)
    assert bool(note) is told
    assert ("0.12 times" in note and "--precision full" in note) is told


def test_the_speed_of_bfloat16_is_a_ratio() -> None:
    assert 0.001 < bfloat16_speed() < 100
