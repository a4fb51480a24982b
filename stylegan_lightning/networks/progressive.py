"""ProGAN (Karras et al. 2018) and StyleGAN1 (Karras et al. 2019): the growing members of the family.

Both keep weights of unit variance and apply He's gain to them at run time (ProGAN, section 4.1); the leaky
ReLU has no gain of its own. Channels are min(channel_base / resolution, channel_max).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylegan_lightning.networks.growing import GrowingDiscriminator, GrowingSynthesis
from stylegan_lightning.networks.layers import FullyConnected
from stylegan_lightning.networks.stylegan2 import channel_table
from stylegan_lightning.ops import conv2d, conv2d_downscale, pixel_norm, setup_filter, upfirdn2d, upscale_conv2d
from stylegan_lightning.protocols import NoiseMode

SQRT2 = math.sqrt(2)
FusedScale = bool | Literal["auto"]
Resample = Literal["", "up", "down"]


class EqualConv2d(nn.Module):
    """Same-size convolution with equalised learning rate, or one that enlarges or pools by 2 on the way."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        *,
        gain: float = SQRT2,
        bias: bool = True,
        activation: bool = True,
        resample: Resample = "",
        flip: bool = True,
    ) -> None:
        super().__init__()
        weight = torch.randn(out_channels, in_channels, kernel_size, kernel_size)
        self.weight = nn.Parameter(weight.contiguous(memory_format=torch.channels_last))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        self.weight_gain = gain / math.sqrt(in_channels * kernel_size**2)
        self.activation, self.resample, self.flip = activation, resample, flip

    def forward(self, x: Tensor) -> Tensor:
        w = self.weight * self.weight_gain
        if self.resample == "up":
            x = upscale_conv2d(x, w, flip=self.flip)
        elif self.resample == "down":
            x = conv2d_downscale(x, w)
        else:
            x = conv2d(x, w, padding=w.shape[-1] // 2)
        if self.bias is not None:
            x = x + self.bias.view(1, -1, 1, 1)
        return F.leaky_relu(x, 0.2) if self.activation else x


def _torgb(channels: Iterable[tuple[int, int]], img_channels: int) -> dict[int, nn.Module]:
    return {r: EqualConv2d(c, img_channels, 1, gain=1.0, activation=False) for r, c in channels}


class ProGANFirstBlock(nn.Module):
    """The latent becomes 4x4 features by a dense layer; a convolution follows."""

    num_ws = 1

    def __init__(self, channels: int, w_dim: int) -> None:
        super().__init__()
        self.dense = FullyConnected(w_dim, channels * 16, bias=False, he_gain=SQRT2 / 4)
        self.bias = nn.Parameter(torch.zeros(channels))
        self.conv = EqualConv2d(channels, channels)

    def forward(self, x: None, ws: Tensor, noise_mode: NoiseMode) -> Tensor:
        y = self.dense(ws[:, 0]).view(len(ws), -1, 4, 4).contiguous(memory_format=torch.channels_last)
        y = pixel_norm(F.leaky_relu(y + self.bias.view(1, -1, 1, 1), 0.2))
        return pixel_norm(self.conv(y))


class ProGANBlock(nn.Module):
    """Nearest-neighbour enlargement and two convolutions, each followed by pixel normalisation."""

    num_ws = 0

    def __init__(self, in_channels: int, out_channels: int, *, fused_scale: bool) -> None:
        super().__init__()
        self.conv0 = EqualConv2d(in_channels, out_channels, resample="up", flip=not fused_scale)
        self.conv1 = EqualConv2d(out_channels, out_channels)

    def forward(self, x: Tensor, ws: Tensor, noise_mode: NoiseMode) -> Tensor:
        return pixel_norm(self.conv1(pixel_norm(self.conv0(x))))


class ProGANSynthesis(GrowingSynthesis):
    """ws [N, 1, w_dim], the normalised latent itself, -> img. `fused_scale` turns the enlarging kernels round."""

    def __init__(
        self,
        img_resolution: int,
        img_channels: int = 3,
        *,
        w_dim: int = 512,
        channel_base: int = 16384,
        channel_max: int = 512,
        fused_scale: bool = True,
    ) -> None:
        table = channel_table(img_resolution, channel_base, channel_max)
        blocks: dict[int, nn.Module] = {4: ProGANFirstBlock(table[4], w_dim)}
        for r in list(table)[1:]:
            blocks[r] = ProGANBlock(table[r // 2], table[r], fused_scale=fused_scale)
        super().__init__(img_resolution, img_channels, w_dim, blocks, _torgb(table.items(), img_channels))


class StyleGAN1Layer(nn.Module):
    """What feeds it (a constant or a convolution), noise, bias, leaky ReLU, and AdaIN (StyleGAN, eq. 1)."""

    noise_const: Tensor
    blur_filter: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        w_dim: int,
        resolution: int,
        *,
        up: bool = False,
        fused_scale: bool = False,
        use_noise: bool = True,
    ) -> None:
        super().__init__()
        self.up, self.use_noise = up, use_noise
        self.conv = None
        if in_channels:
            resample: Resample = "up" if up else ""
            self.conv = EqualConv2d(
                in_channels, out_channels, bias=False, activation=False, resample=resample, flip=not fused_scale
            )
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.style = FullyConnected(w_dim, 2 * out_channels)
        if use_noise:
            self.noise_strength = nn.Parameter(torch.zeros(out_channels))
            self.register_buffer("noise_const", torch.randn(resolution, resolution))
        self.register_buffer("blur_filter", setup_filter([1, 2, 1]), persistent=False)

    def forward(self, x: Tensor, w: Tensor, noise_mode: NoiseMode) -> Tensor:
        if self.conv is not None:
            x = self.conv(x)
        if self.up:
            x = upfirdn2d(x, self.blur_filter, padding=1)
        x = x + self.bias.view(1, -1, 1, 1)
        noise = self._noise(x, noise_mode)
        if noise is not None:
            x = torch.addcmul(x, noise, self.noise_strength.view(1, -1, 1, 1))
        return adain(F.leaky_relu(x, 0.2), self.style(w))

    def _noise(self, x: Tensor, noise_mode: NoiseMode) -> Tensor | None:
        if not self.use_noise or noise_mode == "none":
            return None
        if noise_mode == "const":
            return self.noise_const
        return torch.randn(len(x), 1, *x.shape[2:], device=x.device, dtype=x.dtype)


def adain(x: Tensor, style: Tensor, eps: float = 1e-8) -> Tensor:
    """(1 + s) (x - mean) / std + b over each channel of x [N, C, H, W], style [N, 2C] = (s, b)."""
    scale, shift = style.chunk(2, 1)
    var, mean = torch.var_mean(x, (2, 3), unbiased=False)
    scale = (scale + 1) * (var + eps).rsqrt()
    return torch.addcmul((shift - mean * scale)[:, :, None, None], x, scale[:, :, None, None])


class StyleGAN1Block(nn.Module):
    """One resolution: a learned constant (4x4) or an enlarging layer, and one more layer."""

    num_ws = 2

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        w_dim: int,
        resolution: int,
        *,
        fused_scale: bool,
        use_noise: bool,
    ) -> None:
        super().__init__()
        self.const = None if in_channels else nn.Parameter(torch.ones(out_channels, 4, 4))
        self.layer0 = StyleGAN1Layer(
            in_channels,
            out_channels,
            w_dim,
            resolution,
            up=in_channels > 0,
            fused_scale=fused_scale,
            use_noise=use_noise,
        )
        self.layer1 = StyleGAN1Layer(out_channels, out_channels, w_dim, resolution, use_noise=use_noise)

    def forward(self, x: Tensor | None, ws: Tensor, noise_mode: NoiseMode) -> Tensor:
        if self.const is not None:
            x = self.const.expand(len(ws), -1, -1, -1).contiguous(memory_format=torch.channels_last)
        assert x is not None
        return self.layer1(self.layer0(x, ws[:, 0], noise_mode), ws[:, 1], noise_mode)


class StyleGAN1Synthesis(GrowingSynthesis):
    """ws [N, 2 log2(img_resolution) - 2, w_dim] -> img.

    `fused_scale` is the orientation of the resizing kernels; "auto", as published, fuses from 128 pixels up.
    """

    def __init__(
        self,
        img_resolution: int,
        img_channels: int = 3,
        *,
        w_dim: int = 512,
        channel_base: int = 16384,
        channel_max: int = 512,
        fused_scale: FusedScale = "auto",
        use_noise: bool = True,
    ) -> None:
        table = channel_table(img_resolution, channel_base, channel_max)
        blocks = {
            r: StyleGAN1Block(
                table.get(r // 2, 0), c, w_dim, r, fused_scale=_fused(fused_scale, r), use_noise=use_noise
            )
            for r, c in table.items()
        }
        super().__init__(img_resolution, img_channels, w_dim, blocks, _torgb(table.items(), img_channels))


def _fused(fused_scale: FusedScale, resolution: int) -> bool:
    return resolution >= 128 if fused_scale == "auto" else bool(fused_scale)


class ProgressiveDiscriminatorBlock(nn.Module):
    """Two convolutions and a reduction by 2: before the second activation (`fused`) or after it."""

    blur_filter: Tensor | None

    def __init__(self, in_channels: int, out_channels: int, *, blur: bool, pool_last: bool) -> None:
        super().__init__()
        self.conv0 = EqualConv2d(in_channels, in_channels)
        self.conv1 = EqualConv2d(in_channels, out_channels, resample="" if pool_last else "down")
        self.pool_last = pool_last
        self.register_buffer("blur_filter", setup_filter([1, 2, 1]) if blur else None, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv0(x)
        if self.blur_filter is not None:
            x = upfirdn2d(x, self.blur_filter, padding=1)
        x = self.conv1(x)
        return F.avg_pool2d(x, 2) if self.pool_last else x


class ProgressiveEpilogue(nn.Module):
    """4x4 features with the minibatch-std map -> [N, out_features]."""

    def __init__(self, channels: int, out_features: int) -> None:
        super().__init__()
        self.conv = EqualConv2d(channels + 1, channels)
        self.fc = FullyConnected(channels * 16, channels, activation="lrelu", he_gain=SQRT2)
        self.out = FullyConnected(channels, out_features)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.fc(self.conv(x).flatten(1)))


class ProgressiveDiscriminator(GrowingDiscriminator):
    """The discriminator of ProGAN (blur=False) and of StyleGAN1 (blur=True: [1, 2, 1] before each reduction).

    ProGAN without `fused_scale` pools after the activation; otherwise convolution and pooling are one.
    `shared_logit` adds to the logits that labels select one of every image, without which an image whose label is
    all zeros would not be judged: for labels that are not classes.
    """

    def __init__(
        self,
        img_resolution: int,
        img_channels: int = 3,
        c_dim: int = 0,
        *,
        channel_base: int = 16384,
        channel_max: int = 512,
        mbstd_group_size: int | None = 4,
        blur: bool = False,
        fused_scale: bool = True,
        shared_logit: bool | None = False,
    ) -> None:
        table = channel_table(img_resolution, channel_base, channel_max)
        fromrgb = {r: EqualConv2d(img_channels, c, 1) for r, c in table.items()}
        blocks = {
            r: ProgressiveDiscriminatorBlock(c, table[r // 2], blur=blur, pool_last=not blur and not fused_scale)
            for r, c in table.items()
            if r > 4
        }
        epilogue = ProgressiveEpilogue(table[4], c_dim + 1 if shared_logit else max(c_dim, 1))
        super().__init__(img_resolution, img_channels, c_dim, fromrgb, blocks, epilogue, mbstd_group_size)
