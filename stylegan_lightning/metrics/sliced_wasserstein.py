"""Sliced Wasserstein distance of patches at every scale (Karras et al. 2018, section 5; Rabin et al. 2011).

    SWD(A, B) = E_theta[ W1(theta . A, theta . B) ],    W1 of equal numbers in 1-D = mean |sorted a - sorted b|

theta is uniform on the unit sphere. A and B are patches of 7 x 7 pixels, 128 an image, from each level of a Laplacian
pyramid down to 16 pixels: what a level adds to the next smaller one, and the smallest picture itself. Each channel of
each set has mean 0 and deviation 1 over all its patches of a level, so colour casts and contrast do not count. Values
are times 1000; published: 16,384 images, 4 repeats of 128 directions, and the average over the levels.

Patch positions of image i depend on the seed and i alone and are the same in both sets, so equal sets have distance 0.
A set takes 4 * 128 * 49 * 3 bytes (75 KB) an image and level: 8.6 GB for 16,384 images at 1024 px.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from stylegan_lightning.errors import UserError
from stylegan_lightning.metrics.features import to_rgb
from stylegan_lightning.metrics.sampling import join_ranks

PATCH = 7
MIN_SIZE = 16
"""The smallest level."""
BLOCK = 16
"""Directions projected at once: memory is 4 * BLOCK bytes a patch."""


@dataclass(frozen=True)
class SlicedWasserstein:
    """Times 1000: the distance of each level by its size in pixels (largest first), and their mean."""

    levels: dict[int, float]
    average: float


# ------------------------------------------------------------------------------------------------- pyramid


def level_sizes(height: int, width: int) -> list[tuple[int, int]]:
    """Sizes of the levels, halved as long as both are even and the half has at least MIN_SIZE pixels."""
    if min(height, width) < MIN_SIZE:
        raise UserError(
            f"The sliced Wasserstein distance needs images of at least {MIN_SIZE} x {MIN_SIZE} pixels; these have "
            f"{height} x {width}. Choose another metric."
        )
    sizes = [(height, width)]
    while min(sizes[-1]) >= 2 * MIN_SIZE and not (sizes[-1][0] % 2 or sizes[-1][1] % 2):
        sizes.append((sizes[-1][0] // 2, sizes[-1][1] // 2))
    return sizes


def smooth(img: Tensor) -> Tensor:
    """img [N, C, H, W] under the binomial filter [1, 4, 6, 4, 1] / 16 along both axes, mirrored at the borders."""
    taps, channels = img.new_tensor([1, 4, 6, 4, 1]) / 16, img.shape[1]
    kernel = torch.outer(taps, taps).expand(channels, 1, 5, 5)
    return F.conv2d(F.pad(img, [2, 2, 2, 2], mode="reflect"), kernel, groups=channels)


def shrink(img: Tensor) -> Tensor:
    """Smoothed, then every other pixel (Burt and Adelson 1983)."""
    return smooth(img)[:, :, ::2, ::2]


def enlarge(img: Tensor) -> Tensor:
    """Zeros between the pixels, then smoothed with four times the weight, so that brightness stays."""
    wide = img.new_zeros(*img.shape[:2], 2 * img.shape[2], 2 * img.shape[3])
    wide[:, :, ::2, ::2] = img
    return smooth(wide) * 4


def laplacian_pyramid(img: Tensor, num_levels: int) -> list[Tensor]:
    """Levels of img [N, C, H, W], largest first; each plus the enlarged sum of all smaller ones gives the picture."""
    levels = []
    for _ in range(num_levels - 1):
        small = shrink(img)
        levels.append(img - enlarge(small))
        img = small
    return [*levels, img]


# ------------------------------------------------------------------------------------------------- patches


class PatchSet:
    """Patches of `num_images` images [height, width] at every level; rows are filled in any order, on any rank."""

    def __init__(
        self,
        num_images: int,
        height: int,
        width: int,
        *,
        patches: int = 128,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        for name, value in (("num_images", num_images), ("patches", patches)):
            if value < 1:
                raise UserError(f"Sliced Wasserstein distance: {name} must be at least 1; got {value}.")
        self.sizes, self.patches, self.seed = level_sizes(height, width), patches, seed
        self.num_images, self._joined = num_images, False
        self._filled = torch.zeros(num_images, device=device)
        self._levels = [torch.zeros(num_images, patches, 3, PATCH * PATCH, device=device) for _ in self.sizes]

    @torch.no_grad()
    def add(self, images: Tensor, rows: Tensor) -> None:
        """uint8 images [N, 1|3|4, H, W] as numbers `rows` [N] of the set."""
        if self._joined:
            raise ValueError("this set has been measured and takes no more images")
        rgb = to_rgb(images).to(self._filled.device).float()
        if tuple(rgb.shape[2:]) != self.sizes[0]:
            raise ValueError(f"this set has images of {self.sizes[0]} pixels, got {list(images.shape)}")
        places = torch.from_numpy(np.stack([self._places(int(row)) for row in rows])).to(rgb.device)
        rows = rows.to(rgb.device)
        for number, level in enumerate(laplacian_pyramid(rgb, len(self.sizes))):
            self._levels[number][rows] = cut_patches(level, places[:, number])
        self._filled[rows] += 1

    def _places(self, row: int) -> np.ndarray:
        """[levels, patches, 2] in [0, 1): where image `row` is cut."""
        return np.random.default_rng([self.seed, 4, row]).random((len(self.sizes), self.patches, 2))

    def join(self) -> None:
        """Adds the images of the other ranks; collective. From now on the set takes no more."""
        if not self._joined:
            self._joined = True
            for values in (self._filled, *self._levels):
                join_ranks(values)

    def level(self, number: int) -> Tensor:
        """[num_images * patches, 147] of a level, channels of mean 0 and deviation 1 (0 where all are equal).

        Raises ValueError unless every image has been added once.
        """
        if not bool((self._filled == 1).all()):
            raise ValueError("every image of a PatchSet must be added once")
        channels = []
        for values in self._levels[number].flatten(0, 1).unbind(1):
            deviation, mean = torch.std_mean(values.double(), correction=0)
            channels.append((values - mean.float()) / deviation.float().clamp(min=1e-8))
        return torch.cat(channels, 1)


def cut_patches(img: Tensor, places: Tensor) -> Tensor:
    """img [N, C, H, W] at places [N, P, 2] (y and x in [0, 1) of what is possible) -> [N, P, C, PATCH * PATCH]."""
    n, channels, height, width = img.shape
    room = places.new_tensor([height - PATCH + 1, width - PATCH + 1])
    corner = (places * room).long().minimum(room.long() - 1)
    offset = torch.arange(PATCH, device=img.device)
    y = corner[..., 0, None, None] + offset[:, None]
    x = corner[..., 1, None, None] + offset
    index = (y * width + x).flatten(1)[:, None].expand(-1, channels, -1)
    return img.flatten(2).gather(2, index).view(n, channels, -1, PATCH * PATCH).transpose(1, 2)


# ------------------------------------------------------------------------------------------------ distance


def sliced_distance(a: Tensor, b: Tensor, directions: Tensor) -> float:
    """Mean over unit `directions` [K, d] of the Wasserstein-1 distance between points a and b [N, d] along them."""
    if a.shape != b.shape:
        raise ValueError(f"both sets must have the same number of points, got {list(a.shape)} and {list(b.shape)}")
    total = 0.0
    for part in directions.to(a).split(BLOCK):
        along_a, along_b = ((part @ points.T).sort(1)[0] for points in (a, b))
        total += float((along_a - along_b).abs().double().mean(1).sum())
    return total / len(directions)


def random_directions(count: int, dimensions: int, seed: Sequence[int]) -> Tensor:
    """float32 [count, dimensions], uniform on the unit sphere."""
    numbers = np.random.default_rng(seed).standard_normal((count, dimensions))
    return F.normalize(torch.from_numpy(numbers), dim=1).float()


def patch_distance(
    reals: PatchSet, fakes: PatchSet, *, repeats: int = 4, directions: int = 128, seed: int = 0
) -> SlicedWasserstein:
    """The distance at every level, which has its own directions. Collective, like PatchSet.join.

    Raises UserError when the sets differ in the number or size of the images.
    """
    if (reals.num_images, reals.patches, reals.sizes) != (fakes.num_images, fakes.patches, fakes.sizes):
        given = (
            f"{s.num_images} of {s.sizes[0][0]} x {s.sizes[0][1]} pixels, {s.patches} patches each"
            for s in (reals, fakes)
        )
        raise UserError(
            "The sliced Wasserstein distance needs as many real as generated images, of one size and with as many "
            f"patches each; got {' and '.join(given)}. Take fewer of the larger set, or resize."
        )
    reals.join()
    fakes.join()
    levels = {}
    for number, size in enumerate(reals.sizes):
        a, b = reals.level(number), fakes.level(number)
        theta = random_directions(repeats * directions, a.shape[1], [seed, 5, number])
        levels[min(size)] = 1000 * sliced_distance(a, b, theta)
    return SlicedWasserstein(levels, math.fsum(levels.values()) / len(levels))


def sliced_wasserstein(
    reals: Iterable[Tensor],
    fakes: Iterable[Tensor],
    num_images: int = 16_384,
    *,
    patches: int = 128,
    repeats: int = 4,
    directions: int = 128,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> SlicedWasserstein:
    """The distance between the first `num_images` of both, given in batches uint8 [N, C, H, W], on one process.

    Several ranks fill PatchSets and use `patch_distance`. Raises UserError when there are fewer images.
    """
    sets = []
    for name, batches in (("real", reals), ("generated", fakes)):
        filled, count = None, 0
        for images in batches:
            filled = filled or PatchSet(num_images, *images.shape[2:], patches=patches, seed=seed, device=device)
            images = images[: num_images - count]
            filled.add(images, torch.arange(count, count + len(images)))
            count += len(images)
            if count == num_images:
                break
        if filled is None or count < num_images:
            raise UserError(
                f"The sliced Wasserstein distance was to take {num_images} {name} images; there are {count}. "
                "Ask for fewer."
            )
        sets.append(filled)
    return patch_distance(*sets, repeats=repeats, directions=directions, seed=seed)
