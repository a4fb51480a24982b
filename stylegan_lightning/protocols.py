"""The contracts between the parts. A family of models is a pair (mapping, synthesis) and a discriminator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor

NoiseMode = Literal["random", "const", "none"]
Critic = Callable[[Tensor], Tensor]
"""A discriminator with labels (and augmentation) bound: img [N, C, H, W] -> logits [N, 1]."""

Draw = Callable[[Tensor], Tensor]
"""Standard normal numbers of the shape of its argument."""


class Mapping(Protocol):
    """z [N, z_dim], c [N, c_dim] -> ws [N, num_ws, w_dim]."""

    z_dim: int
    c_dim: int
    w_dim: int
    num_ws: int
    track_running_stats: bool

    def __call__(
        self,
        z: Tensor,
        c: Tensor | None = None,
        *,
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
    ) -> Tensor: ...


class Synthesis(Protocol):
    """ws [N, num_ws, w_dim] -> img [N, img_channels, H, W], dynamic range [-1, 1]."""

    w_dim: int
    num_ws: int
    img_resolution: int
    img_channels: int

    def __call__(self, ws: Tensor, *, noise_mode: NoiseMode = "random") -> Tensor: ...


class Discriminator(Protocol):
    """img [N, C, H, W], c [N, c_dim] -> logits [N, 1]."""

    img_resolution: int
    img_channels: int
    c_dim: int

    def __call__(self, img: Tensor, c: Tensor | None = None) -> Tensor: ...


class AdversarialLoss(Protocol):
    """Scalars of logits [N, 1]. `needs_reals`: the generator's objective needs `real_logits`."""

    needs_reals: bool

    def generator(self, fake_logits: Tensor, real_logits: Tensor | None = None) -> Tensor: ...
    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor: ...


class CriticPenalty(Protocol):
    """(critic, reals, fakes) -> scalar, every `interval` steps."""

    interval: int
    needs_fakes: bool

    def __call__(self, critic: Critic, reals: Tensor, fakes: Tensor | None) -> Tensor: ...


class GeneratorPenalty(Protocol):
    """(synthesis, ws, draw) -> scalar, every `interval` steps, on 1 / `batch_shrink` of the batch."""

    interval: int
    batch_shrink: int

    def __call__(self, synthesis: Synthesis, ws: Tensor, draw: Draw) -> Tensor: ...


@dataclass(frozen=True)
class Phase:
    """One optimizer step: `objective(reals, c, fake_c)` is a scalar; due every `interval` batches.

    The name is also the log key: "G", "G/pl", "D", "D/r1".
    """

    name: str
    optimizer: int
    interval: int
    objective: Callable[[Tensor, Tensor, Tensor], Tensor]

    @property
    def is_lazy(self) -> bool:
        """Whether this is a penalty of its own beside a main objective."""
        return "/" in self.name
