"""What a direction really changes: its own factor, steadily, and everything else as little as possible.

Pictures are moved along the direction and every factor is read from each. Changes are told in standard deviations of
the factor over real pictures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.stats
import torch
from torch import Tensor

from stylegan_lightning.errors import UserError
from stylegan_lightning.latent.attributes import AttributeRegressor, read_codes, readable
from stylegan_lightning.latent.codes import Progress, silent
from stylegan_lightning.latent.directions import Direction, Directions
from stylegan_lightning.networks import Generator

STRENGTHS = tuple(float(s) for s in np.linspace(-2, 2, 9))
"""Two steps either way: of an attribute, as far as 95 of 100 pictures differ from the mean."""


@dataclass(frozen=True)
class Judgement:
    """What one direction does."""

    direction: str
    method: str
    factor: str
    """Its own: that of its name, or the one that it changes most."""
    rank: float
    """`rank_correlation` of strength and reading along the edit of a picture, mean over the pictures: 1 where the
    factor grows with every step, 0 where it never changes."""
    curve_rank: float
    """The same correlation of the mean reading of all pictures."""
    moved: float
    """Change of the mean reading from the first strength to the last, in deviations."""
    leakage: dict[str, float]
    """Every other factor: its change over that of the own factor, both in deviations, without sign."""
    changed: float
    """As the mean of `leakage`, of the pictures one by one: what changes one way in some and the other way in others
    counts too, and so does noise of the readings."""
    strengths: tuple[float, ...]
    curves: dict[str, tuple[float, ...]]
    """Every factor: mean reading at each strength, in deviations."""

    @property
    def mean_leakage(self) -> float:
        return float(np.mean(list(self.leakage.values()))) if self.leakage else 0.0

    @property
    def worst(self) -> tuple[str, float]:
        """The other factor that changes most."""
        return max(self.leakage.items(), key=lambda item: item[1], default=("", 0.0))

    def as_dict(self) -> dict[str, Any]:
        return {
            "direction": self.direction,
            "method": self.method,
            "factor": self.factor,
            "rank": self.rank,
            "curve_rank": self.curve_rank,
            "moved": self.moved,
            "mean_leakage": self.mean_leakage,
            "changed": self.changed,
            "leakage": self.leakage,
            "strengths": self.strengths,
            "curves": self.curves,
        }


def judge(
    G: Generator,
    directions: Directions | Sequence[Direction],
    regressor: AttributeRegressor,
    ws: Tensor,
    *,
    strengths: Sequence[float] = STRENGTHS,
    owners: Mapping[str, str] | None = None,
    progress: Progress = silent,
) -> list[Judgement]:
    """A judgement of each direction, over the pictures of ws [N, num_ws, w_dim].

    A direction is for the factor of its name, or for `owners[name]`; one that is named otherwise, as those of SeFa and
    PCA, for the factor that it changes most. Factors that the regressor reads badly are left out. Raises UserError
    where nothing can be read, for an owner that cannot, and for fewer than three strengths.
    """
    names = readable(regressor)
    if len(set(strengths)) < 3:
        raise UserError(f"an edit is judged by at least three strengths; got {list(strengths)}")
    known = dict(owners or {})
    for owner in known.values():
        if owner not in names:
            raise UserError(f"{owner!r} cannot be read; these can: {', '.join(names)}")
    columns = [regressor.names.index(n) for n in names]
    deviation = regressor.deviation.cpu()[columns]
    found = []
    total = len(directions) * len(ws) * len(strengths)
    for i, direction in enumerate(directions):
        moved = torch.stack([direction.apply(ws, s) for s in strengths], 1)
        flat = read_codes(G, regressor, moved.flatten(0, 1))
        progress((i + 1) * len(ws) * len(strengths), total)
        readings = flat.unflatten(0, (len(ws), -1))[..., columns] / deviation
        own = known.get(direction.name, direction.name)
        found.append(judgement(direction, readings, names, tuple(strengths), own if own in names else None))
    return found


def judgement(
    direction: Direction, readings: Tensor, names: Sequence[str], strengths: tuple[float, ...], own: str | None
) -> Judgement:
    """From readings [N, S, A] in deviations; `own` None is the factor that changes most."""
    curve = readings.mean(0)
    change = curve[-1] - curve[0]
    k = names.index(own) if own is not None else int(change.abs().argmax())
    size = float(change[k].abs().clamp(min=1e-6))
    each = (readings[:, -1] - readings[:, 0]).abs().mean(0) / size
    others = [j for j in range(len(names)) if j != k]
    return Judgement(
        direction=direction.name,
        method=direction.method,
        factor=names[k],
        rank=float(np.mean([rank_correlation(strengths, row) for row in readings[..., k].numpy()])),
        curve_rank=rank_correlation(strengths, curve[:, k].numpy()),
        moved=float(change[k]),
        leakage={names[j]: float(change[j].abs()) / size for j in others},
        changed=float(each[others].mean()) if others else 0.0,
        strengths=strengths,
        curves={name: tuple(curve[:, j].tolist()) for j, name in enumerate(names)},
    )


def rank_correlation(strengths: Sequence[float], readings: np.ndarray) -> float:
    """Spearman's, as a share of the largest that these readings have in any order.

    That is 1 unless some are equal: readings of yes and no, which change once along an edit, can only then reach 1.
    Readings that never change have 0.
    """
    if np.ptp(readings) == 0:
        return 0.0
    in_order, as_is = (scipy.stats.spearmanr(sorted(strengths), r)[0] for r in (np.sort(readings), readings))
    return float(as_is / in_order)


# ------------------------------------------------------------------------------------------------- tables


def markdown(judgements: Sequence[Judgement]) -> str:
    """A table with a row for each direction."""
    lines = [
        "| direction | method | factor | rank | of the mean | moved | leakage | picture by picture | most |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for j in judgements:
        worst, much = j.worst
        lines.append(
            f"| {j.direction} | {j.method} | {j.factor} | {j.rank:.2f} | {j.curve_rank:.2f} | {j.moved:+.2f} sd "
            f"| {j.mean_leakage:.2f} | {j.changed:.2f} | {worst} {much:.2f} |"
        )
    return "\n".join(lines) + "\n"


def leakage_matrix(
    judgements: Sequence[Judgement], factors: Sequence[str] | None = None
) -> tuple[np.ndarray, list[str]]:
    """[directions, factors] and the names of the factors: how much each changes by one deviation of the own factor.

    The own factor is 1 in its row. Of all that can be read, or of those given.
    """
    columns = list(factors or judgements[0].curves)
    rows = [[1.0 if f == j.factor else j.leakage.get(f, float("nan")) for f in columns] for j in judgements]
    return np.array(rows), columns
