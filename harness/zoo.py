"""RobustBench's model zoo, imported in the one way that works.

The package asks for a module ``autoattack`` that PyPI does not have; what it means is ``pyautoattack``, under its
other name. Only the zoo and its architectures are used: ``robustbench.benchmark`` expects an older interface.
"""

import importlib
import sys
import warnings

from harness.errors import UserError


def _zoo() -> dict[str, dict[str, dict[str, object]]]:
    """From data set and threat to the zoo's entries, by name; plain strings instead of the package's enumerations."""
    import pyautoattack

    sys.modules.setdefault("autoattack", pyautoattack)
    with warnings.catch_warnings():
        # Its own imports are deprecated ones; a user can do nothing about that.
        warnings.simplefilter("ignore")
        models = importlib.import_module("robustbench.model_zoo").model_dicts
    return {
        str(dataset.value): {str(threat.value): dict(entries) for threat, entries in threats.items()}
        for dataset, threats in models.items()
    }


def robustbench_names(dataset: str, threat: str) -> list[str]:
    """Names of RobustBench's entries for ``cifar10`` or ``cifar100`` and ``Linf``, ``L2`` or ``corruptions``.

    ``UserError`` when the zoo has no such board.
    """
    zoo = _zoo()
    boards = [f"{name} {norm}" for name, threats in zoo.items() for norm in threats]
    if f"{dataset} {threat}" not in boards:
        raise UserError(f"robustbench: expected one of {', '.join(sorted(boards))}, got {dataset} {threat}")
    return sorted(zoo[dataset][threat])
