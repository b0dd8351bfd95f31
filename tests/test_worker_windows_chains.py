"""Chains of operations on windows, computed in one go: the bits of one after the other, or one after the other."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from windowed_networks import NETWORKS, SHAPE, near, network_of

from harness.worker import optimise as optimising
from harness.worker import windows as module
from harness.worker.chains.program import Kind, Program, Step, empty, lying
from harness.worker.convolutions.vectors import lanes_for
from harness.worker.windows import Windows
from harness.worker.windows.areas import Area, laid_into
from submissions.architectures import slim_resnet

pytestmark = pytest.mark.skipif(not lanes_for(1), reason="compiled.c was not compiled, or not for this processor")


@pytest.fixture(autouse=True)
def _worth_it(monkeypatch):
    """It is the bits that count, from the first question on."""
    monkeypatch.setattr(module, "GAIN", 1e9)
    monkeypatch.setattr(module, "PATIENCE", 0)
    monkeypatch.setattr(optimising, "LARGE", 1e9)
    monkeypatch.setattr(optimising, "SMALL", 1e9)


def both_ways(network, images):
    """Windows in chains, and one operation after the other."""
    found = Windows(network), Windows(network)
    found[1]._chains = None
    for windows in found:
        windows.place(list(range(len(images))), images)
    return found


@pytest.mark.parametrize(
    "build",
    [
        NETWORKS["slim_resnet"],
        NETWORKS["larger_maps"],
        NETWORKS["upsampled"],
        NETWORKS["added_in_place"],
        NETWORKS["added_in_place_the_other_way"],
        lambda: slim_resnet.build(width=40),
    ],
)
def test_known_images_follow_as_they_do_one_operation_at_a_time(build):
    network = network_of(build)
    assert network.chains is not None
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(9, *SHAPE, generator=generator)
    chained, plain = both_ways(network, images)
    for side in (7, 4, 3, 1, 5):
        for _ in range(3):
            x, numbers = near(images, side, generator)
            expected = network(x)
            for windows in (chained, plain):
                assert torch.equal(windows.ask(x, numbers), expected)
            for row in (0, 11, 17):
                images[numbers[row]] = x[row]
            for windows in (chained, plain):
                windows.place([numbers[row] for row in (0, 11, 17)], x[[0, 11, 17]])
            assert np.array_equal(chained._fresh, plain._fresh)
    for windows in (chained, plain):
        assert windows._fresh.any()
        assert not windows.broken
    assert chained._chains is not None
    programs = chained._chains._programs.values()
    assert any(near.slid for near in programs)


class Shifted(nn.Module):
    """A sum of two maps whose windows lie beside each other."""

    def __init__(self):
        super().__init__()
        self.one, self.other = nn.Conv2d(3, 12, 3), nn.Conv2d(3, 12, 3, padding=1)
        self.last, self.head = nn.Conv2d(12, 12, 3, padding=1), nn.Linear(12, 10)

    def forward(self, x):
        x = self.one(F.pad(x, (2, 0, 2, 0))) + self.other(x)
        return self.head(F.relu(self.last(F.relu(x))).mean((2, 3)))


def test_windows_beside_each_other_are_added_one_operation_at_a_time():
    network = network_of(Shifted)
    generator = torch.Generator().manual_seed(2)
    images = torch.rand(9, *SHAPE, generator=generator)
    windows = Windows(network)
    assert windows._chains is not None
    windows.place(list(range(9)), images)
    for _ in range(4):
        x, numbers = near(images, 3, generator)
        assert torch.equal(windows.ask(x, numbers), network(x))
    assert windows._chains is None
    assert not windows.broken
    assert windows.used > 1


class Rewritten(nn.Module):
    """Writes over what convolutions that were only written down began with."""

    def __init__(self):
        super().__init__()
        self.one, self.other = (nn.Conv2d(3, 12, 3, padding=1) for _ in range(2))
        self.last, self.head = nn.Conv2d(12, 12, 3, padding=1), nn.Linear(12, 10)

    def forward(self, x):
        x = x - 0.5
        early = self.one(x)
        # A convolution's gradient would miss what is written over.
        x = x * 3 if x.requires_grad else x.mul_(3)
        early += self.other(x)
        return self.head(F.relu(self.last(F.relu(early))).mean((2, 3)))


def test_what_is_written_over_later_does_not_count():
    network = network_of(Rewritten)
    generator = torch.Generator().manual_seed(3)
    images = torch.rand(9, *SHAPE, generator=generator)
    windows = Windows(network)
    windows.place(list(range(9)), images)
    for _ in range(4):
        x, numbers = near(images, 3, generator)
        assert torch.equal(windows.ask(x, numbers), network(x))
    assert windows.used > 1
    assert windows._chains is not None


def test_a_chain_that_fails_leaves_the_windows(monkeypatch):
    network = network_of(NETWORKS["slim_resnet"])
    generator = torch.Generator().manual_seed(4)
    images = torch.rand(9, *SHAPE, generator=generator)
    windows = Windows(network)
    windows.place(list(range(9)), images)
    monkeypatch.setattr(Program, "run", lambda *_: 1 / 0)
    expected = {}
    for _ in range(4):
        x, numbers = near(images, 3, generator)
        answer = windows.ask(x, numbers)
        expected[answer] = x
    monkeypatch.undo()
    assert windows._chains is None
    assert not windows.broken
    assert windows.used > 1
    for answer, x in expected.items():
        assert torch.equal(answer, network(x))


def test_a_chain_with_other_bits_is_left(monkeypatch):
    network = network_of(NETWORKS["slim_resnet"])
    generator = torch.Generator().manual_seed(5)
    images = torch.rand(9, *SHAPE, generator=generator)
    windows = Windows(network)
    windows.place(list(range(9)), images)
    run = module.NearChains.perform

    def perform(self, plan, sources):
        return [value + 1e-3 if type(value) is torch.Tensor else value for value in run(self, plan, sources)]

    monkeypatch.setattr(module.NearChains, "perform", perform)
    for _ in range(4):
        x, numbers = near(images, 3, generator)
        assert torch.equal(windows.ask(x, numbers), network(x))
    assert windows._chains is None
    assert not windows.broken
    assert windows.used > 2


def around(maps, numbers, corners, size, held, places):
    """The same as ``laid_into``, by a program of one step."""
    count, side, _, channels = held.shape
    program = Program(
        [Step(Kind.AROUND, (0,), 1)], [(side, side, channels), (*size, channels)], [0, 1], groups=[max(1, count // 3)]
    )
    made = empty(count, (*size, channels))
    job = [maps.data_ptr(), *maps.shape[:3], numbers.ctypes.data, corners.ctypes.data, places.ctypes.data]
    cuts = torch.tensor([[*job, count, *size, side]])
    program.run([held, lying(made)], None, count, cuts)
    return lying(made)


@pytest.mark.parametrize("threads", [1, 3])
def test_a_window_is_laid_where_it_reaches_in(threads):
    rng = np.random.default_rng(0)
    maps, held = torch.rand(4, 9, 11, 5), torch.rand(30, 3, 3, 5)
    numbers = rng.integers(0, 4, 30)
    corners = np.stack([rng.integers(0, 4, 30), rng.integers(0, 5, 30)])
    places = rng.integers(-4, 8, (2, 30))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = around(maps, numbers, corners, (6, 7), held, places)
    finally:
        torch.set_num_threads(before)
    # The same on maps that are larger by what reaches out.
    wide = F.pad(maps, (0, 0, 4, 8, 4, 8))
    expected = laid_into(wide, numbers, corners, (18, 19), held, places + 4)[:, 4:10, 4:11]
    assert torch.equal(found, expected)


@pytest.mark.parametrize(("number", "corner"), [(4, (0, 0)), (-1, (0, 0)), (0, (4, 0)), (0, (0, 5)), (0, (-1, 0))])
def test_a_window_outside_its_map_is_refused(number, corner):
    maps, held = torch.rand(4, 9, 11, 5), torch.rand(2, 3, 3, 5)
    numbers, corners = np.array([0, number]), np.array([[0, corner[0]], [0, corner[1]]])
    with pytest.raises(ValueError, match="expected windows inside the maps"):
        around(maps, numbers, corners, (6, 7), held, np.zeros((2, 2), np.int64))


def test_areas_lie_in_each_other_or_not():
    outer = Area(np.array([[2, 5], [3, 0]]), 4)
    assert module.areas.inside(Area(np.array([[2, 6], [4, 0]]), 3), outer)
    assert not module.areas.inside(Area(np.array([[2, 4], [4, 0]]), 3), outer)
    assert not module.areas.inside(Area(np.array([[2, 6], [4, 2]]), 3), outer)
