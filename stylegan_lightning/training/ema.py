"""The exponential moving average of the generator's weights."""

from __future__ import annotations

import torch
from torch import nn


def ema_beta(batch_size: int, nimg: int, ema_kimg: float, rampup: float | None) -> float:
    """0.5 ** (batch / half-life). With `rampup` the half-life is at most rampup * nimg (StyleGAN2-ADA, D)."""
    half_life = ema_kimg * 1000
    if rampup is not None:
        half_life = min(half_life, nimg * rampup)
    return 0.5 ** (batch_size / max(half_life, 1e-8))


@torch.no_grad()
def update_ema(average: nn.Module, source: nn.Module, beta: float) -> None:
    """average <- beta * average + (1 - beta) * source for parameters; buffers are copied."""
    torch._foreach_lerp_(list(average.parameters()), list(source.parameters()), 1 - beta)
    for ours, theirs in zip(average.buffers(), source.buffers(), strict=True):
        ours.copy_(theirs)
