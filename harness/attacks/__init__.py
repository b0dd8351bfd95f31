"""The attacks and their registry. An attack is one pure function in one file; registering it is one line below."""

import importlib.metadata
import inspect
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from harness.attacks import autoattack
from harness.attacks.apgd import NORMS as APGD_NORMS
from harness.attacks.apgd import apgd_ce, apgd_dlr, apgd_t, narrowing
from harness.attacks.budget import FRACTIONS, budget
from harness.attacks.deepfool import NORMS as DEEPFOOL_NORMS
from harness.attacks.deepfool import deepfool
from harness.attacks.fab import fab, fab_t
from harness.attacks.fgsm import NORMS as FGSM_NORMS
from harness.attacks.fgsm import fgsm
from harness.attacks.hyperplane import NORMS as FAB_NORMS
from harness.attacks.pgd import NORMS as PGD_NORMS
from harness.attacks.pgd import pgd
from harness.attacks.square import NORMS as SQUARE_NORMS
from harness.attacks.square import square
from harness.errors import UserError
from harness.registry import Registry


@dataclass(frozen=True)
class Attack:
    """A registered attack."""

    name: str
    run: Callable[..., Tensor]
    """``run(model, x, y, *, eps, norm, generator, **params)``: float images (N, C, H, W) in [0, 1] and labels int64
    (N,) to adversarial images of the shape and dtype of ``x``."""
    source: str
    """Who computes it: ours with its version, e.g. ``rampart-pgd-1``, or the package, e.g. ``pyautoattack``."""
    norms: tuple[str, ...]
    """Norms it can be run in."""
    minimum_norm: bool = False
    """Whatever its parameters, it ignores ``eps`` and returns the closest adversarial example it found, or ``x``."""
    passes: Callable[[Mapping[str, Any], int], tuple[float, float]] = lambda _params, _classes: (1.0, 1.0)
    """From parameters and number of classes to forward and backward passes for one image that survives: an estimate
    of the work, for the time left; what really happened is counted."""
    elsewhere: Mapping[str, str] = field(default_factory=dict)
    """By norm, ``source`` where it is another version than in the other norms."""

    def implementation(self, norm: str) -> str:
        """``source`` in ``norm`` with its version, looked up when asked for; ``UserError`` when it is not installed."""
        source = self.elsewhere.get(norm, self.source)
        if source.rpartition("-")[2].isdigit():
            return source
        try:
            return f"{source}-{importlib.metadata.version(source)}"
        except importlib.metadata.PackageNotFoundError:
            raise UserError(f"{self.name} needs {source}, got no such package: pip install {source}") from None

    def minimises(self, params: Mapping[str, Any]) -> bool:
        """Whether it looks for the closest adversarial example, however far, with these parameters."""
        return self.minimum_norm or bool(params.get("minimum"))

    def check_params(self, params: Mapping[str, Any], *, eps: float, norm: str) -> None:
        """``UserError`` when the attack has no parameter of some name or refuses what one is set to."""
        known = set(inspect.signature(self.run).parameters) - _GIVEN
        for name in params:
            if name not in known:
                raise UserError(f"{self.name}: expected parameters among {', '.join(sorted(known))}, got {name!r}")
        nothing = torch.empty(0, 3, 32, 32)
        self.run(nn.Identity(), nothing, nothing.long().flatten(), eps=eps, norm=norm, generator=None, **params)


_GIVEN = {"model", "x", "y", "eps", "norm", "generator", "batch_size"}
"""Arguments that every attack takes and that are not parameters of a recipe."""

ATTACKS: Registry[Attack] = Registry("attack")
"""Our own, by the names that suites use."""
REFERENCES: Registry[Attack] = Registry("reference attack")
"""The same attacks as computed by pyautoattack, for ``--implementation reference``."""


def _steps(params: Mapping[str, Any], _classes: int) -> tuple[float, float]:
    steps = float(params.get("steps", 100) * params.get("restarts", 1) * params.get("eot", 1))
    return steps, steps


def _targeted(params: Mapping[str, Any], classes: int) -> tuple[float, float]:
    steps, _ = _steps(params, classes)
    targets = min(params.get("targets", 9), classes - 1)
    if not params.get("narrow"):
        return steps * targets, steps * targets
    moves = params.get("steps", 100)
    rungs = [(0, targets), *narrowing(moves, targets).items(), (moves, 0)]
    pairs = float(params.get("eot", 1) * sum((end - at) * n for (at, n), (end, _) in itertools.pairwise(rungs)))
    return pairs, pairs


def _untargeted(params: Mapping[str, Any], classes: int) -> tuple[float, float]:
    steps, _ = _steps(params, classes)
    return steps, steps * (classes - 1)


def _queries(params: Mapping[str, Any], _classes: int) -> tuple[float, float]:
    return float(params.get("queries", 5000) * params.get("restarts", 1)), 0.0


def _budgets(params: Mapping[str, Any], _classes: int) -> tuple[float, float]:
    steps = float(params.get("steps", 20) * len(params.get("fractions", FRACTIONS)))
    return steps, steps


def _linearised(_params: Mapping[str, Any], classes: int) -> tuple[float, float]:
    # Most images are across after three or four steps: a gradient for every other class first, about one in each later.
    return 5.0, min(9, classes - 1) + 3.0


for _attack in (
    Attack("fgsm", fgsm, "rampart-fgsm-1", FGSM_NORMS),
    Attack("pgd", pgd, "rampart-pgd-1", PGD_NORMS, passes=_steps),
    Attack("deepfool", deepfool, "rampart-deepfool-2", DEEPFOOL_NORMS, minimum_norm=True, passes=_linearised),
    Attack("budget", budget, "rampart-budget-1", APGD_NORMS, minimum_norm=True, passes=_budgets),
    Attack("apgd-ce", apgd_ce, "rampart-apgd-1", APGD_NORMS, passes=_steps),
    Attack("apgd-dlr", apgd_dlr, "rampart-apgd-1", APGD_NORMS, passes=_steps),
    Attack("apgd-t", apgd_t, "rampart-apgd-1", APGD_NORMS, passes=_targeted),
    Attack("fab", fab, "rampart-fab-1", FAB_NORMS, passes=_untargeted),
    Attack("fab-t", fab_t, "rampart-fab-1", FAB_NORMS, passes=_targeted),
    Attack("square", square, "rampart-square-1", SQUARE_NORMS, passes=_queries, elsewhere={"L2": "rampart-square-2"}),
):
    ATTACKS.add(_attack.name, _attack)

for _attack in (
    Attack("apgd-ce", autoattack.apgd_ce, "pyautoattack", autoattack.NORMS, passes=_steps),
    Attack("apgd-t", autoattack.apgd_t, "pyautoattack", autoattack.NORMS, passes=_targeted),
    Attack("fab-t", autoattack.fab_t, "pyautoattack", autoattack.NORMS, passes=_targeted),
    Attack("square", autoattack.square, "pyautoattack", autoattack.NORMS, passes=_queries),
):
    REFERENCES.add(_attack.name, _attack)

ATTACKS.freeze()
REFERENCES.freeze()


def find_attack(name: str, implementation: str = "") -> Attack:
    """The attack called ``name``, the reference's when ``implementation`` is ``reference`` or begins with its name.

    ``UnknownNameError`` when there is none.
    """
    if implementation == "reference" or implementation.startswith("pyautoattack"):
        return REFERENCES.get(name) if name in REFERENCES.names() else ATTACKS.get(name)
    return ATTACKS.get(name)
