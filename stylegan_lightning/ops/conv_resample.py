"""Convolution combined with FIR resampling by 2, in the order that touches the fewest pixels (StyleGAN2, B)."""

from __future__ import annotations

from torch import Tensor

from stylegan_lightning.ops.conv import conv2d, conv_transpose2d
from stylegan_lightning.ops.fir import downsample2d, upfirdn2d, upsample2d


def conv2d_resample(
    x: Tensor, weight: Tensor, f: Tensor | None = None, *, up: int = 1, down: int = 1, gain: float = 1.0
) -> Tensor:
    """Same-size convolution of x [N, I, H, W] with weight [O, I, k, k], k odd, at `up` or 1/`down` times the size.

    With up = 2 a 3x3 kernel acts as a transposed convolution, that is, in the opposite orientation
    (flip_weight=False in the literature). `gain` scales the filtered signal for free when up = 2.
    Raises ValueError for other factors.
    """
    k = weight.shape[-1]
    if up == 1 and down == 1:
        return _scaled(conv2d(x, weight, padding=k // 2), gain)
    if (up, down) not in ((2, 1), (1, 2)) or f is None:
        raise ValueError(f"one of up and down must be 2 and a filter be given, got up={up}, down={down}, f={f}")
    taps = f.shape[-1]
    if up == 2:
        if k == 1:
            return _scaled(upsample2d(conv2d(x, weight), f), gain)
        x = conv_transpose2d(x, weight.transpose(0, 1), stride=2)
        before = (taps + 1) // 2 + k // 2 - (k - 1)
        after = (taps - 2) // 2 + k // 2 - (k - 2)
        return upfirdn2d(x, f, padding=[before, after, before, after], gain=4 * gain)
    if k == 1:
        return _scaled(conv2d(downsample2d(x, f), weight), gain)
    before, after = (taps - 1) // 2 + k // 2, (taps - 2) // 2 + k // 2
    return conv2d(upfirdn2d(x, f, padding=[before, after, before, after], gain=gain), weight, stride=2)


def _scaled(x: Tensor, gain: float) -> Tensor:
    return x if gain == 1.0 else x * gain
