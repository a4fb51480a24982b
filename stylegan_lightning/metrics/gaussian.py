"""Gaussians fitted to features, the distance between two, and how far a small sample can be trusted.

The Fréchet distance of Gaussians (Dowson & Landau 1982; Heusel et al. 2017 on Inception features, the FID):

    d^2 = |mu1 - mu2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2))

Divisors of the covariance: "n" in NVIDIA's code, "n-1" in torchmetrics and torch-fidelity. With real and generated
sets of the same size the ratio of the covariance terms is 1 - 1/n.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from stylegan_lightning.errors import UserError

Divisor = Literal["n", "n-1"]


class GaussianSums:
    """Mean and covariance of a stream of features, in float64: memory [d, d] whatever the number of rows."""

    def __init__(self, num_features: int, device: torch.device | str = "cpu") -> None:
        self.sum = torch.zeros(num_features, dtype=torch.float64, device=device)
        self.outer = torch.zeros(num_features, num_features, dtype=torch.float64, device=device)
        self.count = 0

    @torch.no_grad()
    def update(self, features: Tensor) -> GaussianSums:
        """Adds features [N, d] of any float type."""
        if features.ndim != 2 or features.shape[1] != len(self.sum):
            raise UserError(
                f"Features must be a matrix [N, {len(self.sum)}], one row an image; got {list(features.shape)}. "
                "Give each feature extractor sums of its own."
            )
        rows = features.to(self.sum)
        self.sum += rows.sum(0)
        self.outer.addmm_(rows.T, rows)
        self.count += len(rows)
        return self

    def mean(self) -> Tensor:
        """[d]."""
        return self.sum / self._at_least(1)

    def covariance(self, divisor: Divisor = "n-1") -> Tensor:
        """[d, d], sum of (f - mu)(f - mu)^T over n or n - 1."""
        n = self._at_least(2 if divisor == "n-1" else 1)
        mu = self.mean()
        return (self.outer - n * torch.outer(mu, mu)) / (n - 1 if divisor == "n-1" else n)

    def _at_least(self, low: int) -> int:
        if self.count < low:
            raise UserError(f"A Gaussian needs at least {low} rows of features; got {self.count}. Add images.")
        return self.count


# ----------------------------------------------------------------------------------------- Fréchet distance


def frechet_distance(mu1: Tensor, cov1: Tensor, mu2: Tensor, cov2: Tensor) -> float:
    """d^2 of the Gaussians (mu [d], cov [d, d]); nan where a number is not finite. float64 on the inputs' device."""
    if not all(bool(t.isfinite().all()) for t in (mu1, cov1, mu2, cov2)):
        return math.nan
    return _distance(mu1, cov1, mu2, cov2, _Roots(cov1))


def trace_root_product(cov1: Tensor, cov2: Tensor) -> float:
    """tr (S1 S2)^(1/2) of two covariances [d, d].

    It equals the trace of (S1^(1/2) S2 S1^(1/2))^(1/2), which is the sum of the singular values of B1^T B2 for any
    factors S = B B^T. Where both are well conditioned, B is Cholesky's and the singular values are roots of symmetric
    eigenvalues. That would lose half of the digits in each direction that has no variance (there are some whenever
    n <= d): rounding of 1e-16 would become a root of 1e-8. Then B comes from the symmetric eigen-solver, without these
    directions, and the singular values are computed as such.
    """
    return _trace(_Roots(cov1), _Roots(cov2))


class _Roots:
    """Factors of a covariance, computed when asked for."""

    def __init__(self, cov: Tensor) -> None:
        self.cov = cov.double()

    @functools.cached_property
    def cholesky(self) -> Tensor | None:
        factor, failed = torch.linalg.cholesky_ex(self.cov)
        return None if failed else factor

    @functools.cached_property
    def spectral(self) -> Tensor:
        """[d, r] from the r eigenvalues above rounding (d eps of the largest); negative ones go."""
        values, vectors = torch.linalg.eigh(self.cov)
        kept = values > len(values) * torch.finfo(torch.float64).eps * values[-1].clamp(min=0)
        return vectors[:, kept] * values[kept].sqrt()


def _trace(a: _Roots, b: _Roots) -> float:
    if a.cholesky is not None and b.cholesky is not None:
        product = a.cholesky.T @ b.cholesky
        values = torch.linalg.eigvalsh(product.T @ product)
        if values[0] > 1e-10 * values[-1]:  # then rounding leaves at least ten digits of the sum
            return float(values.sqrt().sum())
    return float(torch.linalg.svdvals(a.spectral.T @ b.spectral).sum())


def _distance(mu1: Tensor, cov1: Tensor, mu2: Tensor, cov2: Tensor, roots1: _Roots) -> float:
    means = (mu1.double() - mu2.double()).square().sum()
    value = float(means + cov1.double().trace() + cov2.double().trace()) - 2 * _trace(roots1, _Roots(cov2))
    return max(value, 0.0)


# ------------------------------------------------------------------------------------- honest small samples


def few_samples(n: int, num_features: int, what: str = "generated images") -> str | None:
    """The text of a warning where n rows cannot fill a covariance of num_features dimensions, else None."""
    if n > num_features:
        return None
    return (
        f"a Fréchet distance needs more {what} than features; there are {n} {what} for {num_features} features. "
        f"The covariance has directions without any variance and the value lies far above that of a large sample: "
        f"take more than {num_features} {what} (published values: 50000), or KID, which has no such bias."
    )


@dataclass(frozen=True)
class Extrapolation:
    """`value` at 1/n = 0 of the line value + slope / n through `values` at `sizes`; `error` is its standard error."""

    value: float
    slope: float
    error: float
    sizes: tuple[int, ...]
    values: tuple[float, ...]


@torch.no_grad()
def fid_infinity(
    real_mu: Tensor,
    real_cov: Tensor,
    fakes: Tensor,
    *,
    points: int = 15,
    smallest: int | None = None,
    seed: int = 0,
    divisor: Divisor = "n-1",
) -> Extrapolation:
    """The Fréchet distance that infinitely many fakes would have (Chong & Forsyth 2020, FID-infinity).

    To first order the bias of a distance from n fakes is proportional to 1/n. So distances of `points` random
    subsets, sizes evenly spaced from `smallest` (a tenth of the fakes; the paper: 5000 of 50000) to all, are fitted by
    a line in 1/n. fakes [n, d]; the subsets depend on `seed` alone. The bias of the real statistics, which are fixed,
    stays. `error` takes the deviations from the line as independent; the subsets overlap, so it is a lower bound.
    """
    n, low = len(fakes), len(fakes) // 10 if smallest is None else smallest
    if points < 3 or low < 2 or n - low < points - 1:
        raise UserError(
            f"FID-infinity needs at least 3 different subset sizes of at least 2 fakes; got {points} sizes from {low} "
            f"to {n}. Generate more images or ask for fewer points."
        )
    rng, roots = np.random.default_rng(seed), _Roots(real_cov)
    sizes = [round(size) for size in np.linspace(low, n, points)]
    values = []
    for size in sizes:
        rows = torch.from_numpy(rng.permutation(n)[:size]).to(fakes.device)
        sums = GaussianSums(fakes.shape[1], real_mu.device).update(fakes[rows])
        values.append(_distance(real_mu, real_cov, sums.mean(), sums.covariance(divisor), roots))
    return _line(sizes, values)


def _line(sizes: list[int], values: list[float]) -> Extrapolation:
    """Least squares of values against 1 / sizes."""
    design = np.stack([np.ones(len(sizes)), 1 / np.array(sizes)], 1)
    (value, slope), *_ = np.linalg.lstsq(design, np.array(values), rcond=None)
    variance = np.square(design @ [value, slope] - values).sum() / (len(sizes) - 2)
    error = math.sqrt(variance * np.linalg.inv(design.T @ design)[0, 0])
    return Extrapolation(float(value), float(slope), error, tuple(sizes), tuple(values))


@dataclass(frozen=True)
class Interval:
    """`value` of the sample itself, and the interval that holds the true one in `level` of all samples."""

    value: float
    low: float
    high: float
    level: float


def bootstrap_interval(
    statistic: Callable[..., float], *sets: Tensor, level: float = 0.95, resamples: int = 200, seed: int = 0
) -> Interval:
    """Confidence interval of statistic(*sets) by resampling the rows of each set with replacement (Efron 1979).

    A resample repeats rows, which shifts distances between distributions: nearest neighbours of a repeated row are at
    distance 0, a covariance has fewer directions. Only the spread around their mean is therefore taken from the
    resamples: [value + q - m], q their quantiles (1 -+ level) / 2 and m their mean. Deterministic by `seed`.
    A set to be held fixed belongs inside `statistic`.
    """
    if not 0 < level < 1 or resamples < 2:
        raise UserError(f"An interval needs a level in (0, 1) and at least 2 resamples; got {level} and {resamples}.")
    rng, value = np.random.default_rng(seed), float(statistic(*sets))
    draws = []
    for _ in range(resamples):
        rows = [torch.from_numpy(rng.integers(len(s), size=len(s))).to(s.device) for s in sets]
        draws.append(float(statistic(*(s[r] for s, r in zip(sets, rows, strict=True)))))
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2]) - np.mean(draws)
    return Interval(value, value + float(low), value + float(high), level)


def check_sets(what: str, low: int, *sets: Tensor) -> None:
    """Raises UserError unless all are matrices [N, d] of one d with at least `low` rows each."""
    shapes = [list(s.shape) for s in sets]
    if any(len(shape) != 2 or shape[0] < low for shape in shapes) or len({shape[-1] for shape in shapes}) != 1:
        raise UserError(
            f"{what} needs features [N, d] with at least {low} rows in each set and one d; got "
            f"{' and '.join(map(str, shapes))}. Add images, or use the same feature extractor for both."
        )
