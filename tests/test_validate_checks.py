"""The checks of validation, in process: what is sound passes, and each fault is found by its check."""

import pytest
import torch
from torch import nn

from harness.models import Description, WorkerError
from harness.submission import create, read
from harness.trial import BATTERY, FaultError, Trial, images
from harness.worker.network import Network, OutputError
from harness.worker.serve import state_hash


def net(classes: int = 10, channels: int = 3) -> nn.Module:
    """A small network in eval mode with a BatchNorm whose statistics are not those of any batch here."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(channels, 6, 3, 2), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()]
    network = nn.Sequential(*layers, nn.Linear(24, classes))
    network[1].running_mean.uniform_(-0.2, 0.2)
    return network


class InProcess:
    """The worker's answers without its process, for the checks alone."""

    alive = True

    def __init__(self, module: nn.Module) -> None:
        self.network = Network(module.eval().requires_grad_(False), micro_batch=16)

    def forward(self, x, *, grad=False):
        with torch.set_grad_enabled(grad):
            self.x = x.clone().requires_grad_(grad)
            try:
                self.z = self.network(self.x)
            except OutputError as error:
                raise WorkerError("contract", str(error)) from error
            except Exception as error:
                raise WorkerError("raised", str(error)) from error
        return self.z.detach().clone(), int(grad)

    def vjp(self, token, weights):
        if not self.z.requires_grad:
            return torch.zeros_like(self.x)
        (gradient,) = torch.autograd.grad(self.z, self.x, weights, allow_unused=True)
        return torch.zeros_like(self.x) if gradient is None else gradient

    def release(self, token):
        pass

    def probe(self, name):
        if name == "state":
            return {"sha256": state_hash(self.network.module)}
        return {"training": [name for name, module in self.network.module.named_modules() if module.training]}


def outcome(tmp_path, module: nn.Module, *, dataset: str = "cifar10", extra: str = "", tables: str = ""):
    """Message of every check that fails, and of every one that holds, by name."""
    folder = create("model", tmp_path, dataset=dataset)
    card = folder / "submission.toml"
    card.write_text(card.read_text().replace("\n# Optional", f"\n{extra}\n# Optional", 1) + tables)
    worker = InProcess(module)
    left = tuple(worker.probe("training")["training"])
    trial = Trial(read(folder, tmp_path), worker, Description(1, left, "", "float32", ()))
    failed, held = {}, {}
    for name, judge in BATTERY:
        try:
            held[name] = judge(trial)
        except (FaultError, WorkerError) as error:
            failed[name] = str(error)
            if name in {"shape", "finite"} and not len(trial.logits):
                break
    return failed, held


class Wrapped(nn.Module):
    """``change(logits, x, network)`` behind a sound network."""

    def __init__(self, change, before=None) -> None:
        super().__init__()
        self.inner, self.change, self.before = net(), change, before
        self.register_buffer("counter", torch.zeros(1))

    def forward(self, x):
        return self.change(self.inner(self.before(x) if self.before else x), x, self)


class TrainModeNorm(nn.Module):
    """BatchNorm over the batch at hand, although every module is in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = net()

    def forward(self, x):
        mean = x.mean((0, 2, 3), keepdim=True)
        return self.inner(x - mean)


class Stubborn(nn.BatchNorm2d):
    """A layer that eval() does not reach."""

    def train(self, mode=True):
        return super().train(True)


def stubborn() -> nn.Module:
    network = net()
    network[1] = Stubborn(6)
    return network


def back_to_training(z, x, network):
    network.inner[1].train()
    return z


def count(z, x, network):
    network.counter += 1
    return z


def nan_for_black(z, x, network):
    return z / (x.std((1, 2, 3), unbiased=False)[:, None] > 0)


def norm_at_zero(z, x, network):
    return z + (x - x).flatten(1).norm(dim=1, keepdim=True).sqrt()


FAULTS = {
    "probabilities": (
        lambda: Wrapped(lambda z, x, _: z.softmax(1)), "logits",
        "got probabilities (between 0 and 1, each row sums to 1), which hide the gradient from attacks: leave out the "
        "softmax",
    ),
    "nan": (
        lambda: Wrapped(lambda z, x, _: z * torch.nan), "finite",
        "got NaN or infinity for a real image or noise, black and white noise, a black image, a white image",
    ),
    "nan-for-flat": (
        lambda: Wrapped(nan_for_black), "finite",
        "got NaN or infinity for a black image, a white image: guard divisions",
    ),
    "classes": (
        lambda: net(7), "shape",
        "expected 10 logits for each image, as the card's dataset (cifar10) has classes, got 7: give the last layer "
        "one output for each class",
    ),
    "one-number": (lambda: net(1), "shape", "expected 10 logits for each image"),
    "rows": (lambda: Wrapped(lambda z, x, _: z[:1]), "shape", "expected float logits (N, K), got (1, 10)"),
    "tuple": (lambda: Wrapped(lambda z, x, _: (z,)), "shape", "got a tuple of 1"),
    "labels": (lambda: Wrapped(lambda z, x, _: z.argmax(1)), "shape", "got (16,) of int64"),
    "raises": (lambda: nn.Linear(5, 10), "shape", "got an exception for (12, 3, 32, 32): "),
    "constant": (
        lambda: Wrapped(lambda z, x, _: z[:1].detach().expand_as(z) * 0 + torch.arange(10.0)), "range",
        "got the same for every image: does forward() use x?",
    ),
    "noise": (
        lambda: Wrapped(lambda z, x, _: z + 0.01 * torch.randn_like(z)), "repeat",
        'take out dropout and noise, or write defence = "stochastic" into the card',
    ),
    "knows-gradients": (
        lambda: Wrapped(lambda z, x, _: z * (2 if x.requires_grad else 1)), "repeat",
        "expected the same logits with gradients recorded",
    ),
    "batch-norm": (
        TrainModeNorm, "batch", "expected an image's logits not to depend on its batch, got a difference of",
    ),
    "votes": (lambda: Wrapped(lambda z, x, _: z + z.mean(0)), "gradient", "got a gradient for others of its batch"),
    "stays-in-training": (stubborn, "eval mode", "got training mode in 1: eval() must reach them"),
    "goes-to-training": (lambda: Wrapped(back_to_training), "state", "got training mode in inner.1"),
    "detached": (
        lambda: Wrapped(lambda z, x, _: z.detach()), "gradient",
        'got zero everywhere: forward() must not detach, round or convert its input, or write defence = '
        '"non-differentiable" into the card',
    ),
    "rounds": (lambda: Wrapped(lambda z, x, _: z, before=torch.round), "gradient", "got zero everywhere"),
    "nan-gradient": (lambda: Wrapped(norm_at_zero), "gradient", "got NaN or infinity: guard roots and norms"),
    "counts": (lambda: Wrapped(count), "state", "got others: forward() must not change them"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_found_by_its_check(tmp_path, name) -> None:
    module, check, message = FAULTS[name]
    failed, _ = outcome(tmp_path, module())
    assert message in failed[check]
    assert all("\n" not in text for text in failed.values())


SOUND = {
    "network": net,
    "log-probabilities": lambda: Wrapped(lambda z, x, _: z.log_softmax(1)),
    "small logits": lambda: Wrapped(lambda z, x, _: z * 1e-4),
    "large logits": lambda: Wrapped(lambda z, x, _: z * 1e4),
    "half precision inside": lambda: Wrapped(lambda z, x, _: z.bfloat16()),
    "changes its input": lambda: Wrapped(lambda z, x, _: z, before=lambda x: x.sub_(0.5).mul_(2)),
    "no parameters": lambda: nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.ConstantPad1d((0, -2), 0)),
    "lazy": lambda: nn.Sequential(nn.Flatten(), nn.LazyLinear(10)),
}


@pytest.mark.parametrize("name", SOUND)
def test_no_sound_network_is_accused(tmp_path, name) -> None:
    if name == "lazy":
        module = SOUND[name]()
        module(torch.zeros(1, 3, 32, 32))
    else:
        module = SOUND[name]()
    failed, held = outcome(tmp_path, module)
    assert not failed
    assert set(held) == {check for check, _ in BATTERY}


@pytest.mark.parametrize(
    ("name", "defence"),
    [("noise", "stochastic"), ("detached", "non-differentiable"), ("rounds", "non-differentiable")],
)
def test_what_the_card_says_is_no_fault(tmp_path, name, defence) -> None:
    failed, held = outcome(tmp_path, FAULTS[name][0](), extra=f'defence = "{defence}"')
    assert not failed
    assert any("the card says" in text for text in held.values())


def test_a_detector_may_have_one_more_class(tmp_path) -> None:
    failed, _ = outcome(tmp_path / "a", net(11), extra='defence = "detector"')
    assert not failed
    failed, _ = outcome(tmp_path / "b", net(12), extra='defence = "detector"')
    assert "shape" in failed


@pytest.mark.parametrize(("dataset", "classes"), [("cifar100", 100), ("npz", 2), ("npz", 37)])
def test_the_classes_are_those_of_the_data_set(tmp_path, dataset, classes) -> None:
    failed, _ = outcome(tmp_path, net(classes), dataset=dataset)
    assert not failed


def test_a_network_for_other_images_is_tried_on_other_sizes(tmp_path) -> None:
    failed, held = outcome(tmp_path / "a", net(4, channels=1), dataset="npz")
    assert not failed and held["shape"].startswith("images (12, 1, 28, 28) to logits (12, 4)")
    failed, _ = outcome(tmp_path / "b", net(4, channels=5), dataset="npz")
    assert "6 other sizes were tried too" in failed["shape"]


def test_the_images_are_images(tmp_path) -> None:
    card = read(create("model", tmp_path), tmp_path).card
    x = images(card)
    assert x.shape == (12, 3, 32, 32) and x.dtype == torch.float32
    assert float(x.min()) == 0 and float(x.max()) == 1
    assert torch.equal(x, images(card))


CLAIM = '[[claims]]\nnorm = "Linf"\neps = "8/255"\nnatural_accuracy = {}\nrobust_accuracy = 0.1\nattack = "PGD"\n'


def test_a_claim_that_the_sample_contradicts_is_told(tmp_path) -> None:
    failed, _ = outcome(tmp_path / "a", net(), tables=CLAIM.format(0.95))
    assert "expected about 95% of the 20 sample images right, as the card claims, got " in failed["range"]
    failed, held = outcome(tmp_path / "b", net(), tables=CLAIM.format(0.1))
    assert not failed and "of 20 sample images right" in held["range"]
