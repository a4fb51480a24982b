"""Everything that decides the value of a distance, except the network and the data."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stylegan_lightning.errors import UserError, chosen


@dataclass(frozen=True)
class Preset:
    """Fixes every choice of one measurement, so that equal keys mean comparable values.

    `num_real` None is every image; a smaller number is a subset drawn by `seed`. `mirror_real` measures every
    real image and its mirror image. `batch_size` has no influence on the value beyond rounding.
    """

    name: str
    num_real: int | None
    num_fake: int
    batch_size: int = 64
    mirror_real: bool = False
    seed: int = 0
    truncation_psi: float = 1.0

    def __post_init__(self) -> None:
        for field, low in (("num_real", 2), ("num_fake", 2), ("batch_size", 1)):
            value = getattr(self, field)
            if value is not None and value < low:
                raise UserError(f"Metric preset {self.name}: {field} must be at least {low}; got {value}.")

    def key(self) -> str:
        """The choices that change the value, readable."""
        return f"{self.real_key()},fake={self.num_fake},seed={self.seed},psi={self.truncation_psi:g}"

    def real_key(self) -> str:
        """The choices that change the statistics of the real images."""
        if self.num_real is None:
            return f"real=all,mirror={self.mirror_real}"
        return f"real={self.num_real},mirror={self.mirror_real},real_seed={self.seed}"

    def real_indices(self, num_images: int) -> np.ndarray:
        """Items of a PreparedDataset of N = `num_images` images to measure (N + i is image i mirrored)."""
        total = num_images * (2 if self.mirror_real else 1)
        if self.num_real is None or self.num_real >= total:
            return np.arange(total)
        return np.sort(np.random.default_rng(self.seed).permutation(total)[: self.num_real])


PRESETS = {
    preset.name: preset
    for preset in (
        Preset("quick", num_real=5_000, num_fake=1_000),
        Preset("fid10k_full", num_real=None, num_fake=10_000),
        Preset("fid50k_full", num_real=None, num_fake=50_000),
    )
}
"""`quick` is for every tick: its covariance comes from 1000 pictures, so its value lies above that of the
others and compares only with itself. `fid50k_full`: all reals, not mirrored, 50k fakes, no truncation."""


def get_preset(name: str) -> Preset:
    return chosen("metric preset", PRESETS, name)
