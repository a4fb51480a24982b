"""Everything that decides the value of a metric, except the network and the data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Literal

import numpy as np

from stylegan_lightning.errors import UserError, chosen
from stylegan_lightning.metrics.gaussian import Divisor

Resize = Literal["tf1", "antialias", "pil_bicubic"]
Draws = Literal["numpy", "torch"]
ScoreParts = Literal["nvidia", "torch_fidelity", "torchmetrics"]

PUBLISHED_COUNTS = {"swd": 16_384, "ms_ssim": 10_000, "separability": 200_000}
"""Images or pairs of the metrics that do not take 50,000: ProGAN (section 5), StyleGAN (appendix C)."""


@dataclass(frozen=True)
class Preset:
    """Fixes every choice of a measurement, so that equal keys mean comparable values.

    `num_real` None is every image; a smaller number is a subset drawn by `seed`. `mirror_real` measures every real
    image and its mirror image. `counts` are the numbers of fakes of single metrics where they differ from `num_fake`.
    `batch_size` has no influence on the value beyond rounding. Generated images are quantised as
    floor(127.5 x + 128), clamped to 0..255, in every preset.
    """

    name: str
    num_real: int | None
    num_fake: int
    batch_size: int = 64
    mirror_real: bool = False
    seed: int = 0
    truncation_psi: float = 1.0
    divisor: Divisor = "n-1"  # of covariances
    resize: Resize = "tf1"  # of pictures for the Inception network
    draws: Draws = "numpy"  # of the kernel distance's subsets
    draws_seed: int = 2020
    score_parts: ScoreParts = "nvidia"  # of the Inception score
    neighbours: Literal["float16", "float32"] = "float32"  # type of distances between neighbours
    counts: Mapping[str, int] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        for name, low in (("num_real", 2), ("num_fake", 2), ("batch_size", 1)):
            value = getattr(self, name)
            if value is not None and value < low:
                raise UserError(f"Metric preset {self.name}: {name} must be at least {low}; got {value}.")

    def count(self, kind: str) -> int:
        """Generated images, or pairs of them, that a metric takes."""
        return self.counts.get(kind, self.num_fake)

    def key_of_fakes(self, count: int) -> tuple[int, int, float, int]:
        """What decides `count` generated images."""
        return count, self.seed, self.truncation_psi, self.batch_size

    def real_key(self, most: int | None = None) -> str:
        """The choices of the real images, of which a metric takes at most `most`."""
        limit = self._limit(most)
        if limit is None:
            return f"real=all,mirror={self.mirror_real}"
        return f"real={limit},mirror={self.mirror_real},real_seed={self.seed}"

    def real_indices(self, num_images: int, most: int | None = None) -> np.ndarray:
        """Items of a PreparedDataset of N = `num_images` images to measure (N + i is image i mirrored)."""
        total = num_images * (2 if self.mirror_real else 1)
        limit = self._limit(most)
        if limit is None or limit >= total:
            return np.arange(total)
        return np.sort(np.random.default_rng(self.seed).permutation(total)[:limit])

    def _limit(self, most: int | None) -> int | None:
        return min((n for n in (self.num_real, most) if n is not None), default=None)

    def settings(self) -> dict[str, object]:
        """Every choice by name, for records."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("counts", "batch_size")}


def with_counts(preset: Preset, num_real: int | None = None, num_fake: int | None = None) -> Preset:
    """The preset with other numbers of images, which become part of its name."""
    if num_fake not in (None, preset.num_fake):
        preset = replace(preset, name=f"{preset.name}_{num_fake}", num_fake=num_fake, counts={})  # type: ignore[arg-type]
    if num_real not in (None, preset.num_real):
        preset = replace(preset, name=f"{preset.name}_real{num_real}", num_real=num_real)
    return preset


PRESETS = {
    preset.name: preset
    for preset in (
        Preset("quick", 5_000, 1_000),
        Preset("nvidia", None, 50_000, divisor="n", neighbours="float16", counts=PUBLISHED_COUNTS),
        Preset("torch_fidelity", None, 50_000, score_parts="torch_fidelity", counts=PUBLISHED_COUNTS),
        Preset(
            "torchmetrics",
            None,
            50_000,
            resize="antialias",
            draws="torch",
            draws_seed=0,
            score_parts="torchmetrics",
            counts=PUBLISHED_COUNTS,
        ),
        Preset("clean", None, 50_000, resize="pil_bicubic", counts=PUBLISHED_COUNTS),
    )
}
"""`quick` is for every tick: few samples bias its Fréchet distance upwards, and it compares only with itself."""


def get_preset(name: str) -> Preset:
    return chosen("metric preset", PRESETS, name)
