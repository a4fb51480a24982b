"""Pad, upsample, filter and downsample images in one step (upfirdn2d), and its usual shorthands.

`upfirdn2d_ref` is the specification; `upfirdn2d` computes the same without ever multiplying inserted zeros.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from stylegan_lightning.ops.conv import autocast

Pair = tuple[int, int]
Quad = tuple[int, int, int, int]
SEPARABLE_TAPS = 8
"""1-D filters of at least this many taps are applied as two passes, x then y: K multiplications a pixel each
instead of K * K. Fewer taps cost less than the second pass through memory."""


def setup_filter(taps: Sequence[float] | Sequence[Sequence[float]] | Tensor, normalize: bool = True) -> Tensor:
    """float32 filter, 1-D [K] (separable) or 2-D [kh, kw]; with `normalize` its taps sum to 1."""
    f = torch.as_tensor(taps, dtype=torch.float32)
    return f / f.sum() if normalize else f


def _pair(value: int | Sequence[int]) -> Pair:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _quad(padding: int | Sequence[int]) -> Quad:
    if isinstance(padding, int):
        return (padding,) * 4
    if len(padding) == 2:
        return (padding[0], padding[0], padding[1], padding[1])
    return (padding[0], padding[1], padding[2], padding[3])


def _kernel(f: Tensor, gain: float, flip_filter: bool) -> Tensor:
    """[kh, kw] correlation kernel: a 1-D filter is separable, `gain` scales the signal."""
    if f.ndim == 1:
        f = torch.outer(f, f)
    f = f * gain
    return f if flip_filter else f.flip((0, 1))


def upfirdn2d_ref(
    x: Tensor,
    f: Tensor,
    *,
    up: int | Sequence[int] = 1,
    down: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    gain: float = 1.0,
    flip_filter: bool = False,
) -> Tensor:
    """The specification of upfirdn2d, step by step.

    Insert up-1 zeros after each pixel; pad (or crop, where negative) by `padding` = [x0, x1, y0, y1]
    upsampled pixels; convolve with `f` (correlate with `flip_filter`); keep every `down`-th pixel.
    `up` and `down` are an int or [x, y].
    """
    (ux, uy), (dx, dy), (x0, x1, y0, y1) = _pair(up), _pair(down), _quad(padding)
    n, c, h, w = x.shape
    x = F.pad(x.reshape(n, c, h, 1, w, 1), [0, ux - 1, 0, 0, 0, uy - 1]).reshape(n, c, h * uy, w * ux)
    x = F.pad(x, [x0, x1, y0, y1])
    k = _kernel(f.to(x.dtype), gain, flip_filter)
    return F.conv2d(x, k.expand(c, 1, *k.shape), groups=c)[:, :, ::dy, ::dx]


def upfirdn2d(
    x: Tensor,
    f: Tensor,
    *,
    up: int | Sequence[int] = 1,
    down: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    gain: float = 1.0,
    flip_filter: bool = False,
) -> Tensor:
    """Same result as `upfirdn2d_ref`, by depthwise (transposed) convolutions, differentiable to any order.

    On the CPU long filters are about twice as fast on channels_last activations.
    """
    (ux, uy), (dx, dy), (x0, x1, y0, y1) = _pair(up), _pair(down), _quad(padding)
    x = autocast(x)
    if f.ndim == 1 and len(f) >= SEPARABLE_TAPS:
        row = (f if flip_filter else f.flip(0)).to(x.dtype)[None]
        x = _Upfirdn.apply(x, row * gain, (ux, 1), (dx, 1), (x0, x1, 0, 0))
        return _Upfirdn.apply(x, row.t(), (1, uy), (1, dy), (0, 0, y0, y1))
    return _Upfirdn.apply(x, _kernel(f.to(x.dtype), gain, flip_filter), (ux, uy), (dx, dy), (x0, x1, y0, y1))


def _correlate(x: Tensor, k: Tensor, up: Pair, down: Pair, pads: Quad) -> Tensor:
    (ux, uy), (dx, dy), (x0, x1, y0, y1) = up, down, pads
    (kh, kw), c = k.shape, x.shape[1]
    if up == (1, 1):
        weight = k.expand(c, 1, kh, kw)
        if x0 == x1 >= 0 and y0 == y1 >= 0:
            return F.conv2d(x, weight, padding=(y0, x0), stride=(dy, dx), groups=c)
        return F.conv2d(F.pad(x, pads), weight, stride=(dy, dx), groups=c)
    # The transposed convolution is the result for padding k-1 before and k-up after each axis (the last inserted
    # zeros are missing); what is less than that it can leave out by itself, as long as both ends are about equal.
    weight = k.flip((0, 1)).expand(c, 1, kh, kw)
    less = [kw - 1 - x0, kw - ux - x1, kh - 1 - y0, kh - uy - y1]
    cut, extra = (less[2], less[0]), (less[2] - less[3], less[0] - less[1])
    if min(cut) >= 0 and 0 <= extra[0] < uy and 0 <= extra[1] < ux:
        full = F.conv_transpose2d(x, weight, stride=(uy, ux), padding=cut, output_padding=extra, groups=c)
    else:
        full = F.pad(F.conv_transpose2d(x, weight, stride=(uy, ux), groups=c), [-n for n in less])
    return full[:, :, ::dy, ::dx] if down != (1, 1) else full


class _Upfirdn(torch.autograd.Function):
    """The adjoint of upfirdn is upfirdn with the factors exchanged and the kernel reversed.

    Saying so keeps derivatives of every order on this path; PyTorch's own second derivative of a depthwise
    convolution loops over the channels.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, k: Tensor, up: Pair, down: Pair, pads: Quad) -> Tensor:
        ctx.save_for_backward(k)
        ctx.geometry = (up, down, pads, x.shape)
        return _correlate(x, k, up, down, pads)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (dy,), (k,) = grads, ctx.saved_tensors
        (ux, uy), (dx, dy_), (x0, _, y0, _), x_shape = ctx.geometry
        kh, kw = k.shape
        pads = (
            kw - 1 - x0,
            x_shape[3] * ux - dy.shape[3] * dx + x0 - ux + 1,
            kh - 1 - y0,
            x_shape[2] * uy - dy.shape[2] * dy_ + y0 - uy + 1,
        )
        return _Upfirdn.apply(dy, k.flip((0, 1)), (dx, dy_), (ux, uy), pads), None, None, None, None


def upsample2d(x: Tensor, f: Tensor, factor: int = 2) -> Tensor:
    """Enlarge by `factor`, keeping the centre of the picture in place and its brightness."""
    k = f.shape[-1]
    before, after = (k + factor - 1) // 2, (k - factor) // 2
    return upfirdn2d(x, f, up=factor, padding=[before, after, before, after], gain=factor * factor)


def downsample2d(x: Tensor, f: Tensor, factor: int = 2) -> Tensor:
    """Reduce by `factor`; the adjoint of `upsample2d` up to gain for a symmetric filter."""
    k = f.shape[-1]
    before, after = (k - factor + 1) // 2, (k - factor) // 2
    return upfirdn2d(x, f, down=factor, padding=[before, after, before, after])
