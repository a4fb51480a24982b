"""Directions learned through the generator: moved until the pictures change as wanted.

Regression of attributes on codes (`supervised`) finds where an attribute is larger in random pictures; how far a
picture must go until glasses are on its nose, and what else changes on the way, only its pictures tell. Here they do:
a direction is changed by gradient descent until pictures at strength s have s steps more of their attribute and all
else as before (Jahanian et al. 2020, "On the steerability of generative adversarial networks", equation 1, with
readings of a regressor in place of edited pictures).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from stylegan_lightning.errors import UserError
from stylegan_lightning.latent.codes import Progress, device_of, frozen, sample_w, silent
from stylegan_lightning.latent.directions import Direction, Directions
from stylegan_lightning.networks import Generator

REACH = 2.0
"""The largest strength that is looked at."""
POOL = 4096


class SteeringRegressor(Protocol):
    """Reads pictures so that gradients pass."""

    names: tuple[str, ...]
    mean: Tensor
    deviation: Tensor
    two_valued: tuple[str, ...]
    """Attributes that are there (1) or not (0)."""

    def continuous(self, img: Tensor, /) -> Tensor:
        """img [N, C, H, W] in [-1, 1] -> [N, A] in standard deviations from the mean."""
        ...


@dataclass(frozen=True)
class Steering:
    """How to learn. Raises UserError for values that cannot be."""

    steps: int = 150
    batch: int = 16
    lr: float = 0.03
    """Of Adam, in the root mean square of the direction at the start; down to 0 over the last quarter of the steps."""
    others_weight: float = 4.0
    """Of the mean square change of what is to stay, beside that of what is missing of the attribute."""
    psi: float = 0.7
    """Truncation of the random pictures."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 1 or not self.lr > 0:
            raise UserError(
                "steering takes at least one step, one picture a step and a learning rate above 0; "
                f"got steps={self.steps}, batch={self.batch}, lr={self.lr:g}"
            )


def steered(
    G: Generator,
    regressor: SteeringRegressor,
    directions: Directions,
    keep: Sequence[str],
    settings: Steering | None = None,
    *,
    label: int | Sequence[float] | None = None,
    progress: Progress = silent,
) -> Directions:
    """`directions`, each of an attribute of its name, improved; those of `keep` (but its own) stay as they are.

    A step of strength 1 then changes an attribute by one standard deviation of real pictures, and one with two values
    from no to yes. Vectors keep their shape, layers their part. Raises UserError for a name that cannot be read.
    """
    settings = settings or Steering()
    for name in (*directions.names, *keep):
        if name not in regressor.names:
            raise UserError(f"{name!r} cannot be read from pictures; these can: {', '.join(regressor.names)}")
    pool = sample_w(G, POOL, settings.seed, label)
    pool = torch.lerp(pool.mean(0), pool, settings.psi)
    found = []
    with frozen(G):
        for number, direction in enumerate(directions):
            done = number * settings.steps

            def tell(step: int, done: int = done) -> None:
                progress(done + step, len(directions) * settings.steps)

            found.append(_Steered(G, regressor, direction, keep, settings).run(pool, tell))
    return replace(directions, items=tuple(found))


class _Steered:
    def __init__(
        self, G: Generator, regressor: SteeringRegressor, direction: Direction, keep: Sequence[str], settings: Steering
    ) -> None:
        self.G, self.regressor, self.direction, self.settings = G, regressor, direction, settings
        name, place = direction.name, device_of(G)
        self.own = regressor.names.index(name)
        self.others = [regressor.names.index(n) for n in keep if n != name]
        mean, deviation = float(regressor.mean[self.own]), float(regressor.deviation[self.own])
        two = name in regressor.two_valued
        self.unit = 1 / deviation if two else 1.0
        self.range = ((0 - mean) / deviation, (1 - mean) / deviation) if two else (-torch.inf, torch.inf)
        self.step = (direction.vector * direction.scale).to(place).clone().requires_grad_()
        self.rate = settings.lr * float(self.step.detach().square().mean().sqrt())

    def run(self, pool: Tensor, tell: Callable[[int], None]) -> Direction:
        settings = self.settings
        random = torch.Generator().manual_seed(settings.seed)
        adam = torch.optim.Adam([self.step], lr=self.rate)
        for i in range(settings.steps):
            for group in adam.param_groups:
                group["lr"] = self.rate * min(1.0, 4 * (1 - i / settings.steps))
            rows = torch.randint(len(pool), (settings.batch,), generator=random)
            strengths = (2 * torch.rand(settings.batch, generator=random) - 1) * REACH
            adam.zero_grad()
            self._loss(pool[rows.to(pool.device)], strengths.to(pool)).backward()
            adam.step()
            tell(i + 1)
        return self._direction()

    def _loss(self, w: Tensor, strengths: Tensor) -> Tensor:
        ws = w[:, None].expand(-1, self.G.num_ws, -1)
        with torch.no_grad():
            before = self._read(ws)
        after = self._read(replace(self.direction, vector=self.step, scale=1.0).apply(ws, strengths))
        wanted = (before[:, self.own] + strengths * self.unit).clamp(*self.range)
        missing = torch.relu(strengths.sign() * (wanted - after[:, self.own])).square().mean()
        if not self.others:
            return missing
        return missing + self.settings.others_weight * (after - before)[:, self.others].square().mean()

    def _read(self, ws: Tensor) -> Tensor:
        return self.regressor.continuous(self.G.synthesis(ws, noise_mode="const").float())

    def _direction(self) -> Direction:
        step = self.step.detach().cpu()
        rows = step[list(self.direction.layers)] if step.ndim == 2 else step[None]
        length = float(rows.square().sum(1).mean().sqrt())
        return replace(self.direction, vector=step / length, scale=length, method="steered")
