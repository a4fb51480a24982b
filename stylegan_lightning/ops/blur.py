"""The blur that StyleGAN3-R's discriminator starts with (Karras et al. 2021, section 4)."""

from __future__ import annotations

import torch
from torch import Tensor

from stylegan_lightning.ops.fir import setup_filter, upfirdn2d


def blur2d(x: Tensor, sigma: float) -> Tensor:
    """x [N, C, H, W] weighted by 2^-(d / sigma)^2 up to d = 3 sigma pixels, zero outside the picture."""
    radius = int(sigma * 3)
    if radius == 0:
        return x
    distance = torch.arange(-radius, radius + 1, dtype=torch.float32, device=x.device)
    return upfirdn2d(x, setup_filter(torch.exp2(-(distance / sigma).square())), padding=radius)
