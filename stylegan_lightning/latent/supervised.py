"""Directions that change an attribute, found in pictures whose attributes are known.

Let x be the codes (all chosen styles in a row), S their covariance, and b_k the ridge regression of attribute k on x,
so that a move v changes attribute k by b_k . v. Moves that change it:

means       mean of x of those who have it minus that of those who do not
logistic    normal of the plane that logistic regression puts between them (InterFaceGAN, Shen et al. 2020)
ridge       b_k, the steepest ascent: of all moves with the same b_k . v the one with the smallest v . v
pattern     S b_k, the likeliest: that with the smallest v . S^-1 v, which is how x differs on average where the
            attribute differs (Haufe et al. 2014, equation 6)
balanced    S^(1/2) b_k, between the two: that with the smallest v . S^(-1/2) v

What a move would change of other attributes is taken out of it, b_j . v = 0 for each of them, by the correction that
is the smallest in the same sense ("conditional manipulation" of InterFaceGAN, section 2.2): as for `ridge` where the
method is `logistic`, as for `pattern` where it is `means`.

The codes may be of pictures whose styles were all drawn separately; then a direction has a vector of its own for each
style, and a style that has no part in an attribute hardly moves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import scipy.optimize
import torch
from torch import Tensor

from stylegan_lightning.errors import UserError
from stylegan_lightning.latent.attributes import Examples
from stylegan_lightning.latent.directions import Direction, Directions
from stylegan_lightning.networks import Generator

Method = Literal["balanced", "pattern", "ridge", "logistic", "means"]
METHODS: tuple[Method, ...] = get_args(Method)
POWERS: dict[Method, float] = {"balanced": 0.5, "pattern": 1.0, "ridge": 0.0, "logistic": 0.0, "means": 1.0}
"""Of S, in what measures a correction."""
QUARTER = 0.25
"""Of an attribute of many values, the lowest and the highest quarter are the two groups."""
PENALTIES = tuple(10.0**e for e in range(-4, 3))
LONGEST_STEP = 4.0
"""Of strength 1, in any style, as Mahalanobis distance: what codes hardly tell would need steps out of all codes."""


def supervised(
    G: Generator,
    examples: Examples,
    names: Sequence[str],
    layers: Sequence[int],
    *,
    method: Method = "balanced",
    orthogonal_to: Sequence[str] = (),
) -> Directions:
    """A direction for each of `names` that leaves `orthogonal_to` (but itself) as they are, as far as they are linear
    in the codes.

    A step of strength 1 changes the attribute, by the ridge regression, by one standard deviation, or from no to yes
    where it has two values, but moves no style by more than `LONGEST_STEP`. Raises UserError for attributes that are
    not there or do not vary, for too few examples of a group, and where nothing is left of a direction without the
    others.
    """
    names, others = list(dict.fromkeys(names)), list(dict.fromkeys(orthogonal_to))
    _check_varied(examples.only(names))
    varied = [n for n, c in zip(others, examples.only(others).values.t(), strict=True) if c.unique().numel() > 1]
    known = examples.only(list(dict.fromkeys([*names, *varied])))
    where = tuple(int(i) for i in layers)
    fit = _Fit.of(known, where)
    items = []
    for k, name in enumerate(names):
        away = [known.names.index(n) for n in varied if n != name]
        v = fit.direction(k, away, method, name)
        step = v * fit.step(k, v, name)
        blocks = step.view(-1, len(fit.covariance)).float()
        length = float(blocks.square().sum(1).mean().sqrt())
        vector = blocks[0]
        if examples.ws.ndim == 3:
            vector = torch.zeros(int(G.num_ws), int(G.w_dim)).index_copy(0, torch.tensor(where), blocks)
        items.append(Direction(name, vector / length, where, length, method))
    return Directions(tuple(items), int(G.num_ws), int(G.w_dim))


def _check_varied(examples: Examples) -> None:
    for name, column in zip(examples.names, examples.values.t(), strict=True):
        if column.unique().numel() < 2:
            raise UserError(f"all {len(column)} pictures have one value of {name!r}: there is nothing to learn from")


# ---------------------------------------------------------------------------------------------------- fits


@dataclass(frozen=True)
class _Fit:
    """x [n, D] centred, y [n, A] centred, ridge regression b [D, A], what strength 1 changes of each attribute, and the
    covariance [W, W] of one style's codes; D = W or styles * W."""

    x: Tensor
    y: Tensor
    b: Tensor
    unit: Tensor
    covariance: Tensor

    @classmethod
    def of(cls, examples: Examples, layers: Sequence[int]) -> _Fit:
        ws = examples.ws.double().cpu()
        ws = ws[:, list(layers)] if ws.ndim == 3 else ws
        x = (ws - ws.mean(0)).flatten(1)
        y = examples.values.double()
        mean = y.mean(0)
        rows = x.unflatten(1, (-1, ws.shape[-1])).flatten(0, 1)
        return cls(x, y - mean, ridge(x, y - mean), _units(examples), rows.t() @ rows / len(rows))

    def spread(self, v: Tensor, power: float) -> Tensor:
        """S^power v of v [D, ...]: styles drawn separately do not vary together."""
        values, basis = torch.linalg.eigh(self.covariance)
        matrix = (basis * values.clamp(min=0) ** power) @ basis.t()
        return torch.einsum("ij,lj...->li...", matrix, v.unflatten(0, (-1, len(matrix)))).flatten(0, 1)

    def direction(self, k: int, away: Sequence[int], method: Method, name: str) -> Tensor:
        """v [D] of attribute k, without what would change those in `away`."""
        v = self._raw(k, method, name)
        if not away:
            return v
        others = self.b[:, list(away)]
        correction = self.spread(others, POWERS[method])
        taken = correction @ torch.linalg.lstsq(others.t() @ correction, (others.t() @ v)[:, None]).solution
        rest = v - taken[:, 0]
        if not rest.norm() > 1e-6 * v.norm():
            raise UserError(f"nothing of {name!r} is left beside the attributes that it must not change: name fewer")
        return rest

    def _raw(self, k: int, method: Method, name: str) -> Tensor:
        if method in ("ridge", "balanced", "pattern"):
            return self.spread(self.b[:, k], POWERS[method])
        low, high = groups(self.y[:, k])
        if min(int(low.sum()), int(high.sum())) < 2:
            raise UserError(f"{name!r} needs at least two pictures that have it and two that do not")
        if method == "means":
            return self.x[high].mean(0) - self.x[low].mean(0)
        has = torch.arange(int(low.sum()) + int(high.sum())) >= int(low.sum())
        return logistic(torch.cat([self.x[low], self.x[high]]), has)

    def step(self, k: int, v: Tensor, name: str) -> float:
        """How far along v a step of strength 1 goes."""
        change = float(self.b[:, k] @ v)
        if change <= 0:
            raise UserError(f"the codes do not tell {name!r}: give more pictures, or leave it out")
        inverse = torch.linalg.pinv(self.covariance, hermitian=True)
        blocks = v.view(-1, len(self.covariance))
        longest = float(torch.einsum("li,ij,lj->l", blocks, inverse, blocks).amax().sqrt())
        return min(float(self.unit[k]) / change, LONGEST_STEP / longest)


def _units(examples: Examples) -> Tensor:
    """[A]: what strength 1 is to change."""
    deviation = examples.values.std(0) if examples.deviation is None else examples.deviation
    gaps = [
        c.max() - c.min() if c.unique().numel() == 2 else d for c, d in zip(examples.values.t(), deviation, strict=True)
    ]
    return torch.stack(gaps).double()


def groups(y: Tensor) -> tuple[Tensor, Tensor]:
    """bool [n] twice: those who do not have the attribute y [n], and those who do.

    Of two values the lower and the higher, of more the lowest and the highest quarter.
    """
    values = y.unique()
    low, high = (values[0], values[-1]) if len(values) == 2 else y.quantile(torch.tensor([QUARTER, 1 - QUARTER]).to(y))
    return y <= low, (y >= high) & (y > low)


def ridge(x: Tensor, y: Tensor) -> Tensor:
    """b [D, A] of x [n, D] and y [n, A], both centred; float64.

    The penalty of each attribute is that of `PENALTIES`, in units of the mean variance of x, with the smallest
    generalised cross-validation error (Golub, Heath and Wahba 1979).
    """
    n = len(x)
    s, basis = torch.linalg.eigh(x.t() @ x / n)
    s = s.clamp(min=0)
    h = basis.t() @ (x.t() @ y / n)
    errors, solutions = [], []
    for penalty in PENALTIES:
        shrunk = 1 / (s + penalty * s.mean().clamp(min=1e-12))
        left = y.square().mean(0) - ((2 - s * shrunk) * shrunk) @ h.square()
        free = float((s * shrunk).sum() + 1) / n
        errors.append(left / (1 - free) ** 2 if free < 0.95 else torch.full_like(left, torch.inf))
        solutions.append(shrunk[:, None] * h)
    best = torch.stack(errors).argmin(0)
    return basis @ torch.stack(solutions)[best, :, torch.arange(len(best))].t()


def logistic(x: Tensor, has: Tensor, C: float = 1.0) -> Tensor:
    """w [D] of the plane between x [n, D] where `has` [n] is true and where it is false, of length 1.

    Minimises mean log(1 + exp(-s (w . x + c))) + |w|^2 / (2 C n), x in units of its mean deviation, by L-BFGS; both
    groups count the same.
    """
    scale = x.square().mean().sqrt().clamp(min=1e-12)
    points = torch.cat([x / scale, torch.ones(len(x), 1, dtype=x.dtype)], 1)
    signs = torch.where(has, 1.0, -1.0).to(x)
    weights = torch.where(has, 0.5 / has.sum(), 0.5 / (~has).sum()).to(x)
    penalty = torch.full((points.shape[1],), 1 / (C * len(x)), dtype=x.dtype)
    penalty[-1] = 0

    def objective(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        w = torch.from_numpy(parameters)
        margins = signs * (points @ w)
        loss = weights @ torch.nn.functional.softplus(-margins) + penalty @ w.square() / 2
        gradient = points.t() @ (-weights * signs * torch.sigmoid(-margins)) + penalty * w
        return float(loss), gradient.numpy()

    start = np.zeros(points.shape[1])
    found = scipy.optimize.minimize(objective, start, jac=True, method="L-BFGS-B", options={"maxiter": 500}).x
    w = torch.from_numpy(found[:-1])
    return w / w.norm().clamp(min=1e-12)
