"""Every form of a network says what it promises: its own logits, another gradient, another type, another caller."""

import sys
import threading

import pytest
import torch
from small_networks import PLAIN, Base, cosine, gradient_of
from torch import nn
from worker_submissions import TIMEOUT, hand_made, slim

from harness.models import LocalModel, ModelWorker, RemoteModel, WorkerError, WorkerOptions
from harness.worker.inspection import INSPECTIONS


@pytest.fixture(scope="module")
def worker(tmp_path_factory):
    with ModelWorker(slim(tmp_path_factory.mktemp("variants") / "slim", width=4)) as handle:
        handle.start(TIMEOUT)
        yield handle


@pytest.fixture(scope="module")
def x():
    return torch.rand((24, 3, 32, 32), generator=torch.Generator().manual_seed(5))


@pytest.fixture
def small():
    return torch.rand((20, 3, 8, 8), generator=torch.Generator().manual_seed(6))


def test_plain_and_child_answer_as_the_whole(worker, x) -> None:
    model = RemoteModel(worker)
    plain = model.variant(kind="plain")
    with torch.no_grad():
        whole = model(x)
        assert (plain(x) - whole).abs().max() <= 1e-4 * whole.abs().max()
    about = {entry["path"]: entry for entry in worker.probe("children", x=x)["children"]}
    entry = about["upsample"]
    assert entry["image"]
    assert entry["explained"] > 0.999
    assert entry["scale"] == pytest.approx([1 / 0.2471, 1 / 0.2435, 1 / 0.2616], rel=1e-3)
    stem = about["stem"]
    tail = model.variant(kind="child", path="stem", scale=stem["scale"], shift=stem["shift"])
    with pytest.raises(WorkerError, match="expected float logits"):
        tail(x)


def test_a_child_takes_images_and_undoes_the_normalisation(tmp_path, small) -> None:
    code = """
        import torch
        from torch import nn

        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.inner = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))

            def forward(self, x):
                return 1000 * self.inner((x.round(decimals=1) - 0.4) / 0.2)

        def build():
            return Net()
    """
    with ModelWorker(hand_made(tmp_path / "peel", code), WorkerOptions(image_shape=(3, 8, 8))) as worker:
        worker.start(TIMEOUT)
        model = RemoteModel(worker)
        found = next(entry for entry in worker.probe("children", x=small)["children"] if entry["path"] == "inner")
        assert found["outputs"] == 4
        inner = model.variant(kind="child", path="inner", scale=found["scale"], shift=found["shift"])
        leaf = small.clone().requires_grad_()
        logits = inner(leaf)
        assert (logits.argmax(1) == model(small).argmax(1)).float().mean() > 0.8
        assert torch.autograd.grad(logits.sum(), leaf)[0].ne(0).all()


def test_an_inner_part_is_asked_within_the_network(small) -> None:
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.head, self.twin = nn.Linear(192, 4), nn.Identity()

        def forward(self, x):
            return self.twin(self.head((x.round(decimals=1)).flatten(1))).argmax(1, keepdim=True) == torch.arange(4)

    class Logits(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = Net()

        def forward(self, x):
            return self.net(x).float()

    model = LocalModel(Logits(), PLAIN)
    about = {entry["path"]: entry for entry in INSPECTIONS["children"](model.network, small)["children"]}
    assert (about["net.head"]["last"], about["net.head"]["first"]) == (False, "net.head")
    assert (about["net.twin"]["last"], about["net.twin"]["first"]) == (False, "net.head")
    head = model.variant(kind="inner", path="net.head")
    logits = head(small)
    assert (logits.argmax(1) == model(small).argmax(1)).all() and logits.unique().numel() > 16
    whole = LocalModel(nn.Sequential(nn.Flatten(), nn.Linear(192, 4)), PLAIN)
    about = INSPECTIONS["children"](whole.network, small)["children"]
    assert [entry["last"] for entry in about if entry["outputs"] == 4] == [True]


def test_features_are_what_the_last_layer_gets(worker, x) -> None:
    features = RemoteModel(worker).variant(kind="features")
    assert features(x).shape == (24, 32)
    assert features.about == {"path": "linear"}
    convolutional = nn.Sequential(nn.Conv2d(3, 5, 8), nn.Flatten())
    with pytest.raises(WorkerError, match="ends in an") as error:
        LocalModel(convolutional, PLAIN).variant(kind="features")
    assert error.value.kind == "contract"


def test_other_types_answer_nearly_the_same(worker, x) -> None:
    model = RemoteModel(worker)
    with torch.no_grad():
        logits, double = model(x), model.variant(kind="dtype", dtype="float64")(x)
        assert 0 < (double - logits).abs().max() <= 1e-4 * logits.abs().max()
        mixed = RemoteModel(worker, search="bfloat16")
        rough = mixed(x)
        assert 1e-5 * logits.abs().max() < (rough - logits).abs().max() <= 0.1 * logits.abs().max()
        assert torch.equal(mixed.exact(x), logits)
    assert model.exact is None
    leaf = x.clone().requires_grad_()
    gradients = [torch.autograd.grad(net(leaf).sum(), leaf)[0] for net in (model, mixed)]
    assert cosine(*gradients) > 0.95


class Weighted(nn.Module):
    """Two convolutions and a linear layer; the linear layer's weights may also be used without autocast."""

    def __init__(self, outside):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)
        self.linear, self.outside = nn.Linear(8 * 16, 4), outside

    def forward(self, x):
        h = self.linear(self.second(self.first(x).relu()).flatten(1))
        return h * self.linear.weight.float().sum() if self.outside else h


@pytest.mark.parametrize("outside", [False, True])
def test_bfloat16_answers_have_the_bits_of_autocast(outside) -> None:
    torch.manual_seed(0)
    x = torch.rand(40, 3, 8, 8)
    model = LocalModel(Weighted(outside), WorkerOptions(image_shape=(3, 8, 8)))
    network = model.network.module
    mixed = model.variant(kind="dtype", dtype="bfloat16")
    leaves = [x.clone().requires_grad_() for _ in range(2)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        parts = leaves[0].split(mixed.network.sizes[-1])
        expected = torch.cat([network(part.contiguous(memory_format=model.network.layout)).float() for part in parts])
    answers = mixed(leaves[1])
    assert torch.equal(answers, expected)
    slopes = [
        torch.autograd.grad(logits.square().sum(), leaf)[0]
        for logits, leaf in zip((expected, answers), leaves, strict=True)
    ]
    assert torch.equal(*slopes)
    assert {weight.dtype for weight in network.parameters()} == {torch.float32}


@pytest.mark.parametrize("mode", ["no_grad", "inference_mode", "grad", "requires_grad", "thread"])
def test_an_honest_network_answers_every_caller_alike(worker, x, mode) -> None:
    model = RemoteModel(worker)
    with torch.no_grad():
        assert torch.equal(model.variant(kind="context", mode=mode)(x), model(x))


def test_callers_are_told_apart_by_a_network_that_looks() -> None:
    class Looking(nn.Module):
        def forward(self, x):
            seen = 2.0 * (threading.current_thread() is threading.main_thread()) + torch.is_grad_enabled()
            return x.flatten(1)[:, :2] * 0 + torch.tensor([seen + 4.0 * x.requires_grad, float(x.is_inference())])

    model = LocalModel(Looking(), PLAIN)
    x = torch.rand(3, 3, 8, 8)
    modes = ("no_grad", "inference_mode", "grad", "requires_grad", "thread")
    answers = {mode: model.variant(kind="context", mode=mode)(x)[0].tolist() for mode in modes}
    assert answers == {
        "no_grad": [2.0, 0.0], "inference_mode": [2.0, 1.0], "grad": [3.0, 0.0], "requires_grad": [7.0, 0.0],
        "thread": [0.0, 0.0],
    }  # fmt: skip


def test_in_a_thread_nothing_of_the_harness_is_on_the_stack() -> None:
    class Tracing(nn.Module):
        def forward(self, x):
            frame, seen = sys._getframe(), 0
            while frame is not None:
                seen += "/harness/" in frame.f_code.co_filename
                frame = frame.f_back
            return x.flatten(1)[:, :2] * 0 + seen

    model = LocalModel(Tracing(), PLAIN)
    x = torch.rand(3, 3, 8, 8)
    assert model(x).min() > 0
    assert not model.variant(kind="context", mode="thread")(x).any()


def test_raw_gives_the_network_the_whole_batch(small) -> None:
    class Coupled(nn.Module):
        def forward(self, x):
            return x.flatten(1)[:, :3] + len(x)

    model = LocalModel(Coupled(), PLAIN)
    rows = small.flatten(1)[:, :3]
    assert torch.allclose(model(small), rows + 16)
    assert torch.allclose(model.variant(kind="raw")(small), rows + 20)


def test_wrong_specs_say_what_was_expected(worker) -> None:
    wrong = {
        "expected a kind among": {"kind": "sideways"}, "expected a submodule": {"kind": "child", "path": "nowhere"},
        "inner: path: expected": {"kind": "inner", "path": "nowhere"},
        "expected 1, 2 or 3": {"kind": "straight_through", "level": 7},
        "'float64' or": {"kind": "dtype", "dtype": "int8"},
        "expected one of no_grad": {"kind": "context", "mode": "asleep"},
        "expected 3 numbers": {"kind": "child", "path": "stem", "scale": [1]},
        "modules: expected paths": {"kind": "straight_through", "level": 1, "modules": "stem"},
    }  # fmt: skip
    for text, spec in wrong.items():
        with pytest.raises(WorkerError, match=text) as error:
            RemoteModel(worker).variant(**spec)
        assert error.value.kind == "contract"


def test_a_variant_survives_a_new_process_and_counts_its_own_classes(tmp_path, x) -> None:
    with ModelWorker(slim(tmp_path / "slim", width=4)) as worker:
        worker.start(TIMEOUT)
        features = RemoteModel(worker).variant(kind="features")
        first = features(x)
        assert worker.variant(kind="features") == features.number
        worker.restart(TIMEOUT)
        assert torch.equal(features(x), first)
        assert RemoteModel(worker)(x).shape == (24, 10)
        with worker.another() as twin:
            twin.start(TIMEOUT)
            assert torch.equal(RemoteModel(twin)(x), RemoteModel(worker)(x))
            assert twin.pid != worker.pid


def test_rows_with_broken_gradients_are_counted(tmp_path) -> None:
    code = """
        import torch
        from torch import nn

        class Net(nn.Module):
            def forward(self, x):
                return torch.sqrt(x.flatten(1)[:, :3] - 0.5).nan_to_num()

        def build():
            return Net()
    """
    x = torch.full((5, 3, 8, 8), 0.75)
    x[1:3] = 0.25
    options = WorkerOptions(image_shape=(3, 8, 8))
    spec = hand_made(tmp_path / "roots", code)
    with ModelWorker(spec, options) as worker:
        worker.start(TIMEOUT)
        for model in (RemoteModel(worker), LocalModel.from_spec(spec, options)):
            for expected in (2, 4):
                leaf = x.clone().requires_grad_()
                torch.autograd.grad(model(leaf).sum(), leaf)
                assert model.nonfinite_gradients == expected


def test_forward_mode_derivatives_are_the_gradients(worker, x) -> None:
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(2))
    weights = torch.randn(24, 10, generator=torch.Generator().manual_seed(3))
    forward = worker.jvp(x, direction)
    _, gradient = gradient_of(RemoteModel(worker), x, weights)
    ahead, back = (forward * weights).sum(1), (gradient * direction).flatten(1).sum(1)
    assert ahead == pytest.approx(back, rel=1e-3, abs=1e-3 * float(ahead.abs().max()))


def test_forward_mode_that_is_missing_is_said_so(tmp_path, small) -> None:
    code = """
        import torch
        from torch import nn

        class Same(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x):
                return x.clone()

            @staticmethod
            def backward(ctx, g):
                return g

        class Net(nn.Module):
            def forward(self, x):
                return Same.apply(x).flatten(1)[:, :3]

        def build():
            return Net()
    """
    with ModelWorker(hand_made(tmp_path / "custom", code), WorkerOptions(image_shape=(3, 8, 8))) as worker:
        worker.start(TIMEOUT)
        assert worker.jvp(small, small) is None


def test_reentrant_checkpoints_give_their_gradient(small) -> None:
    from torch.utils.checkpoint import checkpoint

    from harness.worker.network import pull_back

    net, weights = Base().requires_grad_(False), torch.randn(20, 5, generator=torch.Generator().manual_seed(1))
    leaf = small.clone().requires_grad_()
    found = pull_back(checkpoint(net, leaf * 1, use_reentrant=True), leaf, weights)
    expected = pull_back(net(leaf), leaf, weights)
    assert torch.allclose(found, expected, atol=1e-6)
    assert leaf.grad is None
