"""The attacks of other packages on the network as it is, for comparison: pyautoattack, foolbox, torchattacks."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

Reference = Callable[..., Tensor]
"""``reference(model, x, y, *, eps, norm, batch_size, seed)``: adversarial images for float images in [0, 1]."""

STEPS = 100
"""Steps of APGD and FAB in AutoAttack."""
_MEMBERS = ("apgd-ce", "apgd-t", "fab-t", "square")


def _in_batches(run: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor, batch_size: int) -> Tensor:
    parts = zip(torch.split(x, batch_size), torch.split(y, batch_size), strict=True)
    return torch.cat([run(part, labels).detach() for part, labels in parts])


def _pyautoattack(members: tuple[str, ...], params: Mapping[str, Any]) -> Reference:
    def run(model: nn.Module, x: Tensor, y: Tensor, *, eps: float, norm: str, batch_size: int, seed: int) -> Tensor:
        from pyautoattack import AutoAttack

        whole = members == _MEMBERS
        attack = AutoAttack(
            model, attacks=None if whole else list(members), norm=norm, eps=eps, device=str(x.device), seed=seed,
            version="standard" if whole else "custom",
        )  # fmt: skip
        if not whole:
            # What the standard version sets, "custom" leaves to the caller.
            attack.apgd.use_largereps = attack.apgd_targeted.use_largereps = norm == "L1"
            attack.apgd.n_restarts = params.get("restarts", 1)
            attack.fab.n_restarts = attack.apgd_targeted.n_restarts = 1
            attack.fab.n_target_classes = attack.apgd_targeted.n_target_classes = params.get("targets", 9)
            attack.apgd.n_iter = attack.apgd.n_iter_orig = params.get("steps", STEPS)
            attack.apgd_targeted.n_iter = attack.apgd_targeted.n_iter_orig = params.get("steps", STEPS)
            attack.fab.n_iter = params.get("steps", STEPS)
            attack.square.n_queries = params.get("queries", 5000)
        with contextlib.redirect_stdout(io.StringIO()):
            found: Tensor = attack.run_standard_evaluation(x, y, batch_size=batch_size)[0]
        return found

    return run


def _foolbox(name: str, steps: int) -> Reference:
    def run(model: nn.Module, x: Tensor, y: Tensor, *, eps: float, norm: str, batch_size: int, seed: int) -> Tensor:
        fb: Any = importlib.import_module("foolbox")

        torch.manual_seed(seed)
        makers: dict[tuple[str, str], Callable[[], Any]] = {
            ("fgsm", "Linf"): lambda: fb.attacks.LinfFastGradientAttack(random_start=False),
            ("fgsm", "L2"): lambda: fb.attacks.L2FastGradientAttack(random_start=False),
            ("pgd", "Linf"): lambda: fb.attacks.LinfPGD(steps=steps, rel_stepsize=0.25, random_start=True),
            ("pgd", "L2"): lambda: fb.attacks.L2PGD(steps=steps, rel_stepsize=0.25, random_start=True),
            ("deepfool", "Linf"): lambda: fb.attacks.LinfDeepFoolAttack(steps=steps, overshoot=0.02),
            ("deepfool", "L2"): lambda: fb.attacks.L2DeepFoolAttack(steps=steps, overshoot=0.02),
        }
        attack = makers[name, norm]()
        wrapped = fb.PyTorchModel(model, bounds=(0, 1), device=x.device)

        def one(images: Tensor, labels: Tensor) -> Tensor:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                _, clipped, _ = attack(wrapped, images, labels, epsilons=None if name == "deepfool" else eps)
            return torch.as_tensor(clipped)

        return _in_batches(one, x, y, batch_size)

    return run


def _torchattacks(name: str, steps: int) -> Reference:
    def run(model: nn.Module, x: Tensor, y: Tensor, *, eps: float, norm: str, batch_size: int, seed: int) -> Tensor:
        torchattacks: Any = importlib.import_module("torchattacks")

        torch.manual_seed(seed)

        def autoattack() -> Any:  # noqa: ANN401
            attack = torchattacks.AutoAttack(model, norm=norm, eps=eps, version="standard", seed=seed)
            # Its standard version takes 10 steps where the paper's (arXiv 2003.01690) takes 100.
            for member in attack._autoattack.attacks:
                if hasattr(member, "steps"):
                    member.steps = STEPS
            return attack

        makers: dict[str, Callable[[], Any]] = {
            "fgsm": lambda: torchattacks.FGSM(model, eps=eps),
            "pgd": lambda: (
                torchattacks.PGD(model, eps=eps, alpha=eps / 4, steps=steps, random_start=True)
                if norm == "Linf"
                else torchattacks.PGDL2(model, eps=eps, alpha=eps / 4, steps=steps, random_start=True)
            ),
            "deepfool": lambda: torchattacks.DeepFool(model, steps=steps, overshoot=0.02),
            "autoattack": autoattack,
        }
        attack = makers[name]()
        return _in_batches(lambda images, labels: torch.as_tensor(attack(images, labels)), x, y, batch_size)

    return run


def references(attack: str, norm: str, params: Mapping[str, Any]) -> dict[str, Reference]:
    """The installed packages that have ``attack`` in ``norm``, by name; ``attack`` is a family such as ``pgd``."""
    steps = int(params.get("steps", 50))
    found: dict[str, Reference] = {}
    if attack == "autoattack" or attack in _MEMBERS:
        members = _MEMBERS if attack == "autoattack" else (attack,)
        if importlib.util.find_spec("pyautoattack"):
            found["pyautoattack"] = _pyautoattack(members, params)
    if attack in {"fgsm", "pgd", "deepfool"} and norm in {"Linf", "L2"} and importlib.util.find_spec("foolbox"):
        found["foolbox"] = _foolbox(attack, steps)
    has = {"fgsm": {"Linf"}, "pgd": {"Linf", "L2"}, "deepfool": {"L2"}, "autoattack": {"Linf", "L2"}}
    if norm in has.get(attack, set()) and importlib.util.find_spec("torchattacks"):
        found["torchattacks"] = _torchattacks(attack, steps)
    return found
