"""How well pictures fit targets: the objective of a projection, and what it reports."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from stylegan_lightning.latent.degradations import Degradation
from stylegan_lightning.metrics.perceptual import rgb, unit_length

SMALLEST_MAP = 8
"""Noise maps are compared with their shifts down to this size (StyleGAN2, appendix D)."""


class LayeredDistance(Protocol):
    """A perceptual distance of `metrics.perceptual` whose target's features can be kept."""

    name: str

    def layers(self, x: Tensor) -> list[Tensor]: ...
    def weigh(self, layer: int, squares: Tensor) -> Tensor: ...


class Likeness:
    """Of img [M, C, H, W] to what came in, `target`, through a degradation; the target's features are computed once.

    Row i of img belongs to row i of the target.
    """

    def __init__(self, target: Tensor, degradation: Degradation, distance: LayeredDistance | None) -> None:
        self.target, self.degradation, self.distance = target, degradation, distance
        self.known = degradation.known(target)
        self.share = self.known.flatten(1).mean(1)
        """How much of each target is known."""
        self.features = [] if distance is None else self._features(target)

    @torch.no_grad()
    def _features(self, left: Tensor) -> list[Tensor]:
        assert self.distance is not None
        return [unit_length(f) for f in self.distance.layers(rgb(self.degradation.view(left)).float())]

    def pixels(self, img: Tensor) -> Tensor:
        """[N]: mean square difference over what is known, in units of [-1, 1]."""
        difference = (self.degradation.apply(img) - self.target) * self.known
        return difference.square().flatten(1).mean(1) / self.share

    def perceptual(self, img: Tensor) -> Tensor:
        """[N]: the perceptual distance of what is left, 0 without a distance."""
        total = torch.zeros(len(self.target), device=img.device)
        if self.distance is None:
            return total
        found = self.distance.layers(rgb(self.degradation.view(self.degradation.apply(img))).float())
        for number, (features, wanted) in enumerate(zip(found, self.features, strict=True)):
            squares = (unit_length(features) - wanted).square()
            total = total + self.distance.weigh(number, squares).mean((1, 2))
        return total

    def psnr(self, img: Tensor) -> Tensor:
        """[N]: decibels over what is known; infinite where all of it is equal."""
        return 10 * torch.log10(4 / self.pixels(img))


def noise_autocorrelation(maps: Tensor) -> Tensor:
    """[N]: how much noise maps [N, 1, H, W] of unit variance are like themselves one pixel further.

    Squared means of x times x shifted by one pixel in either direction, over the sizes H, H/2, ... 8, where every
    smaller map is made of means of 2 x 2 pixels, times 2, so that white noise keeps its variance (StyleGAN2, appendix
    D). Near 0 for white noise; a map smaller than 8 counts at its own size.
    """
    total = torch.zeros(len(maps), device=maps.device)
    while True:
        for axis in (2, 3):
            total = total + (maps * maps.roll(1, axis)).mean((1, 2, 3)).square()
        if min(maps.shape[2:]) <= SMALLEST_MAP:
            return total
        maps = F.avg_pool2d(maps, 2) * 2


def normalised(maps: Tensor) -> Tensor:
    """Each map of [N, 1, H, W] with mean 0 and variance 1."""
    centred = maps - maps.mean((1, 2, 3), keepdim=True)
    return centred / centred.square().mean((1, 2, 3), keepdim=True).sqrt().clamp(min=1e-8)
