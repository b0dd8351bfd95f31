"""Out of memory: the batch is halved until the network fits, and the run goes on."""

from typing import ClassVar

import pytest
import torch

from harness.engine.outcome import Settings
from harness.executors import holder as holders
from harness.executors.holder import Holder, measure_speed
from harness.models import WorkerError

SPEC = {"id": "large"}


class Fits:
    """A worker whose network runs out of memory above ``most`` images at a time."""

    most = 8
    started: ClassVar[list[int | None]] = []

    def __init__(self, spec, options) -> None:
        self.size = options.micro_batch
        self.ended = False

    def start(self, timeout):
        type(self).started.append(self.size)

    def forward(self, x, grad=False):
        if len(x) > self.most or (self.size or 64) > 64:
            raise WorkerError("memory", "out of memory")
        return torch.zeros(len(x), 10), 1

    def vjp(self, token, seed):
        return seed

    def release(self, token) -> None:
        pass

    def close(self) -> None:
        self.ended = True


@pytest.fixture
def holder(monkeypatch):
    monkeypatch.setattr(holders, "ModelWorker", Fits)
    monkeypatch.setattr(Fits, "started", [])
    return Holder(Settings(batch_size=64))


def test_each_time_memory_runs_out_the_batch_is_halved_for_that_submission_alone(holder):
    x = torch.zeros(1, 3, 32, 32)
    sizes = []
    while holder.halve(SPEC, x):
        sizes.append(holder.settings(SPEC).batch_size)
    assert sizes == [32, 16, 8, 4, 2, 1]
    assert holder.settings({"id": "small"}).batch_size == 64


def test_a_network_too_large_for_one_image_is_given_up(holder, monkeypatch):
    monkeypatch.setattr(Fits, "most", 0)
    assert not holder.halve(SPEC, torch.zeros(1, 3, 32, 32))


def test_a_small_batch_reaches_the_worker_which_otherwise_cuts_its_own(holder):
    holder.take(SPEC, loaded=True)
    assert Fits.started == [None]
    for _ in range(3):
        holder.halve(SPEC, torch.zeros(1, 3, 32, 32))
    Fits.started.clear()
    holder.take(SPEC, loaded=True)
    assert Fits.started == [8]


def test_speed_comes_from_two_batches():
    speed = measure_speed(
        Fits(SPEC, type("Options", (), {"micro_batch": None})), torch.zeros(1, 3, 32, 32), Settings(batch_size=4)
    )
    assert speed.forward > 0 and speed.backward >= 0
