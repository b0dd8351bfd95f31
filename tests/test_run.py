"""The command line on tiny submissions: every number on disk, whatever happens on the way."""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from command_line import HONEST, harness, outcomes, records, submission
from safetensors.torch import save_file

from harness import store
from harness.records import SCHEMA, Status

FAULTS = {
    "exits": "os._exit(3)",
    "sleeps": "time.sleep(10_000)",
    "allocates": "self.hoard = [torch.ones(64, 2**20) for _ in range(10_000)]",
    "raises": "raise ValueError('no thanks')",
    "wrong-shape": "return x.mean(dim=(2, 3))[:1]",
    "tuple": "return (x.mean(dim=(2, 3)),)",
}

FAULTY = """
import os, time
import torch
from torch import nn

class Faulty(nn.Module):
    def forward(self, x):
        {body}

def build():
    return Faulty()
"""


@pytest.fixture(scope="session")
def honest_root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("honest")
    submission(root, "honest", HONEST)
    submission(root, "honest-too", HONEST.replace("manual_seed(0)", "manual_seed(1)"))
    return root


@pytest.fixture(scope="session")
def finished(honest_root, tmp_path_factory) -> Path:
    """Results of a run that was never disturbed."""
    results = tmp_path_factory.mktemp("finished")
    done = harness("run", "honest", "honest-too", "--submissions", str(honest_root), "--results", str(results))
    assert done.returncode == 0, done.stderr
    return results


def test_a_run_leaves_a_record_of_every_shard(finished) -> None:
    found = records(finished)
    assert {record.shard.task.name for record in found} == {
        "clean", "fgsm", "pgd-20", "deepfool", "apgd-ce", "apgd-t-3", "square-500", "cost",
    }  # fmt: skip
    assert all(record.status is Status.OK for record in found)
    for record in found:
        if record.shard.task.kind == "cost":
            cost = record.footprint
            assert cost and cost.parameters == 8 * 27 + 8 + 16 + 330 and cost.macs > 0
            assert cost.forward.examples_per_second > cost.forward_backward.examples_per_second > 0
            assert cost.peak_inference_bytes > 0
        else:
            assert [row.index for row in record.examples] == list(range(20))
            assert record.mismatches == 0


def test_the_cascade_never_rises_and_attacks_survivors_only(finished) -> None:
    found = {(record.shard.submission, record.shard.task.name): record for record in records(finished)}
    for name in ("honest", "honest-too"):
        alive = [row.correct for row in found[name, "clean"].examples]
        for member in ("apgd-ce", "apgd-t-3", "square-500"):
            rows = found[name, member].examples
            assert [row.attempted for row in rows] == alive
            after = [row.robust for row in rows]
            assert all(before or not now for before, now in zip(alive, after, strict=True))
            alive = after


def test_the_same_command_again_does_nothing(finished, honest_root) -> None:
    before = {path: path.stat().st_mtime_ns for path in store.record_files(finished)}
    again = harness("run", "honest", "honest-too", "--submissions", str(honest_root), "--results", str(finished))
    assert again.returncode == 0
    assert "16 shards, 16 done already" in again.stdout
    assert {path: path.stat().st_mtime_ns for path in store.record_files(finished)} == before


@pytest.mark.parametrize(("batch_size", "workers"), [(7, 1), (1, 2)])
def test_batch_size_and_workers_change_nothing(finished, honest_root, tmp_path, batch_size, workers) -> None:
    """The other run had batches of 64 and a worker per core."""
    ours = [part for name in ("fgsm", "pgd-20", "deepfool", "square-500") for part in ("--attack", name)]
    done = harness(
        "run", "honest", "honest-too", "--submissions", str(honest_root), "--results", str(tmp_path), *ours,
        "--batch-size", str(batch_size), "--workers", str(workers),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    reference = outcomes(finished)
    small = outcomes(tmp_path)
    assert len(small) == 14
    assert small == {key: reference[key] for key in small}


def test_killed_ten_times_ends_with_the_same_records(finished, honest_root, tmp_path) -> None:
    arguments = ["run", "honest", "honest-too", "--submissions", str(honest_root), "--results", str(tmp_path)]
    command = [sys.executable, "-m", "harness", *arguments]
    draw = random.Random(0)
    for _ in range(10):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(draw.uniform(1, 12))
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = harness(*arguments)
    assert done.returncode == 0, done.stderr
    expected, found = outcomes(finished), outcomes(tmp_path)
    assert found.keys() == expected.keys()
    for key in expected:
        if not key.split()[1].startswith("cost"):
            assert found[key] == expected[key], key
    assert not list(tmp_path.rglob("*.tmp"))


def test_verify_confirms_the_records_and_notices_a_changed_file(finished, honest_root, tmp_path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    fine = harness("verify", "--results", str(copy), "--submissions", str(honest_root))
    assert fine.returncode == 0, fine.stdout + fine.stderr
    assert "0 shards with problems" in fine.stdout and " 0 adversarial" not in fine.stdout
    victim = sorted(copy.rglob("*.adv.safetensors"))[0]
    victim.write_bytes(victim.read_bytes()[:-4] + b"\0\0\0\0")
    broken = harness("verify", "--results", str(copy), "--submissions", str(honest_root))
    assert broken.returncode == 1
    assert "sha256 differs" in broken.stdout


def test_status_counts_and_explains(finished) -> None:
    done = harness("status", "--results", str(finished), "--json")
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)
    assert row["counts"] == {"done": 16, "stale": 0, "failed": 0, "to do": 0}
    assert (row["dataset"], row["n"], row["suite"]) == ("cifar10-sample", 20, "quick")


def test_faulty_submissions_cost_their_own_shards_only(tmp_path) -> None:
    root, results = tmp_path / "submissions", tmp_path / "results"
    submission(root, "honest", HONEST)
    for name, body in FAULTS.items():
        submission(root, name, FAULTY.format(body=body))
    names = ["honest", *FAULTS]
    options = ["--submissions", str(root), "--results", str(results), "--attack", "fgsm", "--memory-limit", "2GiB"]
    # On a busy machine any other would be out of time too.
    slow = harness("run", "sleeps", *options, "--shard-timeout", "12", timeout=400)
    done = harness("run", *[name for name in names if name != "sleeps"], *options, timeout=400)
    assert slow.returncode == done.returncode == 1
    assert "Traceback" not in slow.stdout + slow.stderr + done.stdout + done.stderr
    kinds = {name: set() for name in names}
    for record in records(results):
        kinds[record.shard.submission].add(record.failure.kind if record.failure else "ok")
    assert kinds == {
        "honest": {"ok"}, "exits": {"died"}, "sleeps": {"timeout"}, "allocates": {"memory"}, "raises": {"raised"},
        "wrong-shape": {"contract"}, "tuple": {"contract"},
    }  # fmt: skip
    assert "no thanks" in done.stderr and "exit code 3" in done.stderr


def test_interrupt_ends_cleanly_and_says_how_to_resume(honest_root, tmp_path) -> None:
    command = [
        sys.executable, "-m", "harness", "run", "honest", "--submissions", str(honest_root), "--results", str(tmp_path),
    ]  # fmt: skip
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        # A shell that starts the tests in the background has them, and their children, ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("[1/"):
            break
    os.killpg(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "run the same command again" in stderr and "Traceback" not in stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "honst"], "unknown submission 'honst': did you mean 'honest'?"),
        (["run", "--dataset", "cifar11"], "unknown dataset 'cifar11': did you mean 'cifar10'?"),
        (["run", "--suite", "qick"], "unknown suite 'qick': did you mean 'quick'?"),
        (["run", "--attack", "pgd20"], "unknown attack 'pgd20': did you mean 'pgd-20'?"),
        (["run", "--threat", "Linf"], "expected NORM:EPS such as Linf:8/255, got 'Linf'"),
        (["run", "--threat", "Linf:-1"], "expected a positive fraction"),
        (["run", "--limit", "0"], "0 is not in the range"),
        (["run", "--memory-limit", "lots"], "expected a size such as 4GiB, got 'lots'"),
        (["run", "--device", "tpu"], "expected auto, cpu, cuda or cuda:N, got 'tpu'"),
        (["run", "--dataset", "npz:nowhere.npz"], "nowhere.npz"),
        (["run", "--sute", "quick"], "No such option"),
        (["dance"], "No such command"),
        (["status", "--results", "nowhere"], "expected a results folder with runs in it"),
        (["verify", "--results", "nowhere"], "expected a results folder with runs in it"),
        (["run", "--results", "/dev/null/x"], "could not be written"),
    ],
)
def test_a_wrong_command_is_one_clear_line(arguments, message, honest_root) -> None:
    from harness.cli import main

    extra = ["--submissions", str(honest_root)] if arguments[0] == "run" else []
    assert _stderr_of(main, [*arguments, *extra], message)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("attack = 'pgd'\nparams = { stepz = 3 }", "stepz"),
        ("attack = 'pdg'", "unknown attack 'pdg': did you mean 'pgd'?"),
        ("attack = 'pgd'\nparams = { step_size = 'eps/zero' }", "expected a multiple of eps"),
        (
            "attack = 'apgd-t'\nparams = { targets = 'all' }",
            "targets: expected a whole number of at least 1, got 'all'",
        ),
        ("attack = 'pgd'\nparams = { steps = 0 }", "pgd: steps: expected a whole number of at least 1, got 0"),
        (
            "attack = 'budget'\nparams = { fractions = 1.0 }",
            "fractions: expected rising numbers above 0, got 1.0",
        ),
    ],
)
def test_a_wrong_suite_is_one_clear_line(line, message, honest_root, tmp_path) -> None:
    from harness.cli import main

    path = tmp_path / "mine.toml"
    path.write_text(f"[[tasks]]\nname = 'mine'\n{line}\n")
    arguments = ["run", "honest", "--suite", str(path), "--submissions", str(honest_root)]
    assert _stderr_of(main, [*arguments, "--results", str(tmp_path / "r")], message)
    assert not (tmp_path / "r" / "runs").exists()


def _stderr_of(main, arguments, message) -> bool:
    import contextlib
    import io

    stderr, stdout = io.StringIO(), io.StringIO()
    with contextlib.redirect_stderr(stderr), contextlib.redirect_stdout(stdout):
        code = main(arguments)
    lines = stderr.getvalue().strip().splitlines()
    assert code == 2, stderr.getvalue()
    assert len(lines) == 1 and message in lines[0], lines
    return True


def test_a_class_without_a_logit_is_an_error_record(honest_root, tmp_path) -> None:
    path = tmp_path / "labels.npz"
    np.savez(path, images=np.zeros((4, 32, 32, 3), np.uint8), labels=np.array([0, 1, 12, 3]))
    done = harness(
        "run", "honest", "--submissions", str(honest_root), "--results", str(tmp_path / "r"),
        "--dataset", f"npz:{path}", "--attack", "fgsm",
    )  # fmt: skip
    assert done.returncode == 1
    assert "expected 13 logits an image, one for each class of the data set, got 10" in done.stderr


def test_a_run_with_checks_ends_with_a_verdict_and_one_that_lacks_some_is_no_pass(honest_root, tmp_path) -> None:
    suite = tmp_path / "few.toml"
    suite.write_text(
        "[[tasks]]\nname = 'clean'\nkind = 'clean'\n[[tasks]]\nname = 'fgsm'\nattack = 'fgsm'\n"
        "[[tasks]]\nname = 'c1-output'\nkind = 'probe'\n"
    )
    done = harness(
        "run", "honest", "--submissions", str(honest_root), "--results", str(tmp_path / "r"), "--suite", str(suite)
    )
    assert done.returncode == 0, done.stderr
    assert "honest Linf-8/255: UNCHECKED (" in done.stdout
    assert "?    C2     " in done.stdout and "claimed " in done.stdout
    again = harness(
        "check", "honest", "--submissions", str(honest_root), "--results", str(tmp_path / "r"), "--suite", str(suite),
        "--judge-only", "--verbose",
    )  # fmt: skip
    assert again.returncode == 1, "unchecked is no pass"
    assert "ok   C1     " in again.stdout and "honest Linf-8/255: UNCHECKED (" in again.stdout


def test_records_of_other_code_are_said_to_be_stale(honest_root, tmp_path) -> None:
    shutil.copytree(honest_root / "honest", tmp_path / "mine" / "honest")
    command = ["honest", "--submissions", str(tmp_path / "mine"), "--results", str(tmp_path / "r")]
    command = ["check", *command, "--suite", "check", "--limit", "2", "--judge-only"]
    before = harness(*command)
    assert before.returncode == 1
    assert "honest Linf-8/255: nothing to judge: clean: it was not run; run it without --judge-only" in before.stderr
    assert harness("run", *command[1:-1], "--attack", "clean").returncode == 0
    model = tmp_path / "mine" / "honest" / "model.py"
    model.write_text(model.read_text() + "\n# another\n")
    after = harness(*command)
    assert "honest Linf-8/255: nothing to judge: clean: its record is stale; run it" in after.stderr
    told = "note: stale records, to be run again and replaced (another --results keeps them): 1 of other source code\n"
    assert told not in after.stdout, "nothing is run"
    few = tmp_path / "few.toml"
    few.write_text("[[tasks]]\nname = 'clean'\nkind = 'clean'\n[[tasks]]\nname = 'c1-output'\nkind = 'probe'\n")
    command[command.index("--suite") + 1] = str(few)
    assert told in harness(*command[:-1]).stdout


def test_numbers_outlive_the_checkpoint_they_were_made_with(tmp_path) -> None:
    namespace: dict = {}
    exec(HONEST, namespace)
    folder, results = submission(tmp_path / "mine", "honest", HONEST), tmp_path / "r"
    save_file(namespace["build"]().state_dict(), folder / "weights.safetensors")
    content = (folder / "weights.safetensors").read_bytes()
    with (folder / "submission.toml").open("a") as card:
        card.write(f'[checkpoint]\nfile = "weights.safetensors"\nsha256 = "{hashlib.sha256(content).hexdigest()}"\n')
    command = ["run", "honest", "--submissions", str(tmp_path / "mine"), "--results", str(results), "--limit", "4"]
    first = harness(*command, "--attack", "clean")
    assert first.returncode == 0, first.stderr
    numbers = outcomes(results)
    (folder / "weights.safetensors").write_bytes(content[:-1])
    without = harness(*command, "--attack", "clean", "--attack", "fgsm")
    assert without.returncode == 1 and "error: " in without.stderr
    found = outcomes(results)
    assert {key: found[key] for key in numbers} == numbers
    assert [status for key, (status, _) in found.items() if "fgsm" in key] == ["error"]
    (folder / "weights.safetensors").write_bytes(content)
    again = harness(*command, "--attack", "clean", "--attack", "fgsm")
    assert "2 shards, 1 done already" in again.stdout


def test_a_newer_results_folder_is_left_alone(finished, honest_root, tmp_path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    manifest = next((copy / "runs").glob("*.json"))
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"schema": 99}))
    done = harness("status", "--results", str(copy))
    assert done.returncode == 2
    assert f"expected {SCHEMA} or older, got 99" in done.stderr and "Traceback" not in done.stderr
