"""A ``Subject`` in this process, made of a plain network and a few images, for the tests of probes and checks."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from harness.attacks.asking import ask
from harness.attacks.losses import misclassified
from harness.models import LocalModel, WorkerOptions
from harness.probes import Subject
from harness.worker.inspection import INSPECTIONS
from harness.worker.variants import Variants


class Own(nn.Module):
    """Asks a form of a network as attacks ask the network itself, and counts."""

    def __init__(self, network: nn.Module, ledger: Counted) -> None:
        super().__init__()
        self.__dict__["network"], self.__dict__["ledger"] = network, ledger
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        logits = self.__dict__["network"](x)
        self.__dict__["ledger"].forward(x)
        if logits.requires_grad:
            logits.register_hook(lambda grad: self.__dict__["ledger"].backward(x))
        return logits


class Counted:
    """Forward-equivalents of everything asked: a forward of an image counts 1, a backward 2."""

    def __init__(self) -> None:
        self.cost = 0

    def forward(self, x: Tensor) -> None:
        self.cost += len(x)

    def backward(self, x: Tensor) -> None:
        self.cost += 2 * len(x)


class Worker:
    """What probes ask a worker about, answered here."""

    def __init__(self, model: LocalModel, variants: Variants) -> None:
        self.model, self.variants = model, variants

    def probe(self, name: str, *, x: Tensor | None = None, **arguments: object) -> dict[str, Any]:
        return INSPECTIONS[name](self.model.network, torch.empty(0) if x is None else x.clone(), **arguments)


def make_subject(
    network: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    columns: Mapping[str, Tensor] | None = None,
    eps: float = 8 / 255,
    norm: str = "Linf",
    classes: int | None = None,
    measured: Mapping[str, Mapping[str, Any]] | None = None,
    fallen: Mapping[str, tuple[Tensor, Tensor]] | None = None,
    others: Mapping[str, tuple[Tensor, Tensor]] | None = None,
    seed: int = 0,
    batch_size: int = 64,
    variants: bool = True,
) -> Subject:
    """``network`` is copied. Without ``columns`` one PGD column claims every image that is classified rightly.

    ``variants=False``: the network has no other forms, as one that can be seen from outside alone.
    """
    network = copy.deepcopy(network)
    model = LocalModel(network, WorkerOptions(image_shape=tuple(x.shape[1:]), optimise=False))
    counted = Counted()
    model.on_forward, model.on_backward = counted.forward, counted.backward
    forms = Variants(model.network, x.shape[1:])

    def variant(**spec: object) -> nn.Module:
        if not variants:
            error = RuntimeError("no other form")
            error.kind = "contract"  # type: ignore[attr-defined]
            raise error
        number, _ = forms.add(spec)
        return Own(forms.get(number), counted)

    worker = Worker(model, forms)
    if not variants:
        worker.probe = lambda name, **_: {"children": []}  # type: ignore[method-assign, assignment]
    logits = ask(model, x, batch_size)
    clean = logits.argmax(1).masked_fill(~logits.isfinite().all(1), -1)
    given = others or {}
    subject = Subject(
        model=model, worker=worker, variant=variant, x=x, y=y, clean=clean,
        classes=logits.shape[1] if classes is None else classes, norm=norm, eps=eps,
        columns={"pgd-20@Linf-8/255": clean == y} if columns is None else dict(columns),
        fallen=dict(fallen or {}), measured=dict(measured or {}), names=tuple(given), others=lambda name: given[name],
        seed=seed, batch_size=batch_size,
    )  # fmt: skip
    counted.cost = 0
    COSTS[id(subject)] = counted
    return subject


COSTS: dict[int, Counted] = {}


def cost(subject: Subject) -> int:
    """Forward-equivalents asked of a subject so far."""
    return COSTS[id(subject)].cost


def column(model: nn.Module, x: Tensor, y: Tensor, x_adv: Tensor) -> Tensor:
    """What an attack calls robust, bool (n,)."""
    return ~misclassified(ask(model, x, 64), y) & ~misclassified(ask(model, x_adv, 64), y)
