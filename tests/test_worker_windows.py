"""Answers from windows: the bits of a full pass, whatever the network does, and a full pass wherever that is not so."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from windowed_networks import NETWORKS, Residual, stack

from harness.attacks.square import square
from harness.models import LocalModel, RemoteModel
from harness.worker import windows as module
from harness.worker.in_process import LocalWorker
from harness.worker.network import Network
from harness.worker.optimise import optimise
from harness.worker.weights import frozen
from harness.worker.windows import Windows
from harness.worker.windows.areas import Area, cut, lay
from submissions.architectures import slim_resnet

SHAPE = (3, 32, 32)


@pytest.fixture(autouse=True)
def _worth_it(monkeypatch):
    """Small networks and batches gain nothing; here it is the bits that count."""
    monkeypatch.setattr(module, "GAIN", 1e9)


def network_of(build, shape=SHAPE, seed=0):
    torch.manual_seed(seed)
    network = Network(frozen(build()), micro_batch=16)
    optimise(network, shape)
    return network


def near(images, side, generator, copies=2):
    """Copies of the images, each with another square somewhere, and which image each is near."""
    numbers = torch.arange(len(images)).repeat(copies)
    x = images[numbers].clone()
    for row in x:
        top, left = (int(torch.randint(0, length - side + 1, (), generator=generator)) for length in x.shape[2:])
        row[:, top : top + side, left : left + side] = torch.rand(3, side, side, generator=generator)
    return x, numbers.tolist()


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
    assert any(windows._worth.values()) is (name != "bilinear")


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
    assert any(windows._worth.values())


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


class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = slim_resnet.build(width=4)

    def forward(self, x):
        return self.inner(x + 0.01 * torch.randn_like(x))


class Voting(nn.Module):
    """Every row's answer hangs on the whole batch."""

    def __init__(self):
        super().__init__()
        self.inner = slim_resnet.build(width=4)

    def forward(self, x):
        logits = self.inner(x)
        return logits + logits.mean(0)


class Forgetful(nn.Module):
    """Its weights are others at every question from the hundredth on."""

    def __init__(self):
        super().__init__()
        self.conv, self.asked = nn.Conv2d(3, 8, 3, padding=1), 0
        self.rest = stack(nn.ReLU(), features=8)

    def forward(self, x):
        self.asked += 1
        scale = 1 + max(0, self.asked - 100) / 100
        return self.rest(F.conv2d(x, self.conv.weight * scale, self.conv.bias, padding=1))


@pytest.mark.parametrize("build", [Noisy, Voting])
def test_a_network_that_does_not_answer_a_row_by_itself_is_asked_as_always(build):
    network = network_of(build)
    windows = Windows(network)
    assert windows.broken
    images = torch.rand(6, *SHAPE)
    windows.place(list(range(6)), images)
    torch.manual_seed(0)
    found = windows.ask(images, list(range(6)))
    torch.manual_seed(0)
    assert torch.equal(found, network(images))


def through_a_view(write):
    """A network that writes to its input by another name."""

    class Writing(nn.Module):
        def __init__(self):
            super().__init__()
            self.rest = stack(nn.Conv2d(3, 8, 3), nn.ReLU(), features=8)

        def forward(self, x):
            write(x)
            return self.rest(x)

    return Writing


@pytest.mark.parametrize(
    ("write", "followed"),
    [
        (lambda x: x.data.clamp_(max=0.97), True), (lambda x: x.detach().clamp_(max=0.97), True),
        (lambda x: x.float().clamp_(max=0.97), True), (lambda x: x.view(x.shape).clamp_(max=0.97), True),
        (lambda x: x.contiguous().clamp_(max=0.97), False), (lambda x: x.flatten(1).clamp_(max=0.97), False),
        (lambda x: x[:, :2].clamp_(max=0.97), False), (lambda x: x.unbind(1)[0].clamp_(max=0.97), False),
        (lambda x: (x.permute(0, 2, 3, 1), x.clamp_(max=0.97)), False),
    ],
)  # fmt: skip
def test_what_is_written_through_a_view_is_not_lost(write, followed):
    """Nor when it changes nothing at first, while answers are compared."""
    network = network_of(through_a_view(write))
    generator = torch.Generator().manual_seed(11)
    images = 0.9 * torch.rand(6, *SHAPE, generator=generator)
    windows = Windows(network)
    windows.place(list(range(6)), images)
    for brightest in (0.9, 0.9, 1.0, 1.0):
        x, numbers = near(images, 5, generator)
        x = torch.where(x == images[numbers], x, x * brightest)
        assert torch.equal(windows.ask(x.clone(), numbers), network(x.clone()))
    assert windows.broken is not followed


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


def test_a_network_whose_weights_change_is_not_asked_in_windows_any_more():
    network = network_of(Forgetful)
    generator = torch.Generator().manual_seed(6)
    images = torch.rand(6, *SHAPE, generator=generator)
    windows = Windows(network)
    windows.place(list(range(6)), images)
    for _ in range(3):
        x, numbers = near(images, 3, generator)
        windows.ask(x, numbers)
    assert windows.used
    assert not windows.broken
    network.module.asked = 200
    used = windows.used
    x, numbers = near(images, 3, generator)
    windows.ask(x, numbers)
    assert windows.broken
    assert windows.used == used


def test_a_network_that_looks_at_the_kind_of_its_input_is_found_out(monkeypatch):
    class Suspicious(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.since = slim_resnet.build(width=4), 10**9

        def forward(self, x):
            self.since += 1
            return self.inner(x) + (0.5 if type(x) is not torch.Tensor and self.since > 0 else 0.0)

    monkeypatch.setattr(module, "AGAIN", 4)
    network = network_of(Suspicious)
    images = torch.rand(6, *SHAPE)
    windows = Windows(network)
    windows.place(list(range(6)), images)
    assert torch.equal(windows.ask(images, list(range(6))), network(images))
    assert not any(windows._worth.values())
    # One that starts later is caught the next time that an answer is compared.
    network.module.since = -(10**9)
    windows = Windows(network)
    windows.place(list(range(6)), images)
    windows.ask(images, list(range(6)))
    network.module.since = 0
    for _ in range(4):
        windows.ask(images, list(range(6)))
    assert windows.broken


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


def test_windows_are_cut_out_and_laid_back():
    images = torch.arange(2 * 5 * 6 * 3).view(2, 5, 6, 3).float()
    rows, area = np.array([1, 0, 1]), Area(np.array([[0, 3, 2], [4, 1, 0]]), 2)
    found = cut(images, rows, area)
    for row, image in enumerate(rows):
        top, left = area.corners[:, row]
        assert torch.equal(found[row], images[image, top : top + 2, left : left + 2])
    lay(images, -found, rows, area)
    assert torch.equal(cut(images, rows, area), -found)
    assert int((images < 0).sum()) == 3 * 2 * 2 * 3


@pytest.mark.parametrize("search", ["", "bfloat16"])
def test_the_square_attack_ends_at_the_same_point(search):
    torch.manual_seed(0)
    built = slim_resnet.build()
    x = torch.rand(12, *SHAPE)
    worker = LocalWorker(lambda: built)
    worker.start(60)
    model = RemoteModel(worker, search=search)
    with torch.no_grad():
        y = model(x).argmax(1)

    class Plain(nn.Module):
        exact = model.exact if search else None

        def forward(self, images):
            return model(images)

    expected = square(Plain(), x, y, eps=0.004, queries=300, generator=torch.Generator().manual_seed(0))
    found = square(model, x, y, eps=0.004, queries=300, generator=torch.Generator().manual_seed(0))
    assert torch.equal(found, expected)
    (windows,) = worker._link._answerer.windows.values()
    assert windows.used > 20
    assert not windows.broken
    worker.close()


def test_a_model_in_this_process_and_a_worker_answer_the_same():
    torch.manual_seed(0)
    built = slim_resnet.build(width=4)
    images = torch.rand(7, *SHAPE)
    x, numbers = near(images, 4, torch.Generator().manual_seed(8))
    asked = []
    worker = LocalWorker(lambda: built)
    worker.start(60)
    for model in (RemoteModel(worker, on_forward=asked.append), LocalModel(built, on_forward=asked.append)):
        for placed in (list(range(7)), []):
            found = model.near(x, numbers, placed, images[: len(placed)])
            assert torch.equal(found, model(x))
    # Known images are not asked about: they are not counted.
    assert [len(part) for part in asked] == 8 * [14]
    with pytest.raises(ValueError, match="one or more float32 images"):
        RemoteModel(worker).near(x.double(), numbers, [], x[:0])
    worker.close()
