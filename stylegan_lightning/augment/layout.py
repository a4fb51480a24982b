"""Borders of images, and their layout in memory."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def reflect_pad(x: Tensor, vertical: int, horizontal: int) -> Tensor:
    """x [N, C, H, W] continued on all sides by reflection at the centres of its outer pixels.

    Unlike PyTorch's own, by any amount: a picture padded by its size less one ends at a mirror image of its border,
    so that it can be reflected again.
    """
    while vertical > 0 or horizontal > 0:
        v, u = min(vertical, x.shape[2] - 1), min(horizontal, x.shape[3] - 1)
        x = F.pad(x, [u, u, v, v], mode="reflect")
        vertical, horizontal = vertical - v, horizontal - u
    return x


def channels_last(x: Tensor) -> Tensor:
    """x in channels_last, and so its derivatives of every order: long filters are many times as fast on the CPU."""
    return _ChannelsLast.apply(x)


class _ChannelsLast(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.contiguous(memory_format=torch.channels_last)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return _ChannelsLast.apply(grads[0])
