"""What the parts of an augmentation have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn

from stylegan_lightning.augment.random import RandomSource


class Part(nn.Module, ABC):
    """Transformations of one kind: what happens to each image is drawn, then applied as one map to the batch."""

    @abstractmethod
    def draw(self, p: Tensor, shape: Sequence[int], random: RandomSource) -> Tensor:
        """What happens to each of the images of `shape` = (N, C, H, W), first dimension N; nothing at p = 0."""

    @abstractmethod
    def forward(self, imgs: Tensor, drawn: Tensor) -> Tensor:
        """imgs [N, C, H, W] after what was drawn."""
