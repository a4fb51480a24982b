"""Repairs of faces that the model has never seen, with known truth, beside classical methods of scikit-image.

    python benchmarks/repair.py runs/NAME                       # of a model of data=faces
    python benchmarks/repair.py runs/NAME --count 4 --steps 100

Prints one markdown table: PSNR (over the hole, for holes) and perceptual distance (efflite0) to the truth, means over
the faces. Where a classical method has a parameter, it gets the value that is best for these very faces, which needs
the truth; ours gets nothing. Also writes a picture for each task: truth, input, classical, ours, a row for each face.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from skimage.exposure import match_histograms
from skimage.restoration import denoise_nl_means, denoise_tv_chambolle, inpaint_biharmonic
from skimage.transform import resize
from torch import Tensor

import stylegan_lightning
from stylegan_lightning.data.faces import Faces
from stylegan_lightning.imaging import image_grid, save_png, to_dynamic_range, to_uint8
from stylegan_lightning.latent.codes import size_of
from stylegan_lightning.latent.degradations import AddedNoise, Degradation, Downscale, Grey, Mask
from stylegan_lightning.latent.repair import repair, settings_for
from stylegan_lightning.latent.restoring import luma
from stylegan_lightning.launch import keep_freed_memory
from stylegan_lightning.metrics.perceptual import EfficientNetPerceptual
from stylegan_lightning.networks import Generator

FRESH_SEED = 1
"""Training faces are drawn with seed 0."""
FACTOR, SIGMA = 4, 25.0
Method = Callable[[np.ndarray], np.ndarray]
"""What is left of a picture, [H, W, C] in [0, 1] -> the whole picture."""


@dataclass(frozen=True)
class Case:
    name: str
    left: Tensor
    degradation: Degradation
    classical: dict[str, Method]
    """The best is shown."""
    shown: Tensor
    """float [N, 3, R, R] in [-1, 1]: the input, for people."""


def holes(resolution: int) -> dict[str, Tensor]:
    """[1, 1, R, R]: 1 in the middle quarter of the area, in a strip over the eyes, and at half of the pixels."""
    y, x = (torch.arange(resolution) + 0.5)[:, None] / resolution, (torch.arange(resolution) + 0.5)[None] / resolution
    scattered = torch.rand(resolution, resolution, generator=torch.Generator().manual_seed(0)) < 0.5
    found = {
        "hole, middle quarter": (abs(y - 0.5) < 0.25) & (abs(x - 0.5) < 0.25),
        "hole, strip over the eyes": (abs(y - 0.46) < 0.09) & (abs(x - 0.5) < 0.27),
        "hole, every second pixel": scattered,
    }
    return {name: inside[None, None].float() for name, inside in found.items()}


def cases(truth: Tensor, training: np.ndarray) -> list[Case]:
    size = truth.shape[-1]
    found = []
    for name, hole in holes(size).items():
        left = truth * (1 - hole)
        inside = hole[0, 0].numpy() > 0
        fill = partial(inpaint_biharmonic, mask=inside, channel_axis=-1)
        found.append(Case(name, left, Mask(hole, left), {"biharmonic": fill}, left))
    small = Downscale(FACTOR)
    left = quantised(small.apply(truth))
    bicubic = {"bicubic": lambda a: resize(a, (size, size), order=3, mode="edge", anti_aliasing=False)}
    nearest = torch.nn.functional.interpolate(left, scale_factor=float(FACTOR))
    found.append(Case(f"enlarging {FACTOR} times", left, small, bicubic, nearest))
    noise = torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))
    left = quantised(truth + SIGMA / 127.5 * noise)
    found.append(Case(f"noise of {SIGMA:g}/255", left, AddedNoise(SIGMA), denoisers(SIGMA / 255), left))
    left = Grey().apply(truth)
    found.append(Case("colour", left, Grey(), colourists(training), left.expand(-1, 3, -1, -1)))
    return found


def denoisers(sigma: float) -> dict[str, Method]:
    total_variation = {
        f"total variation {w:g}": lambda a, w=w: denoise_tv_chambolle(a, weight=w, channel_axis=-1)
        for w in (0.05, 0.07, 0.09, 0.11)
    }
    non_local = {
        f"non-local means {h:g}": lambda a, h=h: denoise_nl_means(
            a, patch_size=5, patch_distance=6, h=h * sigma, sigma=sigma, fast_mode=False, channel_axis=-1
        )
        for h in (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    }
    return {**total_variation, **non_local}


def colourists(training: np.ndarray) -> dict[str, Method]:
    """scikit-image has no method for it: grey itself, the mean colour, and the colours of the mean training face."""
    mean = training.mean(0)
    tint = mean - mean @ np.array([0.299, 0.587, 0.114])[:, None].repeat(3, 1)
    return {
        "grey": lambda a: a.repeat(3, 2),
        "colour of the mean face": lambda a: a + tint,
        "histograms of the mean face": lambda a: match_histograms(a.repeat(3, 2), mean, channel_axis=-1),
    }


def quantised(img: Tensor) -> Tensor:
    return to_dynamic_range(to_uint8(img))


class Judge:
    def __init__(self, truth: Tensor) -> None:
        self.truth, self.distance = truth, EfficientNetPerceptual()

    @torch.no_grad()
    def __call__(self, images: Tensor, degradation: Degradation) -> tuple[float, float]:
        """Mean PSNR, of a hole alone where there is one, and mean perceptual distance."""
        where = degradation.hole if isinstance(degradation, Mask) else torch.ones_like(self.truth[:1, :1])
        error = ((images - self.truth).square() * where).flatten(1).sum(1) / (3 * where.sum())
        return float((10 * torch.log10(4 / error)).mean()), float(self.distance(images, self.truth).mean())


def classical(case: Case, judge: Judge) -> tuple[str, Tensor]:
    """The method with the best PSNR and its pictures."""
    arrays = (case.left.permute(0, 2, 3, 1).double().numpy() + 1) / 2
    best = ("", torch.zeros(0), -1.0)
    for name, method in case.classical.items():
        found = torch.from_numpy(np.stack([method(a) for a in arrays]).astype(np.float32)).permute(0, 3, 1, 2) * 2 - 1
        found = quantised(found)
        psnr = judge(found, case.degradation)[0]
        if psnr > best[2]:
            best = (name, found, psnr)
    return best[0], best[1]


def ours(G: Generator, case: Case, steps: int) -> tuple[Tensor, Tensor, float]:
    """float [N, 3, R, R]: repaired, and as the model draws it; seconds a picture."""
    start = time.perf_counter()
    result = repair(G, case.left, case.degradation, replace(settings_for(case.degradation), steps=steps))
    seconds = (time.perf_counter() - start) / len(case.left)
    return to_dynamic_range(result.images), to_dynamic_range(result.projection.images), seconds


def row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--count", type=int, default=16)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--out", type=Path, default=Path("repairs"), help="a folder for the pictures")
    options = parser.parse_args()
    keep_freed_memory()
    G = stylegan_lightning.load(options.run).eval()
    size = size_of(G)
    faces, known = Faces(size, options.count, FRESH_SEED), Faces(size, 64, 0)
    truth = to_dynamic_range(torch.from_numpy(np.stack([faces.read(i) for i in range(options.count)])))
    training = np.stack([known.read(i) for i in range(len(known))]).transpose(0, 2, 3, 1) / 255.0
    judge = Judge(truth)
    titles = [
        "task",
        "classical",
        "PSNR",
        "perceptual",
        "ours: PSNR",
        "perceptual",
        "ratio of distances",
        "s / picture",
    ]
    print(f"{options.count} faces of {size} x {size}, {options.steps} steps\n")
    print(row(titles) + "\n" + row(["---"] * len(titles)), flush=True)
    for case in cases(truth, training):
        name, plain = classical(case, judge)
        found, _, seconds = ours(G, case, options.steps)
        (a, b), (c, d) = judge(plain, case.degradation), judge(found, case.degradation)
        numbers = [f"{a:.2f}", f"{b:.3f}", f"{c:.2f}", f"{d:.3f}", f"{d / b:.2f}", f"{seconds:.1f}"]
        print(row([case.name, name, *numbers]), flush=True)
        columns = [to_uint8(x) for x in (truth, case.shown, plain, found)]
        file = case.name.replace(",", "").replace("/", "_").replace(" ", "_")
        save_png(options.out / f"{file}.png", image_grid(torch.stack(columns, 1)[:8].flatten(0, 1), 4))
    kept = (luma(found) - luma(truth)).abs().max() * 127.5
    print(f"\nlargest change of brightness while colouring: {kept:.2f} grey levels")


if __name__ == "__main__":
    main()
