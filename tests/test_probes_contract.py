"""The contract probes and checks together: each broken network is caught by name, each honest one is left alone."""

import importlib
import json
import threading

import pytest
import torch
from probe_bench import CLASSES, Base, subject, wrapped
from torch.nn import functional as F

from harness.checks.case import Case, Column
from harness.checks.contract import CHECKS_CONTRACT
from harness.checks.derivatives import CHECKS_DERIVATIVES
from harness.checks.integrity import CHECKS_INTEGRITY
from harness.checks.provenance import CHECKS_PROVENANCE
from harness.checks.thresholds import load_thresholds
from harness.probes.d1_memory import _shifted

FILES = (
    "c1_output", "c2_determinism", "c3_callers", "c4_batch", "c5_state", "c6_provenance", "c7_continuity",
    "c8_derivative", "g1_gradients", "d1_memory",
)  # fmt: skip
PROBES = {name: importlib.import_module(f"harness.probes.{name}").PROBE for name in FILES}
CHECKS = {
    check.id: check for check in (*CHECKS_CONTRACT, *CHECKS_PROVENANCE, *CHECKS_DERIVATIVES, *CHECKS_INTEGRITY)
}  # fmt: skip
SMALL = {
    "c1-output": {"examples": 32}, "c2-determinism": {"examples": 32}, "c4-batch": {"examples": 32},
    "c3-callers": {"examples": 32, "queries": 128, "attacked_examples": 32, "steps": 6}, "c5-state": {"examples": 32},
    "g1-gradients": {"examples": 32}, "d1-memory": {"attacked_examples": 32},
}  # fmt: skip


def judged(make, **options):
    """Findings and measurements of the whole contract battery on one network."""
    given = subject(make, **options)
    for probe in PROBES.values():
        numbers = probe.run(given, **SMALL.get(probe.name, {})).numbers
        json.dumps(numbers, allow_nan=False)
        given.measured[probe.name] = numbers
    correct = tuple((given.clean == given.y).tolist())
    columns = {key: Column(key, "pgd", tuple(robust.tolist())) for key, robust in given.columns.items()}
    case = Case(len(given.x), CLASSES, "Linf", given.eps, correct, columns, given.measured)
    limits = load_thresholds()
    return [finding for check in CHECKS.values() for finding in check.judge(case, limits)], given.measured


def fired(findings):
    """Identifiers of the checks that warn or fail with more than information."""
    return {item.check for item in findings if item.verdict in {"warn", "fail"} and item.kind != "information"}


def hashed(self, x):
    seeds = [int(row.double().sum().item() * 1e9) % 2**31 for row in x.detach()]
    noise = [torch.randn(CLASSES, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return self.f(x) + 0.3 * torch.stack(noise)


def flipped(self, x):
    x = x.clone()
    if x.requires_grad:
        x.register_hook(lambda g: -g)
    return self.f(x)


class Killer(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * 0


class HonestSilu(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        s = torch.sigmoid(x)
        return gradient * s * (1 + x * (1 - s))


class StraightRound(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return torch.round(x * 31) / 31

    @staticmethod
    def backward(ctx, gradient):
        return gradient


def mode_aware(self, x):
    return self.f(1 - x) if torch.is_grad_enabled() else self.f(x)


def mode_aware_off_the_grid(self, x):
    """Answers otherwise where gradients are asked of images that no file with 256 values a pixel can hold."""
    odd = (x * 255 - (x * 255).round()).abs().amax((1, 2, 3)) > 1e-3
    return torch.where(odd[:, None] & torch.is_grad_enabled(), self.f(1 - x), self.f(x))


def thread_aware(self, x):
    return self.f(x) if threading.current_thread() is threading.main_thread() else self.f(1 - x)


def counting(self, x):
    self.asked += len(x)
    return self.f(1 - x) if self.asked > 500 else self.f(x)


def harmless_counting(self, x):
    self.asked += 1
    return self.f(x)


def zero_counter(self) -> None:
    self.asked = 0


def gated(self, x):
    """Knows the images of one half of the room by heart: a wall between them and the others, flat on either side."""
    return self.f(x) + 40 * (x.flatten(1)[:, :8].mean(1, keepdim=True) > 0.5) * self.linear.bias


def cached(self, x):
    return self.f(x) + 0 * self.noted(len(x))


def with_cache(self) -> None:
    import functools

    self.noted = functools.lru_cache(maxsize=None)(lambda n: n)


def purified(self, x):
    with torch.no_grad():
        x = 0.5 * x + 0.25
    return self.f(x)


def optimising(self, x):
    with torch.enable_grad():
        leaf = x.detach().clone().requires_grad_()
        (gradient,) = torch.autograd.grad(self.f(leaf).logsumexp(1).sum(), leaf)
    return self.f(x + 0.01 * gradient.sign())


def through_numpy(self, x):
    return self.f(torch.from_numpy((x.detach().numpy() * 15).round() / 15))


def remembering(self, x):
    self.buffer.add_(1)
    return self.f(x)


def with_buffer(self) -> None:
    self.register_buffer("buffer", torch.zeros(()))


def refusing(self, x):
    logits = self.f(x)
    top = logits.topk(2, 1).values
    return torch.where(top[:, :1] - top[:, 1:] < 0.1, torch.full_like(logits, float("nan")), logits)


def reseeding(self, x):
    torch.manual_seed(0)
    return self.f(x) + 0.2 * torch.randn(len(x), CLASSES)


BROKEN = {
    "scale": (lambda self, x: 1e4 * self.f(x), {"G1"}),
    "softmax": (lambda self, x: F.softmax(self.f(x), 1), {"C1"}),
    "saturated softmax": (lambda self, x: F.softmax(1e4 * self.f(x), 1), {"C1", "G1"}),
    "one-hot": (lambda self, x: 10.0 * F.one_hot(self.f(x).argmax(1), CLASSES) + 0 * self.f(x), {"C1", "C7", "G1"}),
    "rounded softmax": (
        lambda self, x: torch.round(F.softmax(self.f(x), 1) * 20) / 20 + 1e-4 * self.f(x).detach(),
        {"C8", "G1"},
    ),
    "tanh": (lambda self, x: 10 * torch.tanh(self.f(x) / 1e-3) + 1e-3 * self.f(x).detach(), {"C8", "G1"}),
    "hash noise": (hashed, {"C7", "C8"}),
    "detach": (lambda self, x: self.f(x.detach()) + 0 * x.flatten(1).sum(1, keepdim=True), {"C6", "C8", "G1"}),
    "killer": (lambda self, x: self.f(Killer.apply(x)), {"C6", "C8", "G1"}),
    "flipped gradient": (flipped, {"C6", "C8"}),
    "mode-aware": (mode_aware, {"C3"}),
    "mode-aware off the grid": (mode_aware_off_the_grid, {"C3"}),
    "thread-aware": (thread_aware, {"C3"}),
    "query counter": (counting, {"C3", "C5"}),
    "squeezed": (lambda self, x: self.f(torch.floor(8 * x) / 8), {"C6", "C7", "C8", "G1"}),
    "numpy": (through_numpy, {"C6", "C7", "C8", "G1"}),
    "brightness cut off": (lambda self, x: self.f(x - x.mean(1, True) + x.mean(1, True).detach()), {"C8"}),
    "purifier": (purified, {"C6", "C8", "G1"}),
    "noise": (lambda self, x: self.f(x + 0.2 * torch.randn_like(x)), {"C2"}),
    "dropout": (lambda self, x: self.f(F.dropout(x, 0.3, True)), {"C2"}),
    "reseeding": (reseeding, {"C2", "C4"}),
    "batch coupling": (lambda self, x: self.f(x) + 0.3 * self.f(x).mean(0, keepdim=True), {"C4"}),
    "buffer": (remembering, {"C5"}),
    "gate": (gated, {"C7"}),
    "cache": (cached, {"C5"}),
    "optimisation": (optimising, {"C6"}),
    "NaN": (refusing, {"C1"}),
    "extra class": (lambda self, x: torch.cat([self.f(x), self.f(x)[:, :1] - 9], 1), {"C1"}),
    "nested seeds": (lambda self, x: self.f(x) * 1 if torch.rand(()) < 2 else x, {"C2"}),
}
SETUP = {"cache": with_cache, "query counter": zero_counter, "buffer": with_buffer}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_network_is_caught_by_every_check_it_should_be(name) -> None:
    call, expected = BROKEN[name]
    findings, _ = judged(wrapped(call, SETUP.get(name)))
    assert expected <= fired(findings), [(item.check, item.verdict, item.evidence) for item in findings]
    assert all(item.evidence.endswith((".", "!")) for item in findings)


def checkpointed(self, x):
    from torch.utils.checkpoint import checkpoint

    return checkpoint(self.f, x, use_reentrant=False)


def autocast(self, x):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return self.f(x).float()


HONEST = {
    "plain": lambda self, x: self.f(x),
    "twice": lambda self, x: 2 * self.f(x),
    "small": lambda self, x: 1e-3 * self.f(x),
    "log-softmax": lambda self, x: F.log_softmax(self.f(x), 1),
    "max-pool": lambda self, x: self.linear(
        F.interpolate(F.max_pool2d(F.silu(self.conv(4 * x - 2)), 2), scale_factor=2).flatten(1)
    ),
    "gelu": lambda self, x: self.linear(F.gelu(self.conv(4 * x - 2)).flatten(1)),
    "custom silu": lambda self, x: self.linear(HonestSilu.apply(self.conv(4 * x - 2)).flatten(1)),
    "clamp": lambda self, x: self.f(x.clamp(0, 1)),
    "dropout in eval": lambda self, x: self.f(F.dropout(x, 0.5, self.training)),
    "upsampling": lambda self, x: self.f(F.avg_pool2d(F.interpolate(x, scale_factor=2, mode="bilinear"), 2)),
    "ensemble": lambda self, x: (self.f(x) + self.f(x * 0.9)) / 2,
    "checkpoint": checkpointed,
    "autocast": autocast,
    "bf16 outputs": lambda self, x: self.f(x).bfloat16().float(),
}


def test_a_gate_is_known_by_its_jump_alone() -> None:
    findings, _ = judged(wrapped(gated))
    (found,) = [item for item in findings if item.check == "C7"]
    assert "jump" in found.evidence and found.metrics["jumping"] > 0.5 and found.metrics["slope"] > 0.9


@pytest.mark.parametrize("name", HONEST)
def test_an_honest_network_is_left_alone(name) -> None:
    findings, _ = judged(wrapped(HONEST[name]))
    bad = [(item.check, item.kind, item.verdict, item.evidence) for item in findings if item.verdict == "unknown"]
    # Mirrored noise is other noise: what memory looks like is tried on networks that see colours alone.
    assert not (fired(findings) - {"D1"}) | {item[0] for item in bad}, findings


def test_a_note_of_the_last_batch_is_no_state() -> None:
    def noting(self, x):
        self.last = self.conv(x).detach()
        return self.f(x)

    findings, measured = judged(wrapped(noting))
    assert fired(findings) - {"D1"} == set()
    assert any("last" in name for name in measured["c5-state"]["attack"]["attributes"])
    assert measured["c5-state"]["history"] == {"tensors": [], "attributes": []}


def test_a_counter_that_changes_nothing_is_only_noted() -> None:
    findings, measured = judged(wrapped(harmless_counting, zero_counter))
    assert fired(findings) - {"D1"} == {"C5"}
    (finding,) = (item for item in findings if item.check == "C5")
    assert finding.verdict == "warn"
    assert "asked" in finding.evidence
    assert measured["c5-state"]["difference"] == 0


def test_a_straight_through_gradient_is_information_and_its_steps_a_symptom() -> None:
    findings, _ = judged(wrapped(lambda self, x: self.f(StraightRound.apply(x))))
    kinds = {item.check: (item.kind, item.verdict) for item in findings}
    assert kinds["C7"] in {("symptom", "warn"), ("symptom", "fail")}
    assert kinds["C8"] == ("symptom", "warn"), "off in small steps, right in large ones"
    assert kinds["G1"] == ("symptom", "pass")


def test_a_memorised_test_set_shows_beside_the_table() -> None:
    from probe_bench import images

    x = images(600)
    wrong = (Base()(x).argmax(1) + (torch.arange(600) % 3 == 0)) % CLASSES
    table = {row.numpy().tobytes(): int(label) for row, label in zip((x * 255).round().byte(), wrong, strict=True)}

    def remembered(self, x):
        logits = self.f(x).clone()
        for row, image in enumerate((x.detach() * 255).round().clamp(0, 255).byte()):
            label = self.table.get(image.numpy().tobytes())
            if label is not None:
                logits[row] = 10 * F.one_hot(torch.tensor(label), CLASSES)
        return logits

    def setup(self) -> None:
        self.table = table

    given = subject(wrapped(remembered, setup), n=600, y=wrong)
    numbers = PROBES["d1_memory"].run(given, attacked_examples=16).numbers
    assert numbers["right"] == 600
    assert numbers["lsb"]["lost"] > 100
    assert any("table" in name for name in numbers["tables"])
    case = Case(600, CLASSES, "Linf", given.eps, (True,) * 600, {}, {"d1-memory": numbers})
    verdicts = [item.verdict for item in CHECKS["D1"].judge(case, load_thresholds())]
    assert verdicts == ["fail", "warn"]


def test_a_network_without_a_memory_minds_no_harmless_change() -> None:
    make = wrapped(lambda self, x: 20 * (x.mean((2, 3)) @ torch.eye(3, CLASSES)))
    given = subject(make, y=make()(subject(make).x).argmax(1))
    numbers = PROBES["d1_memory"].run(given, attacked_examples=16).numbers
    assert numbers["right"] == numbers["flip"]["right"] == 48
    assert numbers["attacked"]["as_is"] == numbers["attacked"]["mirrored"]
    assert numbers["tables"] == []
    case = Case(48, CLASSES, "Linf", given.eps, (True,) * 48, {}, {"d1-memory": numbers | {"shift": numbers["lsb"]}})
    assert [item.verdict for item in CHECKS["D1"].judge(case, load_thresholds())] == ["pass"]


def test_culprits_are_named_by_operation_and_module() -> None:
    findings, _ = judged(wrapped(lambda self, x: self.f(torch.floor(8 * x) / 8)))
    evidence = next(item.evidence for item in findings if item.check == "C6")
    assert "aten.floor in (root)" in evidence
    findings, _ = judged(wrapped(through_numpy))
    assert "numpy" in next(item.evidence for item in findings if item.check == "C6")


def test_images_of_one_column_are_shifted_nowhere() -> None:
    x = torch.rand(2, 3, 4, 1)
    assert torch.equal(_shifted(x), x)
    wide = torch.rand(2, 3, 4, 5)
    assert torch.equal(_shifted(wide)[..., 1:], wide[..., :-1])
