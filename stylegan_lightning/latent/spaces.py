"""Where a projection searches: z, w (one style for all layers) or w+ (a style for each layer)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from stylegan_lightning.errors import UserError
from stylegan_lightning.latent.codes import device_of, label_of, sample_w
from stylegan_lightning.latent.ranges import parse_range
from stylegan_lightning.networks import Generator

Space = Literal["auto", "z", "w", "w+"]
SPACES = ("auto", "z", "w", "w+")


def chosen_space(G: Generator, space: str) -> str:
    """ "z", "w" or "w+" of a name that may be "auto" (w+ for style-based models, else z); one style is "w".

    Raises UserError for other names.
    """
    if space not in SPACES:
        raise UserError(f"the space must be one of {', '.join(SPACES)}; got {space!r}")
    if space == "auto":
        return "w+" if G.num_ws > 1 else "z"
    return "w" if space == "w+" and G.num_ws == 1 else space


class Searched(Protocol):
    """Points of N pictures, as tensors that an optimiser moves."""

    def parameters(self) -> list[Tensor]: ...

    def styles(self, jitter: Tensor | None = None) -> Tensor:
        """ws [N, num_ws, w_dim], with gradients; `jitter` is added to the point, in its standard deviations."""
        ...

    def penalty(self) -> tuple[Tensor, Tensor]:
        """[N] each: how far the point is from the middle of its distribution, how far layers are from each other."""
        ...

    def settle(self, progress: float) -> None:
        """After a step: back to where points may be; frees what is due at this share of the steps."""
        ...


@dataclass(frozen=True)
class StyleStatistics:
    """Mean and principal axes of w. Whitened coordinates u [..., K] are the point w = mean + axes u."""

    mean: Tensor
    axes: Tensor
    """[w_dim, K]: each as long as the standard deviation along it; those without variance are left out."""

    @classmethod
    def of(cls, G: Generator, label: int | Sequence[float] | None, count: int = 4096) -> StyleStatistics:
        w = sample_w(G, max(count, 8 * G.w_dim), 0, label).double()
        mean = w.mean(0)
        values, vectors = torch.linalg.eigh((w - mean).T @ (w - mean) / len(w))
        kept = values > 1e-6 * values[-1]
        return cls(mean.float(), (vectors[:, kept] * values[kept].sqrt()).float())

    def points(self, u: Tensor) -> Tensor:
        """[..., K] -> w [..., w_dim]"""
        return self.mean + u @ self.axes.T

    def coordinates(self, w: Tensor) -> Tensor:
        """w [..., w_dim] -> [..., K], of the nearest point where axes are left out."""
        return (w - self.mean) @ self.axes / self.axes.square().sum(0)


class StyleSpace:
    """w, or w+ with `release`: (share of the steps, layers) from which on these layers have styles of their own.

    Until then they follow the style that all share. Coordinates are whitened, so that a step is as large along every
    axis in standard deviations of w.
    """

    def __init__(
        self, w: Tensor, num_ws: int, statistics: StyleStatistics, release: Sequence[tuple[float, Sequence[int]]] = ()
    ) -> None:
        self.statistics, self.num_ws, self.release = statistics, num_ws, release
        self.shared = statistics.coordinates(w).requires_grad_()
        size = self.shared.shape[-1]
        self.own = [torch.zeros(len(w), len(layers), size, device=w.device) for _, layers in release]
        self.settle(0.0)

    def parameters(self) -> list[Tensor]:
        return [self.shared, *self.own]

    def coordinates(self) -> Tensor:
        u = self.shared[:, None].expand(-1, self.num_ws, -1)
        for own, (_, layers) in zip(self.own, self.release, strict=True):
            u = u.index_add(1, torch.as_tensor(list(layers), device=u.device), own)
        return u

    def styles(self, jitter: Tensor | None = None) -> Tensor:
        u = self.coordinates()
        return self.statistics.points(u if jitter is None else u + jitter)

    def penalty(self) -> tuple[Tensor, Tensor]:
        u = self.coordinates()
        return u.square().mean((1, 2)), (u - u.mean(1, keepdim=True)).square().mean((1, 2))

    def settle(self, progress: float) -> None:
        for own, (start, _) in zip(self.own, self.release, strict=True):
            own.requires_grad_(progress >= start)


class LatentSpace:
    """z, kept at a length that it is drawn with.

    Where the mapping normalises z that is sqrt(z_dim), so that steps do not shrink as z grows; elsewhere within three
    standard deviations (each sqrt(1/2)) of it.
    """

    def __init__(self, z: Tensor, G: Generator, label: int | Sequence[float] | None) -> None:
        c = label_of(G, label)
        self.z, self.G = z.clone().requires_grad_(), G
        self.c = None if c is None else c.to(z.device).expand(len(z), -1)
        self.margin = 0.0 if getattr(G.mapping, "normalize", True) else 3 * 0.5**0.5
        self.settle(0.0)

    def parameters(self) -> list[Tensor]:
        return [self.z]

    def styles(self, jitter: Tensor | None = None) -> Tensor:
        return self.G.mapping(self.z if jitter is None else self.z + jitter[:, 0], self.c)

    def penalty(self) -> tuple[Tensor, Tensor]:
        nothing = torch.zeros(len(self.z), device=self.z.device)
        return nothing, nothing

    @torch.no_grad()
    def settle(self, progress: float) -> None:
        length, usual = self.z.norm(dim=1, keepdim=True), self.z.shape[1] ** 0.5
        self.z.mul_(length.clamp(max(usual - self.margin, 0.0), usual + self.margin) / length.clamp(min=1e-8))


def release_of(G: Generator, shares: Sequence[float]) -> list[tuple[float, list[int]]]:
    """Shares of the steps after which the coarse, middle and fine layers get styles of their own.

    Raises UserError unless these are three numbers from 0 to 1.
    """
    if len(shares) != 3 or not all(0 <= s <= 1 for s in shares):
        raise UserError(
            "the layer schedule is three shares of the steps, 0 to 1, for coarse, middle and fine layers; "
            f"got {', '.join(f'{s:g}' for s in shares)}"
        )
    return [(s, parse_range(name, G.num_ws)) for s, name in zip(shares, ("coarse", "middle", "fine"), strict=True)]


@torch.no_grad()
def candidates(G: Generator, count: int, seed: int, label: int | Sequence[float] | None) -> tuple[Tensor, Tensor]:
    """z [count, z_dim] and their w [count, w_dim] on G's device, the same for every picture."""
    z = torch.randn(count, G.z_dim, generator=torch.Generator().manual_seed(seed)).to(device_of(G))
    c = label_of(G, label)
    c = None if c is None else c.to(z.device).expand(count, -1)
    return z, G.mapping(z, c)[:, 0]
