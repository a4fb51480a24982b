"""Networks that grow: which blocks are alive is state of the network, saved with its weights (ProGAN, section 2)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylegan_lightning.networks.layers import required_labels
from stylegan_lightning.networks.stylegan2 import block_resolutions
from stylegan_lightning.ops import minibatch_std
from stylegan_lightning.protocols import NoiseMode


def nearest_up(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


class Growing(nn.Module):
    """Base of growing synthesis networks and discriminators, which see images of `resolution` pixels.

    While `fading`, the newest block counts `alpha` and the path around it 1 - alpha. `grow_to` is the only
    writer of both, so grids, metrics and a lone checkpoint render the state that was trained. New networks
    are full-grown.
    """

    alpha: Tensor

    def __init__(self, img_resolution: int) -> None:
        super().__init__()
        self.img_resolution = self.resolution = img_resolution
        self.resolutions = block_resolutions(img_resolution)
        self.fading = False
        self.register_buffer("alpha", torch.ones(()), persistent=False)

    def grow_to(self, resolution: int, alpha: float) -> bool:
        """Whether a block appeared or a fade ended. Raises ValueError for a state that this network cannot have."""
        if resolution not in self.resolutions or not 0 < alpha <= 1 or (alpha < 1 and resolution == 4):
            raise ValueError(
                f"resolution must be one of {self.resolutions} and alpha in (0, 1], 1 at the lowest resolution; "
                f"got resolution={resolution}, alpha={alpha}"
            )
        before = self.resolution, self.fading
        self.resolution, self.fading = resolution, alpha < 1
        self.alpha.fill_(alpha)
        return before != (self.resolution, self.fading)

    def live(self) -> list[int]:
        """Resolutions of the blocks in use, ascending."""
        return [r for r in self.resolutions if r <= self.resolution]

    def get_extra_state(self) -> Tensor:
        return torch.tensor([self.resolution, float(self.alpha)], dtype=torch.float64)

    def set_extra_state(self, state: Tensor) -> None:
        if not isinstance(state, Tensor) or state.shape != (2,) or not bool(state.isfinite().all()):
            raise ValueError("its state of growth must be a resolution and a number up to 1")
        self.grow_to(int(state[0]), float(state[1]))


class GrowingSynthesis(Growing):
    """ws [N, num_ws, w_dim] -> img [N, img_channels, resolution, resolution].

    `blocks[r](x, ws, noise_mode)` makes features of r pixels from those of r/2 (None at 4) and consumes
    `num_ws` styles of its own; `torgb[r]` makes an image of them.
    """

    def __init__(
        self,
        img_resolution: int,
        img_channels: int,
        w_dim: int,
        blocks: Mapping[int, nn.Module],
        torgb: Mapping[int, nn.Module],
    ) -> None:
        super().__init__(img_resolution)
        self.img_channels, self.w_dim = img_channels, w_dim
        self.blocks = nn.ModuleDict({str(r): b for r, b in blocks.items()})
        self.torgb = nn.ModuleDict({str(r): b for r, b in torgb.items()})
        self.num_ws = self._count_ws(self.resolutions)

    def _count_ws(self, resolutions: list[int]) -> int:
        return sum(int(self.blocks[str(r)].num_ws) for r in resolutions)  # type: ignore[arg-type, misc]

    @property
    def active_ws(self) -> int:
        """How many of the styles reach the image at the present size."""
        return self._count_ws(self.live())

    def forward(self, ws: Tensor, *, noise_mode: NoiseMode = "random") -> Tensor:
        x = before = None
        used = 0
        for resolution in self.live():
            block = self.blocks[str(resolution)]
            mine = ws[:, used : used + int(block.num_ws)]  # type: ignore[arg-type]
            before, x = x, block(x, mine, noise_mode)
            used += mine.shape[1]
        img = self.torgb[str(self.resolution)](x)
        if not self.fading:
            return img
        return nearest_up(self.torgb[str(self.resolution // 2)](before)).lerp(img, self.alpha)


class GrowingDiscriminator(Growing):
    """img [N, C, resolution, resolution], c [N, c_dim] -> logits [N, 1].

    `fromrgb[r]` makes features, `blocks[r]` halves them, `epilogue` judges those of 4 pixels. With labels it
    gives one logit per class, of which the label selects (StyleGAN1's conditional discriminator): sum_k c_k l_k.
    Logits beyond c_dim are added for every image.
    """

    def __init__(
        self,
        img_resolution: int,
        img_channels: int,
        c_dim: int,
        fromrgb: Mapping[int, nn.Module],
        blocks: Mapping[int, nn.Module],
        epilogue: nn.Module,
        mbstd_group_size: int | None,
    ) -> None:
        super().__init__(img_resolution)
        self.img_channels, self.c_dim, self.mbstd_group_size = img_channels, c_dim, mbstd_group_size
        self.fromrgb = nn.ModuleDict({str(r): b for r, b in fromrgb.items()})
        self.blocks = nn.ModuleDict({str(r): b for r, b in blocks.items()})
        self.epilogue = epilogue

    def layers_from_image(self) -> list[nn.Module]:
        """fromrgb of all resolutions as one layer, then the layers of each block, the highest resolution first."""
        blocks = (self.blocks[str(r)] for r in reversed(self.resolutions[1:]))
        return [self.fromrgb, *(layer for block in blocks for layer in block.children())]

    def forward(self, img: Tensor, c: Tensor | None = None) -> Tensor:
        img = img.contiguous(memory_format=torch.channels_last)
        x = self.fromrgb[str(self.resolution)](img)
        for resolution in reversed(self.live()[1:]):
            x = self.blocks[str(resolution)](x)
            if self.fading and resolution == self.resolution:
                x = self.fromrgb[str(resolution // 2)](F.avg_pool2d(img, 2)).lerp(x, self.alpha)
        logits = self.epilogue(minibatch_std(x, self.mbstd_group_size))
        if not self.c_dim:
            return logits
        selected = (logits[:, : self.c_dim] * required_labels(c, self.c_dim)).sum(1, keepdim=True)
        return selected + logits[:, self.c_dim :].sum(1, keepdim=True)
