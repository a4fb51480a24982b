"""Kernel distance of features (Bińkowski et al. 2018; on Inception features, the KID).

The squared maximum mean discrepancy of the kernel k(x, y) = (x . y / d + 1)^3, without bias:

    MMD^2 = mean k(x, x') + mean k(y, y') - 2 mean k(x, y)        over pairs of different rows x != x', y != y'

KID is its mean over random subsets, 100 of 1000 rows of each set in all three of NVIDIA's code, torch-fidelity and
torchmetrics. They differ in how the rows are drawn, so the draws are an argument here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stylegan_lightning.errors import UserError
from stylegan_lightning.metrics.gaussian import check_sets

Subset = tuple[Tensor, Tensor]
"""int64 row numbers of the reals and of the fakes, as many of each, none twice."""


@dataclass(frozen=True)
class KIDResult:
    """Mean and standard deviation (divided by the number of subsets) over the subsets."""

    mean: float
    std: float


def numpy_subsets(num_real: int, num_fake: int, subsets: int = 100, size: int = 1000, seed: int = 2020) -> list[Subset]:
    """The draws of torch-fidelity with the fakes as its first input, and of NVIDIA's code after np.random.seed(seed):
    without replacement, for each subset fakes first. `size` is at most the smaller set (NVIDIA's rule)."""
    rng, size = np.random.RandomState(seed), min(size, num_real, num_fake)
    drawn = []
    for _ in range(subsets):
        fakes, reals = (torch.from_numpy(rng.choice(n, size, replace=False)) for n in (num_fake, num_real))
        drawn.append((reals, fakes))
    return drawn


def torch_subsets(num_real: int, num_fake: int, subsets: int = 100, size: int = 1000, seed: int = 0) -> list[Subset]:
    """The draws of torchmetrics after torch.manual_seed(seed): heads of permutations, reals first."""
    generator, size = torch.Generator().manual_seed(seed), min(size, num_real, num_fake)
    drawn = []
    for _ in range(subsets):
        reals, fakes = (torch.randperm(n, generator=generator)[:size] for n in (num_real, num_fake))
        drawn.append((reals, fakes))
    return drawn


def kid(
    reals: Tensor,
    fakes: Tensor,
    subsets: Sequence[Subset] | None = None,
    *,
    block: int = 2048,
    device: torch.device | str | None = None,
) -> KIDResult:
    """KID of features [N, d] and [M, d] over `subsets` (None: `numpy_subsets`), in float64.

    At most [block, block] values of the kernel exist at a time. Where the sets are small against the subsets, each
    kernel value is computed once and serves all the subsets that hold its pair. `device`: where to compute (None:
    where the reals are); the sets may lie elsewhere, for example in a memory-mapped file.
    """
    check_sets("KID", 2, reals, fakes)
    chosen = numpy_subsets(len(reals), len(fakes)) if subsets is None else subsets
    if not chosen or any(len(r) < 2 or len(r) != len(f) for r, f in chosen):
        raise UserError("KID needs subsets with as many reals as fakes, at least 2 of each; change the draws.")
    device = reals.device if device is None else torch.device(device)
    apart = sum(len(r) ** 2 for r, _ in chosen) * 3
    together = len(reals) ** 2 + len(fakes) ** 2 + len(reals) * len(fakes)
    if together < apart:
        values = _shared(reals, fakes, chosen, block, device)
    else:
        each = [polynomial_mmd2(reals[r], fakes[f], block=block, device=device) for r, f in chosen]
        values = torch.tensor(each, dtype=torch.float64)
    return KIDResult(float(values.mean()), float(values.std(correction=0)))


def polynomial_mmd2(x: Tensor, y: Tensor, *, block: int = 2048, device: torch.device | str | None = None) -> float:
    """Unbiased MMD^2 of all rows of x [N, d] and y [M, d]; it may be negative. float64."""
    check_sets("MMD", 2, x, y)
    every = [(torch.arange(len(x)), torch.arange(len(y)))]
    return float(_shared(x, y, every, block, x.device if device is None else torch.device(device)))


def _shared(x: Tensor, y: Tensor, subsets: Sequence[Subset], block: int, device: torch.device) -> Tensor:
    """Unbiased MMD^2 of each subset [S]; every kernel value is computed once.

    With W [S, N] 1 where a subset holds a row, the sums of the kernel matrix K over subsets are diag(W K W^T).
    """
    wx, wy = _members([r for r, _ in subsets], len(x)), _members([f for _, f in subsets], len(y))
    m, n = wx.sum(1), wy.sum(1)
    xx, yy = _sums(x, x, wx, wx, block, device), _sums(y, y, wy, wy, block, device)
    return xx / (m * (m - 1)) + yy / (n * (n - 1)) - 2 * _sums(x, y, wx, wy, block, device) / (m * n)


def _members(rows: Sequence[Tensor], n: int) -> Tensor:
    weights = torch.zeros(len(rows), n, dtype=torch.float64)
    for weight, row in zip(weights, rows, strict=True):
        weight[row.cpu()] = 1
    return weights


def _sums(x: Tensor, y: Tensor, wx: Tensor, wy: Tensor, block: int, device: torch.device) -> Tensor:
    """Sum of k over the pairs of each subset [S]; for x is y over pairs of different rows, by half of the blocks."""
    total = torch.zeros(len(wx), dtype=torch.float64, device=device)
    for i, rows in _blocks(x, block, device):
        for j, columns in _blocks(y, block, device):
            if x is y and j < i:
                continue
            k = (rows @ columns.T).div_(x.shape[1]).add_(1)
            k = k.square().mul_(k)
            if x is y and i == j:
                k.fill_diagonal_(0)
            factor = 2 if x is y and i != j else 1
            w = wx[:, i : i + block].to(device) @ k
            total += factor * w.mul_(wy[:, j : j + block].to(device)).sum(1)
    return total.cpu()


def _blocks(x: Tensor, block: int, device: torch.device) -> Iterator[tuple[int, Tensor]]:
    for start in range(0, len(x), block):
        yield start, x[start : start + block].to(device, torch.float64)
