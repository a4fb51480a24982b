"""Features, data sets and generators whose values are known or cheap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stylegan_lightning.data.base import PreparedDataset
from stylegan_lightning.metrics.by_features import Frechet
from stylegan_lightning.metrics.features import FeatureExtractor
from stylegan_lightning.metrics.metric import Metric, Subject
from stylegan_lightning.metrics.preset import Preset

ALL = Preset("all", num_real=None, num_fake=50, batch_size=16)


class Pixels(FeatureExtractor):
    """Features are the first pixels, so that distances have known answers. Counts the images it sees."""

    def __init__(self, num_features: int = 4, weights_hash: str = "00000000", name: str = "pixels") -> None:
        super().__init__()
        self.name, self.num_features, self.weights_hash, self.resize = name, num_features, weights_hash, "none"
        self.seen = 0

    def forward(self, images: Tensor) -> Tensor:
        self.seen += len(images)
        return images.flatten(1)[:, : self.num_features].float()


class TinyG(nn.Module):
    """z -> 2 x 2 grey image through tanh; image i is a function of z_i and c_i alone. Records its calls."""

    z_dim, img_resolution = 4, 2

    def __init__(self, c_dim: int = 0, bad: float | None = None) -> None:
        super().__init__()
        self.c_dim, self.bad = c_dim, bad
        self.dropout = nn.Dropout(0.5)
        self.labels: list[Tensor] = []
        self.options: list[tuple[float, str]] = []

    @property
    def made(self) -> int:
        return sum(map(len, self.labels))

    def forward(self, z: Tensor, c: Tensor, *, truncation_psi: float, noise_mode: str) -> Tensor:
        self.labels.append(c)
        self.options.append((truncation_psi, noise_mode))
        img = torch.tanh(self.dropout(z * truncation_psi)).reshape(-1, 1, 2, 2)
        return img if self.bad is None else torch.where(torch.arange(len(z))[:, None, None, None] == 0, self.bad, img)


def dataset(
    images: np.ndarray,
    fingerprint: str = "f0",
    c_dim: int = 0,
    mirror: bool = False,
    targets: np.ndarray | None = None,
    **options: Any,
) -> PreparedDataset:
    """With `targets` None, image i is of class i modulo c_dim."""
    if targets is None:
        targets = np.eye(max(c_dim, 1), dtype=np.float32)[np.arange(len(images)) % max(c_dim, 1)][:, :c_dim]
    return PreparedDataset(images, targets, name="test", fingerprint=fingerprint, mirror=mirror, **options)


def random_images(n: int, size: int = 2, channels: int = 1, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, channels, size, size), dtype=np.uint8)


def gaussian_images(n: int, mean: Sequence[float], std: Sequence[float], seed: int) -> np.ndarray:
    """[n, 1, H, W] of 4 or 16 pixels with exactly this sample mean and deviation, up to rounding to grey levels."""
    d = len(mean)
    x = np.random.default_rng(seed).standard_normal((n, d))
    x = (x - x.mean(0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(x.T))).T
    return np.rint(x * std + mean).clip(0, 255).astype(np.uint8).reshape(n, 1, int(d**0.5), int(d**0.5))


def values_of(metric: Metric, subject: Subject) -> dict[str, float]:
    return {value.metric: value.value for value in metric.measure(subject).values}


def distance_between(reals: np.ndarray, fakes: np.ndarray, extractor: FeatureExtractor, preset: Preset = ALL) -> float:
    """The Fréchet distance of two arrays of images, of which all are taken."""
    metric = Frechet(replace(preset, num_fake=len(fakes)), extractor)
    return values_of(metric, Subject(dataset(fakes, "fakes"), dataset(reals)))[metric.names[0]]
