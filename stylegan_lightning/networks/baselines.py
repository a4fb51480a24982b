"""The ancestors of the family: the 2014 GAN (MLP), DCGAN and the residual networks of WGAN-GP.

Their latent enters as one style, ws [N, 1, w_dim], from a mapping without layers.
"""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylegan_lightning.networks.layers import required_labels
from stylegan_lightning.networks.stylegan2 import channel_table
from stylegan_lightning.protocols import NoiseMode


class BaselineSynthesis(nn.Module):
    """What the three share: one style, no noise inputs (`noise_mode` changes nothing)."""

    num_ws = active_ws = 1

    def __init__(self, img_resolution: int, img_channels: int, w_dim: int, layers: nn.Sequential) -> None:
        super().__init__()
        self.img_resolution, self.img_channels, self.w_dim = img_resolution, img_channels, w_dim
        self.layers = layers

    def forward(self, ws: Tensor, *, noise_mode: NoiseMode = "random") -> Tensor:
        return self.layers(ws[:, 0])


class Projection(nn.Module):
    """features [N, F], c [N, c_dim] -> logits [N, 1]: <v, x> + b + <V c, x> (Miyato and Koyama 2018, eq. 3)."""

    def __init__(self, features: int, c_dim: int) -> None:
        super().__init__()
        self.c_dim = c_dim
        self.out = nn.Linear(features, 1)
        self.embed = nn.Linear(c_dim, features, bias=False) if c_dim else None

    def forward(self, x: Tensor, c: Tensor | None) -> Tensor:
        logits = self.out(x)
        if self.embed is None:
            return logits
        return logits + (x * self.embed(required_labels(c, self.c_dim))).sum(1, keepdim=True)


def _check_mlp(img_resolution: int, hidden: int, num_layers: int) -> None:
    if min(img_resolution, hidden, num_layers) < 1:
        raise ValueError(
            f"img_resolution, hidden and num_layers must be at least 1, got {img_resolution}, {hidden}, {num_layers}"
        )


class MLPSynthesis(BaselineSynthesis):
    """`num_layers` ReLU layers of `hidden` units and a squashed output layer (Goodfellow et al. 2014, section 5).

    Images of any size. The output is tanh, the paper's sigmoid in the range [-1, 1]; weights start as He's.
    """

    def __init__(
        self, img_resolution: int, img_channels: int = 3, *, w_dim: int = 100, hidden: int = 1200, num_layers: int = 2
    ) -> None:
        _check_mlp(img_resolution, hidden, num_layers)
        shape = (img_channels, img_resolution, img_resolution)
        layers: list[nn.Module] = []
        for i, o in itertools.pairwise([w_dim, *[hidden] * num_layers]):
            layers += [_he(nn.Linear(i, o)), nn.ReLU()]
        out = _he(nn.Linear(hidden, img_channels * img_resolution**2), "linear")
        layers += [out, nn.Tanh(), nn.Unflatten(1, shape)]
        super().__init__(img_resolution, img_channels, w_dim, nn.Sequential(*layers))


class Maxout(nn.Module):
    """[N, in_features] -> [N, out_features]: the largest of `pieces` linear functions (Goodfellow et al. 2013)."""

    def __init__(self, in_features: int, out_features: int, pieces: int) -> None:
        super().__init__()
        self.pieces = pieces
        self.linear = nn.Linear(in_features, out_features * pieces)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x).unflatten(1, (-1, self.pieces)).amax(2)


class MLPDiscriminator(nn.Module):
    """img [N, C, R, R], c [N, c_dim] -> logits [N, 1]: maxout layers with dropout (Goodfellow et al. 2014, section 5).

    The paper names maxout and dropout; width, pieces and the dropout of the hidden layers are those published
    for its MNIST model, whose dropout of input pixels is left out. Labels are concatenated to the pixels (Mirza
    and Osindero 2014).
    """

    def __init__(
        self,
        img_resolution: int,
        img_channels: int = 3,
        c_dim: int = 0,
        *,
        hidden: int = 240,
        num_layers: int = 2,
        pieces: int = 5,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        _check_mlp(img_resolution, hidden, num_layers)
        self.img_resolution, self.img_channels, self.c_dim = img_resolution, img_channels, c_dim
        layers: list[nn.Module] = []
        for i, o in itertools.pairwise([img_channels * img_resolution**2 + c_dim, *[hidden] * num_layers]):
            layers += [Maxout(i, o, pieces), nn.Dropout(dropout)]
        self.layers = nn.Sequential(*layers, nn.Linear(hidden, 1))

    def layers_from_image(self) -> list[nn.Module]:
        return [layer for layer in self.layers if isinstance(layer, Maxout)]

    def forward(self, img: Tensor, c: Tensor | None = None) -> Tensor:
        x = img.flatten(1)
        if self.c_dim:
            x = torch.cat([x, required_labels(c, self.c_dim)], 1)
        return self.layers(x)


@torch.no_grad()
def init_dcgan(network: nn.Module) -> None:
    """Weights N(0, 0.02) (Radford et al. 2016, section 4); scales of BatchNorm N(1, 0.02); biases 0."""
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            module.weight.normal_(0, 0.02)
        elif isinstance(module, nn.BatchNorm2d):
            module.weight.normal_(1, 0.02)
        if isinstance(getattr(module, "bias", None), Tensor):
            module.bias.zero_()  # type: ignore[operator,union-attr]


class DCGANSynthesis(BaselineSynthesis):
    """4x4 features from the latent, then 4x4 transposed convolutions of stride 2 (Radford et al. 2016, figure 1).

    BatchNorm and ReLU after all but the last, which gives the image through tanh. Channels are
    min(channel_base / resolution, channel_max): by default the published 1024 at 4x4 to 128 at 32x32.
    """

    def __init__(
        self,
        img_resolution: int,
        img_channels: int = 3,
        *,
        w_dim: int = 100,
        channel_base: int = 4096,
        channel_max: int = 1024,
    ) -> None:
        widths = list(channel_table(img_resolution, channel_base, channel_max).values())[:-1]
        layers: list[nn.Module] = [nn.Unflatten(1, (w_dim, 1, 1)), nn.ConvTranspose2d(w_dim, widths[0], 4, bias=False)]
        for i, o in itertools.pairwise(widths):
            layers += [nn.BatchNorm2d(i), nn.ReLU(), nn.ConvTranspose2d(i, o, 4, 2, 1, bias=False)]
        layers += [nn.BatchNorm2d(widths[-1]), nn.ReLU(), nn.ConvTranspose2d(widths[-1], img_channels, 4, 2, 1)]
        super().__init__(img_resolution, img_channels, w_dim, nn.Sequential(*layers, nn.Tanh()))
        init_dcgan(self)

    def roles(self) -> dict[str, str]:
        return {f"layers.{len(self.layers) - 2}": f"torgb.{self.img_resolution}"}


class DCGANDiscriminator(nn.Module):
    """img [N, C, R, R], c [N, c_dim] -> logits [N, 1]: 4x4 convolutions of stride 2 down to 4x4 features.

    Leaky ReLU of slope 0.2, BatchNorm in all but the first (Radford et al. 2016, section 3), so reals and fakes
    must come as batches of their own. Labels enter by projection.
    """

    def __init__(
        self,
        img_resolution: int,
        img_channels: int = 3,
        c_dim: int = 0,
        *,
        channel_base: int = 4096,
        channel_max: int = 1024,
    ) -> None:
        super().__init__()
        self.img_resolution, self.img_channels, self.c_dim = img_resolution, img_channels, c_dim
        widths = list(channel_table(img_resolution, channel_base, channel_max).values())[-2::-1]
        layers: list[nn.Module] = [nn.Conv2d(img_channels, widths[0], 4, 2, 1), nn.LeakyReLU(0.2)]
        for i, o in itertools.pairwise(widths):
            layers += [nn.Conv2d(i, o, 4, 2, 1, bias=False), nn.BatchNorm2d(o), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Flatten())
        self.head = Projection(widths[-1] * 16, c_dim)
        init_dcgan(self)

    def layers_from_image(self) -> list[nn.Module]:
        """The convolutions, each with its BatchNorm."""
        return [self.layers[:2], *(self.layers[i : i + 3] for i in range(2, len(self.layers) - 1, 3))]

    def roles(self) -> dict[str, str]:
        roles = {"layers.0": f"fromrgb.{self.img_resolution}"}
        for number, i in enumerate(range(2, len(self.layers) - 1, 3), 1):
            resolution = self.img_resolution >> number
            roles |= {f"layers.{i}": f"conv.{resolution}", f"layers.{i + 1}": f"norm.{resolution}"}
        return roles

    def forward(self, img: Tensor, c: Tensor | None = None) -> Tensor:
        return self.head(self.layers(img), c)


def _he(layer: nn.Linear | nn.Conv2d, nonlinearity: str = "relu") -> nn.Linear | nn.Conv2d:
    """He's initialisation, for what follows the layer or precedes it; zero bias."""
    nn.init.kaiming_normal_(layer.weight, nonlinearity=nonlinearity)  # type: ignore[arg-type]
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class ResidualBlock(nn.Module):
    """x + f(x), f two pre-activated 3x3 convolutions (Gulrajani et al. 2017, appendix).

    Where the size changes: nearest-neighbour enlargement before the second convolution of f, or average
    pooling after it; the shortcut is resampled alike, with a 1x1 convolution on the smaller side.
    """

    def __init__(self, in_channels: int, out_channels: int, *, up: bool = False, batch_norm: bool = False) -> None:
        super().__init__()
        self.up = up
        self.norm0 = nn.BatchNorm2d(in_channels) if batch_norm else nn.Identity()
        self.norm1 = nn.BatchNorm2d(out_channels) if batch_norm else nn.Identity()
        self.conv0 = _he(nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=not batch_norm))
        self.conv1 = _he(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        self.skip = _he(nn.Conv2d(in_channels, out_channels, 1), "linear")

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv0(F.relu(self.norm0(x)))))
        if self.up:
            return F.interpolate(self.skip(x), scale_factor=2.0) + self.conv1(F.interpolate(y, scale_factor=2.0))
        return self.skip(F.avg_pool2d(x, 2)) + F.avg_pool2d(self.conv1(y), 2)


class WGANGPSynthesis(BaselineSynthesis):
    """4x4 features from the latent, residual blocks with BatchNorm that double the size, and a convolution to
    the image through tanh (Gulrajani et al. 2017, appendix). Channels are min(channel_base / resolution,
    channel_max): by default those of the published 64x64 model.
    """

    def __init__(
        self,
        img_resolution: int,
        img_channels: int = 3,
        *,
        w_dim: int = 128,
        channel_base: int = 4096,
        channel_max: int = 512,
    ) -> None:
        widths = list(channel_table(img_resolution, channel_base, channel_max).values())
        layers: list[nn.Module] = [
            _he(nn.Linear(w_dim, widths[0] * 16), "linear"),
            nn.Unflatten(1, (widths[0], 4, 4)),
            *(ResidualBlock(i, o, up=True, batch_norm=True) for i, o in itertools.pairwise(widths)),
            nn.BatchNorm2d(widths[-1]),
            nn.ReLU(),
            _he(nn.Conv2d(widths[-1], img_channels, 3, padding=1), "linear"),
            nn.Tanh(),
        ]
        super().__init__(img_resolution, img_channels, w_dim, nn.Sequential(*layers))

    def roles(self) -> dict[str, str]:
        n, resolution = len(self.layers), self.img_resolution
        return {f"layers.{n - 4}": f"norm.{resolution}", f"layers.{n - 2}": f"torgb.{resolution}"}


class WGANGPCritic(nn.Module):
    """img [N, C, R, R], c [N, c_dim] -> logits [N, 1]: a convolution, residual blocks down to 4x4, ReLU, mean.

    No normalisation, since the penalty is on the gradient of each sample (Gulrajani et al. 2017, section 4).
    Labels enter by projection.
    """

    def __init__(
        self,
        img_resolution: int,
        img_channels: int = 3,
        c_dim: int = 0,
        *,
        channel_base: int = 4096,
        channel_max: int = 512,
    ) -> None:
        super().__init__()
        self.img_resolution, self.img_channels, self.c_dim = img_resolution, img_channels, c_dim
        widths = list(channel_table(img_resolution, channel_base, channel_max).values())[::-1]
        self.layers = nn.Sequential(
            _he(nn.Conv2d(img_channels, widths[0], 3, padding=1), "linear"),
            *(ResidualBlock(i, o) for i, o in itertools.pairwise(widths)),
            nn.ReLU(),
        )
        self.head = Projection(widths[-1], c_dim)

    def layers_from_image(self) -> list[nn.Module]:
        """The first convolution, then conv0, conv1 and skip of each block."""
        blocks = (b for b in self.layers if isinstance(b, ResidualBlock))
        return [self.layers[0], *(layer for b in blocks for layer in (b.conv0, b.conv1, b.skip))]

    def roles(self) -> dict[str, str]:
        blocks = {f"layers.{i}": f"blocks.{self.img_resolution >> (i - 1)}" for i in range(1, len(self.layers) - 1)}
        return {"layers.0": f"fromrgb.{self.img_resolution}", **blocks}

    def forward(self, img: Tensor, c: Tensor | None = None) -> Tensor:
        return self.head(self.layers(img).mean((2, 3)), c)
