"""Recipes with a state: JARN, DAJAT, FAT's schedule; formulas by hand, and the same bits after a resume."""

import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from recipe_formulas import Smooth, draws, images, kl, probabilities
from torch import nn
from torch.nn import functional as F

from submissions.architectures import jarn_resnet, slim_resnet
from submissions.recipes import dajat, jarn
from submissions.recipes.config import Config
from submissions.recipes.method import Batch, method
from submissions.recipes.norms import Average, TwinNorms
from submissions.recipes.trainer import Run


@pytest.fixture(autouse=True)
def _seeded(one_thread):
    torch.manual_seed(0)


def batch(x: torch.Tensor, y: torch.Tensor, *, progress: float = 1.0, step: int = 0) -> Batch:
    return Batch((x * 255).to(torch.uint8), x, y, draws(7), 0, step, progress)


def recipe(name: str, network: str = "slim_resnet", **settings: object):
    config = Config(
        id="x", title="X", recipe=name, architecture=network, kwargs={"width": 4}, settings=settings, bf16=False, lr=0.1
    )
    return Run(config, folder=Path("nowhere"), device=torch.device("cpu"))


def test_tau_grows_over_the_training() -> None:
    friendly = recipe("fat").method
    x, y = images(2)
    assert [friendly.tau(batch(x, y, progress=share)) for share in (0.2, 0.5, 0.9)] == [0, 1, 2]


def test_jensen_shannon_by_hand_and_at_its_ends() -> None:
    logits = [torch.randn(3, 4, dtype=torch.float64) for _ in range(3)]
    p = [probabilities(item) for item in logits]
    total = 0.0
    for i in range(3):
        mean = [sum(p[view][i][k] for view in range(3)) / 3 for k in range(4)]
        total += sum(kl(p[view][i], mean) for view in range(3)) / 3
    assert float(dajat.jensen_shannon(logits)) == pytest.approx(total / 3, rel=1e-9)
    assert float(dajat.jensen_shannon([logits[0], logits[0]])) == pytest.approx(0, abs=1e-12)
    certain = [torch.tensor([[90.0, 0]]), torch.tensor([[0, 90.0]])]
    assert float(dajat.jensen_shannon(certain)) == pytest.approx(math.log(2), rel=1e-5)


def test_the_second_norms_are_apart_and_everything_else_is_shared() -> None:
    model, (x, _) = slim_resnet.build(width=4).train(), images(8)
    twin = TwinNorms(model).train()
    assert torch.equal(twin(x), slim_copy(model)(x))
    means = {name: tensor.clone() for name, tensor in model.state_dict().items() if "running" in name}
    twin(x * 0.3)
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in means.items())
    assert not torch.equal(twin.own()["stem.1.running_mean"], means["stem.1.running_mean"])
    twin(x).square().sum().backward()
    assert model.stem[1].weight.grad is None and model.stem[0].weight.grad is not None
    assert twin.own()["stem.1.weight"].grad.abs().sum() > 0


def slim_copy(model: nn.Module) -> nn.Module:
    other = slim_resnet.build(width=4).train()
    other.load_state_dict(model.state_dict())
    return other


def test_dajat_trains_both_sets_of_norms_and_publishes_the_average() -> None:
    run = recipe("dajat", views=1, steps=1, gamma=0.0, decay=0.5, average_from=0.5)
    x, y = images(8)
    assert run.method.published() is run.model
    twin = {name: tensor.detach().clone() for name, tensor in run.method.twin.own().items()}
    base = run.model.stem[1].weight.detach().clone()
    run.method.update(batch(x, y, progress=0.6))
    first = run.model.stem[0].weight.detach().clone()
    assert not torch.equal(run.method.twin.own()["stem.1.weight"], twin["stem.1.weight"])
    assert not torch.equal(run.model.stem[1].weight, base)
    run.method.update(batch(x, y, progress=0.7))
    mean = (first + run.model.stem[0].weight.detach()) / 2
    assert torch.allclose(run.method.published().stem[0].weight, mean, atol=1e-7)


@pytest.mark.parametrize(("steps", "share"), [(2, 1.0), (3, 0.5)])
def test_a_step_of_dajat_by_hand(steps, share, monkeypatch) -> None:
    """Ramp, inner steps, the direction of the weights from the images alone, joint objective, one step of SGD."""
    settings = {"views": 1, "steps": steps, "beta": 3.0, "joint": 2.0, "gamma": 0.02, "warmup": 0.0}
    run, (x, y) = recipe("dajat", average_from=1.0, **settings), images(6)
    view = x.flip(3).mul(0.7)
    monkeypatch.setattr(dajat, "auto_augment", lambda *_, **__: view)
    run.method.twin.double()
    x, view, given = x.double(), view.double(), batch(x, y, progress=0.5)
    model = slim_copy(run.model).double()
    twin = TwinNorms(model)
    twin.load_state_dict(run.method.twin.state_dict())
    eps, replay, weights = 0.5 * 8 / 255, draws(7), dict(model.named_parameters())
    nets, pairs = (model, twin), []
    for net, clean in zip(nets, (x, view), strict=True):
        net.eval()
        place = (clean + 0.001 * torch.randn(x.shape, generator=replay)).clamp(0, 1)
        p = net(clean).softmax(1).detach()
        for _ in range(steps):
            place.requires_grad_(True)
            away = (p * (p.log() - net(place).log_softmax(1))).sum()
            (slope,) = torch.autograd.grad(away, place)
            place = clean + (place.detach() + share * eps * slope.sign() - clean).clamp(-eps, eps)
            place = place.clamp(0, 1)
        pairs.append((clean, place))
        net.train()

    def robust(net: nn.Module, clean: torch.Tensor, moved: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits, other = net(clean).log_softmax(1), net(moved).log_softmax(1)
        away = (logits.exp() * (logits - other)).sum(1).mean()
        return -logits.gather(1, y[:, None]).mean() + 3.0 * away, logits.exp()

    kept = {name: tensor.clone() for name, tensor in model.named_buffers()}
    before = {name: tensor.detach().clone() for name, tensor in weights.items()}
    wide = {name: tensor for name, tensor in weights.items() if tensor.ndim > 1}
    slopes = torch.autograd.grad(robust(model, *pairs[0])[0], list(wide.values()))
    with torch.no_grad():
        for tensor, slope in zip(wide.values(), slopes, strict=True):
            tensor.add_(0.02 * tensor.norm() * slope / slope.norm())
        for name, tensor in model.named_buffers():
            tensor.copy_(kept[name])
    (first, p), (second, q) = robust(model, *pairs[0]), robust(twin, *pairs[1])
    middle = (p + q) / 2
    joint = ((p * (p / middle).log()).sum(1) + (q * (q / middle).log()).sum(1)).mean() / 2
    value = (first + second) / 2 + 2.0 * joint
    value.backward()
    monkeypatch.setattr(run.method, "seen", lambda _: [(run.model, x), (run.method.twin, view)])
    assert run.method.update(given) == pytest.approx(float(value), rel=1e-9)
    for name, tensor in run.model.named_parameters():
        decay = 5e-4 * before[name] if tensor.ndim > 1 else 0
        assert torch.allclose(tensor, before[name] - 0.1 * (weights[name].grad + decay), atol=1e-9), name
    for name, tensor in run.model.named_buffers():
        assert torch.allclose(tensor, dict(model.named_buffers())[name]), name


def test_the_augmented_views_depend_on_the_generator_alone() -> None:
    pixels = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    first = dajat.auto_augment(pixels, generator=draws())
    torch.manual_seed(99)
    state = torch.get_rng_state()
    assert torch.equal(first, dajat.auto_augment(pixels, generator=draws()))
    assert torch.equal(state, torch.get_rng_state())
    assert not torch.equal(first, dajat.auto_augment(pixels, generator=draws(2)))
    assert first.shape == (4, 3, 32, 32) and 0 <= float(first.min()) <= float(first.max()) <= 1


def test_averaged_weights_get_the_statistics_of_the_images() -> None:
    model, (x, _) = slim_resnet.build(width=4), images(16)
    average = Average(model, decay=0.9)
    average.update(model)
    average.recompute_norms([x[:8], x[8:]])
    inside = average.model.stem[0](average.model.normalise(x)).mean(dim=(0, 2, 3))
    assert torch.allclose(average.model.stem[1].running_mean, inside, atol=1e-5)
    assert average.model.stem[1].momentum == 0.1


def test_the_adapted_jacobian_is_a_picture_and_the_discriminator_starts_undecided() -> None:
    losses = []
    for seed in range(12):
        torch.manual_seed(seed)
        model, (x, y) = jarn_resnet.build(width=4).train(), images(16)
        fake = jarn.Adaptor()(jarn.Recipe.jacobian(model(x.requires_grad_(True)), x, y))
        assert fake.shape == x.shape and float(fake.abs().max()) < 1
        losses.append(float(jarn.told_apart(jarn.Discriminator(8, 4), fake, jarn_resnet.standardise(x)).detach()))
    assert sum(losses) / 12 == pytest.approx(math.log(2), abs=0.05)
    assert sum(p.numel() for p in jarn.Discriminator(8, 4).parameters()) == pytest.approx(44_000, rel=0.01)
    assert sum(p.numel() for p in jarn.Adaptor().parameters()) == 12


def test_the_jacobian_is_that_of_the_true_class_probability() -> None:
    model = Smooth().float()
    x, y = torch.rand(2, 3, 8, 8, requires_grad=True), torch.tensor([3, 4])
    found = jarn.Recipe.jacobian(model(x), x, y)
    shift = torch.randn_like(x) * 1e-2
    with torch.no_grad():
        up, down = (model(x + sign * shift).softmax(1)[range(2), y] for sign in (1, -1))
    assert torch.allclose((found * shift).sum(dim=(1, 2, 3)), (up - down) / 2, rtol=2e-2, atol=1e-6)


@pytest.mark.parametrize("name", ["jarn", "jarn_at1"])
def test_without_its_weight_jarn_is_its_first_phase_bit_for_bit(name) -> None:
    runs = [
        recipe(name, "jarn_resnet", weight=0.0, begin=0.0),
        recipe(name, "jarn_resnet", weight=1.0, begin=1.0),
        recipe(name, "jarn_resnet", weight=1.0, begin=0.0),
    ]
    for step in range(3):
        x, y = images(8)
        for run in runs:
            run.method.update(batch(x, y, progress=0.5, step=step))
    states = [run.model.state_dict() for run in runs]
    assert all(torch.equal(tensor, states[1][key]) for key, tensor in states[0].items())
    assert not torch.equal(states[2]["linear.weight"], states[1]["linear.weight"])
    assert not torch.equal(runs[0].method.adaptor.mix.weight, runs[1].method.adaptor.mix.weight)


def test_the_discriminator_moves_every_few_steps() -> None:
    run = recipe("jarn", "jarn_resnet", begin=0.0, every=2)
    x, y = images(8)
    weights = [run.method.discriminator.linear.weight.detach().clone()]
    for step in range(3):
        run.method.update(batch(x, y, progress=0.5, step=step))
        weights.append(run.method.discriminator.linear.weight.detach().clone())
    assert [torch.equal(a, b) for a, b in pairwise(weights)] == [True, False, True]


@pytest.mark.parametrize("weight", [0.0, 3.0])
def test_jarn_steps_down_its_two_losses(weight) -> None:
    run, (x, y) = recipe("jarn", "jarn_resnet", weight=weight, begin=0.0), images(8)
    model, adaptor = run.model, run.method.adaptor
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    place = run.method.inputs(batch(x, y)).requires_grad_(True)
    logits = model(place)
    value = F.cross_entropy(logits, y)
    (jacobian,) = torch.autograd.grad(logits.softmax(1)[range(8), y].sum(), place, create_graph=True)
    fake = torch.cat([adaptor(jacobian), jarn_resnet.standardise(place.detach())])
    right = F.log_softmax(run.method.discriminator(fake), 1)
    apart = -(right[:8, 0].mean() + right[8:, 1].mean()) / 2
    theta = torch.autograd.grad(value - weight * apart, model.linear.weight, retain_graph=True)[0]
    psi = torch.autograd.grad(-apart, adaptor.mix.weight)[0]
    model.load_state_dict(before)
    run.method.update(batch(x, y, progress=0.5, step=1))
    assert torch.allclose(model.linear.weight.grad, theta, atol=1e-5)
    assert torch.allclose(adaptor.mix.weight.grad, psi, atol=1e-5)
    assert float(psi.norm()) > 1e-3


@pytest.mark.parametrize(
    ("name", "network", "settings"),
    [
        ("jarn_at1", "jarn_resnet", {"begin": 0.3}),
        ("dajat", "slim_resnet", {"views": 1, "steps": 1, "average_from": 0.2, "decay": 0.9, "warmup": 0.0}),
    ],
)
def test_a_recipe_with_a_state_resumes_to_the_same_bits(name, network, settings, tmp_path) -> None:
    from submissions.recipes.data import Split
    from submissions.recipes.trainer import train

    pixels = torch.randint(0, 256, (48, 3, 32, 32), dtype=torch.uint8)
    split = Split(pixels, torch.randint(0, 10, (48,)))
    config = Config(
        id="r", title="R", recipe=name, architecture=network, kwargs={"width": 2}, settings=settings, epochs=3,
        batch_size=16, bf16=False,
    )  # fmt: skip
    device, few = torch.device("cpu"), Split(pixels[:8], split.labels[:8])
    whole, _ = train(config, split, few, folder=tmp_path / "a", device=device, say=lambda _: None)

    def stop(line: str) -> None:
        if "epoch 3/3" in line:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        train(config, split, few, folder=tmp_path / "b", device=device, say=stop)
    resumed, history = train(config, split, few, folder=tmp_path / "b", device=device, say=lambda _: None)
    assert len(history) == 3
    for key, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[key]), key


def test_dropout_draws_the_same_after_a_resume(tmp_path) -> None:
    from submissions.recipes.data import Split
    from submissions.recipes.trainer import train

    pixels = torch.randint(0, 256, (32, 3, 32, 32), dtype=torch.uint8)
    split = Split(pixels, torch.randint(0, 10, (32,)))
    small = {"dim": 8, "depth": 1, "heads": 1, "head_dim": 8, "mlp": 8}
    config = Config(
        id="v", title="V", recipe="natural", architecture="vit", kwargs=small, epochs=2, batch_size=16, bf16=False
    )
    device, few = torch.device("cpu"), Split(pixels[:4], split.labels[:4])
    whole, _ = train(config, split, few, folder=tmp_path / "a", device=device, say=lambda _: None)

    def stop(line: str) -> None:
        if "epoch 2/2" in line:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        train(config, split, few, folder=tmp_path / "b", device=device, say=stop)
    torch.rand(5)
    resumed, _ = train(config, split, few, folder=tmp_path / "b", device=device, say=lambda _: None)
    assert all(torch.equal(tensor, resumed.state_dict()[key]) for key, tensor in whole.state_dict().items())


def test_a_recipe_that_is_only_a_loss_has_no_state() -> None:
    run = recipe("natural")
    assert method(run.model, run.optimiser, run.config).state_dict() == {}
