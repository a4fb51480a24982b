"""Dense 2-D convolution whose derivatives of every order are again plain convolutions.

PyTorch's own second derivative of a convolution computes weight gradients by convolving transposed
activations with a dilated kernel, which has no fast path. R1 and path-length regularisation spend most of
their time there. Expressing both gradients as operations of their own keeps every order on the fast paths.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

Pair = tuple[int, int]


def autocast_device(x: Tensor) -> str:
    """Whose `torch.autocast` x follows: that of its device, or the CPU's where x has a shape and no memory."""
    return "cpu" if x.is_meta else x.device.type


def autocast(x: Tensor) -> Tensor:
    """x in the type of the surrounding `torch.autocast`, which does not reach into functions of our own."""
    kind = autocast_device(x)
    return x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x


def conv2d(x: Tensor, weight: Tensor, *, stride: int = 1, padding: int = 0) -> Tensor:
    """Cross-correlation of x [N, I, H, W] with weight [O, I, kh, kw]."""
    return _Conv.apply(autocast(x), autocast(weight), (stride, stride), (padding, padding), (0, 0), False)


def conv_transpose2d(x: Tensor, weight: Tensor, *, stride: int = 1, padding: int = 0) -> Tensor:
    """Adjoint of `conv2d` with respect to its input: x [N, I, H, W], weight [I, O, kh, kw]."""
    return _Conv.apply(autocast(x), autocast(weight), (stride, stride), (padding, padding), (0, 0), True)


def _convolution(x: Tensor, w: Tensor, stride: Pair, padding: Pair, output_padding: Pair, transposed: bool) -> Tensor:
    return torch.convolution(x, w, None, stride, padding, (1, 1), transposed, output_padding, 1)


def _missing(out: int, into: int, k: int, stride: int, padding: int) -> int:
    """Output padding that makes the adjoint of an `into` -> `out` convolution give back `into` pixels."""
    return into - ((out - 1) * stride - 2 * padding + k)


class _Conv(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, w: Tensor, stride: Pair, padding: Pair, output_padding: Pair, transposed: bool
    ) -> Tensor:
        ctx.save_for_backward(x, w)
        ctx.geometry = (stride, padding, output_padding, transposed)
        return _convolution(x, w, stride, padding, output_padding, transposed)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (dy,) = grads
        x, w = ctx.saved_tensors
        dx = dw = None
        if ctx.needs_input_grad[0]:
            dx = _input_gradient(dy, w, x.shape, *ctx.geometry)
        if ctx.needs_input_grad[1]:
            dw = _ConvWeightGrad.apply(dy, x, tuple(w.shape), *ctx.geometry)
        return dx, dw, None, None, None, None


def _input_gradient(
    dy: Tensor, w: Tensor, x_shape: torch.Size, stride: Pair, padding: Pair, _: Pair, transposed: bool
) -> Tensor:
    if transposed:
        return _Conv.apply(dy, w, stride, padding, (0, 0), False)
    out_h, out_w = (_missing(dy.shape[2 + i], x_shape[2 + i], w.shape[2 + i], stride[i], padding[i]) for i in (0, 1))
    return _Conv.apply(dy, w, stride, padding, (out_h, out_w), True)


class _ConvWeightGrad(torch.autograd.Function):
    """d(sum(dy * conv(x, w)))/dw: bilinear in dy and x, so its own derivatives are convolutions again."""

    @staticmethod
    def forward(
        ctx: Any,
        dy: Tensor,
        x: Tensor,
        w_shape: tuple[int, ...],
        stride: Pair,
        padding: Pair,
        output_padding: Pair,
        transposed: bool,
    ) -> Tensor:
        ctx.save_for_backward(dy, x)
        ctx.geometry = (stride, padding, output_padding, transposed)
        w = dy.new_empty(w_shape)  # only its shape and layout are read
        return torch.ops.aten.convolution_backward(
            dy, x, w, None, stride, padding, (1, 1), transposed, output_padding, 1, [False, True, False]
        )[1]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (ddw,) = grads
        dy, x = ctx.saved_tensors
        d_dy = dx = None
        if ctx.needs_input_grad[0]:
            d_dy = _Conv.apply(x, ddw, *ctx.geometry)
        if ctx.needs_input_grad[1]:
            dx = _input_gradient(dy, ddw, x.shape, *ctx.geometry)
        return d_dy, dx, None, None, None, None, None
