"""What a picture went through before it came to us: known operators, differentiable, without parameters to find.

Each maps img [N, C, H, W] in [-1, 1] to what is left of it. A projection compares what is left of its own picture
with what came in, and the perceptual network sees both in a form that it can read (`view`).
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from stylegan_lightning.errors import UserError
from stylegan_lightning.latent.restoring import (
    add_missing_means,
    add_structure,
    blurred_around,
    luma,
    with_luma,
    with_surroundings,
)


class Degradation(Protocol):
    def check(self, channels: int, resolution: int) -> tuple[int, int, int]:
        """[C, H, W] of what is left of the pictures of a model. Raises UserError where it does not apply to them."""
        ...

    def apply(self, img: Tensor) -> Tensor:
        """What is left of img [N, C, H, W]."""
        ...

    def view(self, left: Tensor) -> Tensor:
        """What is left -> pictures [N, 1 | 3 | 4, H, W] for the perceptual network and for people."""
        ...

    def known(self, left: Tensor) -> Tensor:
        """1 where `left` says something, 0 elsewhere, of a shape that broadcasts to it."""
        ...

    def keep(self, img: Tensor, left: Tensor) -> Tensor:
        """img [N, C, H, W] with all that `left` says put in its place."""
        ...


class Identity:
    """The picture itself."""

    def check(self, channels: int, resolution: int) -> tuple[int, int, int]:
        return channels, resolution, resolution

    def apply(self, img: Tensor) -> Tensor:
        return img

    def view(self, left: Tensor) -> Tensor:
        return left

    def known(self, left: Tensor) -> Tensor:
        return torch.ones((1, 1, 1, 1), device=left.device)

    def keep(self, img: Tensor, left: Tensor) -> Tensor:
        return img


class AddedNoise(Identity):
    """Independent normal noise of standard deviation `sigma` (grey levels, 0..255) on every value."""

    def __init__(self, sigma: float) -> None:
        if not 0 < sigma <= 255:
            raise UserError(
                f"sigma is the noise's standard deviation in grey levels, above 0 and up to 255; got {sigma}"
            )
        self.sigma = sigma

    def keep(self, img: Tensor, left: Tensor) -> Tensor:
        return add_structure(img, left, self.sigma / 127.5)


class Mask:
    """Pixels are lost where `hole` [N or 1, 1, H, W] is 1 and known where it is 0; lost ones are 0 (mid-grey).

    `target` are the damaged pictures; what they have in the hole is never looked at. For the perceptual network the
    hole is filled with means of what is around it, the same in both pictures, so that they differ only where something
    is known. Raises UserError for masks that leave nothing to do or nothing to go by.
    """

    def __init__(self, hole: Tensor, target: Tensor) -> None:
        if hole.ndim != 4 or hole.shape[1] != 1 or not bool(((hole == 0) | (hole == 1)).all()):
            raise UserError(f"a mask is [N or 1, 1, H, W] of 0 (known) and 1 (to repair); got {list(hole.shape)}")
        if hole.shape[2:] != target.shape[2:] or len(hole) not in (1, len(target)):
            raise UserError(f"the mask {list(hole.shape)} does not fit the pictures {list(target.shape)}")
        covered = hole.flatten(1).mean(1)
        if bool((covered == 0).any() | (covered == 1).any()):
            what = "nothing" if bool((covered == 0).any()) else "everything"
            raise UserError(f"a mask covers a part of the picture; this one covers {what}: paint white what to repair")
        self.hole = hole.to(target.device, torch.float32)
        self.fill = blurred_around(target, 1 - self.hole) * self.hole

    def check(self, channels: int, resolution: int) -> tuple[int, int, int]:
        return channels, resolution, resolution

    def apply(self, img: Tensor) -> Tensor:
        return img * (1 - self.hole)

    def view(self, left: Tensor) -> Tensor:
        return left * (1 - self.hole) + self.fill

    def known(self, left: Tensor) -> Tensor:
        return 1 - self.hole

    def keep(self, img: Tensor, left: Tensor) -> Tensor:
        return with_surroundings(img, left, self.hole)


class Downscale:
    """Means of squares of `factor` x `factor` pixels, as the data sets' smaller levels are made."""

    def __init__(self, factor: int) -> None:
        if factor < 2:
            raise UserError(f"the factor of an enlargement is a whole number from 2 on; got {factor}")
        self.factor = factor

    def check(self, channels: int, resolution: int) -> tuple[int, int, int]:
        if resolution % self.factor:
            raise UserError(f"the factor must divide the model's {resolution} pixels; {self.factor} does not")
        return channels, resolution // self.factor, resolution // self.factor

    def apply(self, img: Tensor) -> Tensor:
        return F.avg_pool2d(img, self.factor)

    def view(self, left: Tensor) -> Tensor:
        return F.interpolate(left, scale_factor=float(self.factor), mode="bilinear", align_corners=False)

    def known(self, left: Tensor) -> Tensor:
        return torch.ones((1, 1, 1, 1), device=left.device)

    def keep(self, img: Tensor, left: Tensor) -> Tensor:
        return add_missing_means(img, left, self.factor)


class Grey:
    """Luma in place of colour; transparency, where there is some, stays: [N, 1, H, W] of RGB, [N, 2, H, W] of RGBA."""

    def check(self, channels: int, resolution: int) -> tuple[int, int, int]:
        if channels == 1:
            raise UserError("this model draws grey pictures: it has no colours to give")
        return channels - 2, resolution, resolution

    def apply(self, img: Tensor) -> Tensor:
        return torch.cat([luma(img), img[:, 3:]], 1)

    def view(self, left: Tensor) -> Tensor:
        return left if left.shape[1] == 1 else torch.cat([left[:, :1].expand(-1, 3, -1, -1), left[:, 1:]], 1)

    def known(self, left: Tensor) -> Tensor:
        return torch.ones((1, 1, 1, 1), device=left.device)

    def keep(self, img: Tensor, left: Tensor) -> Tensor:
        return torch.cat([with_luma(img[:, :3], left[:, :1]), left[:, 1:]], 1)
