"""Submissions that the worker's tests write themselves."""

import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TIMEOUT = 60.0
"""Seconds that building a well-behaved network may take on a busy machine."""

LINEAR = """
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self, classes):
            super().__init__()
            self.linear = nn.Linear(3 * 8 * 8, classes)

        def forward(self, x):
            return self.linear(x.flatten(1))

    def build(classes=4):
        return Net(classes)
"""
"""A network for images (3, 8, 8)."""


def hand_made(folder: Path, code: str, **fields: object) -> dict[str, object]:
    """The spec of a submission whose ``model.py`` is ``code``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.py").write_text(textwrap.dedent(code))
    spec = {
        "id": folder.name, "folder": str(folder), "search": [str(folder.parent)], "entry": "model.py:build",
        "kwargs": {}, "checkpoint": None, "checkpoint_sha256": "", "key": None, "strip_prefix": None,
    }  # fmt: skip
    return spec | fields


def slim(folder: Path, **kwargs: object) -> dict[str, object]:
    """The spec of a slim residual network whose BatchNorm statistics are not trivial."""
    code = """
        import torch
        from torch import nn
        from submissions.architectures.slim_resnet import build as build_slim

        def build(**kwargs):
            model = build_slim(**kwargs)
            for module in model.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.running_mean.normal_(0, 0.1)
                    module.running_var.uniform_(0.5, 2.0)
                    module.weight.data.uniform_(0.5, 1.5)
                    module.bias.data.normal_(0, 0.1)
            return model
    """
    return hand_made(folder, code, kwargs=kwargs) | {"search": [str(ROOT)]}
