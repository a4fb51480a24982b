"""Bilinear sampling whose derivatives of every order with respect to the picture are again fast operations.

PyTorch's `grid_sample` has a first derivative only, and R1 through an augmentation needs two. Sampling is linear in
the picture: its derivative is its adjoint, and the derivative of the adjoint is sampling.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_BILINEAR, _ZEROS, _ALIGN_CORNERS = 0, 0, False


def grid_sample(x: Tensor, grid: Tensor) -> Tensor:
    """x [N, C, H, W] at the points `grid` [N, h, w, 2] -> [N, C, h, w]; bilinear, zero outside; in grid's type.

    A point is (x, y); the picture's outer edges are at -1 and 1. Points get no gradient: raises ValueError if they
    ask for one. On CUDA the derivative adds in no fixed order, so that its last bits vary.
    """
    if grid.requires_grad:
        raise ValueError("grid_sample has derivatives with respect to the picture only: detach the grid")
    return _Sample.apply(x, grid)


def _layout_of(x: Tensor, y: Tensor) -> Tensor:
    """y, in channels_last if x is."""
    kept = x.is_contiguous(memory_format=torch.channels_last)
    return y.contiguous(memory_format=torch.channels_last) if kept else y


class _Sample(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, grid: Tensor) -> Tensor:
        ctx.save_for_backward(grid)
        ctx.x_shape = x.shape
        y = torch.ops.aten.grid_sampler_2d(x.to(grid.dtype), grid, _BILINEAR, _ZEROS, _ALIGN_CORNERS)
        return _layout_of(x, y)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return _SampleAdjoint.apply(grads[0], ctx.saved_tensors[0], ctx.x_shape), None


class _SampleAdjoint(torch.autograd.Function):
    """dy [N, C, h, w] -> [N, C, H, W]: every point adds to the four pixels that it is read from."""

    @staticmethod
    def forward(ctx: Any, dy: Tensor, grid: Tensor, x_shape: torch.Size) -> Tensor:
        ctx.save_for_backward(grid)
        x = grid.new_zeros(1).expand(x_shape)  # its values matter to the points' gradient only
        options = (_BILINEAR, _ZEROS, _ALIGN_CORNERS, [True, False])
        return _layout_of(dy, torch.ops.aten.grid_sampler_2d_backward(dy.to(grid.dtype), x, grid, *options)[0])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return _Sample.apply(grads[0], ctx.saved_tensors[0]), None, None
