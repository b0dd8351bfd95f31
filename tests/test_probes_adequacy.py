"""Probes and mitigations on networks whose robustness has a closed form, and on the bundled submissions."""

from __future__ import annotations

import json
from functools import cache, partial

import pytest
import torch
from masked_line import BASE, EPS, RULES, Line, Whole, Wrapped, X, Y, true_robust
from subjects import column, cost, make_subject
from torch import Tensor, nn
from torch.nn import functional as F

from harness import datasets
from harness.attacks.asking import ask
from harness.attacks.fgsm import fgsm
from harness.attacks.label_only import rays
from harness.attacks.nes import nes
from harness.attacks.pgd import pgd
from harness.probes import (
    a1_unbounded,
    a2_budget,
    a3_single_step,
    a4_convergence,
    a5_bookkeeping,
    a6_blackbox,
    a7_random,
    a8_transfer,
    a9_bpda,
    a10_binarisation,
    c2_eot,
    g2_losses,
    g3_coherence,
    g4_linearity,
    g5_multiscale,
    i1_jacobian,
    i2_landscape,
)  # fmt: skip
from harness.probes.subject import Subject
from submissions.architectures import slim_resnet

PROBES = (
    g2_losses, g3_coherence, g4_linearity, g5_multiscale, a1_unbounded, a2_budget, a3_single_step, a4_convergence,
    a5_bookkeeping, a8_transfer, a9_bpda, a6_blackbox, a7_random, a10_binarisation, c2_eot, i1_jacobian, i2_landscape,
)  # fmt: skip


def claimed(network: nn.Module, **changes: object) -> Subject:
    """A subject with the column that a short PGD on the cross-entropy gives it."""
    subject = make_subject(network, X, Y, eps=EPS, **changes)  # type: ignore[arg-type]
    x_adv = pgd(subject.model, X, Y, eps=EPS, steps=10, batch_size=64)
    return make_subject(
        network, X, Y, eps=EPS, columns={"pgd-20@Linf-0.03": column(subject.model, X, Y, x_adv)}, **changes  # type: ignore[arg-type]
    )  # fmt: skip


def battery(subject: Subject, *modules) -> Tensor:
    """Run probes one after the other; what still stands, with every witness held against the network itself."""
    standing = subject.robust
    for module in modules:
        result = module.PROBE.run(subject)
        json.dumps(result.numbers)
        subject.measured[module.PROBE.name] = result.numbers  # type: ignore[index]
        if result.x_adv is not None:
            assert float((result.x_adv - X[result.rows]).abs().max()) <= EPS + 1e-6
            assert (ask(subject.model, result.x_adv).argmax(1) != Y[result.rows]).all()
            standing[result.rows] = False
    return standing


@pytest.fixture(scope="module")
def truth() -> Tensor:
    robust = true_robust()
    assert 20 <= int(robust.sum()) <= 50
    return robust


@pytest.mark.parametrize("rule", RULES)
def test_mitigations_bring_every_wrapper_to_the_base_by_peeling(rule, truth) -> None:
    subject = claimed(Wrapped(rule).eval())
    left = battery(subject, g2_losses, g5_multiscale, a8_transfer)
    assert int((left & ~truth).sum()) == 0
    assert bool((left[truth]).all())


@pytest.mark.parametrize("rule", RULES)
def test_mitigations_bring_every_wrapper_to_the_base_without_peeling(rule, truth) -> None:
    subject = claimed(Wrapped(rule).eval())
    left = battery(subject, g2_losses, g5_multiscale, a9_bpda, a6_blackbox)
    # Labels alone leave the search by rays, whose queries end before the last ones fall.
    assert int((left & ~truth).sum()) <= (8 if rule == "onehot" else 1)
    assert bool((left[truth]).all())


@pytest.mark.parametrize("rule", ["scale", "softmax", "tanh", "onehot", "rounding"])
def test_logits_that_the_network_goes_on_to_change_are_attacked_where_they_are(rule, truth) -> None:
    subject = claimed(Whole(rule).eval())
    left = battery(subject, a8_transfer)
    numbers = subject.measured["a8-transfer"]
    assert [entry["name"] for entry in numbers["peel"]] == ["inner linear"]
    # Screening takes a part that leads to nothing for hopeless: then attacks had found everything before.
    assert int((left & ~truth).sum()) == 0 if numbers["peel"][0]["screen_found"] else torch.equal(left, subject.robust)
    assert bool((left[truth]).all())
    if rule in {"onehot", "rounding", "tanh"}:
        assert numbers["peel"][0]["found"] > 5


@pytest.mark.parametrize("rule", ["detach", "killer", "flip"])
def test_a_network_seen_from_outside_alone_is_corrected_too(rule, truth) -> None:
    subject = claimed(Wrapped(rule).eval(), variants=False)
    left = battery(subject, g2_losses, g5_multiscale, a8_transfer, a9_bpda, a6_blackbox)
    assert int((left & ~truth).sum()) <= 3
    assert bool((left[truth]).all())


def test_nothing_is_found_against_the_honest_base(truth) -> None:
    subject = make_subject(BASE, X, Y, eps=EPS, columns={"autoattack@Linf-0.03": truth})
    assert torch.equal(battery(subject, *PROBES), truth)
    numbers = subject.measured
    assert numbers["a10-binarisation"]["found"] == numbers["a10-binarisation"]["attacked"] >= 8
    assert numbers["a1-unbounded"]["left"] == 0
    assert numbers["a2-budget"]["violations"] == 0
    assert numbers["g5-multiscale"]["beta"]["eps/16"] == pytest.approx(1, abs=0.05)
    assert numbers["g3-coherence"]["c2"] > 0.9
    assert numbers["g4-linearity"]["slope"] > 0.5
    assert not numbers["c2-eot"]["applicable"]
    assert numbers["a5-bookkeeping"]["silent"] == 0


@pytest.mark.parametrize("rule", ["detach", "killer", "flip", "onehot"])
def test_broken_gradients_show_in_existence_tests(rule) -> None:
    subject = claimed(Wrapped(rule).eval(), variants=True)
    battery(subject, a1_unbounded, g5_multiscale)
    assert subject.measured["a1-unbounded"]["accuracy"] > 0.5
    slope = subject.measured["g5-multiscale"]["beta"]["eps/4"]
    assert slope is None or not 0.5 <= slope <= 2


def test_a10_fails_where_the_features_give_no_gradient() -> None:
    subject = claimed(Wrapped("killer").eval())
    numbers = a10_binarisation.PROBE.run(subject).numbers
    assert numbers["attacked"] >= 8
    assert numbers["found"] == 0


def test_scale_shows_in_the_cross_entropy_and_not_in_the_margin() -> None:
    scaled, honest = (g2_losses.PROBE.run(claimed(net)).numbers for net in (Wrapped("scale").eval(), BASE))
    assert scaled["scale_zero"]["1"] > 0.5 > honest["scale_zero"]["1"] == 0
    assert scaled["left"]["ce"] > honest["left"]["ce"]
    assert scaled["left"]["margin"] == pytest.approx(honest["left"]["margin"], abs=0.07)
    assert scaled["campaign"]["found"] > 3


def test_without_a_claim_nothing_is_asked() -> None:
    subject = make_subject(BASE, X, Y, eps=EPS, columns={"pgd-20@Linf-0.03": torch.zeros(len(X), dtype=torch.bool)})
    for module in PROBES:
        if module not in {i1_jacobian, i2_landscape}:
            result = module.PROBE.run(subject)
            assert (result.numbers["applicable"], len(result.rows)) == (False, 0)
    assert cost(subject) == 0


class Noisy(nn.Module):
    """Its logits carry noise: a single pass shows no direction, the mean of many does."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Line()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x + 0.15 * torch.randn_like(x))


def test_a_network_that_draws_is_attacked_on_its_mean() -> None:
    torch.manual_seed(0)
    subject = make_subject(
        Noisy().eval(), X, Y, eps=EPS, columns={"pgd-20@Linf-0.03": torch.ones(64, dtype=torch.bool)}
    )
    result = c2_eot.PROBE.run(subject, ladder=(1, 5), steps=20, rung_steps=10)
    assert result.numbers["stochastic"]
    assert set(result.numbers["ladder"]) == {"1", "5"}
    assert result.numbers["expected"] < 0.75
    assert len(result.rows) > 10


def test_noise_on_the_gradient_alone_is_seen() -> None:
    subject = claimed(Wrapped("noise").eval())
    numbers = c2_eot.PROBE.run(subject, ladder=(1,), steps=2, rung_steps=2).numbers
    assert (numbers["stochastic"], numbers["noisy"]) == (False, True)


def test_examples_of_other_submissions_are_drawn_into_the_budget_and_replayed(truth) -> None:
    far = (X - 2 * EPS * (X - fgsm(BASE, X, Y, eps=EPS)).sign()).clamp(0, 1)
    columns = {"pgd-20@Linf-0.03": torch.ones(64, dtype=torch.bool)}
    subject = make_subject(BASE, X, Y, eps=EPS, columns=columns, others={"other": (torch.arange(64), far)})
    result = a8_transfer.PROBE.run(subject)
    assert result.numbers["replays"] == 64
    assert result.numbers["replay_found"] == len(result.rows) > 5
    assert float((result.x_adv - X[result.rows]).abs().max()) <= EPS + 1e-6  # type: ignore[operator]


def test_stored_examples_are_held_against_the_budget_and_the_network(truth) -> None:
    x_adv = pgd(BASE, X, Y, eps=EPS, steps=20, loss="margin")
    fell = ~truth
    key = "pgd-20@Linf-0.03"
    rows = torch.arange(64)
    broken = x_adv.clone()
    at = fell.nonzero().squeeze(1)
    broken[at[0]] = X[at[0]] + 2 * EPS
    broken[at[1]] = X[at[1]]
    subject = make_subject(BASE, X, Y, eps=EPS, columns={key: truth}, fallen={key: (rows, broken)})
    entry = a5_bookkeeping.PROBE.run(subject).numbers["attacks"][key]
    assert (entry["checked"], entry["outside"]) == (64, 1)
    assert (entry["replayed"], entry["fooling"]) == (len(at) - 1, len(at) - 2)
    generous = make_subject(BASE, X, Y, eps=EPS, columns={key: ~fell | True}, fallen={key: (rows, x_adv)})
    result = a5_bookkeeping.PROBE.run(generous)
    assert result.numbers["attacks"][key]["unreturned"] == len(at) == len(result.rows)


def test_nes_and_rays_break_about_what_gradients_break_and_never_more(truth) -> None:
    for attack in (partial(nes, steps=30, queries=200), partial(rays, queries=1000)):
        x_adv = attack(BASE, X, Y, eps=EPS)
        fell = BASE(x_adv).argmax(1) != Y
        assert float((x_adv - X).abs().max()) <= EPS + 1e-6
        assert not bool((fell & truth).any())
        assert int(fell.sum()) >= 0.6 * int((~truth).sum())


def test_rays_sees_labels_alone_and_keeps_to_its_queries() -> None:
    class Labels(nn.Module):
        asked = 0

        def forward(self, x: Tensor) -> Tensor:
            Labels.asked += len(x)
            return F.one_hot(BASE(x).argmax(1), 10).float()

    x_adv = rays(Labels(), X, Y, eps=EPS, queries=40)
    assert Labels.asked <= 64 * 41
    assert torch.equal(x_adv, rays(BASE, X, Y, eps=EPS, queries=40))


def test_the_landscape_of_a_line_is_straight_and_its_directions_are_orthogonal() -> None:
    subject = claimed(BASE)
    along, across = i2_landscape._directions(subject, torch.arange(8))
    assert (along * across).flatten(1).sum(1).abs().max() < 1e-5
    assert torch.allclose(along.flatten(1).norm(dim=1), across.flatten(1).norm(dim=1), rtol=1e-4)
    numbers = i2_landscape.PROBE.run(subject).numbers
    middle = numbers["profile"]["adversarial"]["median"]
    assert middle == sorted(middle)
    assert len(numbers["surfaces"]) == 3
    assert [len(numbers["surfaces"][0]["loss"]), len(numbers["surfaces"][0]["loss"][0])] == [11, 11]
    # At the centre of the grid is the loss at the image itself.
    position = numbers["surfaces"][0]["position"]
    here = F.cross_entropy(BASE(X[position][None]), Y[position][None])
    assert numbers["surfaces"][0]["loss"][5][5] == pytest.approx(float(here), abs=1e-3)


def test_alignment_with_the_image_has_its_closed_form() -> None:
    subject = claimed(BASE)
    numbers = i1_jacobian.PROBE.run(subject, examples=64, pictures=2).numbers
    rows = subject.pick(subject.correct, 64)
    top = BASE(X[rows]).topk(2, 1).indices
    w = BASE.linear.weight
    g = w[top[:, 1]] - w[top[:, 0]]
    expected = ((X[rows].flatten(1) * g).sum(1).abs() / g.norm(dim=1)).double().quantile(0.5)
    assert numbers["alignment"] == pytest.approx(float(expected), rel=1e-4)
    assert len(numbers["saliency"]) == 2
    assert numbers["saliency"][0]["png"].startswith("iVBOR")


@cache
def bundled(name: str) -> tuple[nn.Module, Tensor, Tensor]:
    from pathlib import Path

    from safetensors.torch import load_file

    network = slim_resnet.build(width=12)
    network.load_state_dict(load_file(Path(__file__).parents[1] / "submissions" / name / "weights.safetensors"))
    return network.eval(), *datasets.load("cifar10-sample").tensors(0, 20)


def _bundled(name: str, attack) -> Subject:
    network, x, y = bundled(name)
    subject = make_subject(network, x, y)
    x_adv = attack(subject.model, x, y, eps=8 / 255, batch_size=20)
    return make_subject(network, x, y, columns={f"{name}@Linf-8/255": column(subject.model, x, y, x_adv)})


def test_a_collapsed_network_shows_and_an_honest_one_does_not() -> None:
    collapsed = _bundled("fgsm-at-collapsed", fgsm)
    honest = _bundled("fgsm-rs-1222", partial(pgd, steps=10))
    assert a3_single_step.PROBE.run(collapsed).numbers["distorted"] > 0.2
    assert a3_single_step.PROBE.run(honest).numbers["distorted"] == 0
    low, high = (g3_coherence.PROBE.run(subject).numbers for subject in (collapsed, honest))
    assert (low["c1"] < 0.5, low["c2"] < 0.5, low["c3"] < 0.35) == (True, True, True)
    assert (high["c1"] > 0.8, high["c2"] > 0.6, high["c3"] > 0.45) == (True, True, True)
    assert g4_linearity.PROBE.run(collapsed).numbers["slope"] < 0.2 < g4_linearity.PROBE.run(honest).numbers["slope"]
