"""Our attacks and our adapters against the libraries whose results people know."""

import tomllib
from pathlib import Path

import pytest
import torch
from attack_models import distance, images, shifted, trained
from safetensors.torch import load_file

from harness import datasets
from harness.attacks import ATTACKS, REFERENCES
from harness.attacks.autoattack import drawn_back
from harness.attacks.losses import misclassified
from harness.attacks.randomness import ExampleGenerators
from submissions.architectures import slim_resnet

SUBMISSIONS = Path(__file__).resolve().parents[1] / "submissions"
BUNDLED = [
    SUBMISSIONS / name / "submission.toml"
    for name in ("natural", "fgsm-rs-1222", "fgsm-at-collapsed")
    if (SUBMISSIONS / name / "submission.toml").exists()
]


@pytest.fixture(scope="module")
def tiny():
    """A small network trained on the embedded sample, and 160 images it classifies as labelled here."""
    x, y = datasets.load("cifar10-sample").tensors(0, 20)
    model = trained(x, y)
    x, _ = shifted(x, y, 8)
    return model, x, model(x).argmax(1)


@pytest.fixture(scope="module", params=BUNDLED, ids=lambda path: path.parent.name)
def bundled(request):
    """A network of the repository and the images of the embedded sample it classifies right."""
    card = tomllib.loads(request.param.read_text())
    model = slim_resnet.build(**card.get("kwargs", {}))
    model.load_state_dict(load_file(request.param.with_name(card["checkpoint"]["file"])))
    model.eval().requires_grad_(False)
    x, y = datasets.load("cifar10-sample").tensors(0, 20)
    right = model(x).argmax(1) == y
    return model, x[right], y[right]


def foolbox_success(model, x, y, attack, eps):
    import foolbox

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        _, x_adv, success = attack(foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu"), x, y, epsilons=eps)
    return x_adv, success


def median_eps(model, x, y, norm):
    """The budget that breaks about half of the images."""
    x_adv = ATTACKS.get("deepfool").run(model, x, y, eps=0.0, norm=norm, generator=None)
    return float(distance(x_adv, x, norm).median())


def compare_bounded(name, model, x, y, norm, eps):
    """Share of examples on which foolbox and we disagree, both from the image itself."""
    import foolbox

    kind = {"fgsm": "FastGradientAttack", "pgd": "ProjectedGradientDescentAttack"}[name]
    options = {"fgsm": {}, "pgd": {"rel_stepsize": 0.25, "steps": 20, "random_start": False}}[name]
    params = {"fgsm": {}, "pgd": {"steps": 20, "random_start": False}}[name]
    _, success = foolbox_success(model, x, y, getattr(foolbox.attacks, f"{norm}{kind}")(**options), eps)
    x_adv = ATTACKS.get(name).run(model, x, y, eps=eps, norm=norm, generator=None, **params)
    return success, misclassified(model(x_adv), y)


def deepfool_ratio(model, x, y, norm):
    """Median distance of our DeepFool over foolbox's; both must break every image."""
    import foolbox

    attack = getattr(foolbox.attacks, f"{norm}DeepFoolAttack")(steps=50, overshoot=0.02)
    theirs, success = foolbox_success(model, x, y, attack, None)
    ours = ATTACKS.get("deepfool").run(model, x, y, eps=0.0, norm=norm, generator=None)
    assert success.all() and misclassified(model(ours), y).all()
    return float(distance(ours, x, norm).median() / distance(theirs, x, norm).median())


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("name", ["fgsm", "pgd"])
def test_fgsm_and_pgd_break_the_same_images_as_foolbox(tiny, name, norm):
    model, x, y = tiny
    theirs, ours = compare_bounded(name, model, x, y, norm, median_eps(model, x, y, norm))
    assert 0.2 < float(theirs.float().mean()) < 0.8
    assert float((theirs != ours).float().mean()) <= 0.01


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_deepfool_goes_as_far_as_foolbox(tiny, norm):
    assert abs(deepfool_ratio(*tiny, norm) - 1) <= 0.02


@pytest.mark.skipif(not BUNDLED, reason="no submission in this checkout")
@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_agreement_with_foolbox_on_a_bundled_submission(bundled, norm):
    model, x, y = bundled
    for name in ("fgsm", "pgd"):
        theirs, ours = compare_bounded(name, model, x, y, norm, 8 / 255 if norm == "Linf" else 0.5)
        assert torch.equal(theirs, ours)
    assert abs(deepfool_ratio(model, x, y, norm) - 1) <= 0.02


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("name", ["apgd-ce", "apgd-t", "fab-t", "square"])
def test_the_adapters_give_what_pyautoattack_gives(tiny, name, norm):
    from pyautoattack import AutoAttack

    model, x, y = tiny
    x, y = x[::4], y[::4]
    # Random search needs a larger budget than gradients do, most of all in L2.
    eps = median_eps(model, x, y, norm) * ((1 if norm == "Linf" else 6) if name == "square" else 1)
    params = {"apgd-ce": {"steps": 20}, "apgd-t": {"steps": 10, "targets": 3}, "fab-t": {"steps": 10, "targets": 3},
              "square": {"queries": 60}}[name]  # fmt: skip
    generators = ExampleGenerators.for_examples(4, name, range(len(x)))
    ours = REFERENCES.get(name).run(model, x, y, eps=eps, norm=norm, generator=generators, batch_size=16, **params)

    whole = AutoAttack(model, attacks=[name], norm=norm, eps=eps, version="custom", seed=generators.batch_seed)
    if name == "square":
        whole.square.n_queries = 60
    elif name == "fab-t":
        whole.fab.n_iter, whole.fab.n_target_classes = 10, 3
    else:
        kind = type(whole.apgd if name == "apgd-ce" else whole.apgd_targeted)
        options = {"n_iter": params["steps"], "eps": eps, "norm": norm, "device": "cpu", "logger": whole.logger}
        if name == "apgd-ce":
            whole.apgd = kind(model, **options)
        else:
            whole.apgd_targeted = kind(model, n_target_classes=3, **options)
    with torch.random.fork_rng(devices=[]):
        theirs, _ = whole.run_standard_evaluation(x, y, batch_size=len(x))
    broken = misclassified(model(ours), y)
    assert 0 < int(broken.sum()) < len(x)
    assert int((broken != misclassified(model(theirs), y)).sum()) == 0
    assert float((ours - theirs).abs().max()) <= 1e-3 * eps


def test_what_an_l1_projection_leaves_beyond_the_budget_is_drawn_back():
    x = images(3)
    delta = torch.zeros_like(x)
    delta[:, 0, 0, :4] = torch.tensor([0.1, -0.2, 0.05, 0.15])
    points = x + delta * torch.tensor([0.5, 1.0, 1.0001]).view(3, 1, 1, 1)
    back = drawn_back(points, x, 0.5)
    assert torch.equal(back[0], points[0])
    assert torch.allclose(back, points, atol=1e-4)
    assert (distance(points, x, "L1")[2] > 0.5 * (1 + 1e-5)) and (distance(back, x, "L1") <= 0.5 * (1 + 1e-5)).all()
