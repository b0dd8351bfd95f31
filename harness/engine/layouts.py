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


def with_logits(y: Tensor, logits: Tensor) -> Tensor:
    """``y``, after checking that every label is a class of the network; else ``BreachError``."""
    if int(y.max()) >= logits.shape[1]:
        raise BreachError(
            "contract", f"label {int(y.max())} has no logit: the network returns {logits.shape[1]} classes"
        )
    return y
