"""Weight modulation and demodulation (StyleGAN2, equations 1-3)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from stylegan_lightning.ops.conv_resample import conv2d_resample


def demod_coefficients(weight: Tensor, styles: Tensor, eps: float = 1e-8) -> Tensor:
    """d [N, O] with 1/d^2 = sum over i, kh, kw of (s_i w_oi)^2 (eq. 3), as one matrix product."""
    return (styles.square() @ weight.square().sum((2, 3)).t() + eps).rsqrt()


def modulated_conv2d(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    *,
    demodulate: bool = True,
    up: int = 1,
    down: int = 1,
    resample_filter: Tensor | None = None,
) -> Tensor:
    """x [N, I, H, W] convolved with weight [O, I, k, k] scaled by styles [N, I] on its input channels.

    Scaling the activations instead of the weights is the same linear map, shares one weight among all
    samples and never builds the N x O x I x k x k tensor that `modulated_conv2d_ref` does.
    """
    x = x * styles.to(x.dtype)[:, :, None, None]
    y = conv2d_resample(x, weight.to(x.dtype), resample_filter, up=up, down=down)
    if demodulate:
        y = y * demod_coefficients(weight, styles).to(y.dtype)[:, :, None, None]
    return y


def modulated_conv2d_ref(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    *,
    demodulate: bool = True,
    up: int = 1,
    down: int = 1,
    resample_filter: Tensor | None = None,
) -> Tensor:
    """The specification: one modulated, demodulated weight per sample, applied sample by sample."""
    w = weight[None] * styles[:, None, :, None, None]
    if demodulate:
        w = F.normalize(w.flatten(2), dim=2).view_as(w)
    return torch.cat(
        [conv2d_resample(xi[None], wi, resample_filter, up=up, down=down) for xi, wi in zip(x, w, strict=True)]
    )
