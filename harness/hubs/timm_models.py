"""timm's architectures, and where its own weights are."""

import importlib
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from harness.checkpoints import Source, cache_dir
from harness.errors import UnknownNameError, UserError
from harness.hubs import hugging_face

if TYPE_CHECKING:
    from torch import nn

OWN = frozenset({"mean", "std", "resize"})
"""Keyword arguments of a card that say how an image is prepared; the others go to ``timm.create_model``."""


def _timm(name: str) -> ModuleType:
    """The package; ``UserError`` when it is not there or has no architecture ``name``."""
    try:
        timm = importlib.import_module("timm")
    except ImportError:
        raise UserError(f"timm:{name} needs the package timm: pip install timm") from None
    if not timm.is_model(name):
        raise UnknownNameError("timm model", name, timm.list_models())
    return timm


def create(name: str, kwargs: dict[str, Any], classes: int | None) -> "tuple[nn.Module, dict[str, Any]]":
    """An architecture with random weights, and timm's configuration of it. ``UserError`` for a name it has not."""
    timm = _timm(name)
    number = {} if classes is None else {"num_classes": classes}
    network: nn.Module = timm.create_model(name, pretrained=False, **{**kwargs, **number})
    known: Any = network.pretrained_cfg
    return network, dict(known)


def weights(name: str, classes: int | None) -> tuple[Source, ...]:
    """Where timm's own weights of a model are; ``UserError`` when there are none for that many classes."""
    known = _timm(name).get_pretrained_cfg(name)
    if known is None or not (known.hf_hub_id or known.url):
        raise UserError(f"timm:{name}: timm has no weights of it: expected yours under [checkpoint], got none")
    if classes is not None and known.num_classes != classes:
        raise UserError(
            f"timm:{name}: timm's weights are for {known.num_classes} classes and the data set has {classes}: "
            "expected yours under [checkpoint], got none"
        )
    if known.hf_hub_id:
        repository, _, revision = str(known.hf_hub_id).partition("@")
        return (hugging_face.source(repository, revision or "main", hugging_face.WEIGHTS),)
    url = str(known.url)
    return (Source(url, cache_dir() / "timm" / f"{name}{Path(url).suffix}"),)
