"""The attacks and their registry. An attack is one pure function in one file; registering it is one line below."""

import importlib.metadata
import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from torch import Tensor

from harness.attacks.autoattack import NORMS as AUTOATTACK_NORMS
from harness.attacks.autoattack import apgd_ce, apgd_t, fab_t, square
from harness.attacks.deepfool import NORMS as DEEPFOOL_NORMS
from harness.attacks.deepfool import deepfool
from harness.attacks.fgsm import NORMS as FGSM_NORMS
from harness.attacks.fgsm import fgsm
from harness.attacks.pgd import NORMS as PGD_NORMS
from harness.attacks.pgd import pgd
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
    """Ignores ``eps`` and returns the closest adversarial example it found, or ``x`` itself."""
    whole_shard: bool = False
    """Outcomes depend on which examples come together, so it is given all of a shard at once, and ``batch_size``."""

    @property
    def implementation(self) -> str:
        """``source`` with its version, looked up when asked for; ``UserError`` when the package is not installed."""
        if self.source.rpartition("-")[2].isdigit():
            return self.source
        try:
            return f"{self.source}-{importlib.metadata.version(self.source)}"
        except importlib.metadata.PackageNotFoundError:
            raise UserError(
                f"{self.name} needs {self.source}, got no such package: pip install {self.source}"
            ) from None

    def check_params(self, params: Iterable[str]) -> None:
        """``UserError`` when the attack has no parameter of some name."""
        known = set(inspect.signature(self.run).parameters) - {"model", "x", "y", "eps", "norm", "generator"}
        for name in params:
            if name not in known:
                raise UserError(f"{self.name}: expected parameters among {', '.join(sorted(known))}, got {name!r}")


ATTACKS: Registry[Attack] = Registry("attack")

for _attack in (
    Attack("fgsm", fgsm, "rampart-fgsm-1", FGSM_NORMS),
    Attack("pgd", pgd, "rampart-pgd-1", PGD_NORMS),
    Attack("deepfool", deepfool, "rampart-deepfool-1", DEEPFOOL_NORMS, minimum_norm=True),
    Attack("apgd-ce", apgd_ce, "pyautoattack", AUTOATTACK_NORMS, whole_shard=True),
    Attack("apgd-t", apgd_t, "pyautoattack", AUTOATTACK_NORMS, whole_shard=True),
    Attack("fab-t", fab_t, "pyautoattack", AUTOATTACK_NORMS, whole_shard=True),
    Attack("square", square, "pyautoattack", AUTOATTACK_NORMS, whole_shard=True),
):
    ATTACKS.add(_attack.name, _attack)

ATTACKS.freeze()
