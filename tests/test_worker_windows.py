"""Answers from windows: the bits of a full pass, whatever the network does."""

import math

import pytest
import torch
from torch import nn
from windowed_networks import NETWORKS, SHAPE, Residual, near, network_of, stack

from harness.attacks.square import square
from harness.models import LocalModel, RemoteModel
from harness.worker import optimise as optimising
from harness.worker import windows as module
from harness.worker.convolutions.vectors import lanes_for
from harness.worker.in_process import LocalWorker
from harness.worker.network import Network
from harness.worker.optimise import near_form, optimise
from harness.worker.weights import frozen
from harness.worker.windows import Windows
from submissions.architectures import slim_resnet


@pytest.fixture(autouse=True)
def _worth_it(monkeypatch):
    """Small networks and batches gain nothing; here it is the bits that count, from the first question on.

    And micro-batches have the same sizes on a slow machine.
    """
    monkeypatch.setattr(module, "GAIN", 1e9)
    monkeypatch.setattr(module, "PATIENCE", 0)
    monkeypatch.setattr(optimising, "LARGE", 1e9)
    monkeypatch.setattr(optimising, "SMALL", 1e9)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_bit_is_that_of_a_full_pass(name):
    network = network_of(NETWORKS[name])
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(9, *SHAPE, generator=generator)
    windows = Windows(network)
    windows.place(list(range(9)), images)
    for side in (9, 5, 4, 3, 2, 1, 6, 32):
        for _ in range(3):
            x, numbers = near(images, side, generator)
            assert torch.equal(windows.ask(x, numbers), network(x))
            # Some of the known images move to one that was asked about.
            for row in (0, 11, 17):
                images[numbers[row]] = x[row]
            windows.place([numbers[row] for row in (0, 11, 17)], x[[0, 11, 17]])
    assert not windows.broken
    assert windows.used >= 6
    if network.layout is torch.channels_last or "AVX512" in torch.backends.cpu.get_cpu_capability():
        # In the other layout convolutions of windows do not have a full pass's bits with AVX2.
        assert any(share < math.inf for share in windows._shares.values()) is (name != "bilinear")


@pytest.mark.parametrize("shape", [(3, 16, 40), (3, 27, 20)])
def test_images_that_are_not_square(shape):
    network = network_of(lambda: Residual(2), shape)
    generator = torch.Generator().manual_seed(2)
    images = torch.rand(5, *shape, generator=generator)
    windows = Windows(network)
    windows.place(list(range(5)), images)
    for side in (4, 2, 1, 1):
        x, numbers = near(images, side, generator, copies=4)
        assert torch.equal(windows.ask(x, numbers), network(x))
    assert windows.used
    assert any(share < math.inf for share in windows._shares.values())


def pooled(pool):
    return lambda: stack(nn.Conv2d(3, 8, 3), pool, nn.ReLU(), features=8)


@pytest.mark.parametrize(
    ("build", "slid"),
    [
        (pooled(nn.MaxPool2d(2)), 2), (pooled(nn.AvgPool2d(2)), 2), (pooled(nn.AvgPool2d(3, 2)), 2),
        (NETWORKS["wrapped"], 2), (NETWORKS["joined"], 4), (NETWORKS["written_to"], 1),
        (NETWORKS["added_in_place"], 7),
    ],
)  # fmt: skip
def test_convolutions_and_pools_are_followed(build, slid):
    network = network_of(build)
    images = torch.rand(4, *SHAPE, generator=torch.Generator().manual_seed(9))
    windows = Windows(network)
    windows.place(list(range(4)), images)
    for _ in range(2):
        x, numbers = near(images, 2, torch.Generator().manual_seed(10))
        assert torch.equal(windows.ask(x, numbers), network(x))
    assert windows._last[0][2].slid == slid


def test_known_images_follow_to_any_of_the_last_questions(monkeypatch):
    network = network_of(NETWORKS["slim_resnet"])
    generator = torch.Generator().manual_seed(12)
    images = torch.rand(9, *SHAPE, generator=generator)
    windows = Windows(network)
    windows.place(list(range(9)), images)
    for _ in range(2):
        x, numbers = near(images, 2, generator)
        windows.ask(x, numbers)
    # The windows of two questions, and not of three.
    monkeypatch.setattr(module, "KEPT", int(2.5 * windows._last[-1][2].bytes_of_windows()))
    for questions, followed in ((3, True), (4, False)):
        windows._last.clear()
        asked = [near(images, 2, generator) for _ in range(questions)]
        for x, numbers in asked:
            assert torch.equal(windows.ask(x, numbers), network(x))
        x, numbers = asked[0]
        images[numbers[5]] = x[5]
        windows.place([numbers[5]], x[5:6])
        assert windows._fresh[numbers[5]] == followed
        x, numbers = near(images, 2, generator)
        assert torch.equal(windows.ask(x, numbers), network(x))


def test_images_that_did_not_change_or_changed_in_two_corners():
    network = network_of(NETWORKS["slim_resnet"])
    images = torch.rand(8, *SHAPE, generator=torch.Generator().manual_seed(3))
    windows = Windows(network)
    windows.place(list(range(8)), images)
    x = images.clone()
    x[1, :, 0, 0] = x[1, :, 31, 31] = 0.5
    x[2, 1, 31, 0] = 0.25
    for _ in range(3):
        assert torch.equal(windows.ask(x, list(range(8))), network(x))
        assert torch.equal(windows.ask(images, list(range(8))), network(images))


def test_known_images_may_be_placed_anew_or_later():
    network = network_of(NETWORKS["slim_resnet"])
    generator = torch.Generator().manual_seed(4)
    images = torch.rand(10, *SHAPE, generator=generator)
    windows = Windows(network)
    windows.place([0, 1, 2], images[:3])
    for numbers in ([0, 1, 2], [3, 4], [9], [2, 4]):
        windows.place(numbers, images[numbers])
        x, which = near(images[numbers], 3, generator)
        assert torch.equal(windows.ask(x, [numbers[at] for at in which]), network(x))
        assert torch.equal(windows.ask(x, [numbers[at] for at in which]), network(x))


def test_images_without_room_are_asked_as_always(monkeypatch):
    network = network_of(NETWORKS["slim_resnet"])
    generator = torch.Generator().manual_seed(5)
    images = torch.rand(20, *SHAPE, generator=generator)
    windows = Windows(network)
    windows.place(list(range(20)), images)
    x, numbers = near(images, 3, generator)
    windows.ask(x, numbers)
    one = sum(known.table[0].nbytes for known in windows._known._maps.values() if known.table is not None)
    monkeypatch.setattr(module, "MEMORY", 7 * one)
    windows = Windows(network)
    windows.place(list(range(20)), images)
    for _ in range(3):
        x, numbers = near(images, 3, generator)
        assert torch.equal(windows.ask(x, numbers), network(x))
    assert 0 < windows._room < 20
    assert windows.used
    held = [known.table for known in windows._known._maps.values() if known.table is not None]
    assert sum(table.nbytes for table in held) <= 1.5 * 7 * one


def test_no_more_is_asked_at_once_than_memory_is_meant_for(monkeypatch):
    sizes = []

    class Seeing(nn.Module):
        def __init__(self):
            super().__init__()
            self.rest = stack(nn.Conv2d(3, 8, 3), nn.ReLU(), features=8)

        def forward(self, x):
            sizes.append(len(x))
            return self.rest(x)

    network = network_of(Seeing)
    images = torch.rand(6, *SHAPE, generator=torch.Generator().manual_seed(12))
    x, numbers = near(images, 3, torch.Generator().manual_seed(13), copies=40)
    for room, most in ((module.AT_ONCE, 240), (1, network.sizes[0])):
        monkeypatch.setattr(module, "AT_ONCE", room)
        windows = Windows(network)
        windows.place(list(range(6)), images)
        windows.ask(x, numbers)
        sizes.clear()
        assert torch.equal(windows.ask(x, numbers), network(x))
        assert windows.used and max(sizes) == most


def test_a_size_that_hardly_comes_is_filled_up_to_a_known_one():
    network = network_of(NETWORKS["slim_resnet"])
    generator = torch.Generator().manual_seed(6)
    images = torch.rand(12, *SHAPE, generator=generator)
    windows = Windows(network)
    windows.place(list(range(12)), images)

    def asked(count, times=1):
        for _ in range(times):
            x, numbers = near(images, 3, generator, copies=6)
            assert torch.equal(windows.ask(x[:count], numbers[:count]), network(x[:count]))
        return {size for side, size in windows._equal if side == 3}

    assert asked(64) == {64}
    assert asked(50, module.OFTEN) == {64}
    assert asked(50) == {64, 56}
    # Where a known size is much larger, half of the rows would be for nothing.
    assert asked(24) == {64, 56, 24}


def test_windows_are_tried_once_questions_have_come_for_a_while(monkeypatch):
    monkeypatch.setattr(module, "PATIENCE", 3)
    network = network_of(NETWORKS["slim_resnet"])
    generator = torch.Generator().manual_seed(8)
    images = torch.rand(6, *SHAPE, generator=generator)
    windows = Windows(network)
    windows.place(list(range(6)), images)
    used = []
    for side in (5, 5, 5, 5, 5, 4, 7, 7, 7, 7):
        x, numbers = near(images, side, generator)
        assert torch.equal(windows.ask(x, numbers), network(x))
        used.append(windows.used)
    # What pays with a side pays with a smaller one.
    assert used == [0, 0, 0, 1, 2, 3, 3, 3, 3, 4]


def test_what_pays_pays_for_smaller_windows_and_for_not_much_fewer(monkeypatch):
    monkeypatch.setattr(module, "GAIN", 0.9)
    windows = Windows(network_of(NETWORKS["slim_resnet"]))
    windows._shares = {(5, 160): 0.6, (9, 160): 1.1}
    assert [windows._pays(side, 160) for side in (4, 5, 6, 9, 10)] == [True, True, None, False, False]
    # With 0.6 of a full pass's time for 160, windows of 107 rows take at most 0.9.
    assert [windows._pays(5, size) for size in (320, 112, 107, 106, 8)] == [True, True, True, None, None]
    assert [windows._pays(9, size) for size in (168, 152)] == [None, False]


def test_windows_are_left_alone_where_they_take_longer(monkeypatch):
    monkeypatch.setattr(module, "GAIN", 0.0)
    network = network_of(NETWORKS["slim_resnet"])
    images = torch.rand(6, *SHAPE)
    windows = Windows(network)
    windows.place(list(range(6)), images)
    x, numbers = near(images, 3, torch.Generator().manual_seed(7))
    for _ in range(3):
        assert torch.equal(windows.ask(x, numbers), network(x))
    assert windows.used == 1
    assert not windows.broken


@pytest.mark.parametrize("search", ["", "bfloat16"])
def test_the_square_attack_ends_at_the_same_point(monkeypatch, search):
    torch.manual_seed(0)
    built = slim_resnet.build()
    x = torch.rand(12, *SHAPE)
    found = []
    for patience in (0, 10**9):
        monkeypatch.setattr(module, "PATIENCE", patience)
        worker = LocalWorker(lambda: built)
        worker.start(60)
        model = RemoteModel(worker, search=search)
        with torch.no_grad():
            y = model(x).argmax(1)
        found.append(square(model, x, y, eps=0.004, queries=300, generator=torch.Generator().manual_seed(0)))
        (windows,) = worker._link._answerer.windows.values()
        assert windows.used > 20 if patience == 0 else not windows.used
        assert not windows.broken
        worker.close()
    assert torch.equal(*found)


def test_narrow_convolutions_are_in_tiles_but_near_known_images():
    network = Network(frozen(slim_resnet.build()), micro_batch=16)
    optimise(network, SHAPE)
    x = torch.rand(16, *SHAPE)
    if lanes_for(1):
        assert {"winograd=5", "direct=7"} <= {*network.convolutions.told()}
        near_by = near_form(network, SHAPE)
        assert {"winograd=2", "direct=10"} <= {*near_by.convolutions.told()}
        assert near_by.module is network.module
        assert not torch.equal(near_by(x), network(x))
        torch.testing.assert_close(near_by(x), network(x), rtol=1e-4, atol=1e-5)
        assert near_form(near_by, SHAPE) is near_by
        # What draws at random would draw once more.
        network.sizes = (16,)
    assert near_form(network, SHAPE) is network


@pytest.mark.skipif(not lanes_for(1), reason="compiled.c was not compiled, or not for this processor")
def test_large_networks_have_one_set_of_kernels(monkeypatch):
    monkeypatch.setattr(optimising, "FEW", 1000)
    network = Network(frozen(slim_resnet.build()), micro_batch=16)
    assert {"winograd=2", "direct=10"} <= {*optimise(network, SHAPE)}
    assert near_form(network, SHAPE) is network


def test_a_model_in_this_process_and_a_worker_answer_the_same():
    torch.manual_seed(0)
    built = slim_resnet.build(width=4)
    images = torch.rand(7, *SHAPE)
    x, numbers = near(images, 4, torch.Generator().manual_seed(8))
    asked, answers = [], []
    worker = LocalWorker(lambda: built)
    worker.start(60)
    for model in (RemoteModel(worker, on_forward=asked.append), LocalModel(built, on_forward=asked.append)):
        for placed in (list(range(7)), []):
            found = model.near(x, numbers, placed, images[: len(placed)])
            torch.testing.assert_close(found, model(x), rtol=1e-4, atol=1e-5)
            answers.append(found)
    assert all(torch.equal(found, answers[0]) for found in answers)
    # Known images are not asked about: they are not counted.
    assert [len(part) for part in asked] == 8 * [14]
    with pytest.raises(ValueError, match="one or more float32 images"):
        RemoteModel(worker).near(x.double(), numbers, [], x[:0])
    worker.close()


def test_images_in_another_memory_layout_get_the_same_answers():
    network = network_of(slim_resnet.build)
    images = torch.rand(4, *SHAPE)
    x, numbers = near(images, 3, torch.Generator().manual_seed(2))
    answers = []
    for layout in (torch.contiguous_format, torch.channels_last):
        windows = Windows(network)
        windows.place([0, 1, 2, 3], images.contiguous(memory_format=layout))
        for _ in range(2):
            answers.append(windows.ask(x.contiguous(memory_format=layout), numbers))
        assert windows.used
    assert all(torch.equal(answer, answers[0]) for answer in answers)
