"""``from harness import evaluate``: the records of the command line, from a module and tensors."""

import copy
import math
import random
import threading
import warnings
from dataclasses import asdict, fields
from fractions import Fraction

import numpy as np
import pytest
import torch
from command_line import harness, records
from torch import nn

import harness as package
from harness import datasets, evaluate
from harness.api import Evaluation
from harness.errors import InputError, UserError
from harness.records import Example, Status
from harness.submission import default_roots, discover
from harness.tables import TASK_COLUMNS
from harness.worker.loading import load

SUITE = """
[[tasks]]
name = "clean"
kind = "clean"
[[tasks]]
name = "fgsm"
attack = "fgsm"
"""


@pytest.fixture(scope="module")
def sample():
    return datasets.load("cifar10-sample").tensors(0, 20)


def network(classes=10, channels=3):
    torch.manual_seed(0)
    layers = [nn.Conv2d(channels, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(32, classes))


@pytest.fixture
def short(tmp_path):
    path = tmp_path / "short.toml"
    path.write_text(SUITE)
    return str(path)


def test_the_records_are_those_of_the_command_line(tmp_path, sample):
    x, y = sample
    done = harness("run", "fgsm-rs-1222", "--suite", "quick", "--results", str(tmp_path / "results"))
    assert done.returncode == 0, done.stderr
    theirs = {item.shard.task.key: item for item in records(tmp_path / "results")}
    model = load(discover(default_roots()).submissions["fgsm-rs-1222"].spec())
    found = evaluate(model, x, y, suite="quick", progress=False)
    assert {item.shard.task.key for item in found.records} == theirs.keys() - {"cost"}
    for ours in found.records:
        other = theirs[ours.shard.task.key]
        assert [asdict(row) for row in ours.examples] == [asdict(row) for row in other.examples], ours.shard.task.key
        assert ours.shard.task == other.shard.task and ours.identity.data == other.identity.data
        assert (ours.shard.start, ours.shard.stop) == (other.shard.start, other.shard.stop)
        assert (ours.cost.forwards, ours.cost.backwards) == (other.cost.forwards, other.cost.backwards)
        assert (ours.mismatches, ours.nonfinite_gradients) == (other.mismatches, other.nonfinite_gradients)
        assert ours.environment.optimisations == other.environment.optimisations
        assert ours.environment.dtype == other.environment.dtype


def test_corruptions_and_probes_are_the_command_lines_too(tmp_path, sample):
    x, y = sample
    path = tmp_path / "mine.toml"
    fog = '[[tasks]]\nname = "fog"\nkind = "corruption"\nparams = { severities = [1, 5] }\n'
    path.write_text(SUITE + fog + '[[tasks]]\nname = "c1-output"\nkind = "probe"\n[[tasks]]\nname = "c3-callers"\n'
                    'kind = "probe"\n[[tasks]]\nname = "g1-gradients"\nkind = "probe"\n')  # fmt: skip
    results = tmp_path / "results"
    done = harness("run", "natural", "--suite", str(path), "--results", str(results), "--batch-size", "7")
    assert done.returncode == 0, done.stderr
    theirs = {item.shard.task.name: item for item in records(results)}
    model = load(discover(default_roots()).submissions["natural"].spec())
    found = evaluate(model, x, y, suite=str(path), progress=False)
    assert len(found.records) == len(theirs) == 7
    for ours in found.records:
        other = theirs[ours.shard.task.name]
        assert [asdict(row) for row in ours.examples] == [asdict(row) for row in other.examples]
        if ours.shard.task.kind == "probe":
            assert ours.measurements == other.measurements
    assert found.judgement is not None and {item.check for item in found.judgement.findings} >= {"C1", "C3", "G1"}
    assert [task for task in found.frame.task if "fog" in task] == [
        "fog-1@tensors-c-generated",
        "fog-5@tensors-c-generated",
    ]


def test_three_lines_and_what_comes_back(sample, short):
    x, y = sample
    found = evaluate(network(), x, y, suite=short, progress=False)
    assert isinstance(found, Evaluation) and list(found.frame.columns) == list(TASK_COLUMNS)
    assert list(found.frame.task) == ["clean", "fgsm@Linf-8/255"]
    assert list(found.examples.columns) == ["task", *(item.name for item in fields(Example))]
    assert len(found.examples) == 40
    with torch.no_grad():
        right = network().eval()(x).argmax(1) == y
    assert found.natural_accuracy.value == pytest.approx(float(right.float().mean()))
    rows = found.examples[found.examples.task == "fgsm@Linf-8/255"]
    robust = (rows.clean_prediction == rows.label) & (rows.adversarial_prediction == rows.label)
    assert found.robust_accuracy.value == pytest.approx(robust.mean())
    line = found.frame.set_index("task").loc["fgsm@Linf-8/255"]
    assert (line.accuracy, line.n, line.eps, line.norm) == (found.robust_accuracy.value, 20, "8/255", "Linf")
    assert line.low == found.robust_accuracy.low and line.high == found.robust_accuracy.high
    assert "natural accuracy" in str(found) and "<table" in found._repr_html_()
    assert found.judgement is None


def test_the_model_and_the_world_stay_as_they_were(sample, short):
    x, y = sample
    model = network().train()
    before, given = copy.deepcopy(model.state_dict()), x.clone()
    torch.manual_seed(3), random.seed(3), np.random.seed(3)
    expected = (torch.rand(2).tolist(), random.random(), np.random.rand())
    torch.manual_seed(3), random.seed(3), np.random.seed(3)
    threads = torch.get_num_threads()
    evaluate(model, x, y, suite=short, progress=False)
    assert (torch.rand(2).tolist(), random.random(), np.random.rand()) == expected
    assert model.training and all(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(x, given) and torch.get_num_threads() == threads and torch.is_grad_enabled()


def test_batch_size_does_not_matter_and_the_seed_does(sample, tmp_path):
    x, y = sample
    path = tmp_path / "square.toml"
    path.write_text(SUITE + '[[tasks]]\nname = "square-20"\nattack = "square"\nparams = { queries = 20 }\n')
    first, second, other = (
        evaluate(network(), x, y, suite=str(path), progress=False, batch_size=size, seed=seed)
        for size, seed in ((64, 0), (7, 0), (64, 1))
    )
    assert first.examples.equals(second.examples) and not first.examples.equals(other.examples)


def test_images_that_are_not_8_bit_are_taken_as_they_are(sample, short):
    x, y = sample
    odd = (x + 0.0007).clamp(0, 1)
    found = evaluate(network(), odd, y, suite=short, progress=False)
    with torch.no_grad():
        logits = network().eval()(odd)
    expected = logits.gather(1, y[:, None])[:, 0] - logits.scatter(1, y[:, None], -math.inf).amax(1)
    clean = found.examples[found.examples.task == "clean"]
    assert clean.margin.tolist() == pytest.approx(expected.tolist(), abs=1e-5)
    assert (
        found.records[0].identity.data
        != evaluate(network(), x, y, suite=short, progress=False).records[0].identity.data
    )


def test_grey_images_and_plain_functions(short):
    x = torch.rand(5, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    y = torch.tensor([0, 1, 2, 0, 1])
    model = network(3, channels=1).eval()
    found = evaluate(model.forward, x, y, eps=0.3, suite=short, progress=False)
    assert set(found.frame.status) == {"ok"} and found.frame.eps.iloc[1] == "0.3"


@pytest.mark.parametrize(
    ("eps", "said"),
    [(8 / 255, "8/255"), ("8/255", "8/255"), (Fraction(8, 255), "8/255"), (0.031, "0.031"), (0.5, "0.5"), (1, "1"),
     (0.3, "0.3"), (128 / 255, "128/255"), (0.03, "0.03"), (1e-4, "0.0001")],
)  # fmt: skip
def test_a_budget_is_exact(sample, short, eps, said):
    x, y = sample
    found = evaluate(network(), x[:2], y[:2], eps=eps, suite=short, progress=False)
    assert found.frame.eps.iloc[1] == said


def test_progress_is_told(sample, short, capsys):
    x, y = sample
    said = []
    evaluate(network(), x, y, suite=short, progress=said.append)
    assert [text.split("] ")[1].split()[0] for text in said] == ["0/2", "1/2", "2/2"] and "fgsm@Linf-8/255" in said[1]
    assert capsys.readouterr() == ("", "")
    evaluate(network(), x, y, suite=short)
    shown = capsys.readouterr()
    assert shown.out == "" and "2/2" in shown.err and shown.err.endswith("\n")
    evaluate(network(), x, y, suite=short, progress=False)
    assert capsys.readouterr() == ("", "")


class Raises(nn.Module):
    """Refuses gradients."""

    def forward(self, x):
        if x.requires_grad:
            raise RuntimeError("no gradients here")
        return x.flatten(1)[:, :10]


def test_a_failed_task_is_a_row_that_says_why(sample, short):
    x, y = sample
    found = evaluate(Raises(), x, y, suite=short, progress=False)
    line = found.frame.set_index("task").loc["fgsm@Linf-8/255"]
    assert (
        line.status == "error"
        and "no gradients here" in line.message
        and found.frame.accuracy.isna().tolist() == [False, True]
    )
    assert found.robust_accuracy is None and found.records[1].status is Status.ERROR


X, Y = torch.zeros(2, 3, 32, 32), torch.tensor([1, 2])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"x": X.byte()}, "x: expected a float32 tensor .* got .*uint8"),
        ({"x": X.double()}, "x: expected a float32 tensor"),
        ({"x": X[0]}, "x: expected a float32 tensor"),
        ({"x": X[:0], "y": Y[:0]}, "at least one image"),
        ({"x": X.numpy()}, "got a ndarray"),
        ({"x": X + 2}, r"x: expected pixels in \[0, 1\], got 2 to 2; normalisation belongs inside"),
        ({"x": X - 0.1}, "x: expected pixels"),
        ({"x": X * math.nan}, "x: expected pixels"),
        ({"y": [1, 2]}, "y: expected an integer tensor .* got a list"),
        ({"y": Y.float()}, "y: expected an integer tensor"),
        ({"y": torch.eye(10)[Y]}, "y: expected an integer tensor"),
        ({"y": Y[:1]}, r"y: expected an integer tensor \(2,\)"),
        ({"y": Y - 2}, "y: expected labels from 0 upwards, got -1"),
        ({"y": Y + 9}, "y: expected labels below 10, the model's classes, got 11"),
        ({"model": "resnet"}, "model: expected a torch.nn.Module, got a str"),
        ({"model": nn.Linear(3, 2)}, "model: expected one that takes images .3, 32, 32., got RuntimeError"),
        ({"model": nn.Flatten(2)}, "model: expected float logits"),
        ({"model": nn.Sequential(nn.Flatten(), nn.Linear(3072, 10)).half()}, "model: expected weights that .* float16"),
        ({"eps": "lots"}, "eps: expected a positive fraction"),
        ({"eps": -1.0}, "eps: expected a positive number"),
        ({"eps": None}, "eps: expected a positive number"),
        ({"norm": "L3"}, "norm: expected one of Linf, L2, L1, got 'L3'"),
        ({"suite": "quik"}, "did you mean 'quick'"),
        ({"device": "cuda:77"}, "device: expected one this machine has"),
        ({"batch_size": 0}, "batch_size: expected a whole number of at least 1, got 0"),
        ({"batch_size": 2.5}, "batch_size: expected a whole number of at least 1, got 2.5"),
        ({"batch_size": None}, "batch_size: expected a whole number of at least 1, got None"),
        ({"seed": 1.5}, "seed: expected a whole number of at least 0, got 1.5"),
        ({"norm": 2}, "norm: expected one of Linf, L2, L1, got 2"),
        ({"eps": 8}, "eps: expected 1e-06 to 1 in Linf, .*: write '8/255'"),
        ({"eps": 0}, "eps: expected a positive fraction"),
        ({"defence": "weird"}, "defence: expected one of static, stochastic, .* got 'weird'"),
        ({"model": nn.Sequential(nn.Flatten(), nn.Linear(3072, 1))}, "model: expected float logits .*K of at least 2"),
    ],
)
def test_wrong_input_is_one_clear_error(changes, said, short):
    given = {"model": network(), "x": X, "y": Y, "suite": short} | changes
    with pytest.raises(UserError if "suite" in changes else InputError, match=said) as caught:
        evaluate(**given, progress=False)
    assert "\n" not in str(caught.value)


def test_a_suite_without_the_clean_task_is_refused_before_any_work(tmp_path):
    path = tmp_path / "bare.toml"
    path.write_text('description = "No clean task."\n[[tasks]]\nname = "fgsm"\nattack = "fgsm"\n')
    with pytest.raises(InputError, match=r"suite: expected a task of the kind clean in .*bare\.toml, got none"):
        evaluate(network(), X, Y, suite=str(path), progress=False)


def test_a_lazy_network_and_images_that_want_gradients_are_taken(short):
    lazy = nn.Sequential(nn.Flatten(), nn.LazyLinear(10))
    with pytest.raises(InputError, match="model: expected one that takes images"):
        evaluate(lazy, X, Y, suite=short, progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        found = evaluate(network(), X.clone().requires_grad_(), Y, suite=short, progress=False)
    assert found.natural_accuracy.n == 2


def test_input_errors_are_value_errors():
    assert issubclass(InputError, ValueError) and issubclass(InputError, UserError)
    with pytest.raises(AttributeError, match="has no attribute 'evaluat'"):
        _ = package.evaluat


def test_threads_are_the_networks_alone(short):
    seen = set()

    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network()

        def forward(self, x):
            if threading.current_thread().name.startswith("network"):
                seen.add(torch.get_num_threads())
            return self.network(x)

    def progress(_: str) -> None:
        attack.add(torch.get_num_threads())

    attack: set[int] = set()
    evaluate(Counting(), X, Y, suite=short, threads=2, progress=progress)
    assert (seen, attack) == ({2}, {1})
