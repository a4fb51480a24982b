"""Stochastic discriminator augmentation (ADA: Karras et al. 2020, appendix B)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from stylegan_lightning.augment.checks import check_images, check_name
from stylegan_lightning.augment.color import Color
from stylegan_lightning.augment.corrupt import BandFilter, Cutout, Noise
from stylegan_lightning.augment.geometric import Geometric
from stylegan_lightning.augment.part import Part
from stylegan_lightning.augment.random import LocalRandom, RandomSource
from stylegan_lightning.ops import autocast_device

BLIT = ("xflip", "rotate90", "xint")
GEOM = ("scale", "rotate", "aniso", "xfrac")
COLOR = ("brightness", "contrast", "lumaflip", "hue", "saturation")
PRESETS: Mapping[str, tuple[str, ...]] = {
    "blit": BLIT,
    "geom": GEOM,
    "color": COLOR,
    "filter": ("imgfilter",),
    "noise": ("noise",),
    "cutout": ("cutout",),
    "bg": BLIT + GEOM,
    "bgc": BLIT + GEOM + COLOR,
    "bgcf": (*BLIT, *GEOM, *COLOR, "imgfilter"),
    "bgcfn": (*BLIT, *GEOM, *COLOR, "imgfilter", "noise"),
    "bgcfnc": (*BLIT, *GEOM, *COLOR, "imgfilter", "noise", "cutout"),
}
"""Name -> transformations whose multiplier is 1."""


@dataclass(frozen=True)
class AugmentParams:
    """What happens to each of N images. None: nothing to any of them."""

    geometric: Tensor | None = None
    """[N, 3, 3], homogeneous: centred pixel coordinates (x, y) of the result -> of the image."""
    color: Tensor | None = None
    """[N, 4, 4], homogeneous: RGB -> RGB."""
    gains: Tensor | None = None
    """[N, 4]: amplification of the four octaves, lowest first."""
    noise: Tensor | None = None
    """[N, C, H, W], to be added."""
    cutout: Tensor | None = None
    """[N, 3]: x and y of the centre and the size of the rectangle, in parts of the image's sides."""


class AugmentPipe(nn.Module):
    """Each transformation happens to an image with probability p times its multiplier, independently of the others.

    A multiplier that is None is 1 if `preset` names the transformation, else 0. The strengths are the published ones:
    largest shifts in parts of the image's sides, largest turns in parts of 180 degrees, standard deviations of
    shifts, of brightness and noise in images of range [-1, 1], and of the log2 of factors; a multiplier for each of
    the four octaves of `imgfilter`.

    Images have 1 channel, 3, or 4 of which the last is alpha: it moves along, but colours leave it alone. `p` is a
    buffer, to be changed in place; it is saved with the weights. Nothing waits for the device, all shapes follow from
    the images' shape, and the result is affine in the images, with derivatives of every order.
    """

    p: Tensor

    def __init__(
        self,
        preset: str | None = None,
        p: float = 0.0,
        xflip: float | None = None,
        rotate90: float | None = None,
        xint: float | None = None,
        scale: float | None = None,
        rotate: float | None = None,
        aniso: float | None = None,
        xfrac: float | None = None,
        brightness: float | None = None,
        contrast: float | None = None,
        lumaflip: float | None = None,
        hue: float | None = None,
        saturation: float | None = None,
        imgfilter: float | None = None,
        noise: float | None = None,
        cutout: float | None = None,
        xint_max: float = 0.125,
        scale_std: float = 0.2,
        rotate_max: float = 1.0,
        aniso_std: float = 0.2,
        xfrac_std: float = 0.125,
        brightness_std: float = 0.2,
        contrast_std: float = 0.5,
        hue_max: float = 1.0,
        saturation_std: float = 1.0,
        imgfilter_bands: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
        imgfilter_std: float = 1.0,
        noise_std: float = 0.1,
        cutout_size: float = 0.5,
    ) -> None:
        super().__init__()
        if p < 0:
            raise ValueError(f"the probability p must not be negative, got {p}")
        if len(imgfilter_bands) != 4 or min(imgfilter_bands) < 0:
            raise ValueError(f"imgfilter_bands are multipliers from 0 up of four octaves, got {list(imgfilter_bands)}")
        self.register_buffer("p", torch.tensor(float(p)))
        named = PRESETS[check_name("preset", preset, PRESETS)] if preset is not None else ()
        move = _multipliers(named, BLIT + GEOM, xflip, rotate90, xint, scale, rotate, aniso, xfrac)
        tint = _multipliers(named, COLOR, brightness, contrast, lumaflip, hue, saturation)
        bands = [b * m for b in imgfilter_bands for m in _multipliers(named, ("imgfilter",), imgfilter)]
        add, cut = _multipliers(named, ("noise", "cutout"), noise, cutout)
        self.parts = nn.ModuleDict()  # named as in AugmentParams, in the order in which they are applied
        if any(move):
            self.parts["geometric"] = Geometric(move, xint_max, scale_std, rotate_max, aniso_std, xfrac_std)
        if any(tint):
            self.parts["color"] = Color(tint, brightness_std, contrast_std, hue_max, saturation_std)
        if any(bands):
            self.parts["gains"] = BandFilter(bands, imgfilter_std)
        if add:
            self.parts["noise"] = Noise(add, noise_std)
        if cut:
            self.parts["cutout"] = Cutout(cut, cutout_size)

    def _parts(self) -> list[tuple[str, Part]]:
        return [(name, cast(Part, part)) for name, part in self.parts.items()]

    @torch.no_grad()
    def draw(self, shape: Sequence[int], random: RandomSource) -> AugmentParams:
        """What to do to a batch of images of `shape` = (N, C, H, W)."""
        return AugmentParams(**{name: part.draw(self.p, shape, random) for name, part in self._parts()})

    def transform(self, imgs: Tensor, params: AugmentParams) -> Tensor:
        """imgs [N, C, H, W] after what `params` say of this pipe's parts; computed in float32 at least."""
        check_images(imgs)
        x = imgs.to(torch.promote_types(imgs.dtype, torch.float32))
        with torch.autocast(autocast_device(imgs), enabled=False):
            for name, part in self._parts():
                if (drawn := getattr(params, name)) is not None:
                    x = part(x, drawn)
        return x.to(imgs.dtype)

    def forward(self, imgs: Tensor, random: RandomSource | None = None) -> Tensor:
        check_images(imgs)
        return self.transform(imgs, self.draw(imgs.shape, random or LocalRandom(imgs.device)))


def _multipliers(named: Sequence[str], names: Sequence[str], *given: float | None) -> list[float]:
    """The given ones, or 1 for what is `named` and 0 for the rest."""
    values = [float(name in named) if value is None else float(value) for name, value in zip(names, given, strict=True)]
    if wrong := {name: value for name, value in zip(names, values, strict=True) if value < 0}:
        raise ValueError(f"multipliers of p must not be negative, got {wrong}")
    return values
