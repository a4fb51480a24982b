"""Where augmentations get their random numbers."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class RandomSource(Protocol):
    """float32 numbers for n samples, [n, *shape]. The first dimension always counts samples, so that a source may
    draw for the batch of all ranks and hand out this rank's rows."""

    def uniform(self, n: int, *shape: int) -> Tensor:
        """Uniform in [0, 1)."""

    def normal(self, n: int, *shape: int) -> Tensor:
        """Standard normal."""


class LocalRandom:
    """Numbers of one process, from `generator` or PyTorch's global one of `device`."""

    def __init__(self, device: torch.device | str = "cpu", generator: torch.Generator | None = None) -> None:
        self.device = device if generator is None else generator.device
        self.generator = generator

    def uniform(self, n: int, *shape: int) -> Tensor:
        return torch.rand(n, *shape, device=self.device, dtype=torch.float32, generator=self.generator)

    def normal(self, n: int, *shape: int) -> Tensor:
        return torch.randn(n, *shape, device=self.device, dtype=torch.float32, generator=self.generator)
