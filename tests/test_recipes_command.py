"""The training command: every recipe trains, and the folder it writes gives back the accuracy that is written in it."""

import hashlib
import importlib
import json
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from submissions.recipes import __main__ as command
from submissions.recipes.config import ConfigError, read
from submissions.recipes.data import Split, load
from submissions.recipes.trainer import train, validate

pytestmark = pytest.mark.usefixtures("one_thread")
RECIPES = {
    "natural": "", "fgsm_at": "", "fgsm_rs": "", "uniform_noise": "", "double_backprop": "weight = 0.5",
    "grad_align": "", "pgd_at": "steps = 2", "alp": "steps = 2", "trades": "steps = 2", "mart": "steps = 2",
    "fat": "steps = 3", "at_awp": "steps = 1", "trades_awp": "steps = 1, warmup = 0.0",
    "dajat": "steps = 1, views = 1, average_from = 0.3, decay = 0.5, warmup = 0.0",
    "jarn": "begin = 0.4, every = 1", "jarn_at1": "begin = 0.4, every = 1",
}  # fmt: skip
"""Every recipe, with settings that make it short."""


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """Images whose class is their brightness."""
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 10, 160)
    pixels = labels[:, None, None, None] * 24 + draw.integers(0, 16, (160, 32, 32, 3))
    path = tmp_path_factory.mktemp("images") / "train.npz"
    np.savez(path, images=pixels.astype(np.uint8), labels=labels.astype(np.uint8))
    return path


@pytest.fixture
def run(images, tmp_path):
    """Run the command on a small configuration of a recipe; returns (exit code, the folder's parent)."""

    def run(recipe: str, *flags: str, settings: str = "", extra: str = "") -> tuple[int, Path]:
        network = 'architecture = "jarn_resnet"\n' if recipe.startswith("jarn") else ""
        file = tmp_path / "tiny.toml"
        file.write_text(
            f'id = "tiny"\ntitle = "Tiny"\nrecipe = "{recipe}"\n{network}kwargs = {{ width = 4 }}\nbf16 = false\n'
            f"batch_size = 32\nepochs = 2\nsettings = {{ {settings} }}\n{extra}"
        )
        places = ["--data", str(images), "--out", str(tmp_path / "out"), "--work", str(tmp_path / "work")]
        arguments = [recipe, "--config", str(file), *places, "--device", "cpu", *flags]
        return command.main(arguments), tmp_path / "out"

    return run


def again(folder: Path, images: Path) -> dict[str, float]:
    """The validation accuracies of a written submission, from nothing but its folder and the data."""
    card = tomllib.loads((folder / "submission.toml").read_text())
    weights = folder / card["checkpoint"]["file"]
    assert hashlib.sha256(weights.read_bytes()).hexdigest() == card["checkpoint"]["sha256"]
    name, function = card["entry"].split(":")
    model = getattr(importlib.import_module(name), function)(**card["kwargs"])
    model.load_state_dict(load_file(weights))
    training = json.loads((folder / "training.json").read_text())
    _, validation = load(images, seed=0)
    return validate(model.eval(), validation, seed=training["seed"], device=torch.device("cpu"))


def test_every_recipe_is_here() -> None:
    assert {read(path).recipe for path in command.CONFIGS.glob("*.toml")} == set(RECIPES)


@pytest.mark.parametrize(("recipe", "settings"), RECIPES.items())
def test_every_recipe_runs_and_its_folder_reproduces_its_accuracy(recipe, settings, run, images, capsys) -> None:
    code, out = run(recipe, "--smoke", settings=settings)
    assert code == 0
    assert "tiny-smoke epoch 1/1" in capsys.readouterr().out
    training = json.loads((out / "tiny-smoke" / "training.json").read_text())
    assert (training["recipe"], training["seed"]) == (recipe, 0)
    assert training["cost"]["epochs"] == 1 and training["cost"]["hardware"]
    assert training["cost"]["forward_equivalents"] >= 2.5 and training["cost"]["seconds"] > 0
    assert all(np.isfinite(row["loss"]) for row in training["history"])
    assert again(out / "tiny-smoke", images) == training["validation"]
    assert training["data"] | {"sha256": ""} == {"form": "pixels", "training": 128, "validation": 32, "sha256": ""}
    assert len(training["data"]["sha256"]) == 64 and len(training["commit"].removesuffix("-dirty")) in {0, 40}
    assert ("discriminator_loss" in training["history"][0]) == recipe.startswith("jarn")


def test_a_smoke_run_is_always_a_run(run, capsys) -> None:
    for _ in range(2):
        assert run("natural", "--smoke", extra="lr = 0.1")[0] == 0
        assert "tiny-smoke epoch 1/1" in capsys.readouterr().out


def test_a_checkpoint_of_other_settings_or_images_is_refused_and_kept(run, images, tmp_path, capsys) -> None:
    assert run("natural")[0] == 0
    path = tmp_path / "work" / "tiny" / "checkpoint.pt"
    before = path.read_bytes()
    assert run("natural", extra="lr = 0.05")[0] == 2
    said = capsys.readouterr().err
    assert f"{path}: expected a checkpoint of this training, got one with lr 0.2, now 0.05: delete it" in said
    with np.load(images) as arrays:
        np.savez(tmp_path / "other.npz", images=arrays["images"] ^ 1, labels=arrays["labels"])
    assert run("natural", "--data", str(tmp_path / "other.npz"))[0] == 2
    assert "got one with other training images: delete it to start over" in capsys.readouterr().err
    assert path.read_bytes() == before


def test_more_images_a_step_than_there_are_is_refused_but_for_a_smoke_run(run, images, tmp_path, capsys) -> None:
    file = tmp_path / "wide.toml"
    file.write_text('id = "wide"\ntitle = "Wide"\nrecipe = "natural"\nkwargs = { width = 2 }\nbatch_size = 129\n')
    places = ["--data", str(images), "--out", str(tmp_path / "out"), "--work", str(tmp_path / "work")]
    assert command.main([str(file), *places, "--device", "cpu"]) == 2
    assert "batch_size: expected at most 128 training images, got 129" in capsys.readouterr().err
    assert command.main([str(file), *places, "--device", "cpu", "--smoke"]) == 0


def test_a_folder_just_written_is_evaluated_as_it_is(run, tmp_path) -> None:
    from harness.cli import main

    _, out = run("jarn", "--smoke", settings="begin = 0.4")
    places = ["--submissions", str(out), "--results", str(tmp_path / "records")]
    suite = tmp_path / "two.toml"
    suite.write_text(
        'description = "Two tasks."\n[[tasks]]\nname = "clean"\nkind = "clean"\n'
        '[[tasks]]\nname = "fgsm"\nattack = "fgsm"\n'
    )
    flags = ["--suite", str(suite), "--dataset", "cifar10-sample", "--limit", "4", "--device", "cpu"]
    assert main(["run", "tiny-smoke", *flags, *places]) == 0
    assert list((tmp_path / "records").rglob("*.parquet"))


def test_flags_change_the_id_the_seed_and_the_images(run, capsys) -> None:
    assert run("natural", "--seed", "3", "--subset", "64")[0] == 0
    folder = run("natural", "--seed", "0", "--subset", "64")[1]
    seeded, plain = (json.loads((folder / f"tiny{end}" / "training.json").read_text()) for end in ("-s3-n64", "-n64"))
    assert (seeded["seed"], plain["seed"]) == (3, 0)
    assert seeded["history"][0]["loss"] != plain["history"][0]["loss"]
    assert "Trained on 64 images only" in (folder / "tiny-n64" / "submission.toml").read_text()
    assert run("natural", "--subset", "8")[0] == 2
    assert "--subset: expected at least one batch of 32, got 8" in capsys.readouterr().err


def test_half_precision_weights_are_validated_as_they_are_written(run, images) -> None:
    _, out = run("natural", extra='weights = "float16"\nselection = "best"')
    weights = out / "tiny" / "weights.safetensors"
    assert weights.stat().st_mode == (out / "tiny" / "submission.toml").stat().st_mode, "readable by whom the card is"
    tensors = load_file(weights)
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16, torch.int64}
    training = json.loads((out / "tiny" / "training.json").read_text())
    assert again(out / "tiny", images) == training["validation"]
    best = max(row["pgd_10"] for row in training["history"])
    assert training["history"][training["selection"]["epoch"] - 1]["pgd_10"] == best


def test_selection_keeps_the_best_epoch(images, tmp_path, monkeypatch) -> None:
    from submissions.recipes import trainer
    from submissions.recipes.config import Config

    found = iter([0.2, 0.6, 0.1])
    states = []

    def fake(model, split, **_: object) -> dict[str, float]:
        states.append(model.state_dict()["linear.weight"].clone())
        return {"natural": 0.5, "fgsm": 0.5, "pgd_10": next(found)}

    monkeypatch.setattr(trainer, "validate", fake)
    config = Config(
        id="b", title="B", recipe="natural", kwargs={"width": 4}, epochs=3, batch_size=32, selection="best", bf16=False
    )
    training, validation = load(images, seed=0)
    model, _ = train(config, training, validation, folder=tmp_path, device=torch.device("cpu"), say=lambda _: None)
    assert torch.equal(model.state_dict()["linear.weight"], states[1])
    assert not torch.equal(states[1], states[2])


def test_ctrl_c_says_how_to_go_on(run, monkeypatch, capsys) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "train", stop)
    assert run("natural")[0] == 130
    assert "the same command goes on from" in capsys.readouterr().err


def test_a_name_is_a_configuration_a_recipe_or_a_file(tmp_path) -> None:
    assert command.find("jarn-at1-lambda0", None).settings["weight"] == 0
    assert command.find("trades", None).id == "trades-1222"
    assert command.find("fgsm_rs", None).id == "fgsm-rs-1222"
    assert command.find("fgsm_at", None).id == "fgsm-at-collapsed"
    path = command.CONFIGS / "mart-1122.toml"
    assert command.find(str(path), None) == command.find("mart", path) == read(path)
    with pytest.raises(ConfigError, match=r"recipe: expected 'trades' as on the command line, got 'mart'"):
        command.find("trades", path)
    with pytest.raises(ConfigError, match=r"NAME: expected .* one of alp, at_awp.*, got 'tradse'"):
        command.find("tradse", None)


@pytest.mark.parametrize(
    ("recipe", "settings", "message"),
    [
        ("trades", "gamma = 1.0", "settings: expected beta, steps, step_size for trades, got 'gamma'"),
        ("natural", "steps = 1", "settings: expected none for natural, got 'steps'"),
        ("trainer", "", "recipe: expected one of submissions.recipes, got 'trainer'"),
        ("nothing", "", "recipe: expected one of submissions.recipes, got 'nothing'"),
    ],
)
def test_a_wrong_recipe_or_setting_is_named(recipe, settings, message, run, capsys) -> None:
    assert run(recipe, settings=settings)[0] == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("line", ['schedule = "linear"', 'selection = "first"', 'weights = "int8"', "milestones = 3"])
def test_a_word_outside_the_choice_is_named(line, run, capsys) -> None:
    assert run("natural", extra=line)[0] == 2
    assert f"{line.split()[0]}: expected" in capsys.readouterr().err


def test_learning_rates() -> None:
    from submissions.recipes.config import Config
    from submissions.recipes.trainer import learning_rate

    config = Config(id="x", title="X", recipe="natural", lr=0.1, epochs=110, schedule="step", milestones=[100, 105])
    found = [learning_rate(config, epoch / 110) for epoch in (1, 100, 101, 106)]
    assert found == pytest.approx([0.1, 0.1, 0.01, 0.001])
    cosine = Config(id="x", title="X", recipe="natural", lr=0.2, schedule="cosine")
    assert [learning_rate(cosine, p) for p in (0, 0.5, 1)] == pytest.approx([0.2, 0.1, 0.0])
    cycle = Config(id="x", title="X", recipe="natural", lr=0.2)
    assert [learning_rate(cycle, p) for p in (0.2, 0.4, 0.7, 1)] == pytest.approx([0.1, 0.2, 0.1, 0.0])


@pytest.mark.parametrize(("recipe", "expected"), [("natural", 3), ("fgsm_rs", 5), ("fgsm_at", 8)])
def test_cost_is_counted_in_forward_passes(recipe, expected, run) -> None:
    _, out = run(recipe, "--smoke")
    training = json.loads((out / "tiny-smoke" / "training.json").read_text())
    assert training["cost"]["forward_equivalents"] == pytest.approx(expected, rel=0.05)


def test_the_three_first_recipes_train_as_ever() -> None:
    """A plain loop, as the trainer was when the first submissions were published, gives the same bits."""
    from submissions.recipes import fgsm_at, fgsm_rs, natural
    from submissions.recipes.config import Config
    from submissions.recipes.data import augment
    from submissions.recipes.trainer import Run, build

    draw = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (24, 3, 32, 32), dtype=torch.uint8, generator=draw)
    split = Split(pixels, torch.randint(0, 10, (24,), generator=draw))
    for module in (natural, fgsm_at, fgsm_rs):
        config = Config(
            id="x", title="X", recipe=module.__name__.split(".")[-1], kwargs={"width": 16}, epochs=1, batch_size=8,
            bf16=True,
        )  # fmt: skip
        model = build(config).to(memory_format=torch.channels_last).train()
        groups = [[p for p in model.parameters() if p.ndim > 1], [p for p in model.parameters() if p.ndim <= 1]]
        optimiser = torch.optim.SGD(
            [{"params": groups[0], "weight_decay": 5e-4}, {"params": groups[1], "weight_decay": 0.0}],
            lr=0.2, momentum=0.9,
        )  # fmt: skip
        generator = torch.Generator().manual_seed(1)
        order = torch.randperm(24, generator=generator)
        for step in range(3):
            chosen = order[step * 8 : (step + 1) * 8]
            x = augment(pixels[chosen], generator=generator).to(memory_format=torch.channels_last)
            progress = (step + 1) / 3
            for group in optimiser.param_groups:
                group["lr"] = 0.2 * (progress / 0.4 if progress < 0.4 else (1 - progress) / 0.6)
            with torch.autocast("cpu", torch.bfloat16):
                value = module.loss(model, x, split.labels[chosen], eps=8 / 255, generator=generator)
            optimiser.zero_grad(set_to_none=True)
            value.backward()
            optimiser.step()
        run = Run(config, folder=Path("nowhere"), device=torch.device("cpu"))
        from submissions.recipes.trainer import _epoch

        _epoch(run, split, 0, lambda _: None)
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, run.model.state_dict()[name]), (module.__name__, name)


def test_a_checkpoint_of_a_configuration_without_the_newer_fields_is_resumed(images, tmp_path) -> None:
    from submissions.recipes.config import Config

    training, validation = load(images, seed=0)
    config = Config(id="o", title="O", recipe="natural", kwargs={"width": 2}, epochs=1, batch_size=32, bf16=False)
    device, lines = torch.device("cpu"), []
    train(config, training, validation, folder=tmp_path, device=device, say=lambda _: None)
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    for name in ("settings", "schedule", "milestones", "selection", "weights", "dataset"):
        del state["config"][name]
    torch.save({name: state[name] for name in ("config", "model", "optimiser", "history")}, tmp_path / "checkpoint.pt")
    train(config, training, validation, folder=tmp_path, device=device, say=lines.append)
    assert lines == ["o: resumed after epoch 1"]
