"""``harness zoo`` from the command line: a few models of the zoo on a few images, run, run again, judged alone."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from harness.cli import main

ZOO = Path(__file__).parent / "zoo"
FEW = ["--only", "m15-killed-nat"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The results folder of a run that was never disturbed, and what the command said."""
    results = tmp_path_factory.mktemp("zoo")
    command = [sys.executable, "-m", "harness", "zoo", "--zoo", str(ZOO), *FEW, "--limit", "6", "--workers", "2"]
    done = subprocess.run(
        [*command, "--results", str(results)], capture_output=True, text=True, timeout=500, check=False
    )
    return results, done


def test_a_few_models_end_as_they_must(finished) -> None:
    results, done = finished
    assert done.returncode == 0, done.stdout + done.stderr
    data = json.loads((results / "matrix.json").read_text())
    verdicts = {row["id"]: row["outcome"]["verdict"] for row in data["rows"]}
    # Fewer than five examples have fallen, so the protocol it breaks weighs more than its number.
    assert verdicts == {"m15-killed-nat": "protocol", "natural": "verified"}
    by_name = {row["id"]: row["outcome"] for row in data["rows"]}
    # The wrapper hides that nothing of its base stands; the battery finds it out.
    assert by_name["m15-killed-nat"]["claimed"] > 0.3
    assert by_name["m15-killed-nat"]["corrected"] == by_name["natural"]["corrected"] == 0
    assert by_name["m15-killed-nat"]["checks"]["C8"] == "fired"
    assert data["seeds"] == [0] and data["n"] == "6"
    assert "seed 0: 2 models" in done.stdout and "left" in done.stdout
    assert "broken not verified 1/1, honest verified 1/1" in done.stdout


def test_the_same_command_again_runs_nothing(finished, capsys) -> None:
    results, _ = finished
    assert main(["zoo", "--zoo", str(ZOO), *FEW, "--limit", "6", "--results", str(results)]) == 0
    said = capsys.readouterr().out
    total = said.partition(" models, ")[2].partition(" shards")[0]
    assert f"{total} shards, {total} done already" in said


def test_old_records_are_judged_alone_and_as_json(finished, capsys) -> None:
    results, _ = finished
    assert main(["zoo", "--zoo", str(ZOO), *FEW, "--results", str(results), "--judge-only", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads((results / "matrix.json").read_text())


def test_models_without_records_are_told(finished, capsys, tmp_path) -> None:
    results, _ = finished
    (tmp_path / "seed-0").symlink_to(results / "seed-0")
    command = ["zoo", "--zoo", str(ZOO), "--only", "m05-label-only-nat", "--results", str(tmp_path), "--judge-only"]
    assert main(command) == 1
    assert "there are no records to judge" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--zoo", "nowhere"], "--zoo: expected a folder with expected.toml, got nowhere"),
        (["--only", "m99"], "unknown model of the zoo 'm99'"),
        (["--suite", "quick", "--only", "natural"], "--suite: expected a suite with probes such as check, got 'quick'"),
        (["--suite", "nothing", "--only", "natural"], "unknown suite 'nothing'"),
        (["--dataset", "nothing", "--only", "natural"], "nothing"),
        (["--seeds", "0"], "--seeds"),
        (["--limit", "0"], "--limit"),
        (["--judge-only"], "expected records of a zoo"),
    ],
)
def test_bad_input_is_one_clear_line(arguments, message, tmp_path, capsys) -> None:
    given = [] if "--zoo" in arguments else ["--zoo", str(ZOO)]
    assert main(["zoo", *given, *arguments, "--results", str(tmp_path / "results")]) == 2
    told = capsys.readouterr().err.strip()
    assert message in told and told.startswith("error: ") and "\n" not in told


def test_a_zoo_whose_models_are_not_there_is_refused(tmp_path, capsys) -> None:
    (tmp_path / "expected.toml").write_text("[models.ghost]\ntitle = 'Ghost'\nkind = 'honest'\n")
    assert main(["zoo", "--zoo", str(tmp_path), "--results", str(tmp_path / "results")]) == 2
    assert "unknown submission 'ghost'" in capsys.readouterr().err
