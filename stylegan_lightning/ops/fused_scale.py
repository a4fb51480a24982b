"""Convolution at twice or half the size with nearest-neighbour enlargement and average pooling (ProGAN, StyleGAN1).

Enlarging by repetition, or averaging 2x2 pixels, and a 3x3 convolution are together one 4x4 convolution of
stride 2, which touches 2.25 times fewer pixels.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from stylegan_lightning.ops.conv import conv2d, conv_transpose2d


def _box4(weight: Tensor) -> Tensor:
    """3x3 kernels convolved with a 2x2 box of ones: 4x4 kernels."""
    w = F.pad(weight, (1, 1, 1, 1))
    return w[..., 1:, 1:] + w[..., :-1, 1:] + w[..., 1:, :-1] + w[..., :-1, :-1]


def upscale_conv2d(x: Tensor, weight: Tensor, *, flip: bool = True) -> Tensor:
    """conv2d(nearest-enlarged x [N, I, H, W], weight [O, I, 3, 3]) -> [N, O, 2H, 2W].

    With flip=False the kernel acts in the opposite orientation, as the weights of the original "fused scale"
    layers, which are transposed convolutions, expect.
    """
    w = weight.flip((2, 3)) if flip else weight
    return conv_transpose2d(x, _box4(w).transpose(0, 1), stride=2, padding=1)


def conv2d_downscale(x: Tensor, weight: Tensor) -> Tensor:
    """2x2 averages of conv2d(x [N, I, H, W], weight [O, I, 3, 3]) -> [N, O, H/2, W/2]."""
    return conv2d(x, _box4(weight) * 0.25, stride=2, padding=1)
