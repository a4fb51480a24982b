"""Image-space corruptions: band amplification, noise, cutout (ADA, appendix B)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from stylegan_lightning.augment.layout import reflect_pad
from stylegan_lightning.augment.part import Part
from stylegan_lightning.augment.random import RandomSource
from stylegan_lightning.augment.wavelets import octave_filters


class BandFilter(Part):
    """Amplifies four octaves at random; `multipliers` of p: one for each, lowest frequencies first."""

    multipliers: Tensor
    power: Tensor
    filters: Tensor

    def __init__(self, multipliers: Sequence[float], std: float) -> None:
        super().__init__()
        self.std = std
        self.register_buffer("multipliers", torch.tensor(multipliers), persistent=False)
        self.register_buffer("power", torch.tensor([10.0, 1, 1, 1]) / 13, persistent=False)
        self.register_buffer("filters", torch.from_numpy(octave_filters()).float(), persistent=False)

    def draw(self, p: Tensor, shape: Sequence[int], random: RandomSource) -> Tensor:
        """Gains [N, 4]. Each of four steps amplifies one band by t and divides all by sqrt(1 + e (t^2 - 1)), e the
        part of the power that natural images (1/f spectrum) have in the band."""
        n = shape[0]
        fires = random.uniform(n, 4) < p * self.multipliers
        t = torch.where(fires, random.normal(n, 4) * self.std, 0.0).exp2()
        power = 1 + self.power * (t.square() - 1)
        return t / power.prod(1, keepdim=True).sqrt()

    def forward(self, imgs: Tensor, drawn: Tensor) -> Tensor:
        return filter_bands(imgs, drawn, self.filters)


def filter_bands(imgs: Tensor, gains: Tensor, filters: Tensor) -> Tensor:
    """imgs [N, C, H, W] filtered along both axes by the sum of gains [N, B] x filters [B, L], L odd, symmetric;
    reflected at the borders. Images whose gains are all 1 are returned as they are.

    Filtering an axis is a product with a [W, W] matrix, which holds the reflection too and is cheap to differentiate.
    """
    bands, gains = filters.to(imgs.dtype), gains.to(imgs.dtype)
    rows, columns = (torch.einsum("nb,bij->nij", gains, _filter_matrices(bands, s))[:, None] for s in imgs.shape[2:])
    filtered = rows @ imgs @ columns.mT
    untouched = (gains == 1).all(1)
    return torch.where(untouched[:, None, None, None], imgs, filtered)


def _filter_matrices(filters: Tensor, size: int) -> Tensor:
    """[B, size, size]: each filter's response (row) to every pixel (column) of a reflected signal."""
    taps = filters.shape[1]
    pixels = torch.eye(size, dtype=filters.dtype, device=filters.device)[:, None, None]
    padded = reflect_pad(pixels, 0, taps // 2)[:, :, 0]  # [size, 1, size + taps - 1]
    return F.conv1d(padded, filters[:, None]).permute(1, 2, 0)


class Noise(Part):
    """White noise whose standard deviation is |N(0, std^2)|, fresh for every image."""

    def __init__(self, multiplier: float, std: float) -> None:
        super().__init__()
        self.multiplier, self.std = multiplier, std

    def draw(self, p: Tensor, shape: Sequence[int], random: RandomSource) -> Tensor:
        """[N, C, H, W], to be added."""
        n = shape[0]
        fires = random.uniform(n, 1, 1, 1) < p * self.multiplier
        sigma = torch.where(fires, random.normal(n, 1, 1, 1).abs() * self.std, 0.0)
        return random.normal(*shape) * sigma

    def forward(self, imgs: Tensor, drawn: Tensor) -> Tensor:
        return imgs + drawn.to(imgs.dtype)


class Cutout(Part):
    """A rectangle of `size` times the image's sides becomes 0; its centre is uniform over the image."""

    def __init__(self, multiplier: float, size: float) -> None:
        super().__init__()
        self.multiplier, self.size = multiplier, size

    def draw(self, p: Tensor, shape: Sequence[int], random: RandomSource) -> Tensor:
        """[N, 3]: x and y of the centre and the size, in parts of the sides."""
        n = shape[0]
        fires = random.uniform(n, 1) < p * self.multiplier
        size = torch.where(fires, self.size, 0.0)
        return torch.cat([random.uniform(n, 2), size], 1)

    def forward(self, imgs: Tensor, drawn: Tensor) -> Tensor:
        return cut_out(imgs, drawn)


def cut_out(imgs: Tensor, box: Tensor) -> Tensor:
    """imgs [N, C, H, W], 0 where both coordinates are less than size / 2 from the centre: box [N, 3] = (x, y, size)."""
    h, w = imgs.shape[2:]
    x, y = ((torch.arange(s, device=imgs.device, dtype=torch.float32) + 0.5) / s for s in (w, h))
    half = box[:, 2, None] / 2
    keep_x, keep_y = ((axis - box[:, i, None]).abs() >= half for i, axis in enumerate((x, y)))
    return imgs * (keep_x[:, None, None, :] | keep_y[:, None, :, None])
