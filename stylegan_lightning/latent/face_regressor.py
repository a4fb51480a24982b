"""Reads the factors of `data=faces` from pictures, real or generated: trained on faces drawn for it, in a minute."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylegan_lightning.data.faces import FACTORS, Faces, sample_factors
from stylegan_lightning.errors import UserError
from stylegan_lightning.files import parse_json, replacing
from stylegan_lightning.latent.codes import EXTENSION, Progress, device_of, silent, size_of
from stylegan_lightning.latent.tensor_files import read_tensors
from stylegan_lightning.metrics.features import resize_antialias, to_rgb
from stylegan_lightning.metrics.perceptual import rgb
from stylegan_lightning.networks import Generator

FORMAT = "stylegan_lightning face regressor 1"
SIZE = 64
POPULATION = 1_000_003
"""Seed of the faces that the regressor of seed 0 learns from, which no data set of faces is likely to use."""
MIRRORED = ("yaw", "roll", "hair_part", "light_azimuth")
"""Factors that change their sign when the picture is mirrored; the painter is symmetric to the pixel."""
GLASSES = "glasses"
HELD_OUT = 1000


def readings_of(factors: dict[str, float]) -> list[float]:
    """What a picture shows of its factors: glasses are worn or not."""
    return [float(v > 0.5) if n == GLASSES else v for n, v in factors.items()]


def check_ending(path: Path) -> None:
    if path.suffix != EXTENSION:
        raise UserError(f"a regressor is kept in a {EXTENSION} file; got {path}")


def _convolutions(channels: tuple[int, ...], strides: tuple[int, ...]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for i, o, stride in zip((3, *channels[:-1]), channels, strides, strict=True):
        layers += [nn.Conv2d(i, o, 3, stride, 1, bias=False), nn.BatchNorm2d(o), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten())


class FaceRegressor(nn.Module):
    """uint8 [N, 1|3|4, H, W] -> factors [N, 38] in their units; of glasses 1 where they are worn, otherwise 0.

    Readings of what is more than the painter draws go on beyond a factor's range. A picture and its mirror image have
    the same readings, but for the signs of `MIRRORED`.

    Two small convolutional networks look at the whole picture at 32 pixels, and at its middle, where eyes and mouth
    are, at 64; larger pictures are reduced first. A mouth is ten pixels wide then: a network that sees the whole at
    one size finds everything but the smile (R^2 0.02 against 0.82).
    """

    mean: Tensor
    deviation: Tensor
    quality: Tensor

    def __init__(self, size: int = SIZE, channels: int = 3) -> None:
        super().__init__()
        self.size, self.channels = size, channels
        self.names = tuple(FACTORS)
        self.two_valued: tuple[str, ...] = (GLASSES,)
        self.far = _convolutions((16, 32, 48), (2, 2, 2))
        self.near = _convolutions((24, 48, 96, 128), (1, 2, 2, 2))
        features = 16 * (48 + 128)
        self.head = nn.Sequential(
            nn.Linear(features, 192), nn.BatchNorm1d(192), nn.ReLU(), nn.Linear(192, len(self.names))
        )
        for name in ("mean", "deviation", "quality"):
            self.register_buffer(name, torch.ones(len(self.names)))

    def standardised(self, x: Tensor) -> Tensor:
        """float [N, 3, 64, 64] in [-1, 1] -> [N, 38] of mean 0 and deviation 1 over the population."""
        quarter = SIZE // 4
        near = x[..., quarter:-quarter, quarter:-quarter]
        return self.head(torch.cat([self.far(F.avg_pool2d(x, 2)), self.near(near)], 1))

    def mirrored(self, y: Tensor) -> Tensor:
        """What `standardised` [N, 38] is of the mirror images."""
        signs = torch.tensor([-1.0 if n in MIRRORED else 1.0 for n in self.names], device=y.device)
        return y * signs + self.mean / self.deviation * (signs - 1)

    def both_ways(self, x: Tensor) -> Tensor:
        """`standardised`, as the mean of what the picture and its mirror image say."""
        return (self.standardised(x) + self.mirrored(self.standardised(x.flip(3)))) / 2

    def continuous(self, img: Tensor) -> Tensor:
        """img [N, 1|3|4, H, W] in [-1, 1] -> [N, 38] in standard deviations from the mean, with gradients."""
        return self.both_ways(resize_antialias(rgb(img), SIZE))

    @torch.inference_mode()
    def forward(self, images: Tensor) -> Tensor:
        readings = self.both_ways(prepare(images)) * self.deviation + self.mean
        worn = readings[:, self.names.index(GLASSES)]
        worn.copy_(worn > 0.5)
        return readings

    def save(self, path: Path) -> None:
        """As safetensors, whole or not at all. Raises UserError for another ending."""
        check_ending(path)
        state = {name: t.detach().cpu().contiguous() for name, t in self.state_dict().items()}
        with replacing(path) as temporary:
            made_for = json.dumps([self.names, self.size, self.channels])
            temporary.write_bytes(safetensors.torch.save(state, {"format": FORMAT, "made_for": made_for}))

    @classmethod
    def load(cls, path: Path) -> FaceRegressor:
        """Raises UserError for a file that is missing, damaged or holds something else."""
        tensors, metadata = read_tensors(path, FORMAT, "a face regressor")
        try:
            names, size, channels = parse_json(metadata["made_for"], f"{path}: what it was made for")
            if type(size) is not int or channels not in (1, 3, 4):
                raise ValueError(f"it was made for {str(channels)[:20]} channels of {str(size)[:20]} pixels")
            net = cls(size, channels)
            if names != list(net.names):
                raise ValueError("it reads other factors than the faces of this version have")
            net.load_state_dict(tensors)
        except (KeyError, ValueError, TypeError, RuntimeError) as error:
            raise UserError(f"{path} does not fit: {error}; delete it, and another is trained") from None
        return net.eval().requires_grad_(False)


def prepare(images: Tensor) -> Tensor:
    """uint8 [N, 1|3|4, H, W] -> float [N, 3, 64, 64] in [-1, 1]."""
    x = to_rgb(images).float() / 127.5 - 1
    return resize_antialias(x, SIZE).contiguous(memory_format=torch.channels_last)


# -------------------------------------------------------------------------------------------------- training


def train_face_regressor(
    resolution: int,
    channels: int = 3,
    *,
    faces: int = 8000,
    epochs: int = 10,
    seed: int = 0,
    device: torch.device | str = "cpu",
    progress: Progress = silent,
) -> FaceRegressor:
    """From faces drawn at `resolution` (at 64 pixels where that is larger), judged on faces that it has not seen.

    Another seed learns from other faces. About 90 seconds on one CPU core. The global random state stays as it is.
    """
    size = min(resolution, SIZE)
    steps = epochs * -(-faces // 64)
    drawn = faces + HELD_OUT
    population = POPULATION + seed
    images, values = _draw(drawn, size, channels, population, lambda done, total: progress(done, total + steps))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = FaceRegressor(size, channels)
    net.deviation, net.mean = torch.std_mean(values[HELD_OUT:], 0)
    net.to(device).to(memory_format=torch.channels_last)
    targets = (values.to(device) - net.mean) / net.deviation
    _fit(net, images[HELD_OUT:], targets[HELD_OUT:], epochs, seed, lambda k: progress(drawn + k, drawn + steps))
    net.eval().requires_grad_(False)
    seen = torch.cat([net.both_ways(prepare(part.to(device))) for part in images[:HELD_OUT].split(100)])
    truth = targets[:HELD_OUT]
    net.quality = 1 - (seen - truth).square().mean(0) / truth.var(0)
    return net


def face_regressor_for(
    G: Generator, path: Path | None = None, *, seed: int = 0, progress: Progress = silent
) -> FaceRegressor:
    """For the pictures of G, on its device: the one kept in `path`, or one trained now with `seed`, and kept there.

    Raises UserError for a file that holds something else or was made for pictures of another size or other channels.
    """
    resolution, channels = size_of(G), int(G.img_channels)
    if path is not None and path.exists():
        net = FaceRegressor.load(path)
        if (net.size, net.channels) != (min(resolution, SIZE), channels):
            raise UserError(
                f"{path} reads pictures of {net.size} pixels and {net.channels} channels; this model's are read at "
                f"{min(resolution, SIZE)} and {channels}: choose another file name, and one is trained"
            )
        return net.to(device_of(G))
    if path is not None:
        check_ending(path)
    net = train_face_regressor(resolution, channels, seed=seed, device=device_of(G), progress=progress)
    if path is not None:
        net.save(path)
    return net


def _draw(count: int, size: int, channels: int, population: int, progress: Progress) -> tuple[Tensor, Tensor]:
    source = Faces(size, count, population, channels)
    images = np.empty((count, channels, size, size), np.uint8)
    values = np.empty((count, len(FACTORS)), np.float32)
    for i in range(count):
        images[i], values[i] = source.read(i), readings_of(sample_factors(i, population))
        progress(i + 1, count)
    return torch.from_numpy(images), torch.from_numpy(values)


def _fit(
    net: FaceRegressor, images: Tensor, targets: Tensor, epochs: int, seed: int, progress: Callable[[int], None]
) -> None:
    """AdamW on squared errors, the rate rising and falling once (Smith 2017), half of the pictures mirrored."""
    generator = torch.Generator().manual_seed(seed)
    steps = epochs * -(-len(images) // 64)
    optimizer = torch.optim.AdamW(net.parameters(), 4e-3, weight_decay=1e-2)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps, pct_start=0.2)
    done = itertools.count(1)
    for _ in range(epochs):
        for rows in torch.randperm(len(images), generator=generator).split(64):
            mirrored = torch.rand(len(rows), 1, generator=generator) < 0.5
            x, y = prepare(images[rows].to(targets.device)), targets[rows]
            x = _disturb(torch.where(mirrored[..., None, None].to(x.device), x.flip(3), x), generator)
            y = torch.where(mirrored.to(y.device), net.mirrored(y), y)
            loss = (net.standardised(x) - y).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rate.step()
            progress(next(done))


def _disturb(x: Tensor, generator: torch.Generator) -> Tensor:
    """Moved by up to a pixel, blurred and with noise: generated pictures are not as sharp and clean as drawn ones."""
    dy, dx = torch.randint(-1, 2, (2,), generator=generator).tolist()
    x = torch.roll(x, (dy, dx), (2, 3))
    blur, noise = torch.rand(2, len(x), 1, 1, 1, generator=generator).to(x.device)
    x = x.lerp(F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1), 0.4 * blur)
    return x + torch.randn(x.shape, generator=generator).to(x.device) * 0.05 * noise
