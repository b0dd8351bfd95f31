"""Everybody else's models: the forms of an entry that names one, and where its files come from. No torch at import."""

from harness.hubs.grammar import FORMS, module_of, split
from harness.hubs.robustbench import robustbench_names

__all__ = ["FORMS", "module_of", "robustbench_names", "split"]
