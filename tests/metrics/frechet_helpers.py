"""Features and data sets that the tests of the Fréchet distance share."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from stylegan_lightning.data.base import PreparedDataset
from stylegan_lightning.metrics.features import FeatureExtractor
from stylegan_lightning.metrics.frechet import Preset

ALL = Preset("all", num_real=None, num_fake=50, batch_size=16)


class Pixels(FeatureExtractor):
    """Features are the first pixels, so that distances have known answers. Counts the images it sees."""

    def __init__(self, num_features: int = 4, weights_hash: str = "00000000") -> None:
        super().__init__()
        self.name, self.num_features, self.weights_hash, self.resize = (
            "pixels",
            num_features,
            weights_hash,
            "none",
        )
        self.seen = 0

    def forward(self, images: Tensor) -> Tensor:
        self.seen += len(images)
        return images.flatten(1)[:, : self.num_features].float()


def dataset(images: np.ndarray, fingerprint: str = "f0", c_dim: int = 0, mirror: bool = False) -> PreparedDataset:
    labels = np.eye(max(c_dim, 1), dtype=np.float32)[np.arange(len(images)) % max(c_dim, 1)][:, :c_dim]
    return PreparedDataset(images, labels, name="test", fingerprint=fingerprint, mirror=mirror)


def random_images(n: int, size: int = 2, channels: int = 1, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, channels, size, size), dtype=np.uint8)
