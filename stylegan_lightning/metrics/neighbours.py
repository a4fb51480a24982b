"""Nearest neighbours in feature space: precision and recall, density and coverage, and what the model memorised.

The k-ball of a row x reaches to its k-th nearest other row in x's own set.

- Precision (Kynkäänniemi et al. 2019, k = 3): share of fakes within some real's ball; recall: of reals within some
  fake's. Balls are closed, as in torch-fidelity and NVIDIA's code (VGG16 features, distances in float16).
- Density (Naeem et al. 2020, k = 5): mean number over the fakes of real balls that hold one, divided by k; 1 where both
  sets have one distribution, and not bounded by it. Coverage: share of real balls that hold a fake. Balls are open, as
  in the authors' code: a set measured against itself has density 1.

All pairs are compared, in blocks: memory is [block, block] distances, whatever the sizes of the sets.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stylegan_lightning.errors import UserError
from stylegan_lightning.imaging import image_grid
from stylegan_lightning.metrics.gaussian import check_sets
from stylegan_lightning.metrics.sampling import full_precision

BLOCK = 4096
CANDIDATES = 4
"""Of the nearest rows by rounded distances, so many are compared again exactly."""

Device = torch.device | str | None
"""Where to compute; None: where the first set lies. The sets may lie elsewhere, e.g. in a memory-mapped file."""


@dataclass(frozen=True)
class PrecisionRecall:
    precision: float
    recall: float


@dataclass(frozen=True)
class DensityCoverage:
    density: float
    coverage: float


def precision_recall(
    reals: Tensor,
    fakes: Tensor,
    k: int = 3,
    *,
    dtype: torch.dtype = torch.float32,
    block: int = BLOCK,
    device: Device = None,
) -> PrecisionRecall:
    """Of features [N, d] and [M, d]; `dtype` is that of the distances, see `distances`."""
    check_sets(f"Precision and recall with k = {k}", k + 1, reals, fakes)
    real_radii, fake_radii = (radii(s, k, dtype=dtype, block=block, device=device) for s in (reals, fakes))
    held, _ = _balls_held(fakes, reals, real_radii, True, dtype, block, device)
    held_reals, _ = _balls_held(reals, fakes, fake_radii, True, dtype, block, device)
    return PrecisionRecall(float((held > 0).double().mean()), float((held_reals > 0).double().mean()))


def density_coverage(
    reals: Tensor,
    fakes: Tensor,
    k: int = 5,
    *,
    dtype: torch.dtype = torch.float32,
    block: int = BLOCK,
    device: Device = None,
) -> DensityCoverage:
    """Of features [N, d] and [M, d], M >= 1; `dtype` is that of the distances, see `distances`."""
    check_sets(f"Density and coverage with k = {k}", k + 1, reals)
    check_sets("Density and coverage", 1, reals, fakes)
    real_radii = radii(reals, k, dtype=dtype, block=block, device=device)
    held, full = _balls_held(fakes, reals, real_radii, False, dtype, block, device)
    return DensityCoverage(float(held.double().mean()) / k, float(full.double().mean()))


def radii(
    features: Tensor, k: int, *, dtype: torch.dtype = torch.float32, block: int = BLOCK, device: Device = None
) -> Tensor:
    """Distance [N] of each row to its k-th nearest other row, on the computing device."""
    check_sets(f"The distance to neighbour {k}", k + 1, features)
    found = []
    for _, rows in _blocks(features, block, device or features.device):
        nearest: Tensor | None = None
        for _, others in _blocks(features, block, rows.device):
            d = distances(rows, others, dtype)
            d = d if nearest is None else torch.cat([nearest, d], 1)
            nearest = d.topk(min(k + 1, d.shape[1]), largest=False).values
        assert nearest is not None
        found.append(nearest[:, -1])  # of k + 1, because the row itself is among them
    return torch.cat(found)


def distances(x: Tensor, y: Tensor, dtype: torch.dtype) -> Tensor:
    """Euclidean distances [N, M] by one matrix product, without TF32.

    float32 and float64: exact up to rounding, which for float32 is about 1e-3 |x| for rows that coincide. float16:
    features and distances are rounded to it, as in NVIDIA's code; the sums in between are of float32.
    """
    if dtype == torch.float16:
        return distances(x.half().float(), y.half().float(), torch.float32).half()
    with full_precision():
        return torch.cdist(x.to(dtype), y.to(dtype), compute_mode="use_mm_for_euclid_dist")


def _balls_held(
    points: Tensor, centres: Tensor, reach: Tensor, closed: bool, dtype: torch.dtype, block: int, device: Device
) -> tuple[Tensor, Tensor]:
    """Number of balls that hold each point [N], and whether each ball holds any [M]."""
    counts, full = [], torch.zeros(len(centres), dtype=torch.bool, device=reach.device)
    for _, rows in _blocks(points, block, reach.device):
        count = torch.zeros(len(rows), dtype=torch.int64, device=reach.device)
        for start, others in _blocks(centres, block, reach.device):
            d, r = distances(rows, others, dtype), reach[start : start + block]
            inside = d <= r if closed else d < r
            count += inside.sum(1)
            full[start : start + block] |= inside.any(0)
        counts.append(count)
    return torch.cat(counts), full


def _blocks(x: Tensor, block: int, device: torch.device | str) -> Iterator[tuple[int, Tensor]]:
    for start in range(0, len(x), block):
        yield start, x[start : start + block].to(device)


# --------------------------------------------------------------------------------------------- memorisation


@dataclass(frozen=True)
class Nearest:
    """For each query the row of the nearest real (int64 [M]) and its distance (float64 [M]), on the CPU."""

    index: Tensor
    distance: Tensor


def nearest_training(
    fakes: Tensor, reals: Tensor, *, skip: Tensor | None = None, block: int = BLOCK, device: Device = None
) -> Nearest:
    """The nearest real of each fake, features [M, d] and [N, d].

    The float32 products propose a few candidates, whose distances are then computed by differences in float64: a
    copied picture has distance 0. `skip` [M]: a row of the reals to leave out for each query (its own, where the
    queries are reals).
    """
    check_sets("The nearest training images", 1 if skip is None else 2, reals)
    check_sets("The nearest training images", 1, fakes, reals)
    device = fakes.device if device is None else device
    index, distance = [], []
    for start, rows in _blocks(fakes, block, device):
        left_out = None if skip is None else skip[start : start + block].to(device)
        near = _candidates(rows, reals, left_out, block)  # [b, c]
        exact = torch.stack(
            [(rows.double() - reals[c.to(reals.device)].to(rows.device).double()).norm(dim=1) for c in near.unbind(1)],
            1,
        )
        if left_out is not None:
            exact[near == left_out[:, None]] = torch.inf
        best = exact.min(1)
        index.append(near.gather(1, best.indices[:, None])[:, 0].cpu())
        distance.append(best.values.cpu())
    return Nearest(torch.cat(index), torch.cat(distance))


def _candidates(rows: Tensor, reals: Tensor, left_out: Tensor | None, block: int) -> Tensor:
    """Rows of the reals [b, c] with the smallest float32 distances; the one left out may be the last."""
    best = torch.empty(len(rows), 0, device=rows.device)
    index = torch.empty(len(rows), 0, dtype=torch.int64, device=rows.device)
    for start, others in _blocks(reals, block, rows.device):
        d = distances(rows, others, torch.float32)
        number = torch.arange(start, start + len(others), device=rows.device).expand_as(d)
        if left_out is not None:
            d = d.masked_fill(number == left_out[:, None], torch.inf)
        d, number = torch.cat([best, d], 1), torch.cat([index, number], 1)
        best, chosen = d.topk(min(CANDIDATES, d.shape[1]), largest=False)
        index = number.gather(1, chosen)
    return index


@dataclass(frozen=True)
class Memorisation:
    """`share` of fakes nearer to a real than `threshold`, the `quantile` of the distances from reals to their
    nearest other real; `fake_median` and `real_median` are the medians of both kinds of distance."""

    share: float
    quantile: float
    threshold: float
    fake_median: float
    real_median: float


def memorisation(
    fakes: Nearest | Tensor,
    reals: Tensor,
    *,
    quantile: float = 0.5,
    max_reals: int = 10_000,
    block: int = BLOCK,
    device: Device = None,
) -> Memorisation:
    """How much nearer to the training images [N, d] the fakes (features, or their `nearest_training`) are than
    training images are to each other.

    New images of the data's distribution have a share of about `quantile`; far above it fakes repeat training images
    (or stay where these are dense), far below it they lie apart from them. A small quantile, such as 0.01, asks for
    near copies only. Of more than `max_reals` reals, evenly spaced ones are compared with all.
    """
    if not 0 < quantile < 1:
        raise UserError(f"The quantile of the memorisation share must lie in (0, 1); got {quantile}.")
    nearest = fakes if isinstance(fakes, Nearest) else nearest_training(fakes, reals, block=block, device=device)
    rows = torch.from_numpy(np.unique(np.linspace(0, len(reals) - 1, min(max_reals, len(reals))).round().astype(int)))
    queries = reals[rows.to(reals.device)]
    between = nearest_training(queries, reals, skip=rows, block=block, device=device).distance
    threshold = float(np.quantile(between.numpy(), quantile))
    return Memorisation(
        share=float((nearest.distance < threshold).double().mean()),
        quantile=quantile,
        threshold=threshold,
        fake_median=float(nearest.distance.median()),
        real_median=float(between.median()),
    )


def memorisation_picture(fakes: Tensor, neighbours: Tensor, columns: int = 8) -> np.ndarray:
    """uint8 [N, C, H, W] twice -> uint8 [H', W', C]: each row of fakes above the row of their nearest reals."""
    if fakes.shape != neighbours.shape or fakes.dtype != torch.uint8 or neighbours.dtype != torch.uint8:
        raise UserError(
            "The memorisation picture needs uint8 images [N, C, H, W] and one neighbour of the same shape for each; "
            f"got {fakes.dtype} {list(fakes.shape)} and {neighbours.dtype} {list(neighbours.shape)}."
        )
    columns = min(columns, len(fakes))
    missing = -len(fakes) % columns
    rows = [
        torch.cat([s.cpu(), s.new_zeros(missing, *s.shape[1:], device="cpu")]).unflatten(0, (-1, columns))
        for s in (fakes, neighbours)
    ]
    return image_grid(torch.stack(rows, 1).flatten(0, 2), columns)
