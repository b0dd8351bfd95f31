"""Whatever a submission does, the engine gets one line that says what happened, and nothing is left behind."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest
import torch
from worker_submissions import LINEAR, ROOT, TIMEOUT, hand_made

from harness.models import ModelWorker, RemoteModel, WorkerError, WorkerOptions

TRICKS = """
    import os, subprocess, sys, threading, time
    import torch
    from torch import nn

    class Tricks(nn.Module):
        '''Misbehaves as the first pixel of the first image says.'''

        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3 * 8 * 8, 4)

        def forward(self, x):
            logits = self.linear(x.flatten(1))
            trick = int(x[0, 0, 0, 0])
            if trick == 1:
                raise KeyError("no such\\nthing")
            if trick == 2:
                return logits.softmax(1), logits
            if trick == 3:
                return {"logits": logits}
            if trick == 4:
                return logits[:, :, None]
            if trick == 5:
                return logits.argmax(1, keepdim=True).expand(-1, 4)
            if trick == 6:
                return torch.cat([logits, logits], 1)
            if trick == 7:
                return logits * float("nan")
            if trick == 8:
                return logits[:1]
            if trick == 9:
                sys.exit(7)
            if trick == 10:
                x.zero_()
                return logits
            if trick == 11:
                self.train()
                return logits
            if trick == 12:
                return logits[:, :1]
            if trick == 13:
                return self.linear(x)
            if trick == 14:
                return None
            if trick == 15:
                for _ in range(200):
                    os.write(1, b"x" * 99_999 + b"\\n")
                print("the end", file=sys.stderr)
            if trick == 20:
                print("goodbye")
                os._exit(3)
            if trick == 21:
                time.sleep(1000)
            if trick == 22:
                held = []
                while True:
                    held.append(torch.ones(1 << 22))
            if trick == 23:
                torch.ones(1 << 40)
            if trick == 24:
                os.kill(os.getpid(), 11)
            if trick == 25:
                for fd in range(3, 64):
                    try:
                        os.write(fd, b"\\xff" * 64)
                    except OSError:
                        pass
            if trick == 26:
                for fd in range(3, 64):
                    try:
                        os.write(fd, b"\\x00\\x00\\x00\\x06[[[[[[")
                    except OSError:
                        pass
            if trick == 27:
                if os.fork() == 0:
                    time.sleep(1000)
                os._exit(4)
            return logits

    def build():
        return Tricks()
"""


def images(trick, rows=3):
    x = torch.rand(rows, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    x[0, 0, 0, 0] = trick
    return x


@pytest.fixture
def spec(tmp_path):
    return hand_made(tmp_path / "tricks", TRICKS)


@pytest.fixture(scope="module")
def alive(tmp_path_factory):
    """A worker that survives what is asked of it here."""
    with ModelWorker(hand_made(tmp_path_factory.mktemp("submissions") / "tricks", TRICKS)) as worker:
        worker.start(TIMEOUT)
        yield worker


def failing(worker, trick, **options):
    with pytest.raises(WorkerError) as caught:
        worker.forward(images(trick), **options)
    assert "\n" not in str(caught.value)
    return caught.value.kind, str(caught.value)


def gone(pid, seconds=10.0):
    """Whether a process ends (or is a zombie nobody waits for) within some seconds."""
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize(
    ("trick", "kind", "parts"),
    [
        (1, "raised", ["KeyError: 'no such\\nthing'", "(model.py:17)"]),
        (2, "contract", ["expected float logits (N, K), got a tuple of 2: (16, 4) of float32, (16, 4) of float32"]),
        (3, "contract", ["got a dict with 'logits'"]),
        (4, "contract", ["got (16, 4, 1) of float32"]),
        (5, "contract", ["got (16, 4) of int64"]),
        (6, "contract", ["expected logits (3, 4) as before, got (3, 8)"]),
        (8, "contract", ["got (1, 4) of float32"]),
        (9, "raised", ["SystemExit: 7", "model.py:33"]),
        (12, "contract", ["expected logits (3, 4), got [3, 1]"]),
        (13, "raised", ["RuntimeError: ", "shapes", "model.py:43"]),
        (14, "contract", ["got a NoneType"]),
    ],
)
@pytest.mark.parametrize("grad", [False, True])
def test_a_wrong_answer_is_named_and_the_next_one_is_right(alive, trick, kind, parts, grad) -> None:
    before, _ = alive.forward(images(0))
    found, message = failing(alive, trick, grad=grad)
    assert found == kind
    assert [part for part in parts if part not in message] == []
    assert torch.equal(alive.forward(images(0))[0], before)
    assert alive.probe("graphs") == {"graphs": 0}


def test_nan_is_an_answer(alive) -> None:
    x = images(7).requires_grad_()
    logits = RemoteModel(alive)(x)
    assert logits.isnan().all()
    (gradient,) = torch.autograd.grad(logits.sum(), x)
    assert gradient.isnan().all()


def test_a_network_that_changes_its_images_changes_a_copy(alive) -> None:
    x = images(10).requires_grad_()
    given = x.detach().clone()
    (gradient,) = torch.autograd.grad(RemoteModel(alive)(x)[:, 1].sum(), x)
    assert torch.equal(x.detach(), given)
    assert (gradient != 0).all()
    alive.forward(given)
    assert torch.equal(x.detach(), given)


def test_training_mode_is_reported(alive) -> None:
    assert alive.probe("training") == {"training": []}
    alive.forward(images(11))
    assert alive.probe("training") == {"training": ["", "linear"]}


def test_an_exit_is_reported_and_leaves_nothing_behind(spec) -> None:
    open_files = len(list(Path("/proc/self/fd").iterdir()))
    with ModelWorker(spec) as worker:
        worker.start(TIMEOUT)
        assert len(list(Path("/proc/self/fd").iterdir())) > open_files
        assert failing(worker, 20) == ("died", "the model's process ended with exit code 3; its last words: goodbye")
        assert not worker.alive
        assert worker.log_tail().endswith("goodbye\n")
        with pytest.raises(WorkerError, match="exit code 3"):
            worker.forward(images(0))
        worker.restart(TIMEOUT)
        assert worker.forward(images(0))[0].shape == (3, 4)
        assert failing(worker, 24) == ("died", "the model's process was killed by signal 11 (SIGSEGV)")
    assert len(list(Path("/proc/self/fd").iterdir())) == open_files
    assert [path.name for path in Path(str(spec["folder"])).iterdir()] == ["model.py"]


def test_a_child_that_holds_the_connection_does_not_hide_the_exit(spec) -> None:
    with ModelWorker(spec) as worker:
        worker.start(TIMEOUT)
        began = time.monotonic()
        assert failing(worker, 27) == ("died", "the model's process ended with exit code 4")
        assert time.monotonic() - began < 5


def test_sleeping_for_ever_ends_with_the_deadline(spec) -> None:
    with ModelWorker(spec) as worker:
        worker.start(TIMEOUT)
        pid, began = worker.pid, time.monotonic()
        worker.deadline = began + 2
        kind, message = failing(worker, 21)
        assert kind == "timeout"
        assert message.startswith("the time allowed was over while the model was asked to forward (2.")
        assert 2 <= time.monotonic() - began < 4
        assert gone(pid)


@pytest.mark.parametrize("trick", [22, 23])
def test_endless_allocation_ends_at_the_limit(spec, trick) -> None:
    with ModelWorker(spec, WorkerOptions(memory_limit=3 << 29)) as worker:
        worker.start(TIMEOUT)
        worker.deadline = time.monotonic() + TIMEOUT
        kind, message = failing(worker, trick)
        assert kind == "memory"
        assert "more than 1.5 GiB of memory" in message
        assert not worker.alive


def test_memory_of_the_submissions_own_processes_counts(tmp_path) -> None:
    code = LINEAR.replace(
        "def build(classes=4):",
        """def build(classes=4):
        import subprocess, sys, time
        subprocess.Popen([sys.executable, "-c", "held = bytearray(b'1') * (1 << 30); import time; time.sleep(1000)"])
        time.sleep(1000)""",
    )
    with ModelWorker(hand_made(tmp_path / "parent", code), WorkerOptions(memory_limit=3 << 29)) as worker:
        with pytest.raises(WorkerError, match=r"used more than 1\.5 GiB") as caught:
            worker.start(TIMEOUT)
        assert caught.value.kind == "memory"


@pytest.mark.parametrize("trick", [25, 26])
def test_garbage_in_the_connection_is_refused(spec, trick) -> None:
    with ModelWorker(spec) as worker:
        worker.start(TIMEOUT)
        worker.deadline = time.monotonic() + TIMEOUT
        assert failing(worker, trick) == ("contract", "the model's process did not answer 'forward' in the agreed form")
        assert not worker.alive


def test_a_flood_of_output_is_kept_to_its_tail(alive) -> None:
    assert alive.forward(images(15))[0].shape == (3, 4)
    limit = time.monotonic() + 10
    while not alive.log_tail().endswith("the end\n") and time.monotonic() < limit:
        time.sleep(0.05)
    assert alive.log_tail().endswith("x\nthe end\n")
    assert len(alive.log_tail(1 << 30)) <= 1 << 16


def test_a_build_that_hangs_ends_with_its_timeout(tmp_path) -> None:
    code = LINEAR.replace("def build(classes=4):", "def build(classes=4):\n        import time; time.sleep(1000)")
    with ModelWorker(hand_made(tmp_path / "hanging", code)) as worker:
        worker.launch()
        pid = worker.pid
        with pytest.raises(WorkerError, match="asked to load") as caught:
            worker.load(timeout=1.0)
        assert caught.value.kind == "timeout"
        assert gone(pid)


def test_a_submissions_processes_end_with_it(tmp_path) -> None:
    code = LINEAR.replace(
        "def build(classes=4):",
        """def build(classes=4):
        import subprocess
        from pathlib import Path
        near = subprocess.Popen(["sleep", "1000"])
        far = subprocess.Popen(["sleep", "1000"], start_new_session=True)
        Path(__file__).with_name("pids").write_text(f"{near.pid} {far.pid}")""",
    )
    with ModelWorker(hand_made(tmp_path / "parent", code)) as worker:
        worker.start(TIMEOUT)
        pids = [int(pid) for pid in (tmp_path / "parent" / "pids").read_text().split()]
        assert all(psutil.pid_exists(pid) for pid in pids)
    assert all(gone(pid) for pid in pids)


def test_the_worker_dies_with_its_engine(tmp_path) -> None:
    hand_made(tmp_path / "tricks", TRICKS)
    script = textwrap.dedent(f"""
        import sys
        sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests")!r}]
        from pathlib import Path
        from harness.models import ModelWorker
        from test_worker_failures import TRICKS, images
        from worker_submissions import hand_made
        worker = ModelWorker(hand_made(Path({str(tmp_path / "tricks")!r}), TRICKS))
        worker.start(60)
        print(worker.pid, flush=True)
        worker.forward(images(21))
    """)
    engine = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    try:
        assert engine.stdout is not None
        pid = int(engine.stdout.readline())
        time.sleep(0.3)
        assert psutil.pid_exists(pid)
        os.kill(engine.pid, signal.SIGKILL)
        assert gone(pid, 5)
    finally:
        engine.kill()
        engine.communicate()
