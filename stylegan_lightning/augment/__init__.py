from stylegan_lightning.augment.diffaugment import DiffAugment
from stylegan_lightning.augment.pipe import PRESETS, AugmentParams, AugmentPipe
from stylegan_lightning.augment.random import LocalRandom, RandomSource

__all__ = ["PRESETS", "AugmentParams", "AugmentPipe", "DiffAugment", "LocalRandom", "RandomSource"]
