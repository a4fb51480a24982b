"""Layers with equalised learning rate, shared by the whole family (ProGAN, section 4.1)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from stylegan_lightning.ops import ACTIVATIONS, bias_act, conv2d_resample, setup_filter

FIR_TAPS = (1, 3, 3, 1)


def required_labels(c: Tensor | None, c_dim: int, network: str = "discriminator") -> Tensor:
    """The labels of a conditional network, float32. Raises ValueError when they are missing."""
    if c is None:
        raise ValueError(f"this {network} is conditional: c [N, {c_dim}] must be given")
    return c.float()


class LowPrecision:
    """Mixin of networks that can compute their highest resolutions in float16 or bfloat16, as StyleGAN2-ADA.

    Parameters, styles, demodulation, images and everything below `low_from` pixels stay in float32.
    """

    img_resolution: int
    low_dtype: torch.dtype | None = None
    low_from = 0

    def set_low_precision(self, dtype: torch.dtype | None, num_resolutions: int = 4) -> None:
        """Use `dtype` for the highest `num_resolutions` resolutions, 8 pixels and up; None for none."""
        self.low_dtype = dtype if num_resolutions > 0 else None
        self.low_from = max(self.img_resolution >> max(num_resolutions - 1, 0), 8)

    def cast(self, x: Tensor, resolution: float, dtype: torch.dtype) -> Tensor:
        """x in the type for `resolution`, which is `dtype` where precision is not low."""
        low = self.low_dtype is not None and resolution >= self.low_from
        return x.to(self.low_dtype if low else dtype)


class FullyConnected(nn.Module):
    """y = act(gain * W x + b): weights are stored with unit variance and scaled at run time.

    `lr_multiplier` slows the layer's learning without changing its initial function (StyleGAN, C).
    The gain that restores the variance after the activation is applied to the output, as in StyleGAN 2 and 3,
    or, where `he_gain` is given, that factor to the weights only, as in ProGAN and StyleGAN 1.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        activation: str = "linear",
        lr_multiplier: float = 1.0,
        bias: bool = True,
        bias_init: float = 0.0,
        he_gain: float | None = None,
    ) -> None:
        super().__init__()
        self.activation = activation
        self.weight = nn.Parameter(torch.randn(out_features, in_features) / lr_multiplier)
        self.bias = nn.Parameter(torch.full((out_features,), float(bias_init))) if bias else None
        self.weight_gain = lr_multiplier * (1.0 if he_gain is None else he_gain) / math.sqrt(in_features)
        self.bias_gain = lr_multiplier
        self.output_gain = None if he_gain is None else 1.0

    def forward(self, x: Tensor) -> Tensor:
        b = self.bias if self.bias is None or self.bias_gain == 1.0 else self.bias * self.bias_gain
        return bias_act(x @ (self.weight * self.weight_gain).t(), b, act=self.activation, gain=self.output_gain)


class Conv2d(nn.Module):
    """Same-size convolution, optionally at half the resolution, with equalised learning rate.

    The activation must be positively homogeneous (linear, relu, lrelu): its gain, and `gain` of the call,
    are applied to the small weight instead of to the large activation.
    """

    resample_filter: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        bias: bool = True,
        activation: str = "linear",
        up: int = 1,
        down: int = 1,
        resample_filter: Sequence[float] = FIR_TAPS,
        clamp: float | None = None,
    ) -> None:
        super().__init__()
        if activation not in ("linear", "relu", "lrelu"):
            raise ValueError(f"activation must be linear, relu or lrelu, got {activation!r}")
        self.activation, self.up, self.down, self.clamp = activation, up, down, clamp
        weight = torch.randn(out_channels, in_channels, kernel_size, kernel_size)
        self.weight = nn.Parameter(weight.contiguous(memory_format=torch.channels_last))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        self.weight_gain = 1 / math.sqrt(in_channels * kernel_size**2)
        self.register_buffer("resample_filter", setup_filter(resample_filter), persistent=False)

    def forward(self, x: Tensor, gain: float = 1.0) -> Tensor:
        gain_act = gain * ACTIVATIONS[self.activation][1]
        w = (self.weight * (self.weight_gain * gain_act)).to(x.dtype)
        x = conv2d_resample(x, w, self.resample_filter, up=self.up, down=self.down)
        b = None if self.bias is None else self.bias * gain_act
        clamp = None if self.clamp is None else self.clamp * gain
        return bias_act(x, b, act=self.activation, gain=1.0, clamp=clamp)
