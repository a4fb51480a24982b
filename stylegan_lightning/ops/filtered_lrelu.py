"""Leaky ReLU between an upsampling and a downsampling filter (StyleGAN3, section 3.2)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from stylegan_lightning.ops.fir import upfirdn2d


def filtered_lrelu(
    x: Tensor,
    up_filter: Tensor | None = None,
    down_filter: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    up: int = 1,
    down: int = 1,
    padding: int | Sequence[int] = 0,
    gain: float = math.sqrt(2),
    slope: float = 0.2,
    clamp: float | None = None,
) -> Tensor:
    """gain * lrelu(x + bias) for x [N, C, H, W], bias [C], as a nonlinearity of the continuous signal: computed at
    a higher sampling rate, after which the new frequencies beyond the output's limit are removed.

    Adds `bias`; upsamples by `up` with `up_filter`, `padding` as in `upfirdn2d`, signal gain up^2; applies leaky
    ReLU with 0 <= `slope`; clamps to +-`clamp`; downsamples by `down` with `down_filter`. No filter is a single 1.
    """
    if bias is not None:
        x = x + bias.to(x.dtype).view(1, -1, 1, 1)
    # lrelu(g x) = g lrelu(x), so the filter takes the gain; its result is used nowhere else and is overwritten.
    x = upfirdn2d(x, x.new_ones(1) if up_filter is None else up_filter, up=up, padding=padding, gain=up * up * gain)
    x = F.leaky_relu_(x, slope)
    if clamp is not None:
        x = x.clamp(-clamp, clamp)
    if down_filter is None and down == 1:
        return x
    return upfirdn2d(x, x.new_ones(1) if down_filter is None else down_filter, down=down)
