"""Random sources and pictures whose augmentation is known."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from stylegan_lightning.augment import AugmentPipe, LocalRandom


class Percentile:
    """All samples get the same draws: the percentile of every distribution as the stored reference takes it.

    There, normal numbers are erfinv(2 q - 1), which is 1 / sqrt(2) of a standard normal's percentile, and the second
    of the two rotations (the last of the six uniform numbers of geometry) is left out: 1/2 is the angle 0.
    """

    def __init__(self, percentile: float) -> None:
        self.percentile = percentile

    def uniform(self, n: int, *shape: int) -> Tensor:
        u = torch.full((n, *shape), self.percentile)
        if shape == (6,):
            u[:, 5] = 0.5
        return u

    def normal(self, n: int, *shape: int) -> Tensor:
        return torch.erfinv(torch.full((n, *shape), 2 * self.percentile - 1))


def seeded(seed: int = 0) -> LocalRandom:
    return LocalRandom(generator=torch.Generator().manual_seed(seed))


def smooth(n: int, c: int, h: int, w: int, waves: float = 2.0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Random cosines that a reflection at the borders continues smoothly: cos(pi k x) with k = 0 .. waves."""
    generator = torch.Generator().manual_seed(1)
    k = torch.arange(waves + 1, dtype=dtype)
    x, y = (torch.cos(math.pi * k[:, None] * torch.arange(s, dtype=dtype) / (s - 1)) for s in (w, h))
    weights = torch.randn(n, c, len(k), len(k), dtype=dtype, generator=generator) / len(k)
    return torch.einsum("ncij,iy,jx->ncyx", weights, y, x)


def only(name: str, p: float = 1.0, **strengths: float) -> AugmentPipe:
    """The pipe of a single transformation."""
    return AugmentPipe(p=p, **{name: 1.0}, **strengths)
