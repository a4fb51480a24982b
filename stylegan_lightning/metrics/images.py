"""The two sides of a comparison: images that are stored, and images that a generator makes."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from stylegan_lightning.data.base import PreparedDataset
from stylegan_lightning.imaging import to_uint8
from stylegan_lightning.metrics.sampling import LabelSampler, NotFinite, draw_labels, evaluating


class ImageSet(Protocol):
    """Numbered images; number i is the same whatever the batch and the rank."""

    @property
    def key(self) -> str | None:
        """Decides the images; None where nothing may be kept for the next run."""

    def __len__(self) -> int: ...

    def batch(self, rows: Tensor, device: torch.device | str) -> Tensor:
        """uint8 [B, C, H, W] of the given numbers, on `device`."""
        ...


class StoredImages:
    """Items of a data set."""

    def __init__(self, dataset: PreparedDataset, items: np.ndarray, choice: str) -> None:
        self.dataset, self.items = dataset, items
        self.key = f"data={dataset.fingerprint} shape={tuple(dataset.images.shape)} {choice}"

    def __len__(self) -> int:
        return len(self.items)

    def batch(self, rows: Tensor, device: torch.device | str) -> Tensor:
        return self.dataset.batch(self.items[rows.numpy()].tolist())[0].to(device)


class GeneratedImages:
    """G(z, c, truncation_psi=..., noise_mode="const") of `count` latents; z and c depend on the seed and the count
    alone; no global random state is used. `c_sampler` may be None for an unconditional G."""

    key = None

    def __init__(
        self, G: nn.Module, count: int, seed: int = 0, psi: float = 1.0, c_sampler: LabelSampler | None = None
    ) -> None:
        self.G, self.psi = G, psi
        z_dim, c_dim = int(G.z_dim), int(G.c_dim)  # type: ignore[arg-type]
        self.z = torch.randn(count, z_dim, generator=torch.Generator().manual_seed(seed))
        self.c = draw_labels(c_dim, count, seed, c_sampler)

    def __len__(self) -> int:
        return len(self.z)

    def batch(self, rows: Tensor, device: torch.device | str) -> Tensor:
        with evaluating(self.G), torch.inference_mode():
            inputs = self.z[rows].to(device), self.c[rows].to(device)
            img = self.G(*inputs, truncation_psi=self.psi, noise_mode="const").float()
            if not bool(img.isfinite().all()):
                raise NotFinite("the generated images are not finite")
            return to_uint8(img)
