"""Differentiable augmentation (DiffAugment: Zhao et al. 2020)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from stylegan_lightning.augment.checks import check_images, check_name
from stylegan_lightning.augment.random import LocalRandom, RandomSource

POLICIES = ("color", "translation", "cutout")


class DiffAugment(nn.Module):
    """Augments every image, always, by the parts of `policy` in their order, separated by commas:

    - color: brightness (additive, +-0.5 of range [-1, 1]), saturation (0 to 2 times), contrast (0.5 to 1.5 times)
    - translation: by whole pixels, up to `translation_ratio` of each side, 0 beyond the borders
    - cutout: 0 in a rectangle of `cutout_ratio` of each side; less where it crosses a border

    Images have 1 channel (saturation has no effect), 3, or 4 of which the last is alpha: color leaves it alone.
    Nothing waits for the device; affine in the images, with derivatives of every order.
    """

    def __init__(
        self,
        policy: str = "color,translation,cutout",
        translation_ratio: float = 0.125,
        cutout_ratio: float = 0.5,
    ) -> None:
        super().__init__()
        self.parts = [check_name("policy", name.strip(), POLICIES) for name in policy.split(",")]
        self.translation_ratio, self.cutout_ratio = translation_ratio, cutout_ratio

    @torch.no_grad()
    def draw(self, shape: Sequence[int], random: RandomSource) -> Tensor:
        """[N, 7] in [0, 1): brightness, saturation, contrast, shift and centre of the rectangle as (x, y)."""
        return random.uniform(shape[0], 7)

    def transform(self, imgs: Tensor, numbers: Tensor) -> Tensor:
        """imgs [N, C, H, W] as `numbers`, from `draw`, say; computed in float32 at least."""
        check_images(imgs)
        x = imgs.to(torch.promote_types(imgs.dtype, torch.float32))
        for part in self.parts:
            if part == "color":
                x = jitter(x, *numbers[:, :3].to(x.dtype)[:, :, None, None, None].unbind(1))
            elif part == "translation":
                x = translate(x, numbers[:, 3:5], self.translation_ratio)
            else:
                x = cut_out_pixels(x, numbers[:, 5:], self.cutout_ratio)
        return x.to(imgs.dtype)

    def forward(self, imgs: Tensor, random: RandomSource | None = None) -> Tensor:
        check_images(imgs)
        return self.transform(imgs, self.draw(imgs.shape, random or LocalRandom(imgs.device)))


def jitter(imgs: Tensor, brightness: Tensor, saturation: Tensor, contrast: Tensor) -> Tensor:
    """Changes colours by numbers in [0, 1), [N, 1, 1, 1] each; the middle of each range changes nothing."""
    x = imgs[:, :3] + (brightness - 0.5)
    grey = x.mean(1, keepdim=True)
    x = grey + (x - grey) * (2 * saturation)
    mean = x.mean((1, 2, 3), keepdim=True)
    x = mean + (x - mean) * (contrast + 0.5)
    return x if imgs.shape[1] < 4 else torch.cat([x, imgs[:, 3:]], 1)


def translate(imgs: Tensor, numbers: Tensor, ratio: float) -> Tensor:
    """Shifts by whole pixels, uniform up to `ratio` of each side, by numbers [N, 2] (x, y) in [0, 1)."""
    x = imgs
    for number, dim in zip(numbers.unbind(1), (3, 2), strict=True):
        size = x.shape[dim]
        most = int(size * ratio + 0.5)
        source = torch.arange(size, device=x.device) - _uniform_int(number, 2 * most + 1)[:, None] + most  # [N, size]
        shape = [len(x), 1, 1, 1]
        shape[dim] = size
        inside = ((source >= 0) & (source < size)).view(shape)
        index = source.clamp(0, size - 1).view(shape).expand(x.shape)
        x = torch.where(inside, x.gather(dim, index), 0.0)
    return x


def cut_out_pixels(imgs: Tensor, numbers: Tensor, ratio: float) -> Tensor:
    """0 in rectangles of `ratio` of each side; numbers [N, 2] in [0, 1) place the centre (x, y) inside the image."""
    hidden = []
    for number, size in zip(numbers.unbind(1), (imgs.shape[3], imgs.shape[2]), strict=True):
        extent = int(size * ratio + 0.5)
        first = _uniform_int(number, size + 1 - extent % 2)[:, None] - extent // 2
        pixel = torch.arange(size, device=imgs.device)
        hidden.append((pixel >= first) & (pixel < first + extent))  # [N, size]
    return torch.where(hidden[0][:, None, None, :] & hidden[1][:, None, :, None], 0.0, imgs)


def _uniform_int(number: Tensor, count: int) -> Tensor:
    """0 .. count - 1 from a number in [0, 1)."""
    return (number * count).long().clamp(max=count - 1)
