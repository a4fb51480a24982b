"""The one generator: a mapping network and a synthesis network."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from torch import Tensor, nn

from stylegan_lightning.protocols import Mapping, NoiseMode, Synthesis


class Generator(nn.Module):
    """z [N, z_dim], c [N, c_dim] -> img [N, img_channels, H, W], dynamic range [-1, 1].

    `mapping` is a partial that receives w_dim and num_ws from `synthesis`, so the two always fit.
    """

    def __init__(self, synthesis: nn.Module, mapping: Callable[..., nn.Module]) -> None:
        super().__init__()
        self.synthesis: Synthesis = synthesis  # type: ignore[assignment]
        self.mapping: Mapping = mapping(w_dim=synthesis.w_dim, num_ws=synthesis.num_ws)  # type: ignore[assignment]

    z_dim = property(lambda self: self.mapping.z_dim)
    c_dim = property(lambda self: self.mapping.c_dim)
    w_dim = property(lambda self: self.mapping.w_dim)
    num_ws = property(lambda self: self.mapping.num_ws)
    img_resolution = property(lambda self: self.synthesis.img_resolution)
    img_channels = property(lambda self: self.synthesis.img_channels)

    @property
    def active_ws(self) -> int:
        """How many styles reach the image: all of them, unless the network is still growing."""
        return getattr(self.synthesis, "active_ws", self.num_ws)

    def forward(
        self,
        z: Tensor,
        c: Tensor | None = None,
        *,
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
        noise_mode: NoiseMode = "random",
    ) -> Tensor:
        ws = self.mapping(z, c, truncation_psi=truncation_psi, truncation_cutoff=truncation_cutoff)
        return self.synthesis(ws, noise_mode=noise_mode)


@contextlib.contextmanager
def track_running_stats(module: nn.Module) -> Iterator[None]:
    """While open, every part of `module` that keeps running statistics (w_avg, StyleGAN3's magnitudes) updates them."""
    parts = [m for m in module.modules() if hasattr(m, "track_running_stats")]
    before = [part.track_running_stats for part in parts]
    for part in parts:
        part.track_running_stats = True  # type: ignore[assignment]
    try:
        yield
    finally:
        for part, tracking in zip(parts, before, strict=True):
            part.track_running_stats = tracking
