"""On which layer of EfficientNet-Lite0 to measure a distance: block 10 or the final 1280 channels.

    python benchmarks/feature_layers.py [--images 400] [--resolution 32]

Half of the built-in faces are the reals; the other half are damaged, in three strengths each. `near` damages
leave faces; `far` ones leave what a generator makes early in training. A usable distance grows from left to
right; `last step` says by how much from the middle to the strong damage: about 0 or below is saturation.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.transforms.v2.functional import gaussian_blur

from stylegan_lightning.data.base import ImageSource, PreparedDataset
from stylegan_lightning.data.faces import Faces
from stylegan_lightning.metrics.by_features import Frechet
from stylegan_lightning.metrics.features import EfficientNetLite0
from stylegan_lightning.metrics.metric import Subject
from stylegan_lightning.metrics.preset import Preset

Damage = Callable[[Tensor], Tensor]


def noise(strength: float) -> Damage:
    """Gaussian, standard deviation in grey levels."""

    def apply(images: Tensor) -> Tensor:
        drawn = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
        return (images + strength * drawn).round().clamp(0, 255).to(torch.uint8)

    return apply


def blur(sigma: float) -> Damage:
    """Gaussian, standard deviation in pixels."""
    return lambda images: gaussian_blur(images, kernel_size=[2 * round(3 * sigma) + 1] * 2, sigma=[sigma, sigma])


def keep(fraction: float) -> Damage:
    """Mode loss: only the first `fraction` of the pictures, repeated."""
    return lambda images: images[torch.arange(len(images)) % max(1, round(fraction * len(images)))]


def colour(shift: float) -> Damage:
    """Red up and blue down, in grey levels."""
    direction = torch.tensor([1.0, 0.0, -1.0])[:, None, None]
    return lambda images: (images + shift * direction).round().clamp(0, 255).to(torch.uint8)


def blend(share: float, cell: int) -> Damage:
    """`share` of the picture is replaced by smooth random blobs, `cell` pixels apart; 1 is white noise."""

    def apply(images: Tensor) -> Tensor:
        n, channels, size, _ = images.shape
        cells = torch.rand(n, channels, size // cell, size // cell, generator=torch.Generator().manual_seed(0))
        blobs = interpolate(255 * cells, size=(size, size), mode="bicubic").clamp(0, 255)
        return ((1 - share) * images + share * blobs).round().to(torch.uint8)

    return apply


DAMAGES: dict[str, list[tuple[str, Damage]]] = {
    "near: noise (grey levels)": [(f"{s:g}", noise(s)) for s in (5, 13, 26)],
    "near: blur (pixels)": [(f"{s:g}", blur(s)) for s in (0.5, 1, 2)],
    "near: mode loss (share kept)": [(f"{s:g}", keep(s)) for s in (0.2, 0.04, 0.01)],
    "near: colour (grey levels)": [(f"{s:g}", colour(s)) for s in (5, 13, 26)],
    "far: blur (pixels)": [(f"{s:g}", blur(s)) for s in (3, 4, 5)],
    "far: blobs (share)": [(f"{s:g}", blend(s, 8)) for s in (0.5, 0.75, 1)],
    "far: white noise (share)": [(f"{s:g}", blend(s, 1)) for s in (0.5, 0.75, 1)],
}


def read(source: ImageSource, indices: range) -> np.ndarray:
    return np.stack([source.read(i) for i in indices])


def data_of(images: np.ndarray) -> PreparedDataset:
    return PreparedDataset(images, np.zeros((len(images), 0), np.float32), name="faces", fingerprint="")


def distances(layer: int, reals: np.ndarray, fakes: Tensor) -> Iterator[tuple[str, list[float]]]:
    """(name, [no damage, weak, middle, strong]) of every kind of damage."""
    metric = Frechet(Preset("benchmark", num_real=None, num_fake=len(fakes)), EfficientNetLite0(layer))
    subject = Subject(data_of(reals), data_of(reals))

    def measure(images: Tensor) -> float:
        subject.turn_to(data_of(images.numpy()))
        return metric.measure(subject).values[0].value

    none = measure(fakes)
    for name, strengths in DAMAGES.items():
        yield name, [none, *(measure(damage(fakes)) for _, damage in strengths)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=400, help="reals, and as many fakes")
    parser.add_argument("--resolution", type=int, default=32)
    args = parser.parse_args()
    start = time.perf_counter()
    source = Faces(resolution=args.resolution, size=2 * args.images, seed=0)
    reals = read(source, range(args.images))
    fakes = torch.from_numpy(read(source, range(args.images, 2 * args.images)))
    print(f"{args.images} faces against {args.images} others, {args.resolution} px; torch {torch.__version__}")
    heads = "".join(f"{text:>8}" for text in ("none", "weak", "middle", "strong"))
    print(f"{'layer':<12}{'damage':<30}{'strengths':<14}{heads}  last step  growing")
    for label, layer in (("block 10", 10), ("final 1280", EfficientNetLite0.HEAD)):
        for name, values in distances(layer, reals, fakes):
            strengths = " ".join(text for text, _ in DAMAGES[name])
            growing = "yes" if all(b > a for a, b in itertools.pairwise(values)) else "NO"
            numbers = "".join(f"{value:>8.1f}" for value in values)
            last = values[-1] / values[-2] - 1
            print(f"{label:<12}{name:<30}{strengths:<14}{numbers}{last:>+11.1%}  {growing}", flush=True)
    print(f"{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
