"""StyleGAN3 (Karras et al., "Alias-Free Generative Adversarial Networks", 2021), configurations T and R.

Every feature map is a sampled continuous signal on a canvas a little larger than the picture. Frequencies and
sampling rates are in cycles and samples per picture width, so the picture spans [-1/2, 1/2] in both directions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stylegan_lightning.networks.layers import FullyConnected, LowPrecision
from stylegan_lightning.ops import (
    autocast_device,
    bias_act,
    conv2d,
    demod_coefficients,
    design_lowpass_filter,
    filtered_lrelu,
    pixel_norm,
)
from stylegan_lightning.protocols import NoiseMode


@dataclass(frozen=True)
class Band:
    """The signal between two layers: what it may contain and how it is sampled."""

    cutoff: float
    half_width: float  # of the transition band around the cutoff
    sampling_rate: float
    size: int  # of the sampled canvas, pixels
    channels: int


def plan_bands(
    img_resolution: int,
    img_channels: int = 3,
    *,
    channel_base: int = 32768,
    channel_max: int = 512,
    num_layers: int = 14,
    num_critical: int = 2,
    first_cutoff: float = 2.0,
    first_stopband: float = 2**2.1,
    last_stopband_rel: float = 2**0.3,
    margin_size: int = 10,
) -> list[Band]:
    """The input's band and the output bands of all `num_layers` + 1 layers, the last being the picture's.

    Cutoffs and stopbands grow geometrically to R / 2 and `last_stopband_rel` times that, which the last
    `num_critical` layers keep (section 3.2, figure 4c). Raises ValueError where no such plan exists.
    """
    last_cutoff = img_resolution / 2
    checks = (
        (img_resolution >= 8 and img_resolution.bit_count() == 1, f"{img_resolution=} must be a power of two >= 8"),
        (channel_base >= img_resolution, f"{channel_base=} must be at least {img_resolution=}"),
        (0 <= num_critical < num_layers, f"{num_critical=} must be from 0 to {num_layers=} - 1"),
        (0 < first_cutoff <= last_cutoff, f"{first_cutoff=} must be in (0, img_resolution / 2]"),
        (first_stopband > first_cutoff, f"{first_stopband=} must exceed {first_cutoff=}"),
        (last_stopband_rel > 1, f"{last_stopband_rel=} must exceed 1"),
    )
    if problems := [text for holds, text in checks if not holds]:
        raise ValueError("; ".join(problems))
    bands = []
    for i in range(num_layers + 1):
        progress = min(i / (num_layers - num_critical), 1.0)
        cutoff = first_cutoff * (last_cutoff / first_cutoff) ** progress
        stopband = first_stopband * (last_cutoff * last_stopband_rel / first_stopband) ** progress
        rate = 2.0 ** math.ceil(math.log2(min(2 * stopband, img_resolution)))
        size = img_resolution if i >= num_layers - 1 else int(rate) + 2 * margin_size
        channels = img_channels if i == num_layers else round(min(channel_base / 2 / cutoff, channel_max))
        bands.append(Band(cutoff, max(stopband, rate / 2) - cutoff, rate, size, channels))
    return [bands[0], *bands]


def rigid_transform(angle: float = 0.0, translate: tuple[float, float] = (0.0, 0.0)) -> Tensor:
    """[3, 3] map of points (x right, y down, picture width 1): rotation by `angle` radians, counter-clockwise
    to the eye, about the centre, then a shift by `translate` = (x, y)."""
    s, c = math.sin(angle), math.cos(angle)
    return torch.tensor([[c, s, translate[0]], [-s, c, translate[1]], [0.0, 0.0, 1.0]])


class FourierInput(nn.Module):
    """w [N, w_dim] -> features [N, C, size, size]: C random sinusoids, mixed by a matrix (appendix F).

    Frequencies are uniform over the disc |f| <= cutoff and fixed, like the phases. A learned affine map gives
    each sample a rotation and a shift. `transform` [3, 3] maps points of the picture to points of the signal: it is
    applied before that map and is the inverse of what happens to the picture (`set_transform`).
    """

    freqs: Tensor
    phases: Tensor
    transform: Tensor
    grid: Tensor

    def __init__(self, w_dim: int, channels: int, size: int, *, sampling_rate: float, cutoff: float) -> None:
        super().__init__()
        self.sampling_rate, self.cutoff = sampling_rate, cutoff
        radius, angle = cutoff * torch.rand(channels).sqrt(), 2 * math.pi * torch.rand(channels)
        self.weight = nn.Parameter(torch.randn(channels, channels))
        self.affine = FullyConnected(w_dim, 4)
        nn.init.zeros_(self.affine.weight)
        with torch.no_grad():
            self.affine.bias.copy_(torch.tensor([1.0, 0.0, 0.0, 0.0]))  # type: ignore[union-attr]
        self.register_buffer("transform", torch.eye(3))
        self.register_buffer("freqs", torch.stack([radius * angle.cos(), radius * angle.sin()], 1))
        self.register_buffer("phases", torch.rand(channels) - 0.5)
        x = (torch.arange(size) + 0.5 - size / 2) / sampling_rate
        self.register_buffer("grid", torch.stack(torch.meshgrid(x, x, indexing="xy"), -1), persistent=False)

    @torch.no_grad()
    def set_transform(self, *, angle: float = 0.0, translate: tuple[float, float] = (0.0, 0.0)) -> None:
        """Show the picture turned and shifted (see `rigid_transform`); without arguments, as it is."""
        self.transform.copy_(torch.linalg.inv(rigid_transform(angle, translate).double()))

    def forward(self, w: Tensor) -> Tensor:
        with torch.autocast(autocast_device(w), enabled=False):  # phases of many periods need all their digits
            return self._sinusoids(w.float())

    def _sinusoids(self, w: Tensor) -> Tensor:
        t = self.affine(w)
        t = t / t[:, :2].norm(dim=1, keepdim=True)  # cos, sin, shift x, shift y
        rotate = torch.stack([t[:, 0], -t[:, 1], t[:, 1], t[:, 0]], 1).view(-1, 2, 2)
        # A point p goes to rotate (user(p) - shift), so the frequencies turn and the phases move.
        matrix = rotate @ self.transform[:2, :2]
        offset = rotate @ (self.transform[:2, 2] - t[:, 2:])[:, :, None]
        freqs = self.freqs @ matrix  # [N, C, 2]
        phases = self.phases + (self.freqs @ offset)[:, :, 0]  # [N, C]
        fade = (freqs.norm(dim=2) - self.cutoff) / (self.sampling_rate / 2 - self.cutoff)
        angles = self.grid.flatten(0, 1) @ freqs.transpose(1, 2) + phases[:, None]  # [N, H W, C]
        x = torch.sin(2 * math.pi * angles) * (1 - fade).clamp(0, 1)[:, None]
        x = x @ (self.weight.t() / math.sqrt(len(self.weight)))
        return x.unflatten(1, self.grid.shape[:2]).permute(0, 3, 1, 2)  # channels_last


class AliasFreeLayer(nn.Module):
    """Modulated convolution, bias and filtered leaky ReLU between two bands; as `is_torgb` a plain 1x1 layer.

    The convolution pads by k - 1, so its output is k - 1 pixels larger; `padding` (in upsampled pixels, negative to
    crop) makes the result `out_size` pixels wide. `magnitude_ema` is the running mean square of the inputs.
    """

    magnitude_ema: Tensor
    up_filter: Tensor | None
    down_filter: Tensor | None

    def __init__(
        self,
        w_dim: int,
        source: Band,
        target: Band,
        *,
        is_torgb: bool,
        is_critically_sampled: bool,
        conv_kernel: int = 3,
        filter_size: int = 6,
        lrelu_upsampling: int = 2,
        use_radial_filters: bool = False,
        conv_clamp: float | None = None,
    ) -> None:
        super().__init__()
        self.is_torgb, self.is_critically_sampled = is_torgb, is_critically_sampled
        self.conv_kernel, self.conv_clamp = 1 if is_torgb else conv_kernel, conv_clamp
        self.in_channels, self.out_channels = source.channels, target.channels
        self.in_size, self.out_size = [source.size] * 2, [target.size] * 2
        self.in_sampling_rate, self.out_sampling_rate = source.sampling_rate, target.sampling_rate
        self.tmp_sampling_rate = max(source.sampling_rate, target.sampling_rate) * (1 if is_torgb else lrelu_upsampling)
        self.in_cutoff, self.out_cutoff = source.cutoff, target.cutoff
        self.in_half_width, self.out_half_width = source.half_width, target.half_width
        self.up = round(self.tmp_sampling_rate / self.in_sampling_rate)
        self.down = round(self.tmp_sampling_rate / self.out_sampling_rate)
        self.affine = FullyConnected(w_dim, source.channels, bias_init=1)
        weight = torch.randn(target.channels, source.channels, self.conv_kernel, self.conv_kernel)
        self.weight = nn.Parameter(weight.contiguous(memory_format=torch.channels_last))
        self.bias = nn.Parameter(torch.zeros(target.channels))
        self.register_buffer("magnitude_ema", torch.ones(()))
        self._make_filters(filter_size, use_radial_filters and not is_critically_sampled)

    def _make_filters(self, filter_size: int, radial: bool) -> None:
        """The filters follow from the bands, so they are not saved."""
        up_taps, down_taps = (1 if f == 1 or self.is_torgb else filter_size * f for f in (self.up, self.down))
        rate = self.tmp_sampling_rate
        up_filter = design_lowpass_filter(up_taps, self.in_cutoff, 2 * self.in_half_width, rate)
        down_filter = design_lowpass_filter(down_taps, self.out_cutoff, 2 * self.out_half_width, rate, radial=radial)
        self.register_buffer("up_filter", up_filter, persistent=False)
        self.register_buffer("down_filter", down_filter, persistent=False)
        needed = (self.out_size[0] - 1) * self.down + 1 + up_taps + down_taps - 2
        total = needed - (self.in_size[0] + self.conv_kernel - 1) * self.up
        before = (total + self.up) // 2
        self.padding = [before, total - before] * 2

    @torch.no_grad()
    def track_magnitude(self, x: Tensor, beta: float) -> None:
        self.magnitude_ema.copy_(x.float().square().mean().lerp(self.magnitude_ema, beta))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """x [N, in_channels, in_size, in_size], scaled to unit mean square by `magnitude_ema`; w [N, w_dim].

        Weights and styles are normalised first, which demodulation would undo, to keep intermediate values small.
        """
        styles, input_gain = self.affine(w), self.magnitude_ema.rsqrt()
        if self.is_torgb:
            styles = styles * (input_gain / math.sqrt(self.in_channels))
            x = x * styles.to(x.dtype)[:, :, None, None]
            return bias_act(conv2d(x, self.weight.to(x.dtype)), self.bias, clamp=self.conv_clamp)
        weight = self.weight * self.weight.square().mean((1, 2, 3), keepdim=True).rsqrt()
        styles = pixel_norm(styles)
        x = x * (styles * input_gain).to(x.dtype)[:, :, None, None]
        x = conv2d(x, weight.to(x.dtype), padding=self.conv_kernel - 1)
        scale, bias = demod_coefficients(weight, styles).to(x.dtype), self.bias.to(x.dtype)
        x = torch.addcmul(bias.view(1, -1, 1, 1), x, scale[:, :, None, None])
        return filtered_lrelu(
            x,
            self.up_filter,
            self.down_filter,
            up=self.up,
            down=self.down,
            padding=self.padding,
            clamp=self.conv_clamp,
        )


class StyleGAN3Synthesis(LowPrecision, nn.Module):
    """ws [N, num_ws, w_dim] -> img, equivariant to translation (T: defaults) or also to rotation
    (R: conv_kernel 1, use_radial_filters, twice the channels by channel_multiplier 2).

    num_ws = num_layers + 2: one style for the input and one for each layer, the last of which makes the picture.
    There are no noise inputs: `noise_mode` is accepted for the contract's sake and changes nothing.

    While `track_running_stats` is set, each layer's `magnitude_ema` follows the mean square of its input with a
    half-life of `magnitude_ema_kimg` thousand images, counted over `world_size` processes that each see a batch of
    the same size. Raises ValueError for sizes that cannot be built (`plan_bands`) and for an even conv_kernel.
    """

    def __init__(
        self,
        img_resolution: int,
        img_channels: int = 3,
        *,
        w_dim: int = 512,
        channel_base: int = 32768,
        channel_max: int = 512,
        channel_multiplier: float = 1,
        num_layers: int = 14,
        num_critical: int = 2,
        first_cutoff: float = 2.0,
        first_stopband: float = 2**2.1,
        last_stopband_rel: float = 2**0.3,
        margin_size: int = 10,
        output_scale: float = 0.25,
        conv_kernel: int = 3,
        filter_size: int = 6,
        lrelu_upsampling: int = 2,
        use_radial_filters: bool = False,
        conv_clamp: float | None = 256.0,
        magnitude_ema_kimg: float = 20.0,
    ) -> None:
        super().__init__()
        if conv_kernel % 2 == 0:
            raise ValueError(f"conv_kernel must be odd, got {conv_kernel}")
        bands = plan_bands(
            img_resolution,
            img_channels,
            channel_base=round(channel_base * channel_multiplier),
            channel_max=round(channel_max * channel_multiplier),
            num_layers=num_layers,
            num_critical=num_critical,
            first_cutoff=first_cutoff,
            first_stopband=first_stopband,
            last_stopband_rel=last_stopband_rel,
            margin_size=margin_size,
        )
        self.w_dim, self.img_resolution, self.img_channels = w_dim, img_resolution, img_channels
        self.num_ws, self.output_scale = num_layers + 2, output_scale
        self.magnitude_ema_kimg, self.world_size = magnitude_ema_kimg, 1
        self.track_running_stats = False
        first = bands[0]
        self.input = FourierInput(
            w_dim, first.channels, first.size, sampling_rate=first.sampling_rate, cutoff=first.cutoff
        )
        self.layers = nn.ModuleList(
            AliasFreeLayer(
                w_dim,
                bands[i],
                bands[i + 1],
                is_torgb=i == num_layers,
                is_critically_sampled=i >= num_layers - num_critical,
                conv_kernel=conv_kernel,
                filter_size=filter_size,
                lrelu_upsampling=lrelu_upsampling,
                use_radial_filters=use_radial_filters,
                conv_clamp=conv_clamp,
            )
            for i in range(num_layers + 1)
        )

    def roles(self) -> dict[str, str]:
        """The plan changes with the resolution: a layer is the same where its kernel and both its bands are."""
        roles = {"input": f"input {self.input.sampling_rate} {self.input.cutoff}"}
        for i, layer in enumerate(self.layers):
            assert isinstance(layer, AliasFreeLayer)
            source = (layer.in_sampling_rate, layer.in_cutoff, layer.in_half_width)
            target = (layer.out_sampling_rate, layer.out_cutoff, layer.out_half_width)
            kind = "torgb" if layer.is_torgb else "layer"
            roles[f"layers.{i}"] = f"{kind} {i} kernel {layer.conv_kernel} {source} {target}"
        return roles

    def forward(self, ws: Tensor, *, noise_mode: NoiseMode = "random") -> Tensor:
        w_input, *w_layers = ws.float().unbind(1)
        beta = 0.5 ** (len(ws) * self.world_size / (1000 * self.magnitude_ema_kimg))
        x = self.input(w_input)
        for layer, w in zip(self.layers, w_layers, strict=True):
            assert isinstance(layer, AliasFreeLayer)
            if self.track_running_stats:
                layer.track_magnitude(x, beta)
            x = layer(self.cast(x, layer.out_sampling_rate, w.dtype), w)
        return x.to(ws.dtype) * self.output_scale
