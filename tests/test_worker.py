"""A network behind a worker answers as the network itself does, bit by bit, whatever batch an image comes in."""

import gc
import time
from pathlib import Path

import pytest
import torch
from worker_submissions import LINEAR, TIMEOUT, hand_made, slim

from harness.models import LocalModel, ModelWorker, RemoteModel, WorkerError, WorkerOptions
from harness.worker.convolutions.vectors import lanes_for

BATCHES = (1, 2, 3, 7, 32)


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    return slim(tmp_path_factory.mktemp("submissions") / "slim", width=12)


@pytest.fixture(scope="module")
def worker(spec):
    with ModelWorker(spec) as handle:
        handle.description = handle.start(TIMEOUT)
        yield handle


@pytest.fixture(scope="module")
def local(spec):
    return LocalModel.from_spec(spec)


@pytest.fixture(scope="module")
def x():
    return torch.rand((64, 3, 32, 32), generator=torch.Generator().manual_seed(5))


def weights(rows):
    return torch.randn((64, 10), generator=torch.Generator().manual_seed(6))[:rows]


def answers(model, x, cotangent):
    x = x.clone().requires_grad_()
    logits = model(x)
    (gradient,) = torch.autograd.grad(logits, x, cotangent)
    return logits.detach(), gradient


@pytest.mark.parametrize("rows", [1, 16, 37, 64])
def test_remote_and_local_answers_are_bit_equal(worker, local, x, rows) -> None:
    mine, theirs = (answers(model, x[:rows], weights(rows)) for model in (RemoteModel(worker), local))
    assert torch.equal(mine[0], theirs[0])
    assert torch.equal(mine[1], theirs[1])
    with torch.no_grad():
        assert torch.equal(RemoteModel(worker)(x[:rows]), theirs[0])


def test_the_answers_are_those_of_the_plain_network(spec, worker, x) -> None:
    plain = LocalModel.from_spec(spec, WorkerOptions(optimise=False)).network.module
    logits, gradient = answers(plain, x, weights(64))
    remote_logits, remote_gradient = answers(RemoteModel(worker), x, weights(64))
    done = worker.description.optimisations
    ours = ["winograd=5", "direct=7", "chained=25"] if lanes_for(1) else []
    assert [name for name in done if "also" not in name] == [
        "micro_batch=16",
        "channels_last",
        "batchnorm_folded",
        *ours,
    ]
    assert (logits - remote_logits).abs().max() <= 1e-4 * logits.abs().max()
    off = (gradient - remote_gradient).flatten(1).norm(dim=1) / gradient.flatten(1).norm(dim=1)
    assert (off < 1e-3).float().mean() > 0.9


@pytest.mark.parametrize("rows", BATCHES)
def test_an_image_gets_the_same_bits_in_every_batch(worker, x, rows) -> None:
    whole = answers(RemoteModel(worker), x, weights(64))
    parts = [
        answers(RemoteModel(worker), part, cotangent)
        for part, cotangent in zip(x.split(rows), weights(64).split(rows), strict=True)
    ]
    assert torch.equal(torch.cat([logits for logits, _ in parts]), whole[0])
    assert torch.equal(torch.cat([gradient for _, gradient in parts]), whole[1])


def test_an_image_gets_the_same_bits_at_every_place_in_the_batch(worker, x) -> None:
    order = torch.randperm(64, generator=torch.Generator().manual_seed(7))
    logits, gradient = answers(RemoteModel(worker), x, weights(64))
    moved_logits, moved_gradient = answers(RemoteModel(worker), x[order], weights(64)[order])
    assert torch.equal(moved_logits, logits[order])
    assert torch.equal(moved_gradient, gradient[order])


@pytest.mark.parametrize(
    ("threads", "optimise", "strides"), [(1, True, "1122"), (1, False, "1222"), (2, False, "1222")]
)
def test_micro_batches_make_every_variant_independent_of_the_batch(tmp_path, x, threads, optimise, strides) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        model = LocalModel.from_spec(slim(tmp_path / "slim", strides=strides), WorkerOptions(optimise=optimise))
        whole = answers(model, x[:9], weights(9))
        for rows in (1, 7) if threads == 1 else (7,):
            parts = [
                answers(model, part, cotangent)
                for part, cotangent in zip(x[:9].split(rows), weights(9).split(rows), strict=True)
            ]
            assert torch.equal(torch.cat([logits for logits, _ in parts]), whole[0])
            assert torch.equal(torch.cat([gradient for _, gradient in parts]), whole[1])
    finally:
        torch.set_num_threads(before)


def test_padding_repeats_rows_of_the_same_request_and_is_invisible(tmp_path) -> None:
    code = """
        import torch
        from torch import nn

        class Coupled(nn.Module):
            seen = []

            def forward(self, x):
                self.seen.append(x[:, 0, 0, 0].tolist())
                return x.flatten(1)[:, :3] + x.sum()

        def build():
            return Coupled()
    """
    model = LocalModel.from_spec(hand_made(tmp_path / "coupled", code), WorkerOptions(micro_batch=4, optimise=False))
    x = torch.arange(6.0).view(6, 1, 1, 1).expand(6, 3, 1, 1).clone()
    logits = model(x)
    assert logits.shape == (6, 3)
    assert model.network.module.seen == [[0, 1, 2, 3], [4, 5, 4, 5]]
    assert logits[4].tolist() == [4 + 54.0] * 3


def test_several_gradients_of_one_graph(worker, local, x) -> None:
    logits, token = worker.forward(x[:5], grad=True)
    inside = x[:5].clone().requires_grad_()
    expected = local(inside)
    for column in range(3):
        cotangent = torch.nn.functional.one_hot(torch.full((5,), column), 10).float()
        (gradient,) = torch.autograd.grad(expected, inside, cotangent, retain_graph=True)
        assert torch.equal(worker.vjp(token, cotangent), gradient)
    worker.release(token)
    assert worker.probe("graphs") == {"graphs": 0}
    with pytest.raises(ValueError, match="token"):
        worker.vjp(token, logits)


def test_autograd_on_the_proxy_works_as_usual(worker, local, x) -> None:
    def losses(model):
        inside = x[:6].clone().requires_grad_()
        first, second = model(inside * 0.9), model(inside)
        double = (first * second).sum()
        (one,) = torch.autograd.grad(double, inside, retain_graph=True)
        (again,) = torch.autograd.grad(double, inside, retain_graph=True)
        double.backward()
        return one, again, inside.grad

    for mine, theirs in zip(losses(RemoteModel(worker)), losses(local), strict=True):
        assert torch.equal(mine, theirs)
    gc.collect()
    assert worker.probe("graphs") == {"graphs": 0}


def test_a_graph_lives_in_the_worker_as_long_as_autograd_keeps_it(worker, x) -> None:
    model, inside = RemoteModel(worker), x[:3].clone().requires_grad_()
    kept = [model(inside) for _ in range(3)]
    assert worker.probe("graphs") == {"graphs": 3}
    (_,) = torch.autograd.grad(kept[0].sum(), inside)
    assert worker.probe("graphs") == {"graphs": 2}
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(kept[0].sum(), inside)
    (_,) = torch.autograd.grad(kept[1].sum(), inside, retain_graph=True)
    assert worker.probe("graphs") == {"graphs": 2}
    del kept
    assert worker.probe("graphs") == {"graphs": 0}
    with torch.no_grad():
        kept = [model(inside)]
    kept.append(model(x[:3]))
    assert worker.probe("graphs") == {"graphs": 0}
    assert not any(logits.requires_grad for logits in kept)


def test_second_derivatives_are_refused(worker, x) -> None:
    inside = x[:2].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(RemoteModel(worker)(inside).square().sum(), inside, create_graph=True)
    with pytest.raises(RuntimeError, match="second derivatives"):
        gradient.square().sum().backward()


@pytest.mark.parametrize("kind", ["remote", "local"])
def test_hooks_see_every_pass(worker, local, x, kind) -> None:
    seen: list[tuple[str, int]] = []
    model = RemoteModel(worker) if kind == "remote" else local
    model.on_forward = lambda batch: seen.append(("forward", len(batch)))
    model.on_backward = lambda batch: seen.append(("backward", len(batch)))
    inside = x[:5].clone().requires_grad_()
    logits = model(inside)
    torch.autograd.grad(logits[:, 0].sum(), inside, retain_graph=True)
    torch.autograd.grad(logits[:2, 1].sum(), inside)
    with torch.no_grad():
        model(x[:9])
    model.on_forward = model.on_backward = None
    assert seen == [("forward", 5), ("backward", 5), ("backward", 2), ("forward", 9)]


@pytest.mark.parametrize("kind", ["remote", "local"])
def test_no_images_give_no_logits(worker, local, x, kind) -> None:
    model = RemoteModel(worker) if kind == "remote" else local
    inside = x[:0].clone().requires_grad_()
    logits = model(inside)
    assert logits.shape == (0, 10)
    (gradient,) = torch.autograd.grad(logits.sum(), inside)
    assert gradient.shape == (0, 3, 32, 32)


def test_logits_are_a_copy(worker, x) -> None:
    first, _ = worker.forward(x[:4])
    kept = first.clone()
    worker.forward(x[4:20])
    assert torch.equal(first, kept)


def test_images_must_be_float32(worker, x) -> None:
    with pytest.raises(ValueError, match="float32"):
        worker.forward(x.double())


def test_the_description_and_the_probes(worker) -> None:
    assert worker.description.parameters == 174_310
    assert worker.description.training == ()
    assert worker.description.dtype == "float32"
    assert worker.description.hardware
    # Stem, four blocks of two 3x3 convolutions, three shortcuts, and the linear layer, counted by hand.
    maps = {0: 1024, 1: 1024, 2: 256, 3: 64, 4: 16}
    channels = {0: 3, 1: 12, 2: 24, 3: 48, 4: 96}
    macs = maps[0] * 9 * 3 * 12 + 96 * 10 + maps[1] * 9 * 2 * 12 * 12
    for stage in (2, 3, 4):
        before, after = channels[stage - 1], channels[stage]
        macs += maps[stage] * (9 * before * after + 9 * after * after + before * after)
    assert worker.probe("macs", shape=[3, 32, 32]) == {"macs": macs}
    state = worker.probe("state")
    assert state == worker.probe("state")
    assert len(state["sha256"]) == 64
    with pytest.raises(WorkerError, match="unknown probe 'nothing'"):
        worker.probe("nothing")


def test_a_network_that_blocks_gradients_gets_zeros(tmp_path) -> None:
    code = LINEAR.replace("x.flatten(1)", "x.detach().flatten(1)")
    with ModelWorker(hand_made(tmp_path / "blocked", code)) as worker:
        worker.start(TIMEOUT)
        inside = torch.rand(3, 3, 8, 8, requires_grad=True)
        (gradient,) = torch.autograd.grad(RemoteModel(worker)(inside).sum(), inside)
    assert torch.equal(gradient, torch.zeros(3, 3, 8, 8))


def test_a_handle_can_be_started_again(tmp_path) -> None:
    worker = ModelWorker(hand_made(tmp_path / "linear", LINEAR))
    x = torch.rand(2, 3, 8, 8)
    with pytest.raises(WorkerError, match="start it first"):
        worker.forward(x)
    with worker:
        worker.start(TIMEOUT)
        first, token = worker.forward(x, grad=True)
        pid = worker.pid
        assert worker.alive
        worker.restart(TIMEOUT)
        assert worker.pid != pid
        # The weights are drawn at random in build(), and yet they are the same again.
        assert torch.equal(worker.forward(x)[0], first)
        with pytest.raises(ValueError, match="token"):
            worker.vjp(token, first)
    assert not worker.alive


def test_the_worker_learns_nothing_of_the_run(tmp_path, monkeypatch) -> None:
    for name in ("RESULTS", "RAMPART_RESULTS", "PGD_LABELS"):
        monkeypatch.setenv(name, "secret-results-of-pgd-20")
    monkeypatch.chdir(tmp_path)
    with ModelWorker(hand_made(tmp_path / "linear", LINEAR)) as worker:
        worker.start(TIMEOUT)
        process = Path(f"/proc/{worker.pid}")
        told = process.joinpath("environ").read_bytes() + process.joinpath("cmdline").read_bytes()
        assert process.joinpath("cwd").resolve() == tmp_path / "linear"
        assert process.joinpath("fd", "0").readlink() == Path("/dev/null")
    assert b"OMP_NUM_THREADS=1" in told
    for word in (b"secret", b"pgd", b"PYTEST", b"label", b"RAMPART"):
        assert word not in told


def test_peak_memory_is_that_of_the_network(tmp_path) -> None:
    code = """
        import torch
        from torch import nn

        class Hungry(nn.Module):
            def forward(self, x):
                rows = int(x[0, 0, 0, 0] * 300)
                waste = torch.ones(rows, 1 << 18)
                return x.flatten(1)[:, :4] + waste.sum() * 0

        def build():
            return Hungry()
    """
    mib = 1 << 20
    with ModelWorker(hand_made(tmp_path / "hungry", code), WorkerOptions(optimise=False)) as worker:
        worker.launch()
        baseline = worker.resident_memory()
        worker.load(TIMEOUT)
        assert worker.resident_memory() - baseline < 40 * mib
        worker.reset_peak_memory()
        worker.forward(torch.ones(1, 3, 8, 8))
        assert 300 * mib <= worker.peak_memory() - baseline < 350 * mib
        worker.reset_peak_memory()
        worker.forward(torch.zeros(1, 3, 8, 8))
        assert worker.peak_memory() - baseline < 60 * mib


def test_seeding_makes_a_stochastic_network_repeat_itself(tmp_path) -> None:
    code = LINEAR.replace("x.flatten(1)", "(x + torch.rand_like(x)).flatten(1)")
    x = torch.rand(3, 3, 8, 8)
    with ModelWorker(hand_made(tmp_path / "noisy", code)) as worker:
        worker.start(TIMEOUT)
        first = worker.forward(x)[0]
        assert not torch.equal(worker.forward(x)[0], first)
        worker.seed(3)
        seeded = worker.forward(x)[0]
        worker.seed(3)
        assert torch.equal(worker.forward(x)[0], seeded)


def test_a_deadline_that_has_passed_ends_the_process(tmp_path) -> None:
    with ModelWorker(hand_made(tmp_path / "linear", LINEAR)) as worker:
        worker.start(TIMEOUT)
        worker.deadline = time.monotonic() - 1
        with pytest.raises(WorkerError, match="time allowed") as caught:
            worker.forward(torch.rand(2, 3, 8, 8))
        assert caught.value.kind == "timeout"
        assert not worker.alive
        worker.deadline = None
        with pytest.raises(WorkerError, match="was ended"):
            worker.forward(torch.rand(2, 3, 8, 8))
