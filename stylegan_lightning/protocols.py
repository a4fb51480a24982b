"""The contracts between the parts. A family of models is a pair (mapping, synthesis) and a discriminator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor, nn

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
    def layers_from_image(self) -> list[nn.Module]:
        """What FreezeD counts: the layers with weights in the order in which an image meets them, without the head."""
        ...


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


Survey = AbstractContextManager[None]
"""While open, a penalty uses what it was told of the whole batch."""


class GeneratorPenalty(Protocol):
    """(synthesis, ws, draw) -> scalar, every `interval` steps, on 1 / `batch_shrink` of the batch.

    For a batch that is processed in parts, `measure` gives what `holding` wants to know of all of them first.
    """

    interval: int
    batch_shrink: int

    def __call__(self, synthesis: Synthesis, ws: Tensor, draw: Draw) -> Tensor: ...
    def measure(self, synthesis: Synthesis, ws: Tensor, draw: Draw) -> Tensor: ...
    def holding(self, values: Tensor) -> Survey: ...


class StrengthControl(Protocol):
    """Moves p of an augmentation: told the real logits of each batch, then asked to take a step."""

    start: float

    def observe(self, real_logits: Tensor) -> None: ...
    def step(self, p: Tensor, batches: int, nimg: int, batch_size: int) -> None: ...


@dataclass(frozen=True)
class Phase:
    """One optimizer step: `objective(reals, c, fake_c)` is a scalar; due every `interval` batches.

    The name is also the log key: "G", "G/pl", "D", "D/r1". For a batch in parts, `survey(shares, enter)` comes
    first, where there is one; `enter(i)` sets the random numbers of share i.
    """

    name: str
    optimizer: int
    interval: int
    objective: Callable[[Tensor, Tensor, Tensor], Tensor]
    survey: Callable[[Sequence[tuple[Tensor, Tensor, Tensor]], Callable[[int], None]], Survey] | None = None

    @property
    def is_lazy(self) -> bool:
        """Whether this is a penalty of its own beside a main objective."""
        return "/" in self.name
