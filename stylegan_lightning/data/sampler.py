"""The order of the data, as a pure function of (seed, nimg): resume needs one integer and no loader state."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from stylegan_lightning.data.base import PreparedDataset
from stylegan_lightning.schedule import Schedule, ends_tick

Batch = tuple[Tensor, Tensor, Tensor]
"""img uint8 [B, C, H, W], its labels c [B, c_dim], labels for generated images [B, c_dim]."""

_ORDER, _LABELS = 0, 1


class BatchItems(NamedTuple):
    """What a batch holds: real images at a resolution, and the items whose labels condition the generator."""

    resolution: int
    reals: list[int]
    labels: list[int]


class DataOrder:
    """Item at each position of an endless stream of shuffled passes over `num_items` items."""

    def __init__(self, num_items: int, seed: int) -> None:
        self.num_items, self.seed = num_items, seed
        self._pass, self._permutation = -1, np.empty(0, np.int64)

    def items(self, start: int, count: int) -> np.ndarray:
        """Items at positions start .. start + count - 1, each once in every pass."""
        positions = np.arange(start, start + count)
        out = np.empty(count, np.int64)
        for number in np.unique(positions // self.num_items):
            inside = positions // self.num_items == number
            out[inside] = self._shuffled(int(number))[positions[inside] % self.num_items]
        return out

    def _shuffled(self, number: int) -> np.ndarray:
        if number != self._pass:
            rng = np.random.default_rng([self.seed, _ORDER, number])
            self._pass, self._permutation = number, rng.permutation(self.num_items)
        return self._permutation


class StageBatchSampler:
    """The batches of one tick, starting at `position()` images; size and resolution follow the schedule.

    Rank r of w takes every w-th row from r.
    """

    def __init__(
        self,
        num_items: int,
        schedule: Schedule,
        seed: int,
        position: Callable[[], int],
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.order = DataOrder(num_items, seed)
        self.schedule, self.seed, self.position = schedule, seed, position
        self.rank, self.world_size = rank, world_size

    def __iter__(self) -> Iterator[BatchItems]:
        nimg = self.position()
        while nimg < self.schedule.total_nimg:
            stage = self.schedule.at(nimg)
            size = stage.batch_size
            reals = self.order.items(nimg, size)
            rng = np.random.default_rng([self.seed, _LABELS, nimg])
            labels = rng.integers(self.order.num_items, size=size)
            mine = slice(self.rank, None, self.world_size)
            yield BatchItems(stage.resolution, reals[mine].tolist(), labels[mine].tolist())
            before, nimg = nimg, nimg + size
            if ends_tick(self.schedule, before, nimg):
                return


class BatchDataset(torch.utils.data.Dataset[Batch]):
    """Serves whole batches of a `StageBatchSampler` with one read of the memory map."""

    def __init__(self, dataset: PreparedDataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Batch:
        img, c = self.dataset.batch([index])
        return img, c, c

    def __getitems__(self, items: BatchItems) -> Batch:
        img, c = self.dataset.batch(items.reals, items.resolution)
        labels = self.dataset.targets[np.asarray(items.labels) % len(self.dataset.images)]
        return img, c, torch.from_numpy(labels)
