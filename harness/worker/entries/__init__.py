"""Networks that do not come from a submission's ``build``: one function for each kind of entry, spec -> network."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from harness.worker.entries import files, robustbench, timm_models

LOADERS: Mapping[str, Callable[[Mapping[str, Any]], nn.Module]] = {
    "robustbench": robustbench.load,
    "timm": timm_models.load,
    "hf": timm_models.load_hugging_face,
    "torchscript": files.torchscript,
    "exported-program": files.exported_program,
}
"""By kind of entry; the network comes with its weights, not yet in eval mode."""
