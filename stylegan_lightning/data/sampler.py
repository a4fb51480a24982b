"""The order of the data, as a pure function of (seed, nimg): resume needs one integer and no loader state."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from stylegan_lightning.data.base import PreparedDataset
from stylegan_lightning.schedule import Schedule, ends_tick

Batch = tuple[Tensor, Tensor, Tensor]
"""img uint8 [B, C, H, W], its labels c [B, c_dim], labels for generated images [B, c_dim]."""

_ORDER, _LABELS, _IN_CLASS, _REAL_TURNS, _FAKE_TURNS, _CHUNKS, _IN_CHUNK, _FLIPS = 0, 1, 4, 5, 6, 7, 8, 9
"""Streams of random numbers; the training module has 2 and 3."""


class BatchItems(NamedTuple):
    """What a batch holds: real images at a resolution, and the items whose labels condition the generator.

    `soon` are items of a later batch, where something must be fetched for them.
    """

    resolution: int
    reals: list[int]
    labels: list[int]
    soon: Sequence[int] = ()


class DataOrder:
    """Item at each position of an endless stream of shuffled passes over `num_items` items.

    Streams of different `path` are independent of each other.
    """

    ahead = 0
    """Positions from an item to the one for which something must be fetched by then."""

    def __init__(self, num_items: int, seed: int, path: tuple[int, ...] = (_ORDER,)) -> None:
        self.num_items, self.seed, self.path = num_items, seed, path
        self._pass, self._permutation = -1, np.empty(0, np.int64)

    def items(self, start: int, count: int) -> np.ndarray:
        """Items at positions start .. start + count - 1, each once in every pass."""
        positions = np.arange(start, start + count)
        out = np.empty(count, np.int64)
        for number in np.unique(positions // self.num_items):
            inside = positions // self.num_items == number
            out[inside] = self._in_pass(int(number), positions[inside] % self.num_items)
        return out

    def _in_pass(self, number: int, places: np.ndarray) -> np.ndarray:
        return self._shuffled(number)[places]

    def _shuffled(self, number: int) -> np.ndarray:
        if number != self._pass:
            rng = np.random.default_rng([self.seed, *self.path, number])
            self._pass, self._permutation = number, rng.permutation(self.num_items)
        return self._permutation

    def label_items(self, start: int, count: int) -> np.ndarray:
        """Items whose labels condition the generator at these positions, drawn with replacement."""
        rng = np.random.default_rng([self.seed, _LABELS, start])
        return rng.integers(self.num_items, size=count)


class ChunkOrder(DataOrder):
    """The same for images that lie in chunks of `sizes` images, of which about `window` are in use at a time.

    In every pass the chunks follow each other in a new order, each shuffled for itself. This line is cut into `window`
    lanes of equal length, and position p takes the next image of lane p mod window. So each of w ranks reads chunks of
    its own where w divides `window`, and the order depends on neither. With `mirror`, item N + i is image i flipped:
    in a pair of passes each image comes once as it is and once flipped, which first is drawn.
    """

    def __init__(self, sizes: Sequence[int], seed: int, window: int, mirror: bool = False) -> None:
        self.sizes, self.window, self.mirror = np.asarray(sizes, np.int64), window, mirror
        super().__init__(int(self.sizes.sum()), seed, (_CHUNKS,))
        self.first = np.cumsum(self.sizes) - self.sizes
        lengths = (self.num_items - np.arange(window) + window - 1) // window
        self.lanes = np.cumsum(lengths) - lengths
        self.ahead = window * max(1, int(self.sizes.mean()) // 2)
        self._line = lru_cache(2)(self._draw_line)
        self._items_of = lru_cache(2 * window)(self._draw_items)

    def _in_pass(self, number: int, places: np.ndarray) -> np.ndarray:
        chunks, ends = self._line(number)
        along = self.lanes[places % self.window] + places // self.window
        slots = np.searchsorted(ends, along, side="right")
        out = np.empty(len(places), np.int64)
        for slot in np.unique(slots):
            here, chunk = slots == slot, int(chunks[slot])
            out[here] = self._items_of(number, chunk)[along[here] - ends[slot]]  # counted from its end
        return out

    def _draw_line(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """The chunks in the order of a pass, and how many images there are up to the end of each."""
        chunks = np.random.default_rng([self.seed, *self.path, number]).permutation(len(self.sizes))
        return chunks, np.cumsum(self.sizes[chunks])

    def _draw_items(self, number: int, chunk: int) -> np.ndarray:
        size = self.sizes[chunk]
        inside = np.random.default_rng([self.seed, _IN_CHUNK, number, chunk]).permutation(size)
        if not self.mirror:
            return self.first[chunk] + inside
        flips = np.random.default_rng([self.seed, _FLIPS, number // 2, chunk]).integers(2, size=size) ^ (number % 2)
        return self.first[chunk] + inside + self.num_items * flips[inside]


class BalancedOrder:
    """The same for items in groups, each of which comes up once in every K positions, K the number of groups.

    A group shows each of its items once in every pass over it; small groups have more passes. `groups` holds the
    group of each item, all numbers from 0 to K - 1 occurring.
    """

    ahead = 0

    def __init__(self, groups: np.ndarray, seed: int) -> None:
        sizes = np.bincount(groups)
        self.members = np.split(np.argsort(groups, kind="stable"), np.cumsum(sizes)[:-1])
        self._first = np.array([m[0] for m in self.members])
        self._orders = [DataOrder(size, seed, (_IN_CLASS, k)) for k, size in enumerate(sizes.tolist())]
        self._real_turns = DataOrder(len(sizes), seed, (_REAL_TURNS,))
        self._fake_turns = DataOrder(len(sizes), seed, (_FAKE_TURNS,))

    def items(self, start: int, count: int) -> np.ndarray:
        """Items at positions start .. start + count - 1."""
        turns, rounds = self._real_turns.items(start, count), np.arange(start, start + count) // len(self.members)
        out = np.empty(count, np.int64)
        for group in np.unique(turns):
            here = turns == group  # a group's turns lie in consecutive rounds, and each is its next item
            order = self._orders[group].items(int(rounds[here][0]), int(here.sum()))
            out[here] = self.members[group][order]
        return out

    def label_items(self, start: int, count: int) -> np.ndarray:
        """Items whose labels condition the generator at these positions; the labels of a group are all alike."""
        return self._first[self._fake_turns.items(start, count)]


class StageBatchSampler:
    """The batches of one tick, starting at `position()` images; size and resolution follow the schedule.

    Rank r of w takes every w-th row from r. With `groups`, the group of each item, groups come up equally often
    instead of items. `order` takes the place of either.
    """

    def __init__(
        self,
        num_items: int,
        schedule: Schedule,
        seed: int,
        position: Callable[[], int],
        rank: int = 0,
        world_size: int = 1,
        groups: np.ndarray | None = None,
        order: DataOrder | None = None,
    ) -> None:
        self.order = order or (DataOrder(num_items, seed) if groups is None else BalancedOrder(groups, seed))
        self.schedule, self.position = schedule, position
        self.rank, self.world_size = rank, world_size

    def __iter__(self) -> Iterator[BatchItems]:
        nimg = self.position()
        while nimg < self.schedule.total_nimg:
            stage = self.schedule.at(nimg)
            size = stage.batch_size
            reals, labels = self.order.items(nimg, size), self.order.label_items(nimg, size)
            mine = slice(self.rank, None, self.world_size)
            soon = self.order.items(nimg + self.order.ahead, size)[mine].tolist() if self.order.ahead else ()
            yield BatchItems(stage.resolution, reals[mine].tolist(), labels[mine].tolist(), soon)
            before, nimg = nimg, nimg + size
            if ends_tick(self.schedule, before, nimg):
                return


class BatchDataset(torch.utils.data.Dataset[Batch]):
    """Serves whole batches of a `StageBatchSampler` with one read of the data set."""

    def __init__(self, dataset: PreparedDataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Batch:
        img, c = self.dataset.batch([index])
        return img, c, c

    def __getitems__(self, items: BatchItems) -> Batch:
        self.dataset.fetch(items.reals, items.soon)
        img, c = self.dataset.batch(items.reals, items.resolution)
        labels = self.dataset.targets[np.asarray(items.labels) % len(self.dataset.images)]
        return img, c, torch.from_numpy(labels)
