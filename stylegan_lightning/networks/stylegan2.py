"""StyleGAN2 (Karras et al., "Analyzing and Improving the Image Quality of StyleGAN", 2020; StyleGAN2-ADA for labels).

Architectures: "skip" (RGB sums in G, RGB pyramid in D), "resnet" and "orig" (neither), figure 7 of the paper.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylegan_lightning.networks.layers import FIR_TAPS, Conv2d, FullyConnected, LowPrecision, required_labels
from stylegan_lightning.networks.mapping import LabelMapping
from stylegan_lightning.ops import (
    bias_act,
    conv2d_resample,
    demod_coefficients,
    downsample2d,
    minibatch_std,
    modulated_conv2d,
    setup_filter,
    upsample2d,
)
from stylegan_lightning.protocols import NoiseMode

Architecture = Literal["skip", "resnet", "orig"]
SQRT2 = math.sqrt(2)


def block_resolutions(img_resolution: int) -> list[int]:
    """4, 8, ..., img_resolution. Raises ValueError unless it is a power of two of at least 8."""
    if img_resolution < 8 or img_resolution & (img_resolution - 1):
        raise ValueError(f"img_resolution must be a power of two of at least 8, got {img_resolution}")
    return [2**i for i in range(2, img_resolution.bit_length())]


def num_channels(resolution: int, channel_base: int, channel_max: int) -> int:
    """min(channel_base / resolution, channel_max). Raises ValueError where that is none."""
    if channel_base < resolution:
        raise ValueError(
            f"channel_base={channel_base} leaves no channels at {resolution} pixels; it must be at least {resolution}"
        )
    return min(channel_base // resolution, channel_max)


def channel_table(img_resolution: int, channel_base: int, channel_max: int) -> dict[int, int]:
    """Channels at 4, 8, ..., img_resolution. Raises ValueError as `block_resolutions` and `num_channels` do."""
    return {r: num_channels(r, channel_base, channel_max) for r in block_resolutions(img_resolution)}


def prenormalize(weight: Tensor, styles: Tensor) -> tuple[Tensor, Tensor]:
    """Weight [O, I, k, k] and styles [N, I] scaled so that no product overflows float16.

    Demodulation undoes any scale of an output channel or of a sample's styles (StyleGAN2-ADA's mixed precision).
    """
    weight = weight / (weight.abs().amax((1, 2, 3), keepdim=True) * math.sqrt(weight[0].numel()))
    return weight, styles / styles.abs().amax(1, keepdim=True)


class SynthesisLayer(nn.Module):
    """Modulated 3x3 convolution (up to twice the size), noise, bias, leaky ReLU."""

    resample_filter: Tensor
    noise_const: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        w_dim: int,
        resolution: int,
        *,
        up: int = 1,
        use_noise: bool = True,
        resample_filter: Sequence[float] = FIR_TAPS,
        clamp: float | None = None,
    ) -> None:
        super().__init__()
        self.resolution, self.up, self.use_noise, self.clamp = resolution, up, use_noise, clamp
        self.affine = FullyConnected(w_dim, in_channels, bias_init=1)
        weight = torch.randn(out_channels, in_channels, 3, 3)
        self.weight = nn.Parameter(weight.contiguous(memory_format=torch.channels_last))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        if use_noise:
            self.noise_strength = nn.Parameter(torch.zeros(()))
            self.register_buffer("noise_const", torch.randn(resolution, resolution))
        self.register_buffer("resample_filter", setup_filter(resample_filter), persistent=False)

    def forward(self, x: Tensor, w: Tensor, noise_mode: NoiseMode, gain: float = 1.0) -> Tensor:
        """The gain of the activation is folded into the small factors: lrelu(g x) = g lrelu(x) for g > 0."""
        styles, g = self.affine(w), gain * SQRT2
        weight: Tensor = self.weight
        if x.dtype in (torch.float16, torch.bfloat16):
            weight, styles = prenormalize(weight, styles)
        x = x * styles.to(x.dtype)[:, :, None, None]
        x = conv2d_resample(x, weight.to(x.dtype), self.resample_filter, up=self.up)
        scale, bias = (demod_coefficients(weight, styles) * g).to(x.dtype), (self.bias * g).to(x.dtype)
        x = torch.addcmul(bias.view(1, -1, 1, 1), x, scale[:, :, None, None])
        noise = self._noise(x, noise_mode)
        if noise is not None:
            x = x + noise * (self.noise_strength * g)
        x = F.leaky_relu(x, 0.2)
        return x if self.clamp is None else x.clamp(-self.clamp * gain, self.clamp * gain)

    def _noise(self, x: Tensor, noise_mode: NoiseMode) -> Tensor | None:
        if not self.use_noise:
            return None
        if noise_mode == "random":
            return torch.randn(len(x), 1, *x.shape[2:], device=x.device, dtype=x.dtype)
        return self.noise_const.to(x.dtype) if noise_mode == "const" else None


class ToRGB(nn.Module):
    """Modulated 1x1 convolution without demodulation: features to an image."""

    def __init__(self, in_channels: int, img_channels: int, w_dim: int, *, clamp: float | None = None) -> None:
        super().__init__()
        self.clamp = clamp
        self.affine = FullyConnected(w_dim, in_channels, bias_init=1)
        self.weight = nn.Parameter(torch.randn(img_channels, in_channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(img_channels))
        self.weight_gain = 1 / math.sqrt(in_channels)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        styles = self.affine(w) * self.weight_gain
        return bias_act(
            modulated_conv2d(x, self.weight, styles, demodulate=False),
            self.bias,
            act="linear",
            clamp=self.clamp,
        )


class SynthesisBlock(nn.Module):
    """One resolution: a constant (4x4) or an up-convolution, a convolution, and an RGB output where needed."""

    resample_filter: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        w_dim: int,
        resolution: int,
        img_channels: int,
        *,
        architecture: Architecture,
        is_last: bool,
        use_noise: bool = True,
        resample_filter: Sequence[float] = FIR_TAPS,
        clamp: float | None = None,
    ) -> None:
        super().__init__()
        self.architecture = architecture
        layer = partial(SynthesisLayer, use_noise=use_noise, resample_filter=resample_filter, clamp=clamp)
        self.const = self.conv0 = self.skip = self.torgb = None
        if in_channels == 0:
            self.const = nn.Parameter(torch.randn(out_channels, resolution, resolution))
        else:
            self.conv0 = layer(in_channels, out_channels, w_dim, resolution, up=2)
            if architecture == "resnet":
                self.skip = Conv2d(in_channels, out_channels, 1, bias=False, up=2, resample_filter=resample_filter)
        self.conv1 = layer(out_channels, out_channels, w_dim, resolution)
        if is_last or architecture == "skip":
            self.torgb = ToRGB(out_channels, img_channels, w_dim, clamp=clamp)
        self.num_conv = 1 if in_channels == 0 else 2
        self.register_buffer("resample_filter", setup_filter(resample_filter), persistent=False)

    def forward(
        self, x: Tensor | None, img: Tensor | None, ws: Tensor, noise_mode: NoiseMode
    ) -> tuple[Tensor, Tensor | None]:
        """ws [N, num_conv + 1, w_dim]: one style per convolution, the last for the RGB output."""
        gain = math.sqrt(0.5) if self.skip is not None else 1.0
        if self.const is not None:
            x = self.const[None].expand(len(ws), -1, -1, -1).contiguous(memory_format=torch.channels_last)
            x = self.conv1(x, ws[:, 0], noise_mode)
        else:
            assert x is not None and self.conv0 is not None
            shortcut = self.skip(x, gain=gain) if self.skip is not None else None
            x = self.conv0(x, ws[:, 0], noise_mode)
            x = self.conv1(x, ws[:, 1], noise_mode, gain=gain)
            x = x if shortcut is None else x + shortcut
        if img is not None:
            img = upsample2d(img, self.resample_filter)
        if self.torgb is not None:
            y = self.torgb(x, ws[:, self.num_conv]).to(ws.dtype)
            img = y if img is None else img + y
        return x, img


class StyleGAN2Synthesis(LowPrecision, nn.Module):
    """ws [N, num_ws, w_dim] -> img. num_ws = 2 log2(R) - 2; an RGB output shares the next block's first style."""

    def __init__(
        self,
        img_resolution: int,
        img_channels: int = 3,
        *,
        w_dim: int = 512,
        channel_base: int = 32768,
        channel_max: int = 512,
        architecture: Architecture = "skip",
        use_noise: bool = True,
        resample_filter: Sequence[float] = FIR_TAPS,
        conv_clamp: float | None = None,
    ) -> None:
        super().__init__()
        self.w_dim, self.img_resolution, self.img_channels = w_dim, img_resolution, img_channels
        resolutions = block_resolutions(img_resolution)
        self.num_ws = 2 * len(resolutions)
        self.blocks = nn.ModuleDict()
        in_channels = 0
        for resolution in resolutions:
            out_channels = num_channels(resolution, channel_base, channel_max)
            self.blocks[str(resolution)] = SynthesisBlock(
                in_channels,
                out_channels,
                w_dim,
                resolution,
                img_channels,
                architecture=architecture,
                is_last=resolution == img_resolution,
                use_noise=use_noise,
                resample_filter=resample_filter,
                clamp=conv_clamp,
            )
            in_channels = out_channels

    def forward(self, ws: Tensor, *, noise_mode: NoiseMode = "random") -> Tensor:
        x = img = None
        first = 0
        for resolution, block in self.blocks.items():
            assert isinstance(block, SynthesisBlock)
            x = x if x is None else self.cast(x, int(resolution), ws.dtype)
            x, img = block(x, img, ws[:, first : first + block.num_conv + 1], noise_mode)
            first += block.num_conv
        assert img is not None
        return img


class DiscriminatorBlock(nn.Module):
    """One resolution: two 3x3 convolutions, the second to half the size."""

    resample_filter: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        img_channels: int,
        *,
        architecture: Architecture,
        is_first: bool,
        resample_filter: Sequence[float] = FIR_TAPS,
        clamp: float | None = None,
    ) -> None:
        super().__init__()
        self.architecture = architecture
        self.fromrgb = self.skip = None
        if is_first or architecture == "skip":
            self.fromrgb = Conv2d(img_channels, in_channels, 1, activation="lrelu", clamp=clamp)
        self.conv0 = Conv2d(in_channels, in_channels, 3, activation="lrelu", clamp=clamp)
        self.conv1 = Conv2d(
            in_channels,
            out_channels,
            3,
            activation="lrelu",
            down=2,
            resample_filter=resample_filter,
            clamp=clamp,
        )
        if architecture == "resnet":
            self.skip = Conv2d(in_channels, out_channels, 1, bias=False, down=2, resample_filter=resample_filter)
        self.register_buffer("resample_filter", setup_filter(resample_filter), persistent=False)

    def forward(self, x: Tensor | None, img: Tensor | None) -> tuple[Tensor, Tensor | None]:
        if self.fromrgb is not None:
            assert img is not None
            y = self.fromrgb(img)
            x = y if x is None else x + y
            img = downsample2d(img, self.resample_filter) if self.architecture == "skip" else None
        assert x is not None
        if self.skip is None:
            return self.conv1(self.conv0(x)), img
        gain = math.sqrt(0.5)
        return self.conv1(self.conv0(x), gain=gain) + self.skip(x, gain=gain), img


class DiscriminatorEpilogue(nn.Module):
    """4x4 features -> [N, out_features], through minibatch statistics, a convolution and two dense layers."""

    def __init__(
        self,
        in_channels: int,
        img_channels: int,
        out_features: int,
        *,
        architecture: Architecture,
        mbstd_group_size: int | None,
        mbstd_num_channels: int,
        clamp: float | None = None,
    ) -> None:
        super().__init__()
        self.mbstd_group_size, self.mbstd_num_channels = mbstd_group_size, mbstd_num_channels
        self.fromrgb = Conv2d(img_channels, in_channels, 1, activation="lrelu") if architecture == "skip" else None
        self.conv = Conv2d(in_channels + mbstd_num_channels, in_channels, 3, activation="lrelu", clamp=clamp)
        self.fc = FullyConnected(in_channels * 16, in_channels, activation="lrelu")
        self.out = FullyConnected(in_channels, out_features)

    def forward(self, x: Tensor, img: Tensor | None) -> Tensor:
        if self.fromrgb is not None:
            assert img is not None
            x = x + self.fromrgb(img)
        if self.mbstd_num_channels:
            x = minibatch_std(x, self.mbstd_group_size, self.mbstd_num_channels)
        return self.out(self.fc(self.conv(x).flatten(1)))


class StyleGAN2Discriminator(LowPrecision, nn.Module):
    """img [N, C, R, R], c [N, c_dim] -> logits [N, 1].

    Labels enter by projection: the feature vector times the mapped label (Miyato and Koyama, 2018).
    """

    def __init__(
        self,
        img_resolution: int,
        img_channels: int = 3,
        c_dim: int = 0,
        *,
        channel_base: int = 32768,
        channel_max: int = 512,
        architecture: Architecture = "resnet",
        mbstd_group_size: int | None = 4,
        mbstd_num_channels: int = 1,
        mapping_layers: int = 8,
        resample_filter: Sequence[float] = FIR_TAPS,
        conv_clamp: float | None = None,
    ) -> None:
        super().__init__()
        self.img_resolution, self.img_channels, self.c_dim = img_resolution, img_channels, c_dim
        self.mbstd_group_size = mbstd_group_size
        self.blocks = nn.ModuleDict()
        for resolution in reversed(block_resolutions(img_resolution)[1:]):
            self.blocks[str(resolution)] = DiscriminatorBlock(
                num_channels(resolution, channel_base, channel_max),
                num_channels(resolution // 2, channel_base, channel_max),
                img_channels,
                architecture=architecture,
                is_first=resolution == img_resolution,
                resample_filter=resample_filter,
                clamp=conv_clamp,
            )
        channels = num_channels(4, channel_base, channel_max)
        self.mapping = LabelMapping(c_dim, channels, num_layers=mapping_layers) if c_dim else None
        self.epilogue = DiscriminatorEpilogue(
            channels,
            img_channels,
            channels if c_dim else 1,
            architecture=architecture,
            mbstd_group_size=mbstd_group_size,
            mbstd_num_channels=mbstd_num_channels,
            clamp=conv_clamp,
        )

    def layers_from_image(self) -> list[nn.Module]:
        """Of each block, the highest resolution first: fromrgb, conv0, conv1, skip, as far as it has them."""
        return [layer for block in self.blocks.values() for layer in block.children()]

    def forward(self, img: Tensor, c: Tensor | None = None) -> Tensor:
        x: Tensor | None = None
        rest: Tensor | None = img.contiguous(memory_format=torch.channels_last)
        for resolution, block in self.blocks.items():
            x, rest = (t if t is None else self.cast(t, int(resolution), img.dtype) for t in (x, rest))
            x, rest = block(x, rest)
        assert x is not None
        x = self.epilogue(x.to(img.dtype), rest if rest is None else rest.to(img.dtype))
        if self.mapping is None:
            return x
        return (x * self.mapping(required_labels(c, self.c_dim))).sum(1, keepdim=True) / math.sqrt(x.shape[1])
