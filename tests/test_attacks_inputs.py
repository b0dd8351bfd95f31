"""What attacks are given: refused in one line when it is wrong, answered in kind when it is unusual."""

import pytest
import torch
from attack_models import QUICK, Linear, images, run
from torch import nn

from harness.attacks import ATTACKS, find_attack
from harness.errors import UserError

SPOKEN = {"apgd-ce": "apgd", "apgd-dlr": "apgd"}
"""What an attack calls itself in messages, where it is not its name: two names of one function."""


@pytest.mark.parametrize("name", ATTACKS.names())
def test_bad_input_is_one_clear_line(name):
    model, x = Linear(), images(4)
    y = model(x).argmax(1)
    cases = [
        ({"eps": 0.0}, "eps"), ({"eps": -1.0}, "eps"), ({"eps": float("nan")}, "eps"), ({"eps": float("inf")}, "eps"),
        ({"norm": "linf"}, "norm"), ({"x": x * 2}, "[0, 1]"), ({"x": x - 1}, "[0, 1]"),
        ({"x": (x * 255).to(torch.uint8)}, "float32"), ({"x": x.half()}, "float32"),
        ({"x": x * float("nan")}, "[0, 1]"),
        ({"x": x[0]}, "(N, C, H, W)"), ({"y": y + 10}, "0..9"), ({"y": y - 10}, "0..9"), ({"y": y[:2]}, "int64 (4,)"),
        ({"y": y.to(torch.int32)}, "int64 (4,)"), ({"model": lambda x: x}, "logits (4, K)"),
    ]  # fmt: skip
    known = QUICK.get(name, {})
    cases += [({key: value}, key) for key in ("steps", "queries", "restarts", "targets") if key in known
              for value in (0, 2.5, True)]  # fmt: skip
    cases.append(({"batch_size": 0}, "batch_size"))
    for change, said in cases:
        if ATTACKS.get(name).minimum_norm and "eps" in change:
            continue
        arguments = {"model": model, "x": x, "y": y, "eps": 0.01} | change
        with pytest.raises(UserError) as caught:
            run(name, arguments.pop("model"), arguments.pop("x"), arguments.pop("y"), **arguments)
        message = str(caught.value)
        assert message.startswith(f"{SPOKEN.get(name, name)}: ") and said in message and "\n" not in message
        assert "expected" in message and "got" in message


@pytest.mark.parametrize(
    ("name", "params", "said"),
    [
        ("pgd", {"loss": "dlr"}, "loss: expected one of ce, margin, got 'dlr'"),
        ("pgd", {"step_size": 0.0}, "step_size"),
        ("pgd", {"restarts": 2, "random_start": False}, "restarts: expected 1"),
        ("fgsm", {"step_size": -0.1}, "step_size"),
        ("deepfool", {"overshoot": -0.1}, "overshoot"),
        ("deepfool", {"candidates": 1}, "candidates"),
    ],
)
def test_parameters_of_one_attack_are_checked(name, params, said):
    x = params.pop("x", images(2))
    with pytest.raises(UserError) as caught:
        run(name, Linear(), x, torch.zeros(2, dtype=torch.int64), **params)
    assert said in str(caught.value)


class Answering(nn.Module):
    """``Linear`` whose answer is changed before it is given."""

    def __init__(self, change) -> None:
        super().__init__()
        self.inner, self.change = Linear(), change

    def forward(self, x):
        return self.change(self.inner(x.float()))


@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", ATTACKS.names())
def test_logits_of_any_precision_are_answered_in_the_images(name, precision):
    model, x = Answering(lambda logits: logits.to(precision)), images(6)
    y = model(x).argmax(1)
    for asked in (x, x.double()):
        for norm in find_attack(name).norms:
            x_adv = run(name, model, asked, y, norm=norm, eps={"Linf": 0.02, "L2": 0.2, "L1": 1.0}[norm])
            assert x_adv.dtype == asked.dtype and bool(x_adv.isfinite().all())


@pytest.mark.parametrize(
    ("change", "got"),
    [(lambda z: (z, z), "got tuple"), (lambda z: {"logits": z}, "got dict"), (lambda z: z.long(), "got .* of int64")],
)  # fmt: skip
@pytest.mark.parametrize("name", ATTACKS.names())
def test_an_answer_that_is_no_logits_is_one_line(name, change, got):
    x = images(6)
    with pytest.raises(UserError, match=f"model: expected float logits .6, K., {got}"):
        run(name, Answering(change), x, Linear()(x).argmax(1))


@pytest.mark.parametrize("eps", [None, "8/255"])
@pytest.mark.parametrize("name", ["pgd", "fgsm", "apgd-ce", "square", "fab-t", "budget"])
def test_a_budget_that_is_no_number_is_one_line(name, eps):
    x = images(2)
    with pytest.raises(UserError, match=f"{SPOKEN.get(name, name)}: eps: expected a finite number above 0, got"):
        run(name, Linear(), x, Linear()(x).argmax(1), eps=eps)


@pytest.mark.parametrize(
    ("name", "norm"),
    [
        (name, norm)
        for name in ATTACKS.names()
        for norm in ("L2", "L1")
        if norm in find_attack(name).norms and not find_attack(name).minimum_norm
    ],
)
def test_a_budget_near_the_resolution_of_pixels_is_kept(name, norm):
    x = images(5, low=0.1, high=0.9)
    y = Linear()(x).argmax(1)
    for eps in (1e-3, 1e-4, 1e-5, 1e-6):
        for extra in ({}, {"random_start": True}) if name == "fgsm" else ({},):
            x_adv = run(name, Linear(), x, y, norm=norm, eps=eps, **extra)
            order = {"L2": 2, "L1": 1}[norm]
            assert float((x_adv - x).double().flatten(1).norm(order, 1).max()) <= eps * (1 + 1e-5), eps
