"""One pass over images through feature networks, shared by all ranks and by all metrics that need it."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from stylegan_lightning.metrics.features import FeatureExtractor
from stylegan_lightning.metrics.gaussian import GaussianSums
from stylegan_lightning.metrics.images import ImageSet
from stylegan_lightning.metrics.sampling import fail_together, join_ranks, place

IN_MEMORY = 1 << 30
"""Bytes of features of one set; more lie in a temporary file, which is mapped."""


@dataclass(frozen=True)
class Features:
    """What is known of a set of images in one network's features."""

    count: int
    sums: GaussianSums
    rows: Tensor | None = None
    """float32 [N, d] in the order of the images, on rank 0, where single rows were asked for."""


@torch.no_grad()
def extract(
    images: ImageSet,
    extractors: Sequence[FeatureExtractor],
    keep_rows: Sequence[bool],
    *,
    batch_size: int,
    device: torch.device | str,
    folder: Path | None = None,
) -> list[Features]:
    """Features of `images` in each network; every image is made once.

    Collective: the ranks share the images, all get the sums (float64), rank 0 the rows. Rows beyond IN_MEMORY go to a
    nameless file in `folder` (None: the system's temporary folder). An error on one rank is raised on all.
    """
    rank, ranks = place()
    sums = [GaussianSums(e.num_features, device) for e in extractors]
    stores: list[Tensor | None] = [None] * len(sums)
    failure: Exception | None = None
    try:
        for number, (extractor, keep) in enumerate(zip(extractors, keep_rows, strict=True)):
            if keep and rank == 0:
                stores[number] = new_rows(len(images), extractor.num_features, folder)
    except Exception as error:
        failure = error
    for rows in torch.arange(len(images)).split(batch_size * ranks):
        own = rows[rank::ranks]
        try:
            batch = images.batch(own, device) if len(own) and failure is None else None
        except Exception as error:
            batch, failure = None, error
        for extractor, total, keep, store in zip(extractors, sums, keep_rows, stores, strict=True):
            found = torch.zeros(0, extractor.num_features, device=device)
            try:
                if batch is not None and failure is None:
                    features = extractor(batch).float()
                    total.update(features)
                    found = features
            except Exception as error:
                failure = error
            if keep:
                gathered = _gather(found, len(rows), rank, ranks)
                if store is not None:
                    store[rows] = gathered.cpu()
    fail_together(failure, device)
    for total in sums:
        join_ranks(total.sum)
        join_ranks(total.outer)
        total.count = len(images)
    return [Features(len(images), total, store) for total, store in zip(sums, stores, strict=True)]


def _gather(found: Tensor, count: int, rank: int, ranks: int) -> Tensor:
    """[count, d] of all ranks, where rank r holds rows r, r + ranks, ... (or none, after an error)."""
    if ranks == 1:
        return found if len(found) else found.new_zeros(count, found.shape[1])
    most = -(-count // ranks)
    padded = found.new_zeros(most, found.shape[1])
    padded[: len(found)] = found
    parts = [torch.empty_like(padded) for _ in range(ranks)]
    torch.distributed.all_gather(parts, padded)
    return torch.stack(parts, 1).flatten(0, 1)[:count]


def new_rows(count: int, num_features: int, folder: Path | None) -> Tensor:
    """Uninitialised float32 [count, num_features], in memory or, where large, in a file that vanishes with it."""
    if 4 * count * num_features <= IN_MEMORY:
        return torch.empty(count, num_features)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - lives as long as the map
    return torch.from_numpy(np.memmap(file, np.float32, "w+", shape=(count, num_features)))
