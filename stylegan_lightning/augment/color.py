"""Colour transformations as one affine map of RGB per image (ADA, appendix B)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from stylegan_lightning.augment.layout import channels_last
from stylegan_lightning.augment.part import Part
from stylegan_lightning.augment.random import RandomSource


class Color(Part):
    """Brightness, contrast, luma flip, hue, saturation: `multipliers` of p in this order."""

    multipliers: Tensor
    rgb: Tensor
    grey: Tensor
    cross: Tensor
    offset: Tensor

    def __init__(
        self,
        multipliers: Sequence[float],
        brightness_std: float,
        contrast_std: float,
        hue_max: float,
        saturation_std: float,
    ) -> None:
        super().__init__()
        self.brightness_std, self.contrast_std = brightness_std, contrast_std
        self.hue_max, self.saturation_std = hue_max, saturation_std
        # With the grey axis v = (1, 1, 1) / sqrt(3): the identity, v v^T, v x, and the shift along (1, 1, 1).
        parts = torch.zeros(4, 4, 4)
        parts[0, :3, :3] = torch.eye(3)
        parts[1, :3, :3] = 1 / 3
        parts[2, :3, :3] = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
        parts[3, :3, 3] = 1
        for name, value in zip(("rgb", "grey", "cross", "offset"), parts, strict=True):
            self.register_buffer(name, value, persistent=False)
        self.register_buffer("multipliers", torch.tensor(multipliers), persistent=False)

    def draw(self, p: Tensor, shape: Sequence[int], random: RandomSource) -> Tensor:
        """[N, 4, 4], homogeneous. Every step adds a multiple of a fixed matrix to the identity, and 0 of it where
        it does not fire."""
        n = shape[0]
        fires = (random.uniform(n, 5) < p * self.multipliers)[:, :, None, None].unbind(1)
        flip, hue = random.uniform(n, 2)[:, :, None, None].unbind(1)
        brightness, contrast, saturation = random.normal(n, 3)[:, :, None, None].unbind(1)
        angle = (2 * hue - 1) * (math.pi * self.hue_max)
        steps = (
            brightness * self.brightness_std * self.offset,
            ((contrast * self.contrast_std).exp2() - 1) * self.rgb,
            -2 * (2 * flip).floor() * self.grey,
            (angle.cos() - 1) * (self.rgb - self.grey) + angle.sin() * self.cross,  # Rodrigues' rotation about v
            ((saturation * self.saturation_std).exp2() - 1) * (self.rgb - self.grey),
        )
        matrix = torch.eye(4, device=p.device).expand(n, 4, 4)
        for fire, step in zip(fires, steps, strict=True):
            change = (step[:, :, :, None] * matrix[:, None]).sum(2)
            matrix = matrix + torch.where(fire, change, 0.0)
        return matrix

    def forward(self, imgs: Tensor, drawn: Tensor) -> Tensor:
        return recolor(imgs, drawn)


def recolor(imgs: Tensor, matrix: Tensor) -> Tensor:
    """imgs [N, C, H, W] with matrix [N, 4, 4] applied to (R, G, B, 1). Of 4 channels the last one, alpha, is kept;
    a single channel stands for grey: it takes the mean of the matrix's rows, so that hue and saturation do nothing.
    """
    imgs = channels_last(imgs)
    m = matrix.to(imgs.dtype)[:, :3, :, None, None]
    if imgs.shape[1] == 1:
        m = m.mean(1, keepdim=True)
        return imgs * m[:, :, :3].sum(2) + m[:, :, 3]
    out = m[:, :, 3] + m[:, :, 0] * imgs[:, 0:1] + m[:, :, 1] * imgs[:, 1:2] + m[:, :, 2] * imgs[:, 2:3]
    return channels_last(out if imgs.shape[1] == 3 else torch.cat([out, imgs[:, 3:]], 1))
