"""The model as pyautoattack gets to see it: same decisions, without what its members cannot cope with."""

import torch
from torch import Tensor, nn

from harness.attacks.geometry import finite

_BROKEN = 100.0
"""Logit of the extra class where a logit is not finite; the others are 0 there."""


class GuardedModel(nn.Module):
    """``model`` with an extra last class that stands for "a logit was not finite", asked in batches of ``batch_size``.

    Images float (N, C, H, W) go to logits (N, K + 1). Where all K logits are finite, the extra one is the smallest
    number there is, so it changes no softmax, no ranking of the K and no prediction. Otherwise it wins, so that the
    image counts as misclassified, where plain NaN would count as class 0 or as whatever comes first. Gradients that
    are not finite are made so. The logits are a fresh tensor: members write into them. No images give no logits.
    """

    def __init__(self, model: nn.Module, *, classes: int, batch_size: int | None) -> None:
        super().__init__()
        self._model, self._classes, self._batch_size = model, classes, batch_size

    def forward(self, x: Tensor) -> Tensor:
        if not len(x):
            return x.new_zeros(0, self._classes + 1)
        if x.requires_grad:
            x = x.view_as(x)
            x.register_hook(finite)  # type: ignore[no-untyped-call]
        return torch.cat([self._answer(part) for part in torch.split(x, self._batch_size or len(x))])

    def _answer(self, x: Tensor) -> Tensor:
        logits = self._model(x)
        whole = logits.isfinite().all(1, keepdim=True)
        extra = torch.where(whole, torch.finfo(logits.dtype).min, _BROKEN).to(logits.dtype)
        return torch.cat([torch.where(whole, logits, 0.0), extra], 1)
