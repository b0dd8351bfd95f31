"""One question to a network in two batch layouts: an answer that depends on the layout is no answer."""

import torch
from torch import Tensor

from harness.errors import BreachError
from harness.models import ModelWorker


def logits_of(worker: ModelWorker, x: Tensor, batch_size: int) -> Tensor:
    """Logits (N, K) of images (N, C, H, W), asked in batches."""
    return torch.cat([worker.forward(part)[0] for part in torch.split(x, batch_size)])


def logits_again(worker: ModelWorker, x: Tensor, batch_size: int) -> Tensor:
    """The same question in another layout: reversed order, batches about a third smaller."""
    return logits_of(worker, x.flip(0), max(1, batch_size * 2 // 3)).flip(0)


def enough_logits(logits: Tensor, classes: int) -> Tensor:
    """``logits``, after checking that every class of the data set has one; else ``BreachError``."""
    if logits.shape[1] < classes:
        raise BreachError(
            "contract",
            f"expected {classes} logits an image, one for each class of the data set, got {logits.shape[1]}",
        )
    return logits
