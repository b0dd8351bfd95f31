"""Rampart's evaluation half: submissions in, per-example records out. Importing it does nothing.

In a notebook: ``from harness import evaluate``; see ``harness.api``.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.api import Evaluation, evaluate

__version__ = "0.1.0"
__all__ = ["Evaluation", "__version__", "evaluate"]


def __getattr__(name: str) -> Any:  # noqa: ANN401
    # Torch and the attacks are imported when they are asked for, not with the package.
    if name in {"Evaluation", "evaluate"}:
        from harness import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
