"""Normalisations without learned state."""

from __future__ import annotations

import torch
from torch import Tensor


def pixel_norm(x: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    """x scaled to unit mean square along `dim` (ProGAN, section 4.2; also the normalisation of z)."""
    return x * (x.square().mean(dim, keepdim=True) + eps).rsqrt()


def minibatch_std(x: Tensor, group_size: int | None, num_channels: int = 1, eps: float = 1e-8) -> Tensor:
    """x [N, C, H, W] with `num_channels` maps appended: the standard deviation within groups of samples,
    averaged over pixels and a slice of C / num_channels channels (ProGAN, section 3).

    Sample n belongs to group n mod (N / group). A group larger than the batch, or None, is the whole batch.
    Raises ValueError when the batch is not divisible by the group.
    """
    n, c, h, w = x.shape
    group = n if group_size is None else min(group_size, n)
    if n % group:
        raise ValueError(f"minibatch_std needs batches divisible by group_size={group}, got a batch of {n}")
    y = x.reshape(group, n // group, num_channels, c // num_channels, h, w)
    y = (y.var(0, unbiased=False) + eps).sqrt()  # [n/group, F, C/F, H, W]
    y = y.mean((2, 3, 4))  # [n/group, F]
    y = y.repeat(group, 1)[:, :, None, None].expand(n, num_channels, h, w)
    return torch.cat([x, y.to(x.dtype)], 1)
