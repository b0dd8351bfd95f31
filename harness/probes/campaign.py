"""A full attack through another form of the network: its gradients lead the way, the network itself decides."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from harness.attacks.apgd import apgd, apgd_t
from harness.attacks.asking import ask
from harness.attacks.losses import misclassified
from harness.probes.subject import Subject

FULL_STEPS = 100
"""Steps of each part of a full attack, as in AutoAttack."""
SURVIVABLE = ("raised", "contract")
"""Kinds of a worker's failure after which its process still answers."""


class Guide(nn.Module):
    """Answers like ``surrogate``; ``exact`` asks ``truth``, which is what attacks believe (``asking.reveal``)."""

    def __init__(self, surrogate: nn.Module, truth: nn.Module) -> None:
        super().__init__()
        # Plain attributes: neither is a submodule of the other's.
        self.__dict__["surrogate"], self.__dict__["truth"] = surrogate, truth
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, K) of the surrogate."""
        logits: Tensor = self.__dict__["surrogate"](x)
        return logits

    def exact(self, x: Tensor) -> Tensor:
        """Logits (N, K) of the network itself."""
        logits: Tensor = self.__dict__["truth"](x)
        return logits


class _Turn(torch.autograd.Function):
    """The identity; its gradient points the other way."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: ANN401
        """``x`` itself."""
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:  # noqa: ANN401
        """The gradient turned around."""
        return -grads[0]


class Turned(nn.Module):
    """The network with its gradients turned around: leads an attack through a reversed backward pass."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.__dict__["network"] = network
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, K)."""
        logits: Tensor = self.__dict__["network"](_Turn.apply(x) if torch.is_grad_enabled() and x.requires_grad else x)
        return logits


class Logarithm(nn.Module):
    """The logarithm of a network that answers with probabilities: its own logits again, up to a constant."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.__dict__["network"] = network
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, K)."""
        outputs: Tensor = self.__dict__["network"](x)
        return outputs.clamp_min(torch.finfo(outputs.dtype).tiny).log()


@dataclass
class Campaign:
    """What an attack through one surrogate came to."""

    numbers: dict[str, Any]
    found: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    @property
    def fallen(self) -> int:
        """Examples broken."""
        return len({int(row) for rows, _ in self.found for row in rows})


def variant(subject: Subject, **spec: object) -> nn.Module | None:
    """A form of the network, or None when it has no such form; a worker that is gone raises as ever."""
    try:
        model = subject.variant(**spec)
        if not isinstance(model, nn.Module):
            return None
        ask(model, subject.x[:1])
    except Exception as error:
        if getattr(error, "kind", "") not in SURVIVABLE:
            raise
        return None
    return model


def fell(subject: Subject, rows: Tensor, x_adv: Tensor) -> Tensor:
    """Whether the network itself misclassifies ``x_adv`` (m, C, H, W) of ``rows`` in a fresh forward, bool (m,)."""
    if not len(rows):
        return torch.zeros(0, dtype=torch.bool)
    return misclassified(ask(subject.model, x_adv, subject.batch_size), subject.y[rows])


def _draws(subject: Subject, rows: Tensor) -> bool:
    """Whether the network answers otherwise when it is asked about the images of ``rows`` again."""
    first, second = (ask(subject.model, subject.x[rows], subject.batch_size) for _ in range(2))
    return not bool((first - second).abs().nan_to_num().max() <= 1e-4 * first.abs().nan_to_num().max())


def run_campaign(
    subject: Subject,
    surrogate: nn.Module,
    rows: Tensor,
    *,
    name: str,
    screen: int = 32,
    screen_steps: int = 15,
    steps: int = FULL_STEPS,
    targets: int = 9,
    eot: int = 1,
    force: bool = False,
) -> Campaign:
    """Auto-PGD through ``surrogate`` on some of ``rows``; when one falls (or with ``force``), all of AutoAttack's
    white-box work on all of them: Auto-PGD on the margin, then towards up to ``targets`` classes. A network that draws
    at random is spared that, unless gradients are averaged over ``eot`` passes.
    """
    guide = surrogate if surrogate is subject.model else Guide(surrogate, subject.model)
    numbers: dict[str, Any] = {"name": name, "screened": 0, "screen_found": 0, "attempted": 0, "found": 0}
    result = Campaign(numbers)
    if not len(rows):
        return result
    chosen = rows[(torch.arange(min(screen, len(rows))) * len(rows)) // min(screen, len(rows))]

    def attack(which: Tensor, kind: str, moves: int) -> Tensor:
        generators = subject.generators(f"{name}/{kind}", which)
        x, y = subject.x[which], subject.y[which]
        if kind == "towards":
            x_adv = apgd_t(guide, x, y, eps=subject.eps, norm=subject.norm, steps=moves, targets=targets, eot=eot,
                           generator=generators, batch_size=subject.batch_size)  # fmt: skip
        else:
            x_adv = apgd(guide, x, y, eps=subject.eps, norm=subject.norm, steps=moves, loss="margin", eot=eot,
                         generator=generators, batch_size=subject.batch_size)  # fmt: skip
        hit = fell(subject, which, x_adv)
        result.found.append((which[hit], x_adv[hit]))
        return which[~hit]

    left = attack(chosen, "screen", screen_steps)
    numbers["screened"], numbers["screen_found"] = len(chosen), len(chosen) - len(left)
    if (force or numbers["screen_found"]) and eot == 1 and _draws(subject, chosen):
        # Some pass or other misclassifies any image; attacks on the mean of passes are the answer (c2-eot).
        numbers["stochastic"] = True
    elif force or numbers["screen_found"]:
        gone = set(result.found[0][0].tolist())
        rest = torch.tensor([int(row) for row in rows if int(row) not in gone], dtype=torch.int64)
        numbers["attempted"] = len(rows)
        rest = attack(rest, "margin", steps) if len(rest) else rest
        if len(rest):
            attack(rest, "towards", steps)
    numbers["found"] = result.fallen
    return result
