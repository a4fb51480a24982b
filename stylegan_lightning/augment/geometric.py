"""Pixel blitting and general geometric transformations as one resampling per image (ADA, appendix B)."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from stylegan_lightning.augment.layout import channels_last, reflect_pad
from stylegan_lightning.augment.part import Part
from stylegan_lightning.augment.random import RandomSource
from stylegan_lightning.augment.wavelets import SYM6
from stylegan_lightning.ops import grid_sample, setup_filter, upfirdn2d

Size = tuple[int, int]


class Geometric(Part):
    """Flip, quarter turns, integer shift; then scale, rotation, stretch, rotation, fractional shift.

    `multipliers` of p: xflip, rotate90, xint, scale, rotate, aniso, xfrac.
    """

    multipliers: Tensor
    wavelet: Tensor

    def __init__(
        self,
        multipliers: Sequence[float],
        xint_max: float,
        scale_std: float,
        rotate_max: float,
        aniso_std: float,
        xfrac_std: float,
    ) -> None:
        super().__init__()
        self.xint_max, self.xfrac_std = xint_max, xfrac_std
        self.scale_std, self.aniso_std, self.rotate_max = scale_std, aniso_std, rotate_max
        self.register_buffer("multipliers", torch.tensor(multipliers), persistent=False)
        self.register_buffer("wavelet", setup_filter(SYM6), persistent=False)

    def draw(self, p: Tensor, shape: Sequence[int], random: RandomSource) -> Tensor:
        """[N, 3, 3]: the map of `warp`, a product of inverses in the order in which the picture undergoes the steps.

        A step that does not fire has the parameter 0, which is exactly the identity.
        """
        n, _, h, w = shape
        fires = (random.uniform(n, 8) < self._probabilities(p)).unbind(1)
        flip, turns, x_int, y_int, before, after = random.uniform(n, 6).unbind(1)
        scale, stretch, x_frac, y_frac = random.normal(n, 4).unbind(1)
        angle = math.pi * self.rotate_max
        scale = _when(fires[3], -scale * self.scale_std).exp2()
        stretch = _when(fires[5], -stretch * self.aniso_std).exp2()
        x_int, y_int = ((2 * x - 1) * self.xint_max for x in (x_int, y_int))
        x_frac, y_frac = (x * self.xfrac_std for x in (x_frac, y_frac))
        return _chain(
            _scale(1 - 2 * _when(fires[0], (2 * flip).floor()), torch.ones_like(flip)),
            _quarter_turns(_when(fires[1], (4 * turns).floor())),
            _shift(-_when(fires[2], x_int * w).round(), -_when(fires[2], y_int * h).round()),
            _scale(scale, scale),
            _rotation(_when(fires[4], (2 * before - 1) * angle)),
            _scale(stretch, 1 / stretch),
            _rotation(_when(fires[6], (2 * after - 1) * angle)),
            _shift(-_when(fires[7], x_frac * w), -_when(fires[7], y_frac * h)),
        )

    def _probabilities(self, p: Tensor) -> Tensor:
        """[8]. One of the two rotations happens with the probability that is asked for: q = 1 - sqrt(1 - p)."""
        flip, turns, shift, scale, rotate, stretch, move = (p * self.multipliers).unbind()
        each = 1 - (1 - rotate).clamp(0, 1).sqrt()
        return torch.stack([flip, turns, shift, scale, each, stretch, each, move])

    def forward(self, imgs: Tensor, drawn: Tensor) -> Tensor:
        return warp(imgs, drawn, self.wavelet)


def warp(imgs: Tensor, matrix: Tensor, wavelet: Tensor) -> Tensor:
    """imgs [N, C, H, W] resampled: the pixel at r comes from matrix [N, 3, 3] (r, 1), r = (x, y) in pixels from the
    centre. Images whose matrix is the identity are returned as they are.

    Enlarged by 2 with `wavelet`, sampled bilinearly at twice the resolution, reduced by 2 with `wavelet` reversed.
    An image continues by reflection for its size less one pixel (the small ones that networks start to grow from: for
    8 pixels) and is 0 from there on. A reflected image has the period 2 (W - 1): one period is enlarged, and
    coordinates are taken modulo it.
    """
    h, w = imgs.shape[2:]
    imgs = channels_last(imgs)
    x = reflect_pad(imgs, *((size + 1) // 2 + 2 for size in (h, w)))  # what the filter and a whole period need
    x = upfirdn2d(x, wavelet, up=2, padding=[1, 0, 1, 0], gain=4)  # only pixels that need none beyond the padding
    x = grid_sample(x, _sampling_grid(matrix.to(imgs.dtype), (h, w), (x.shape[2], x.shape[3])))
    x = channels_last(upfirdn2d(x, wavelet, down=2, flip_filter=True))
    untouched = (matrix == torch.eye(3, dtype=matrix.dtype, device=matrix.device)).flatten(1).all(1)
    return torch.where(untouched[:, None, None, None], imgs, x)


def _sampling_grid(matrix: Tensor, size: Size, enlarged: Size) -> Tensor:
    """[N, 2H + 10, 2W + 10, 2]: where the pixels that the final filter needs lie in the enlarged period.

    SYM6 is nearly symmetric about a tap, not about its middle: enlarged pixels lie at r and r + 1/2, and the centre of
    the enlarged picture at 1/4.
    """
    h, w = size
    x, y = (torch.arange(2 * s + 10, device=matrix.device, dtype=matrix.dtype) / 2 - (s + 4) / 2 for s in (w, h))
    axes = []
    for row, (s, pixels) in zip(matrix[:, :2, :, None].unbind(1), ((w, enlarged[1]), (h, enlarged[0])), strict=True):
        period = 2 * (s - 1)
        row_x, row_y, row_1 = (row / period).unbind(1)  # [N, 1]
        turns = (row_x * x)[:, None, :] + (row_y * y + row_1 - 0.25 / period)[:, :, None]  # [N, 2H + 10, 2W + 10]
        inside = turns.abs() < (s / 2 + max(s - 1, 8)) / period
        axes.append(torch.where(inside, (turns - turns.round()) * (4 * period / pixels), 2.0))
    return torch.stack(axes, 3)


def _when(fires: Tensor, value: Tensor) -> Tensor:
    return torch.where(fires, value, 0.0)


def _chain(*matrices: Tensor) -> Tensor:
    """Product of [N, 3, 3] without a matrix multiplication, which might be of reduced precision."""
    return functools.reduce(lambda a, b: (a[:, :, :, None] * b[:, None]).sum(2), matrices)


def _affine(xx: Tensor, xy: Tensor, x: Tensor, yx: Tensor, yy: Tensor, y: Tensor) -> Tensor:
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    return torch.stack([xx, xy, x, yx, yy, y, zero, zero, one], 1).unflatten(1, (3, 3))


def _scale(x: Tensor, y: Tensor) -> Tensor:
    zero = torch.zeros_like(x)
    return _affine(x, zero, zero, zero, y, zero)


def _shift(x: Tensor, y: Tensor) -> Tensor:
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    return _affine(one, zero, x, zero, one, y)


def _rotation(angle: Tensor) -> Tensor:
    return _turn(angle.cos(), angle.sin())


def _quarter_turns(count: Tensor) -> Tensor:
    angle = count * (math.pi / 2)
    return _turn(angle.cos().round(), angle.sin().round())


def _turn(c: Tensor, s: Tensor) -> Tensor:
    zero = torch.zeros_like(c)
    return _affine(c, -s, zero, s, c, zero)
