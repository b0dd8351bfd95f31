"""Randomness per example, so that a result depends on neither the batch nor the order an example is met in."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


class ExampleGenerators:
    """One CPU ``torch.Generator`` for every example of a batch."""

    def __init__(self, seeds: Sequence[int]) -> None:
        self._seeds = tuple(seeds)
        self._generators = tuple(torch.Generator().manual_seed(seed) for seed in self._seeds)

    @classmethod
    def for_examples(cls, seed: int, name: str, indices: Sequence[int]) -> ExampleGenerators:
        """Generators fixed by the run's seed, the ``name`` of the task and each example's index in its data set."""
        digests = (hashlib.sha256(f"{seed}\n{name}\n{int(index)}".encode()).digest() for index in indices)
        return cls([int.from_bytes(digest[:4], "little") for digest in digests])

    @classmethod
    def of(cls, source: ExampleGenerators | torch.Generator | None, n: int) -> ExampleGenerators:
        """What an attack was given, as generators for ``n`` examples.

        A plain generator is asked for one seed per example; None stands for seed 0. ``ValueError`` when ``source``
        holds generators for another number of examples.
        """
        if source is None:
            return cls.for_examples(0, "", range(n))
        if isinstance(source, torch.Generator):
            drawn = torch.randint(2**32, (n,), generator=source, device=source.device)
            return cls([int(seed) for seed in drawn])
        if len(source) != n:
            raise ValueError(f"expected generators for {n} examples, got {len(source)}")
        return source

    def __len__(self) -> int:
        return len(self._seeds)

    @property
    def batch_seed(self) -> int:
        """A seed for attacks that draw for the whole batch at once: that of the first example, 0 without examples."""
        return self._seeds[0] if self._seeds else 0

    def uniform(self, shape: Sequence[int]) -> Tensor:
        """Fresh draws from [0, 1): float32 (N, *shape) on the CPU."""
        out = torch.empty(len(self), *shape)
        for row, generator in zip(out, self._generators, strict=True):
            row.uniform_(generator=generator)
        return out

    def normal(self, shape: Sequence[int]) -> Tensor:
        """Fresh draws from the standard normal distribution: float32 (N, *shape) on the CPU."""
        out = torch.empty(len(self), *shape)
        for row, generator in zip(out, self._generators, strict=True):
            row.normal_(generator=generator)
        return out

    def select(self, rows: Tensor) -> ExampleGenerators:
        """The generators of some rows, given as a mask or as indices; they are shared, not copied."""
        chosen = rows.nonzero().squeeze(1).tolist() if rows.dtype is torch.bool else rows.tolist()
        part = ExampleGenerators(())
        part._seeds = tuple(self._seeds[row] for row in chosen)
        part._generators = tuple(self._generators[row] for row in chosen)
        return part
