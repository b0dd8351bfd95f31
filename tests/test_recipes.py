"""The trainer: it resumes to the same weights, publishes what it measured, and says what is wrong."""

import importlib
import io
import json
import pkgutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from submissions import architectures
from submissions.architectures.slim_resnet import build
from submissions.recipes import __main__ as command
from submissions.recipes import fgsm_at, fgsm_rs, method, natural, trainer
from submissions.recipes.config import Config, ConfigError, read
from submissions.recipes.data import DataError, augment, described, load
from submissions.recipes.layout import training_layout
from submissions.recipes.norms import TwinNorms
from submissions.recipes.perturb import ascend, attackable, folded
from submissions.recipes.publish import publish
from submissions.recipes.trainer import train, validate

CONFIGS = sorted(command.CONFIGS.glob("*.toml"))
PUBLISHED = Path(command.__file__).parents[1]


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """Seven hundred images whose class is their brightness: something to learn in a second."""
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 10, 700)
    pixels = labels[:, None, None, None] * 24 + draw.integers(0, 16, (700, 32, 32, 3))
    path = tmp_path_factory.mktemp("images") / "train.npz"
    np.savez(path, images=pixels.astype(np.uint8), labels=labels.astype(np.uint8))
    return path


@pytest.mark.parametrize(
    "path", [path for path in CONFIGS if (PUBLISHED / read(path).id).exists()], ids=lambda path: path.stem
)
def test_every_bundled_submission_was_trained_by_its_configuration(path) -> None:
    stated = json.loads((PUBLISHED / read(path).id / "training.json").read_text())["config"]
    current = vars(read(path))
    assert {name: current[name] for name in stated} == stated


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_configuration_names_a_recipe_with_its_settings_and_a_network(path) -> None:
    config = read(path)
    assert config.id == path.stem
    method.check(config)
    with torch.device("meta"):
        assert trainer.build(config)(torch.empty(2, 3, 32, 32)).shape == (2, 10)


def _small(**changes: object) -> Config:
    return replace(Config(id="small", title="Small", recipe="natural", kwargs={"width": 2}, bf16=False), **changes)  # type: ignore[arg-type]


def test_a_resumed_training_is_the_training_never_stopped(images, tmp_path) -> None:
    training, validation = load(images, seed=0)
    config = _small(epochs=3, recipe="fgsm_rs")
    device = torch.device("cpu")
    whole, _ = train(config, training, validation, folder=tmp_path / "a", device=device, say=lambda _: None)

    class Stopped(Exception):
        pass

    def stop_after_two(line: str) -> None:
        if "epoch 3/3" in line:
            raise Stopped

    lines: list[str] = []
    with pytest.raises(Stopped):
        train(config, training, validation, folder=tmp_path / "b", device=device, say=stop_after_two)
    resumed, history = train(config, training, validation, folder=tmp_path / "b", device=device, say=lines.append)
    assert "resumed after epoch 2" in lines[0]
    assert [row["epoch"] for row in history] == [1, 2, 3]
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_published_weights_give_the_validation_accuracy_of_the_training(images, tmp_path) -> None:
    from safetensors.torch import load_file

    training, validation = load(images, seed=0)
    config = _small(epochs=4, kwargs={"width": 8})
    model, history = train(
        config, training, validation, folder=tmp_path / "w", device=torch.device("cpu"), say=lambda _: None
    )
    folder = publish(model, config, history, out=tmp_path, data=described(images, training, validation))
    again = build(width=8).eval()
    again.load_state_dict(load_file(folder / "weights.safetensors"))
    found = validate(again, validation, seed=config.seed, device=torch.device("cpu"))
    assert found["natural"] == history[-1]["natural"] > 0.2
    assert found == {name: history[-1][name] for name in found}


def test_losses_against_a_second_formulation() -> None:
    torch.manual_seed(0)
    model = build(width=2).eval()
    x, y, eps = torch.rand(6, 3, 32, 32), torch.randint(0, 10, (6,)), 8 / 255
    leaf = x.clone().requires_grad_()
    F.cross_entropy(model(leaf), y).backward()
    by_hand = (x + eps * leaf.grad.sign()).clamp(0, 1)
    found = ascend(model, x, y, x, eps=eps, step_size=eps, steps=1)
    assert torch.allclose(found, by_hand, atol=1e-7)
    generator = torch.Generator().manual_seed(1)
    clean = F.cross_entropy(model(x), y)
    assert torch.equal(natural.loss(model, x, y, eps=eps, generator=generator), clean)
    expected = (clean + F.cross_entropy(model(by_hand), y)) / 2
    assert torch.allclose(fgsm_at.loss(model, x, y, eps=eps, generator=generator), expected, atol=1e-5)
    assert fgsm_rs.loss(model, x, y, eps=eps, generator=generator) > clean
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_random_start_stays_in_the_ball_and_the_box() -> None:
    model = build(width=2).eval()
    x, y, eps = torch.rand(4, 3, 32, 32), torch.tensor([0, 1, 2, 3]), 8 / 255
    moved = ascend(model, x, y, (x + 0.02).clamp(0, 1), eps=eps, step_size=1.25 * eps, steps=3)
    assert float((moved - x).abs().max()) <= eps + 1e-6
    assert 0 <= float(moved.min()) <= float(moved.max()) <= 1


class Twice(torch.nn.Module):
    """One convolution before two BatchNorms: folding either into it would spoil the other."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 3, 3, padding=1)
        self.first, self.second = torch.nn.BatchNorm2d(3), torch.nn.BatchNorm2d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.conv(self.first(self.conv(x)).relu())).mean((2, 3))


def test_what_tracing_would_lose_is_asked_as_it_is() -> None:
    torch.manual_seed(0)
    x = torch.rand(4, 3, 32, 32)
    twin, twice = TwinNorms(build(width=2)).train(), Twice().train()
    for _ in range(3):
        twin(2 * x), twice(2 * x)
    for network in (twin, twice):
        with attackable(network):
            assert folded(network, x) is network
    plain = twin.model.train()
    plain(x)
    with attackable(plain), torch.autocast("cpu", torch.bfloat16):
        assert folded(plain, x) is not plain, "half precision hides nothing and forbids nothing"


ARCHITECTURES = sorted({module.name for module in pkgutil.iter_modules(architectures.__path__)} - {"parts"})


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_several_steps_are_taken_on_a_folded_copy_of_the_network_as_it_is(name: str) -> None:
    torch.manual_seed(0)
    model = importlib.import_module(f"submissions.architectures.{name}").build().double().train()
    x, y, eps = torch.rand(8, 3, 32, 32).double(), torch.arange(8), 8 / 255
    for _ in range(2):
        model(x + 0.1)
    with attackable(model):
        copy = folded(model, x)
        assert not any(parameter.requires_grad for parameter in copy.parameters())
        assert torch.allclose(copy(x), model(x), atol=1e-9)
        assert (copy is model) == (name == "vit"), "only what cannot be traced is asked as it is"
        count = [sum(isinstance(m, torch.nn.BatchNorm2d) for m in net.modules()) for net in (copy, model)]
        assert count[0] < count[1] or count[1] == 0
        by_hand = x
        for _ in range(2):
            leaf = by_hand.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(F.cross_entropy(model(leaf), y, reduction="sum"), leaf)
            by_hand = (x + (leaf.detach() + 0.01 * gradient.sign() - x).clamp(-eps, eps)).clamp(0, 1)
    found = ascend(model, x, y, x, eps=eps, step_size=0.01, steps=2)
    assert (found - by_hand).abs().gt(1e-6).double().mean() < 1e-3, "rounding turns the sign of next to no gradient"
    assert model.training and all(parameter.requires_grad for parameter in model.parameters())
    state = {key: value.clone() for key, value in model.state_dict().items()}
    ascend(model, x, y, x, eps=eps, step_size=0.01, steps=2)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_augmentation_shifts_and_flips_and_nothing_else() -> None:
    image = torch.arange(3 * 32 * 32).remainder(251).to(torch.uint8).view(1, 3, 32, 32)
    padded = F.pad(image.float() / 255, (4, 4, 4, 4), mode="reflect")[0]
    windows = {
        (row, column, flip): (window.flip(2) if flip else window)
        for row in range(9)
        for column in range(9)
        for flip in (False, True)
        for window in [padded[:, row : row + 32, column : column + 32]]
    }
    seen = set()
    generator = torch.Generator().manual_seed(0)
    for crop in augment(image.expand(200, -1, -1, -1), generator=generator):
        place = next(key for key, window in windows.items() if torch.equal(window, crop))
        seen.add(place)
    assert {flip for _, _, flip in seen} == {False, True} and len({row for row, _, _ in seen}) == 9


def test_jpeg_streams_are_read(tmp_path) -> None:
    from PIL import Image

    streams = []
    for shade in (10, 200):
        buffer = io.BytesIO()
        Image.new("RGB", (32, 32), (shade, shade, shade)).save(buffer, "JPEG", quality=95)
        streams.append(np.frombuffer(buffer.getvalue(), np.uint8))
    offsets = np.cumsum([0, *map(len, streams)])
    np.savez(tmp_path / "j.npz", jpeg=np.concatenate(streams), offsets=offsets, labels=np.array([0, 1], np.uint8))
    training, validation = load(tmp_path / "j.npz", seed=0)
    levels = {int(image.float().mean().round()) for image in torch.cat([training.images, validation.images])}
    assert levels == {10, 200}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id = 'a'", "missing field title, recipe"),
        ("id = 'a'\ntitle = 'b'\nrecipe = 'natural'\nepoch = 3", "unknown field 'epoch'"),
        ("id = 'a'\ntitle = 'b'\nrecipe = 'natural'\nepochs = '3'", "epochs: expected"),
        ("id = ", "expected a TOML file"),
    ],
)
def test_a_configuration_says_what_is_wrong(tmp_path, text, message) -> None:
    path = tmp_path / "c.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read(path)


def test_a_wrong_data_file_is_named(tmp_path) -> None:
    path = tmp_path / "x.npz"
    path.write_bytes(b"no")
    with pytest.raises(DataError, match=r"x\.npz: expected an \.npz file"):
        load(path, seed=0)


@pytest.mark.parametrize(
    ("kwargs", "device", "expected"),
    [
        ({"width": 16}, "cpu", torch.channels_last),
        ({"width": 7}, "cpu", torch.contiguous_format),
        ({"width": 7, "strides": "1111"}, "cpu", torch.channels_last),
        ({"width": 7}, "cuda", torch.channels_last),
    ],
)
def test_a_narrow_strided_shortcut_is_not_trained_in_channels_last_on_a_processor(kwargs, device, expected) -> None:
    model = build(**kwargs)
    assert training_layout(model, torch.device(device)) is expected


def test_gradients_of_weights_are_right_in_the_layout_that_is_trained_in() -> None:
    cpu, draw = torch.device("cpu"), torch.Generator().manual_seed(0)
    x = torch.rand(32, 3, 32, 32, generator=draw)
    for width in (2, 12, 16):
        model = build(width=width, strides="1222").eval().double()
        model(x.double()).square().sum().backward()
        exact = [p.grad for p in model.parameters()]
        layout = training_layout(model, cpu)
        model.zero_grad()
        model = model.float().to(memory_format=layout)
        model(x.to(memory_format=layout)).square().sum().backward()
        for p, truth in zip(model.parameters(), exact, strict=True):
            assert float((p.grad - truth).abs().max()) <= 0.01 * float(truth.abs().max())
