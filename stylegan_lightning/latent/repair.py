"""Repair as projection: the picture of the model that, degraded, is nearest to what is left, and what is left kept.

    damaged = to_dynamic_range(pictures)                # uint8 [N, C, H, W]
    result = repair(G, damaged, Mask(hole, damaged))    # hole [N or 1, 1, H, W], 1 where to repair
    result = repair(G, small, Downscale(4))             # small [N, C, H / 4, W / 4]
    result = repair(G, noisy, AddedNoise(25))           # standard deviation 25 of 255
    result = repair(G, grey, Grey())                    # grey [N, 1, H, W]

Known pixels, means and lumas are kept to the last bit, to rounding, and to rounding. Of noise, nothing is known
exactly: what rises above it is added to the picture that was found.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from stylegan_lightning.imaging import to_dynamic_range, to_uint8
from stylegan_lightning.latent.codes import Progress, silent
from stylegan_lightning.latent.degradations import AddedNoise, Degradation, Downscale, Grey, Mask
from stylegan_lightning.latent.likeness import LayeredDistance
from stylegan_lightning.latent.projection import Projection, Settings, Watch, checked, project
from stylegan_lightning.networks import Generator

SETTINGS: dict[type, Settings] = {
    Mask: Settings(starts=1, pixel_weight=20, prior_weight=0.1),
    Downscale: Settings(starts=1, pixel_weight=20, prior_weight=0.03),
    AddedNoise: Settings(starts=1, perceptual_weight=0),  # features of noise are those of noise
    Grey: Settings(starts=1, space="w"),
}
"""What `benchmarks/repair.py` measured to be good on faces."""


@dataclass(frozen=True)
class Repair:
    images: Tensor
    """uint8 [N, C, H, W]: what was found, with all that is known put back."""
    projection: Projection
    """What was found: its picture before that, its codes."""


def settings_for(degradation: Degradation) -> Settings:
    return SETTINGS.get(type(degradation), Settings())


def repair(
    G: Generator,
    left: Tensor,
    degradation: Degradation,
    settings: Settings | None = None,
    *,
    names: Sequence[str] | None = None,
    distance: LayeredDistance | None = None,
    label: int | Sequence[float] | None = None,
    watch: Watch | None = None,
    every: int = 10,
    progress: Progress = silent,
) -> Repair:
    """Pictures of which `left`, uint8 or float in [-1, 1], is left; otherwise as `project`, which it calls."""
    found = project(
        G,
        left,
        settings or settings_for(degradation),
        names=names,
        degradation=degradation,
        distance=distance,
        label=label,
        watch=watch,
        every=every,
        progress=progress,
    )
    target = checked(G, left, degradation)
    images = degradation.keep(to_dynamic_range(found.images).to(target.device), target)
    return Repair(to_uint8(images).cpu(), found)
